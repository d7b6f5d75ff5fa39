//! The time of a store.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use crate::{ambient, store::Millis};

/// Milliseconds since the Unix epoch that never go back while the process lives, whatever is done to the system's clock.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicI64);

impl Clock {
    pub(super) fn now(&self) -> Millis {
        let now = ambient::now();
        self.0.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// `age` ago.
    pub(super) fn before(&self, age: Duration) -> Millis {
        self.now().saturating_sub(millis(age))
    }
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
