#!/usr/bin/env bash
# A certificate authority, a server's certificate it signed, and another authority that signed nothing: certificates.sh FOLDER
set -euo pipefail
mkdir -p "$1"
cd "$1"

authority() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=$2" -keyout "$1.key" -out "$1.pem" 2>/dev/null
}
authority ca "Koksmat test authority"
authority other-ca "Another authority"

openssl req -new -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout server.key -out server.csr 2>/dev/null
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile server.ext -out server.pem 2>/dev/null
# Kafka takes key and certificates from one file, the key as PKCS #8.
openssl pkcs8 -topk8 -nocrypt -in server.key -out kafka.pem
cat server.pem ca.pem >>kafka.pem
# Every server has a user of its own who has to read them. They protect nothing but these tests.
chmod 644 ./*
