//! How far one partition may be committed, for as long as it is assigned: a state machine without I/O.
//!
//! Calls end in any order, a commit says "everything before this". So offsets are resolved one by one, and what may be committed is the end
//! of the resolved prefix. It works on the offsets that were taken and not on arithmetic: compaction and transaction markers leave gaps.
//! After the `checkpoint` of Redpanda Connect (Jeffail/checkpoint).

use std::collections::VecDeque;

/// The offsets of one partition in one assignment.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    /// What was taken and is not behind the committable offset yet, ascending; whether it is resolved.
    taken: VecDeque<(i64, bool)>,
    /// The offset to begin with after a restart: the one after the resolved prefix.
    committable: Option<i64>,
    /// The last one that was handed out to be committed.
    handed: Option<i64>,
    /// The resolved prefix as far as the broker has not confirmed that it is committed.
    unconfirmed: VecDeque<i64>,
    /// Resolved and not in the prefix yet.
    resolved: usize,
}

impl Offsets {
    /// An event was taken. `false`: it was taken before (offsets only grow), and nothing changed.
    pub(super) fn take(&mut self, offset: i64) -> bool {
        let newest = self.taken.back().map(|(offset, _)| *offset).or(self.committable.map(|next| next - 1));
        if newest.is_some_and(|newest| offset <= newest) {
            return false;
        }
        self.taken.push_back((offset, false));
        true
    }

    /// An event is handled, parked or dead. `false`: that was known, or it was not taken.
    pub(super) fn resolve(&mut self, offset: i64) -> bool {
        let place = match self.taken.front() {
            // Mostly it is the oldest.
            Some((oldest, _)) if *oldest == offset => Ok(0),
            _ => self.taken.binary_search_by_key(&offset, |(offset, _)| *offset),
        };
        let new = place.is_ok_and(|place| !std::mem::replace(&mut self.taken[place].1, true));
        self.resolved += usize::from(new);
        while let Some((offset, true)) = self.taken.front() {
            self.committable = Some(offset + 1);
            self.unconfirmed.push_back(*offset);
            self.resolved -= 1;
            self.taken.pop_front();
        }
        new
    }

    /// The broker has committed this. How many events that were not known to be committed are now.
    pub(super) fn confirm(&mut self, committed: i64) -> usize {
        let before = self.unconfirmed.len();
        while self.unconfirmed.front().is_some_and(|offset| *offset < committed) {
            self.unconfirmed.pop_front();
        }
        before - self.unconfirmed.len()
    }

    /// How many events are resolved and would come again if this process ended now.
    pub(super) fn uncommitted(&self) -> usize {
        self.unconfirmed.len() + self.resolved
    }

    /// Whether there is something to commit that is not known to be committed. What is resolved behind an open event cannot be.
    pub(super) fn owes_commit(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    /// The offset to commit, if there is a new one. It is not handed out again unless [`commit_failed`](Self::commit_failed).
    pub(super) fn next_commit(&mut self) -> Option<i64> {
        let committable = self.committable.filter(|_| self.committable != self.handed)?;
        self.handed = Some(committable);
        Some(committable)
    }

    /// What was handed out is not committed: it is handed out again.
    pub(super) fn commit_failed(&mut self) {
        self.handed = None;
    }

    /// How many offsets lie between the oldest event that is not resolved and the newest that was taken, both included: what a crash
    /// delivers again at most.
    pub(super) fn span(&self) -> u64 {
        match (self.taken.front(), self.taken.back()) {
            (Some((oldest, _)), Some((newest, _))) => (newest - oldest + 1).unsigned_abs(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

    use super::*;

    fn taken(offsets: &[i64]) -> Offsets {
        let mut all = Offsets::default();
        offsets.iter().for_each(|offset| assert!(all.take(*offset)));
        all
    }

    #[test]
    fn only_the_resolved_prefix_is_committed() {
        let mut offsets = taken(&[5, 6, 9]);
        offsets.resolve(6);
        assert_eq!(offsets.next_commit(), None, "5 is not handled");
        offsets.resolve(5);
        assert_eq!(offsets.next_commit(), Some(7), "the gap up to 9 stays open");
        assert_eq!(offsets.next_commit(), None, "once");
        offsets.resolve(9);
        assert_eq!(offsets.next_commit(), Some(10));
        assert_eq!(offsets.span(), 0);
    }

    #[test]
    fn a_commit_that_failed_is_tried_again() {
        let mut offsets = taken(&[0]);
        offsets.resolve(0);
        assert_eq!(offsets.next_commit(), Some(1));
        offsets.commit_failed();
        assert_eq!(offsets.next_commit(), Some(1));
    }

    #[test]
    fn what_a_crash_would_repeat_is_known() {
        let mut offsets = taken(&[0, 1, 2, 5]);
        offsets.resolve(2);
        offsets.resolve(0);
        offsets.resolve(0);
        assert_eq!(offsets.uncommitted(), 2);
        assert_eq!(offsets.next_commit(), Some(1));
        offsets.confirm(1);
        assert_eq!((offsets.uncommitted(), offsets.owes_commit()), (1, false), "2 waits for 1");
        offsets.resolve(1);
        assert_eq!((offsets.uncommitted(), offsets.next_commit()), (2, Some(3)));
        offsets.confirm(3);
        assert_eq!(offsets.uncommitted(), 0);
    }

    #[test]
    fn what_was_taken_is_not_taken_again() {
        let mut offsets = taken(&[3, 4]);
        assert!(!offsets.take(4));
        offsets.resolve(3);
        offsets.resolve(4);
        assert!(!offsets.take(4), "it is committable");
        assert!(offsets.take(5));
    }

    #[test]
    fn the_span_is_what_a_crash_delivers_again() {
        let mut offsets = taken(&[10, 11, 12, 40]);
        assert_eq!(offsets.span(), 31);
        offsets.resolve(11);
        assert_eq!(offsets.span(), 31);
        offsets.resolve(10);
        assert_eq!(offsets.span(), 29);
    }

    #[test]
    fn in_whatever_order_calls_end_nothing_unhandled_is_ever_committed() {
        for seed in 0..500 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut next = random.random_range(0..1_000);
            let (mut offsets, mut open, mut committed) = (Offsets::default(), Vec::<i64>::new(), 0);
            for _ in 0..300 {
                match random.random_range(0..3) {
                    0 => {
                        next += random.random_range(1..4);
                        assert!(offsets.take(next));
                        open.push(next);
                    }
                    1 => {
                        open.shuffle(&mut random);
                        if let Some(offset) = open.pop() {
                            offsets.resolve(offset);
                        }
                    }
                    _ => {
                        if let Some(commit) = offsets.next_commit() {
                            assert!(commit > committed && open.iter().all(|open| *open >= commit), "seed {seed}");
                            committed = commit;
                        }
                    }
                }
            }
            open.drain(..).for_each(|offset| assert!(offsets.resolve(offset)));
            assert_eq!(offsets.span(), 0, "seed {seed}");
        }
    }
}
