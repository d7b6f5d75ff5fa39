//! Calls that keep their order: of those with one order key the next one stands in line only when the one before has settled.
//!
//! Tasks of the store are in order there already; this is for events that come directly from their source. Owned by the controller's loop.
//!
//! A call whose event goes back to its source takes those behind it along, and until it comes again none from behind it gets in. The source
//! cannot see to that: it hears that an event comes back when its other handlers have ended too, and has sent later ones meanwhile.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use crate::{channel::InOrder, controller::joint::CallInLine, store::OrderKey};

/// In how many lines returned events are waited for at most: far more than a host is assigned. In lines that have ended none comes again, and
/// they are forgotten when there are so many.
const LINES: usize = 10_000;

/// Events of one line that went back and have not come again, by the key whose order they keep: where they stand.
type Awaited = HashMap<OrderKey, BTreeSet<i64>>;

/// The calls that wait for one before them, by their key. A key is here while a call of it is in line or runs.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    behind: HashMap<OrderKey, VecDeque<CallInLine>>,
    /// What went back and has not come again.
    awaited: HashMap<Arc<str>, Awaited>,
    waiting: usize,
}

impl Orders {
    /// A call that may stand in line now, or none: it waits for one before it. Whoever gets it says so by [`leave`](Self::leave).
    pub(crate) fn enter(&mut self, call: CallInLine) -> Option<CallInLine> {
        let Some(key) = call.order() else { return Some(call) };
        if !self.awaited.is_empty() && self.is_too_early(&key, &call) {
            // Dropped, it is returned.
            return None;
        }
        match self.behind.get_mut(&key) {
            Some(behind) => {
                behind.push_back(call);
                self.waiting += 1;
                None
            }
            None => {
                self.behind.insert(key, VecDeque::new());
                Some(call)
            }
        }
    }

    /// A call has settled: the next one of its key may stand in line.
    pub(crate) fn leave(&mut self, key: &OrderKey) -> Option<CallInLine> {
        let next = self.behind.get_mut(key)?.pop_front();
        match next {
            Some(_) => self.waiting -= 1,
            None => drop(self.behind.remove(key)),
        }
        next
    }

    /// A call was not settled and its event comes again: so do those behind it. `place`: where it stands, if its source sends in order.
    pub(crate) fn come_again(&mut self, key: &OrderKey, place: Option<InOrder>) {
        let behind = self.behind.remove(key).unwrap_or_default();
        self.waiting -= behind.len();
        // Dropped, they are returned.
        let places = place.into_iter().chain(behind.iter().filter_map(|call| call.place().cloned()));
        for InOrder { line, at } in places {
            if self.awaited.len() >= LINES {
                self.awaited.clear();
            }
            self.awaited.entry(line).or_default().entry(key.clone()).or_default().insert(at);
        }
    }

    /// Whether an event before this one went back and has not come again: then this one goes back too. Else it is waited for no more.
    fn is_too_early(&mut self, key: &OrderKey, call: &CallInLine) -> bool {
        let Some(InOrder { line, at }) = call.place() else { return false };
        let Some(awaited) = self.awaited.get_mut(line) else { return false };
        let Some(places) = awaited.get_mut(key) else { return false };
        if places.first().is_some_and(|first| first < at) {
            places.insert(*at);
            return true;
        }
        places.remove(at);
        if places.is_empty() {
            awaited.remove(key);
        }
        if awaited.is_empty() {
            self.awaited.remove(line);
        }
        false
    }

    /// An event has come, and only these handlers want it: no other's calls of it are waited for, though they wanted it before.
    pub(crate) fn has_come(&mut self, place: &InOrder, wanted_by: impl Fn(&str) -> bool) {
        let Some(awaited) = self.awaited.get_mut(&place.line) else { return };
        awaited.retain(|key, places| {
            if !wanted_by(&key.handler) {
                places.remove(&place.at);
            }
            !places.is_empty()
        });
        if awaited.is_empty() {
            self.awaited.remove(&place.line);
        }
    }

    /// The call whose turn it was does not run after all, and nobody waits behind it.
    pub(crate) fn forget(&mut self, key: &OrderKey) {
        self.behind.remove(key);
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Everything that waits. Calls that run still leave.
    pub(crate) fn take_waiting(&mut self) -> Vec<CallInLine> {
        self.waiting = 0;
        let mut behind: Vec<_> = self.behind.iter_mut().collect();
        behind.sort_unstable_by_key(|(key, _)| *key);
        behind.into_iter().flat_map(|(_, calls)| std::mem::take(calls)).collect()
    }
}
