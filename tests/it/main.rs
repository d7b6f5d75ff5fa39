//! The promises, one file each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::type_complexity,
    reason = "tests"
)]

mod atomic;
mod crash;
mod crash_test;
mod databases;
mod dead_letters;
mod delivery;
mod errors;
mod examples;
mod kafka;
mod keyvalue;
mod limits;
mod operation;
mod order;
mod power_loss;
mod probation;
mod rabbitmq;
mod real_input;
mod recording;
mod reload;
mod replay;
mod rust_handlers;
mod scripts;
mod shared_store;
mod soak;
mod stop;
mod timer_poller;
