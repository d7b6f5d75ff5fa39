# PostgreSQL, with TLS and a password. It refuses to run as root: then it runs as the user that its package made.

postgres_programs() {
    local newest
    newest=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    export PATH="${newest:+$newest:}$PATH"
}

need_postgres() {
    postgres_programs
    command -v initdb >/dev/null && return
    # Debian keeps `initdb` out of the PATH.
    install_package initdb postgresql
    postgres_programs
    command -v initdb >/dev/null || fail "postgresql did not bring \`initdb\`"
}

as_postgres() {
    if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

start_postgres() {
    postgres_programs
    local data="$state/postgres"
    rm -rf "$data" "$state/postgres-tls"
    mkdir -p "$data" "$state/postgres-tls"
    # PostgreSQL wants the key to be its own.
    cp "$state/certificates/server.key" "$state/certificates/server.pem" "$state/postgres-tls/"
    chmod 700 "$data"
    chmod 600 "$state/postgres-tls/server.key"
    echo test-secret >"$state/postgres-tls/password"
    [ "$(id -u)" != 0 ] || chown -R postgres "$data" "$state/postgres-tls"
    as_postgres initdb -D "$data" -U koksmat -A scram-sha-256 --pwfile "$state/postgres-tls/password" -E UTF8 --locale C >"$state/initdb.log" 2>&1 ||
        fail "initdb failed: $(tail -n 5 "$state/initdb.log")"
    cd "$state"
    launch postgres "$(command -v bash)" -c '
        settings=(-D "$0/postgres" -c port=25432 -c listen_addresses=127.0.0.1 -c "unix_socket_directories=$0/postgres"
            -c max_connections=200 -c ssl=on -c "ssl_cert_file=$0/postgres-tls/server.pem" -c "ssl_key_file=$0/postgres-tls/server.key")
        if [ "$(id -u)" = 0 ]; then exec setpriv --reuid postgres --regid postgres --init-groups postgres "${settings[@]}"; fi
        exec postgres "${settings[@]}"' "$state"
    answers postgres pg_isready -q -h 127.0.0.1 -p 25432
    PGPASSWORD=test-secret psql -q -h 127.0.0.1 -p 25432 -U koksmat -d postgres -c 'create database koksmat' || fail "PostgreSQL takes no database"
}

stop_postgres() { stop postgres; }
