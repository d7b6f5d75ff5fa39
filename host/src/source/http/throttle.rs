//! A log line that anyone on the network can cause must not become a flood.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets one line pass every ten seconds and counts the others.
pub(in crate::source) struct Throttle(Mutex<State>);

struct State {
    last: Option<Instant>,
    unsaid: u64,
}

impl Throttle {
    const EVERY: Duration = Duration::from_secs(10);

    pub(in crate::source) const fn new() -> Self {
        Self(Mutex::new(State { last: None, unsaid: 0 }))
    }

    /// Whether to log now; then how many lines were left out since the last one.
    pub(in crate::source) fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.duration_since(last) < Self::EVERY) {
            state.unsaid += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_passes_and_the_rest_are_counted() {
        let (throttle, start) = (Throttle::new(), Instant::now());
        assert_eq!(throttle.pass_at(start), Some(0));
        assert_eq!(throttle.pass_at(start + Duration::from_secs(1)), None);
        assert_eq!(throttle.pass_at(start + Duration::from_secs(9)), None);
        assert_eq!(throttle.pass_at(start + Throttle::EVERY), Some(2));
        assert_eq!(throttle.pass_at(start + 2 * Throttle::EVERY), Some(0));
    }
}
