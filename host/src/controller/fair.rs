//! Whose turn it is: tenants in turn, and within a tenant its (source, handler) pairs in turn, so that nobody's flood delays another's next
//! call.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// A queue of queues. `T` is the tenant, `K` what takes turns within it.
#[derive(Debug)]
pub(crate) struct FairQueue<T, K, V> {
    tenants: Turns<T, Turns<K, VecDeque<V>>>,
    len: usize,
}

/// Things that take turns: the order of turns, and the things.
#[derive(Debug)]
struct Turns<K, V> {
    order: VecDeque<K>,
    of: HashMap<K, V>,
}

impl<K: Eq + Hash + Clone, V> Turns<K, V> {
    fn new() -> Self {
        Self { order: VecDeque::new(), of: HashMap::new() }
    }

    fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        let order = &mut self.order;
        self.of.entry(key).or_insert_with_key(|key| {
            order.push_back(key.clone());
            new()
        })
    }

    /// All of them, the next one first.
    fn into_values(mut self) -> impl Iterator<Item = V> {
        self.order.into_iter().filter_map(move |key| self.of.remove(&key))
    }

    /// Offer the turn to each until one takes it; who took it goes to the end, who `is_empty` afterwards goes away.
    fn turn<R>(&mut self, mut take: impl FnMut(&K, &mut V) -> Option<R>, is_empty: impl Fn(&V) -> bool) -> Option<R> {
        for i in 0..self.order.len() {
            let Some(value) = self.of.get_mut(&self.order[i]) else { continue };
            let Some(taken) = take(&self.order[i], value) else { continue };
            let empty = is_empty(value);
            if let Some(key) = self.order.remove(i) {
                if empty {
                    self.of.remove(&key);
                } else {
                    self.order.push_back(key);
                }
            }
            return Some(taken);
        }
        None
    }
}

impl<T: Eq + Hash + Clone, K: Eq + Hash + Clone, V> FairQueue<T, K, V> {
    pub(crate) fn new() -> Self {
        Self { tenants: Turns::new(), len: 0 }
    }

    /// Put a value at the end of its line.
    pub(crate) fn push(&mut self, tenant: T, key: K, value: V) {
        self.tenants.entry(tenant, Turns::new).entry(key, VecDeque::new).push_back(value);
        self.len += 1;
    }

    /// The next value of whoever's turn it is among the lines that `may` go.
    pub(crate) fn pop(&mut self, may: impl Fn(&V) -> bool) -> Option<V> {
        let popped = self.tenants.turn(
            |_, lines| lines.turn(|_, line| line.front().is_some_and(&may).then(|| line.pop_front()).flatten(), VecDeque::is_empty),
            |lines| lines.of.is_empty(),
        )?;
        self.len -= 1;
        Some(popped)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Everything that waits, line by line.
    pub(crate) fn take_all(&mut self) -> Vec<V> {
        self.len = 0;
        let tenants = std::mem::replace(&mut self.tenants, Turns::new());
        tenants.into_values().flat_map(Turns::into_values).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(queue: &mut FairQueue<&'static str, &'static str, u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(|_| true)).collect()
    }

    #[test]
    fn a_flood_does_not_delay_the_next_of_another_source_or_tenant() {
        let mut queue = FairQueue::new();
        (0..1000).for_each(|i| queue.push("a", "flood", i));
        queue.push("a", "quiet", 5000);
        queue.push("b", "quiet", 6000);
        let order = order(&mut queue);
        assert!(order[..3].contains(&6000) && order[..4].contains(&5000), "{:?}", &order[..6]);
        assert_eq!(order.len(), 1002);
    }

    #[test]
    fn a_line_keeps_its_order() {
        let mut queue = FairQueue::new();
        (0..50).for_each(|i| queue.push("a", "s", i));
        assert_eq!(order(&mut queue), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_that_may_not_go_blocks_nobody() {
        let mut queue = FairQueue::new();
        queue.push("a", "capped", 1);
        queue.push("a", "free", 2);
        assert_eq!(queue.pop(|v| *v != 1), Some(2));
        assert_eq!(queue.pop(|v| *v != 1), None);
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.take_all(), [1]);
    }
}
