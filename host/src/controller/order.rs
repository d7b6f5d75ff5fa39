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

/// Of how many keys returned events are waited for at most: far more than sources have in flight. Those of assignments that have ended never
/// come again, and are forgotten when there are so many.
const AWAITED: usize = 100_000;

/// Events of a key that went back, from a source that sends in order: where they stand in a line.
#[derive(Debug)]
struct Awaited {
    line: Arc<str>,
    places: BTreeSet<i64>,
}

/// The calls that wait for one before them, by their key. A key is here while a call of it is in line or runs.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    behind: HashMap<OrderKey, VecDeque<CallInLine>>,
    /// What went back and has not come again.
    awaited: HashMap<OrderKey, Awaited>,
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
            if self.awaited.len() >= AWAITED {
                self.awaited.clear();
            }
            let fresh = || Awaited { line: line.clone(), places: BTreeSet::new() };
            let awaited = self.awaited.entry(key.clone()).or_insert_with(fresh);
            if awaited.line != line {
                *awaited = fresh();
            }
            awaited.places.insert(at);
        }
    }

    /// Whether an event before this one went back and has not come again: then this one goes back too. Else it is waited for no more.
    fn is_too_early(&mut self, key: &OrderKey, call: &CallInLine) -> bool {
        let Some(place) = call.place() else { return false };
        let Some(awaited) = self.awaited.get_mut(key).filter(|awaited| awaited.line == place.line) else { return false };
        if awaited.places.first().is_some_and(|first| *first < place.at) {
            awaited.places.insert(place.at);
            return true;
        }
        awaited.places.remove(&place.at);
        if awaited.places.is_empty() {
            self.awaited.remove(key);
        }
        false
    }

    /// An event has come, and only these handlers want it: no other's calls of it are waited for, though they wanted it before.
    pub(crate) fn has_come(&mut self, place: &InOrder, wanted_by: impl Fn(&str) -> bool) {
        if self.awaited.is_empty() {
            return;
        }
        self.awaited.retain(|key, awaited| {
            if awaited.line == place.line && !wanted_by(&key.handler) {
                awaited.places.remove(&place.at);
            }
            !awaited.places.is_empty()
        });
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
