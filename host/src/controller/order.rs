//! Calls that keep their order: of those with one order key the next one stands in line only when the one before has settled.
//!
//! Tasks of the store are in order there already; this is for events that come directly from their source. Owned by the controller's loop.

use std::collections::{HashMap, VecDeque};

use crate::{controller::joint::CallInLine, store::OrderKey};

/// The calls that wait for one before them, by their key. A key is here while a call of it is in line or runs.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    behind: HashMap<OrderKey, VecDeque<CallInLine>>,
    waiting: usize,
}

impl Orders {
    /// A call that may stand in line now, or none: it waits for one before it. Whoever gets it says so by [`leave`](Self::leave).
    pub(crate) fn enter(&mut self, call: CallInLine) -> Option<CallInLine> {
        let Some(key) = call.order() else { return Some(call) };
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
