#!/usr/bin/env bash
# Kafka, RabbitMQ, PostgreSQL and MariaDB for the tests, on the loopback address alone:
#
#     tests/services/services.sh up              start them; once they run this changes nothing
#     tests/services/services.sh down            stop them and forget what they hold
#     tests/services/services.sh run COMMAND…    start them, run a command, stop what was started here
#
# Containers where Docker answers, else programs of this machine; on Debian, as root, those that are missing are installed.
# KOKSMAT_SERVICES=native|docker decides by hand. What cannot be started ends this with an error: no test is skipped for want of a service.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repository="$(cd "$here/../.." && pwd)"

# Data, certificates, logs and pids. Not in the repository: PostgreSQL's own user has to reach it.
state="${KOKSMAT_TEST_SERVICES:-${TMPDIR:-/tmp}/koksmat-services-$(id -u)}"
export KOKSMAT_TEST_SERVICES="$state"

services=(kafka rabbitmq postgres mariadb)

say() { printf 'services: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

mode() {
    if [ -n "${KOKSMAT_SERVICES:-}" ]; then
        echo "$KOKSMAT_SERVICES"
    elif command -v docker >/dev/null && docker info >/dev/null 2>&1; then
        echo docker
    else
        echo native
    fi
}

# A command that has to be there, and Debian's package that brings it.
need() {
    command -v "$1" >/dev/null && return
    install_package "$1" "$2"
    command -v "$1" >/dev/null || fail "$2 did not bring \`$1\`"
}

install_package() {
    local command=$1 package=$2 policy=/usr/sbin/policy-rc.d made=
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "\`$command\` is needed; install it (Debian: apt-get install $package), or start Docker"
    fi
    say "installing $package"
    [ -n "${updated:-}" ] || { apt-get update -qq && updated=yes; }
    # Without a policy that forbids it Debian starts what it installs, on its usual port.
    [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=yes; }
    local installed=yes
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null || installed=
    [ -z "$made" ] || rm -f "$policy"
    [ -n "$installed" ] || fail "$package could not be installed"
}

# Start a program of its own session: a Ctrl-C is for the tests, which then stop it.
launch() {
    local name=$1
    shift
    setsid "$@" >"$state/$name.log" 2>&1 </dev/null &
    echo $! >"$state/$name.pid"
    started $! >"$state/$name.started"
}

# When a process was started: what tells it from another that got its number later.
started() { ps -o lstart= -p "$1" 2>/dev/null; }

running() {
    local pid
    pid=$(cat "$state/$1.pid" 2>/dev/null) && [ -n "$pid" ] && [ "$(started "$pid")" = "$(cat "$state/$1.started" 2>/dev/null)" ]
}

# Wait until a command succeeds, for as long as its server lives and two minutes at most.
answers() {
    local name=$1 ends=$((SECONDS + 120))
    shift
    until "$@" >/dev/null 2>&1; do
        running "$name" || fail "$name has ended; it said: $(tail -n 20 "$state/$name.log")"
        [ "$SECONDS" -lt "$ends" ] || fail "$name does not answer after two minutes; it said: $(tail -n 20 "$state/$name.log")"
        sleep 0.3
    done
}

stop() {
    local name=$1 pid
    running "$name" || return 0
    pid=$(cat "$state/$name.pid")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    if kill -0 "$pid" 2>/dev/null; then kill -9 "$pid"; fi
    rm -f "$state/$name.pid"
}

for service in "${services[@]}"; do
    # shellcheck source=/dev/null
    . "$here/$service.sh"
done

up() {
    mkdir -p "$state"
    chmod 755 "$state"
    [ -f "$state/certificates/ca.pem" ] || { need openssl openssl && "$here/certificates.sh" "$state/certificates"; }
    # Clients that are not ours.
    need kcat kcat
    need amqp-publish amqp-tools
    need psql postgresql-client
    case "$(mode)" in
    docker) docker compose --file "$here/compose.yaml" up --detach --wait --quiet-pull ;;
    native)
        local service
        for service in "${services[@]}"; do "need_$service"; done
        # All of them side by side; each waits for its own.
        local waiting=()
        for service in "${services[@]}"; do
            running "$service" && continue
            "start_$service" &
            waiting+=("$service:$!")
        done
        local failed=
        for service in ${waiting[@]+"${waiting[@]}"}; do
            wait "${service#*:}" || failed=yes
        done
        [ -z "$failed" ] || fail "not every service could be started"
        ;;
    *) fail "KOKSMAT_SERVICES is \`native\` or \`docker\`" ;;
    esac
    say "up; what they know of each other is in $state"
}

down() {
    case "$(mode)" in
    docker) docker compose --file "$here/compose.yaml" down --volumes ;;
    *) for service in "${services[@]}"; do "stop_$service"; done ;;
    esac
    rm -rf "$state"
}

case "${1:-}" in
up) up && touch "$state/up" ;;
down) down ;;
run)
    shift
    [ $# -gt 0 ] || fail "run what?"
    # What was started by `up` stays.
    [ -f "$state/up" ] || trap down EXIT
    up
    "$@"
    ;;
*) fail "usage: services.sh up | down | run COMMAND…" ;;
esac
