//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// Waits that double from `min` to `max`, each cut by up to a quarter at random so that many who failed together do not return together.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// About how long the next failure waits.
    pub(crate) fn next(&self) -> Duration {
        self.next
    }

    /// How long to wait after one more failure.
    pub(crate) fn after_failure(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        wait.mul_f64(rand::random_range(0.75..=1.0))
    }

    /// It worked: the next failure waits the shortest time again.
    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(3));
        let waits: Vec<_> = (0..4).map(|_| backoff.after_failure().as_secs_f64()).collect();
        for (wait, longest) in waits.iter().zip([1.0, 2.0, 3.0, 3.0]) {
            assert!((longest * 0.75..=longest).contains(wait), "{waits:?}");
        }
        backoff.reset();
        assert!(backoff.after_failure() <= Duration::from_secs(1));
    }
}
