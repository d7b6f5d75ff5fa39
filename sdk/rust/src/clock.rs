//! Time. `std::time::SystemTime::now()` panics on this target. Needs no grant.

use crate::bindings::wasi::clocks::{monotonic_clock, wall_clock};
use std::time::Duration;

/// The time since the Unix epoch.
pub fn now() -> Duration {
    let now = wall_clock::now();
    Duration::new(now.seconds, now.nanoseconds)
}

/// A clock that never goes back; only differences mean something.
pub fn monotonic() -> Duration {
    Duration::from_nanos(monotonic_clock::now())
}

/// Waits. The host does other work meanwhile; the call's deadline goes on.
pub fn sleep(wait: Duration) {
    monotonic_clock::subscribe_duration(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)).block();
}
