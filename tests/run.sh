#!/usr/bin/env bash
# All tests of Koksmat, with their set-up: guests for the wasm target, clients from npm, brokers and databases, the binary, then every test.
#
# Needs a Rust toolchain, Node.js and either Docker or Kafka's Java, RabbitMQ, PostgreSQL and MariaDB; on Debian, as root, what is missing is
# installed. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

./prerequisites.sh

say() { printf '\n== %s\n' "$*"; }

if ! command -v npm >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing Node.js"
        apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs npm
    else
        echo "tests/run.sh: Node.js with npm is needed for the independent webhook clients; install it and run this again" >&2
        exit 1
    fi
fi

say "guests"
tests/guests/build.sh

say "independent clients (npm)"
stamp=tests/clients/node_modules/.lock-of-this-tree
if ! cmp -s tests/clients/package-lock.json "$stamp" 2>/dev/null; then
    (cd tests/clients && npm ci --no-audit --no-fund --ignore-scripts)
    cp tests/clients/package-lock.json "$stamp"
fi

say "the binary and the tests"
cargo build --locked -p koksmat -p embedding
# Ten thousand simulated histories: optimised, this one binary is compiled for a minute and a half longer and has ended more than two sooner.
export OPTIMISED="--config=profile.test.package.koksmat.opt-level=1"
cargo test --locked -p koksmat --lib "$OPTIMISED" "$@" -- --skip store::postgres
cargo test --locked -p koksmat --bins "$@"
cargo test --locked --workspace --exclude koksmat-tests --exclude koksmat "$@"
# One after the other: the promises measure times, and each uses the whole machine. Those about the limits measure milliseconds: they come
# first, while no broker and no database runs beside them.
cargo test --locked -p koksmat-tests "$@" -- --test-threads=1 limits::
tests/services/services.sh run bash -euc '
    cargo test --locked -p koksmat --lib "$OPTIMISED" "$@" -- store::postgres
    cargo test --locked -p koksmat-tests "$@" -- --test-threads=1 --skip limits::
' tests/run.sh "$@"
