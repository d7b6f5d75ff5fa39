//! When a sink takes more of what waits, and whether its broker is well.

use std::time::Duration;

use tokio::time::Instant;

use crate::source::backoff::Backoff;

/// The shortest and the longest wait before a broker is tried again.
const WAITS: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];
/// After so long without an event that the broker declined, none waits for that any more: twice the longest wait, and some time to publish.
const DECLINES: Duration = Duration::from_secs(25);
/// How long to wait after the store failed.
pub(super) const STORE_RETRY: Duration = Duration::from_millis(500);

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Published,
    Refused,
    /// It waits for the broker.
    Waits,
    /// It waits though the broker is there.
    Declined,
    /// It waits for the store.
    NotSettled,
}

/// The pace of one sink.
pub(super) struct Pace {
    backoff: Backoff,
    /// Nothing is taken before this.
    not_before: Instant,
    /// The outages that are waited for, or were.
    outages: u64,
    /// Nothing was published since the last one.
    is_away: bool,
    /// When the broker declined an event last.
    declined: Option<Instant>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { backoff: Backoff::new(WAITS[0], WAITS[1]), not_before: now, outages: 0, is_away: false, declined: None }
    }

    /// One more failure: how long to wait.
    pub(super) fn failed(&mut self) -> Duration {
        self.backoff.after_failure()
    }

    /// How long an event waits that is not published now, in milliseconds.
    pub(super) fn wait_ms(&self) -> i64 {
        i64::try_from(self.backoff.next().as_millis()).unwrap_or(i64::MAX)
    }

    /// Nothing is taken before this.
    pub(super) fn not_before(&self) -> Instant {
        self.not_before
    }

    /// Something became of an event; there were so many outages `before` it was on its way, and so many by now. How long until there may be
    /// more to take.
    ///
    /// All that is on its way when the broker goes away fails together, which is one outage, and what of it had arrived before says nothing of
    /// the broker now.
    pub(super) fn ended(&mut self, ended: Ended, before: u64, outages: u64, now: Instant) -> Duration {
        if outages > self.outages {
            (self.outages, self.is_away) = (outages, true);
            self.not_before = now + self.failed();
        }
        match ended {
            Ended::Published if before == outages => {
                self.is_away = false;
                self.backoff.reset();
            }
            Ended::Declined => {
                self.declined = Some(now);
                // A broker that declines everything is not asked to take all that waits, over and over.
                if now >= self.not_before {
                    self.not_before = now + self.failed();
                }
            }
            Ended::Published | Ended::Refused | Ended::Waits | Ended::NotSettled => {}
        }
        match ended {
            Ended::Published | Ended::Refused => Duration::ZERO,
            Ended::Waits | Ended::Declined => self.not_before.saturating_duration_since(now).max(Duration::from_millis(1)),
            Ended::NotSettled => STORE_RETRY,
        }
    }

    /// Nothing keeps the sink from publishing, as far as is known.
    pub(super) fn is_well(&self) -> bool {
        !self.is_away && self.declined.is_none()
    }

    /// When it is forgotten that the broker declined something. Cancel safe.
    pub(super) async fn declines_no_more(&mut self) {
        match self.declined {
            None => std::future::pending().await,
            Some(at) => {
                tokio::time::sleep_until(at + DECLINES).await;
                self.declined = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink, the moment, and how many outages were found.
    struct Sink(Pace, Instant, u64);

    impl Sink {
        fn new() -> Self {
            let now = Instant::now();
            Self(Pace::new(now), now, 0)
        }

        /// An event that was on its way since there were `before` outages.
        fn ended(&mut self, ended: Ended, before: u64) {
            self.0.ended(ended, before, self.2, self.1);
        }

        fn found_away(&mut self, before: u64) {
            self.2 += u64::from(self.2 == before);
            self.ended(Ended::Waits, before);
        }

        fn waits(&self) -> Duration {
            self.0.not_before().saturating_duration_since(self.1)
        }

        fn wait(&mut self) {
            self.1 = self.0.not_before();
        }
    }

    #[test]
    fn what_fails_together_is_waited_for_once() {
        let mut sink = Sink::new();
        for _ in 0..100 {
            sink.found_away(0);
        }
        assert!(sink.waits() <= WAITS[0] && sink.0.wait_ms() == 500, "{:?}", sink.waits());
        sink.wait();
        sink.found_away(1);
        assert!((WAITS[0]..=WAITS[0] * 2).contains(&sink.waits()), "and longer when it is still away: {:?}", sink.waits());
    }

    #[test]
    fn what_arrived_before_an_outage_does_not_end_it() {
        let mut sink = Sink::new();
        sink.ended(Ended::Published, 0);
        assert!(sink.0.is_well());
        sink.found_away(0);
        sink.ended(Ended::Published, 0);
        assert!(!sink.0.is_well() && sink.0.wait_ms() == 500);
        sink.wait();
        sink.ended(Ended::Published, 1);
        assert!(sink.0.is_well() && sink.0.wait_ms() == 250);
    }

    #[test]
    fn an_outage_is_waited_for_whatever_is_told_first() {
        for first in [Ended::Published, Ended::NotSettled] {
            let mut sink = Sink::new();
            sink.2 = 1;
            sink.ended(first, 0);
            assert!(!sink.waits().is_zero() && !sink.0.is_well(), "{first:?}");
        }
    }

    #[test]
    fn what_is_declined_holds_up_nothing_else_for_long() {
        let mut sink = Sink::new();
        for _ in 0..20 {
            sink.ended(Ended::Declined, 0);
            sink.ended(Ended::Published, 0);
            assert!(sink.waits() <= WAITS[0] * 2, "{:?}", sink.waits());
            assert!(!sink.0.is_well(), "something waits");
            sink.wait();
        }
    }

    #[test]
    fn a_broker_that_declines_everything_is_asked_ever_more_seldom() {
        let mut sink = Sink::new();
        for _ in 0..20 {
            for _ in 0..100 {
                sink.ended(Ended::Declined, 0);
            }
            sink.wait();
        }
        sink.ended(Ended::Declined, 0);
        assert!(sink.waits() >= WAITS[1] / 2, "{:?}", sink.waits());
    }

    #[tokio::test(start_paused = true)]
    async fn when_nothing_was_declined_for_a_while_it_is_well_again_unless_it_is_away() {
        let mut sink = Sink::new();
        sink.ended(Ended::Declined, 0);
        sink.0.declines_no_more().await;
        assert!(sink.0.is_well() && sink.1.elapsed() >= WAITS[1] * 2);
        sink.ended(Ended::Declined, 0);
        sink.found_away(0);
        sink.0.declines_no_more().await;
        assert!(!sink.0.is_well());
    }
}
