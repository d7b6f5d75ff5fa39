//! What time it is: the system's clock, or in tests one that is moved by hand.

use jiff::Timestamp;

#[cfg(test)]
use tokio::sync::watch;

use futures_util::future::BoxFuture;

pub(super) trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;

    /// Return when it is `time`, or earlier when the clock was moved: who sleeps has to look at the clock afterwards. Cancel safe.
    fn sleep_until(&self, time: Timestamp) -> BoxFuture<'_, ()>;
}

pub(super) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep_until(&self, time: Timestamp) -> BoxFuture<'_, ()> {
        let rest = time.duration_since(self.now());
        Box::pin(tokio::time::sleep(rest.try_into().unwrap_or_default()))
    }
}

/// A clock that is moved by hand. Whoever sleeps wakes up whenever it is moved.
#[cfg(test)]
pub(super) struct ManualClock(watch::Sender<Timestamp>);

#[cfg(test)]
impl ManualClock {
    pub(super) fn at(time: &str) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self(watch::Sender::new(time.parse().unwrap())))
    }

    pub(super) fn set(&self, time: &str) {
        self.0.send_replace(time.parse().unwrap());
    }
}

#[cfg(test)]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    fn sleep_until(&self, time: Timestamp) -> BoxFuture<'_, ()> {
        let mut moved = self.0.subscribe();
        Box::pin(async move {
            if *moved.borrow_and_update() < time {
                let _ = moved.changed().await;
            }
        })
    }
}
