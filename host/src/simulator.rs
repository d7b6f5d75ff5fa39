//! Runs the host's own core through interleavings and faults that chance decides, a seed at a time, in no time.
//!
//! What runs is what every host runs: control channel, credits, controller, fair queue, key lanes, the lane, settling, receipts, durable
//! intake, the feeder of tasks, Kafka's offset tracker, the stop and its ledger, and the embedded store's transactions. Simulated is what is
//! outside: time (tokio's, paused), the disk, the broker, senders, a polled table, and the guests ([`world`]). One thread runs a world, and
//! whatever chance decides comes from the seed: the same seed is the same history.
//!
//! A history ([`history`]) has kills, stops, disk and broker failures and rebalances, and ends calm. Then nothing may be missing, double or
//! out of order ([`verdict`]). That the simulator sees mistakes is shown by making them (`planted.rs`).

mod guests;
mod history;
mod host;
mod sources;
mod verdict;
mod world;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use crate::planted::{Mistake, plant};

/// The history of one seed: what happened, and what was wrong in the end, if anything.
fn run(seed: u64, mistake: Option<Mistake>) -> (Vec<String>, Result<(), String>) {
    plant(mistake);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let history = runtime.block_on(history::of(seed));
    plant(None);
    history
}

/// Run the histories of seeds `0..seeds` on every core. The first that went wrong, and what was wrong.
fn run_all(seeds: u64, mistake: Option<Mistake>) -> Option<(u64, String)> {
    let (next, first) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let work = || {
        let mut found = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds || first.load(Ordering::Relaxed) < seed {
                return found;
            }
            if let (_, Err(violated)) = run(seed, mistake) {
                first.fetch_min(seed, Ordering::Relaxed);
                found = Some((seed, violated));
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("a simulation does not panic")).min()
    })
}

/// How many seeds: as many as CI has time for, or `KOKSMAT_SEEDS`.
fn seeds() -> u64 {
    std::env::var("KOKSMAT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(10_000)
}

#[test]
fn whatever_happens_when_nothing_is_lost_double_or_out_of_order() {
    if let Some((seed, violated)) = run_all(seeds(), None) {
        let history = run(seed, None).0.join("\n");
        panic!("the history of seed {seed}:\n{history}\n\nseed {seed}: {violated}");
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..20 {
        let [(one, _), (other, _)] = [run(seed, None), run(seed, None)];
        let differs = one.iter().zip(&other).find(|(one, other)| one != other);
        assert_eq!((differs, one.len()), (None, other.len()), "seed {seed} had two histories");
    }
}

#[test]
fn every_planted_mistake_is_found() {
    use Mistake::{AckBeforeCommit, CommitPastFailure, DoubleSettle, DroppedHandler, EarlyLaneRelease, LostWakeUp};
    for mistake in [AckBeforeCommit, CommitPastFailure, LostWakeUp, DoubleSettle, EarlyLaneRelease, DroppedHandler] {
        assert!(run_all(1_000, Some(mistake)).is_some(), "{mistake:?} was not found");
    }
}
