#!/usr/bin/env bash
# The promises that have large figures, from some minutes to an hour each: what the small ones of tests/run.sh show, on ten times as much and more.
# Prints what was lost and what was repeated.
set -euo pipefail
cd "$(dirname "$0")/.."

# As users run it: the debug build takes five times as long.
cargo build --locked -p koksmat -p embedding
cargo build --locked --release -p koksmat
export KOKSMAT_BIN="$PWD/target/release/koksmat"
it() { tests/services/services.sh run cargo test --locked -p koksmat-tests --test it -- --test-threads=1 --nocapture "$@"; }

KOKSMAT_TEST_CUTS=20000 it power_loss
KOKSMAT_TEST_STOPS=1000 it stop::many
KOKSMAT_TEST_EVENTS=1000000 KOKSMAT_TEST_FAULTS=200 it soak::one_host
KOKSMAT_TEST_EVENTS=100000 KOKSMAT_TEST_FAULTS=30 it soak::three_hosts
KOKSMAT_TEST_EVENTS=200000 KOKSMAT_TEST_FAULTS=30 it kafka::faults::hosts_that_are_killed
KOKSMAT_TEST_EVENTS=50000 KOKSMAT_TEST_FAULTS=50 it rabbitmq::faults
KOKSMAT_TEST_RELOADS=1000 KOKSMAT_TEST_SAVES=200 KOKSMAT_TEST_PLUGINS=1000 it reload::figures
KOKSMAT_TEST_GONE=60 it kafka::gone::a_broker_that_is_gone
KOKSMAT_TEST_GONE=60 it rabbitmq::failing::a_broker_that_goes_away
KOKSMAT_TEST_GONE=60 it databases::claims::a_database_that_goes_away
