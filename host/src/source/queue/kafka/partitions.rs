//! The partitions that are assigned, each assignment with an epoch of its own.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rdkafka::{Offset, TopicPartitionList};
use slab::Slab;

use super::offsets::Offsets;
use crate::channel::InOrder;

/// Of the next assignment, of whichever source: no two have the same.
static EPOCH: AtomicU64 = AtomicU64::new(1);

/// A partition of a topic.
pub(super) type Place = (String, i32);

/// What is needed to resolve an event: void when its partition was assigned anew since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    /// For who wants to know which: its partition is found by the two below.
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Where the partition is found.
    slot: usize,
    epoch: u64,
}

/// The partitions that are assigned to this member.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    slots: Slab<Partition>,
    /// Where they are found by their topic and number.
    by_place: HashMap<Arc<str>, BTreeMap<i32, usize>>,
    /// Where the last message was of: the next one is mostly of the same.
    last: usize,
    epoch: u64,
    /// How many events are handled and not known to be committed, in all of them.
    uncommitted: usize,
}

#[derive(Debug)]
struct Partition {
    topic: Arc<str>,
    number: i32,
    epoch: u64,
    /// The partition in this assignment, as the host knows it.
    line: Arc<str>,
    offsets: Offsets,
    /// How many of its events are inside the host: sent, and not answered yet.
    inside: usize,
    /// It was revoked and is let go of when its calls have ended: nothing of it is taken.
    leaving: bool,
    /// Its span is used up: it is paused.
    full: bool,
}

impl Partition {
    fn is(&self, topic: &str, number: i32) -> bool {
        self.number == number && &*self.topic == topic
    }

    fn place(&self) -> Place {
        (self.topic.to_string(), self.number)
    }
}

impl Partitions {
    /// These are assigned from now on, as if for the first time.
    pub(super) fn assign(&mut self, places: &[Place]) {
        self.forget(places);
        self.epoch = EPOCH.fetch_add(1, Ordering::Relaxed);
        for (topic, number) in places {
            let known = self.by_place.get_key_value(topic.as_str()).map(|(topic, _)| topic.clone());
            let topic = known.unwrap_or_else(|| topic.as_str().into());
            let (epoch, line) = (self.epoch, format!("{topic}/{number}#{}", self.epoch).into());
            let (offsets, inside, leaving, full) = (Offsets::default(), 0, false, false);
            let fresh = Partition { topic: topic.clone(), number: *number, epoch, line, offsets, inside, leaving, full };
            self.by_place.entry(topic).or_default().insert(*number, self.slots.insert(fresh));
        }
    }

    /// Take nothing more of these.
    pub(super) fn leave(&mut self, places: &[Place]) {
        for place in places {
            if let Some(partition) = self.at_mut(place) {
                partition.leaving = true;
            }
        }
    }

    /// These are assigned no more: what is answered from now on commits nothing. How many of their events are handled and not known to be
    /// committed.
    pub(super) fn forget(&mut self, places: &[Place]) -> usize {
        let mut again = 0;
        for (topic, number) in places {
            let Some(of) = self.by_place.get_mut(topic.as_str()) else { continue };
            if let Some(slot) = of.remove(number) {
                again += self.slots.remove(slot).offsets.uncommitted();
            }
            if of.is_empty() {
                self.by_place.remove(topic.as_str());
            }
        }
        self.uncommitted -= again;
        again
    }

    /// A message is taken. None: its partition is not this member's (any more), or it was taken before.
    pub(super) fn take(&mut self, topic: &str, number: i32, offset: i64) -> Option<Ticket> {
        if !self.slots.get(self.last).is_some_and(|last| last.is(topic, number)) {
            self.last = *self.by_place.get(topic)?.get(&number)?;
        }
        let found = self.slots.get_mut(self.last).filter(|found| !found.leaving)?;
        let ticket = Ticket { partition: number, offset, slot: self.last, epoch: found.epoch };
        found.offsets.take(offset).then_some(ticket)
    }

    /// An event goes into the host: where it stands among those that are committed by "everything up to here". None: it must not go, its
    /// partition is not this member's any more.
    pub(super) fn enter(&mut self, ticket: &Ticket) -> Option<InOrder> {
        let partition = self.of_mut(ticket).filter(|partition| !partition.leaving)?;
        partition.inside += 1;
        Some(InOrder { line: partition.line.clone(), at: ticket.offset })
    }

    /// An event came out of the host and is not handled.
    pub(super) fn come_back(&mut self, ticket: &Ticket) {
        if let Some(partition) = self.of_mut(ticket) {
            partition.inside -= 1;
        }
    }

    /// An event came out of the host and is handled, parked or dead.
    pub(super) fn resolve(&mut self, ticket: &Ticket) {
        let Some(partition) = self.of_mut(ticket) else { return };
        partition.inside -= 1;
        let resolved = partition.offsets.resolve(ticket.offset);
        self.uncommitted += usize::from(resolved);
    }

    /// Whether the ticket's assignment still holds.
    pub(super) fn holds(&self, ticket: &Ticket) -> bool {
        self.slots.get(ticket.slot).is_some_and(|found| found.epoch == ticket.epoch && !found.leaving)
    }

    /// What may be committed of these (of all: `None`) and was not handed out before.
    pub(super) fn next_commit(&mut self, places: Option<&[Place]>) -> Option<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (_, partition) in &mut self.slots {
            let wanted = places.is_none_or(|places| places.iter().any(|(topic, number)| partition.is(topic, *number)));
            if let Some(offset) = wanted.then(|| partition.offsets.next_commit()).flatten() {
                // Only a topic's name that is not text fails here, and this one came from the library.
                let _ = list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(offset));
            }
        }
        (list.count() > 0).then_some(list)
    }

    /// The broker has committed these.
    pub(super) fn confirm(&mut self, committed: &[(Place, i64)]) {
        for (place, offset) in committed {
            let confirmed = self.at_mut(place).map_or(0, |partition| partition.offsets.confirm(*offset));
            self.uncommitted -= confirmed;
        }
    }

    /// How many events are resolved and would come again if this process ended now.
    pub(super) fn uncommitted(&self) -> usize {
        self.uncommitted
    }

    /// Whether there is something to commit that is not known to be committed.
    pub(super) fn owe_commits(&self) -> bool {
        self.slots.iter().any(|(_, partition)| partition.offsets.owes_commit())
    }

    /// What was handed out for these is not committed.
    pub(super) fn commit_failed(&mut self, places: &[Place]) {
        for place in places {
            if let Some(partition) = self.at_mut(place) {
                partition.offsets.commit_failed();
            }
        }
    }

    /// Nothing of these is inside the host. What was taken and did not get there comes again where they go.
    pub(super) fn are_settled(&self, places: &[Place]) -> bool {
        places.iter().all(|place| self.at(place).is_none_or(|found| found.inside == 0))
    }

    /// Whether the ticket's partition has just used up its span: then it has to be paused.
    pub(super) fn fills(&mut self, ticket: &Ticket, cap: u64) -> bool {
        let Some(found) = self.of_mut(ticket) else { return false };
        let fills = !found.full && found.offsets.span() >= cap;
        found.full |= fills;
        fills
    }

    /// The ticket's partition, if it has just got room again: then it has to be resumed. Not before half of its span is free.
    pub(super) fn has_room(&mut self, ticket: &Ticket, cap: u64) -> Option<Place> {
        let found = self.of_mut(ticket).filter(|found| found.full && found.offsets.span() <= cap / 2)?;
        found.full = false;
        Some(found.place())
    }

    /// How many are paused because their span is used up.
    pub(super) fn full(&self) -> usize {
        self.slots.iter().filter(|(_, partition)| partition.full).count()
    }

    /// Those that may be resumed: neither leaving nor full.
    pub(super) fn open(&self) -> Vec<Place> {
        self.slots.iter().filter(|(_, partition)| !partition.leaving && !partition.full).map(|(_, partition)| partition.place()).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The partition of a ticket, if its assignment still holds.
    fn of_mut(&mut self, ticket: &Ticket) -> Option<&mut Partition> {
        self.slots.get_mut(ticket.slot).filter(|found| found.epoch == ticket.epoch)
    }

    fn at(&self, (topic, number): &Place) -> Option<&Partition> {
        self.slots.get(*self.by_place.get(topic.as_str())?.get(number)?)
    }

    fn at_mut(&mut self, (topic, number): &Place) -> Option<&mut Partition> {
        self.slots.get_mut(*self.by_place.get(topic.as_str())?.get(number)?)
    }
}

/// A list as the library wants it.
pub(super) fn list(places: &[Place]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    list
}

/// The offsets in a list of the library, by partition.
pub(super) fn offsets(list: &TopicPartitionList) -> Vec<(Place, i64)> {
    let elements = list.elements();
    let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
        Offset::Offset(offset) => Some(((element.topic().to_owned(), element.partition()), offset)),
        _ => None,
    };
    elements.iter().filter_map(offset).collect()
}

/// The partitions in a list of the library.
pub(super) fn places(list: &TopicPartitionList) -> Vec<Place> {
    list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: i32) -> Place {
        ("orders".into(), partition)
    }

    fn take(partitions: &mut Partitions, partition: i32, offset: i64) -> Ticket {
        let ticket = partitions.take("orders", partition, offset).unwrap();
        assert!(partitions.enter(&ticket).is_some());
        ticket
    }

    fn committed(list: Option<TopicPartitionList>) -> Vec<(i32, Option<i64>)> {
        let list = list.map(|list| list.elements().iter().map(|e| (e.partition(), e.offset().to_raw())).collect::<Vec<_>>());
        list.unwrap_or_default()
    }

    #[test]
    fn an_answer_after_the_partition_was_lost_commits_nothing() {
        let mut partitions = Partitions::default();
        partitions.assign(&[place(0)]);
        let old = take(&mut partitions, 0, 7);
        partitions.forget(&[place(0)]);
        partitions.assign(&[place(0)]);
        let new = take(&mut partitions, 0, 7);
        partitions.resolve(&old);
        assert!(!partitions.holds(&old) && partitions.holds(&new));
        assert_eq!(committed(partitions.next_commit(None)), [], "the other assignment's 7 is not handled");
        partitions.resolve(&new);
        assert_eq!(committed(partitions.next_commit(None)), [(0, Some(8))]);
    }

    #[test]
    fn what_leaves_is_committed_and_gets_nothing_new() {
        let mut partitions = Partitions::default();
        partitions.assign(&[place(0), place(1)]);
        let (first, second) = (take(&mut partitions, 0, 1), take(&mut partitions, 0, 2));
        let waiting = partitions.take("orders", 0, 3).unwrap();
        partitions.leave(&[place(0)]);
        assert_eq!(partitions.take("orders", 0, 4), None);
        assert!(partitions.take("orders", 1, 2).is_some());
        assert_eq!(partitions.enter(&waiting), None, "it comes again elsewhere");
        partitions.resolve(&first);
        assert!(!partitions.are_settled(&[place(0)]));
        partitions.come_back(&second);
        assert!(partitions.are_settled(&[place(0)]), "what did not get into the host is not waited for");
        assert_eq!(committed(partitions.next_commit(Some(&[place(0)]))), [(0, Some(2))]);
        partitions.forget(&[place(0)]);
        assert_eq!((partitions.open(), partitions.len()), (vec![place(1)], 1));
    }

    #[test]
    fn a_partition_whose_span_is_used_up_waits_until_half_of_it_is_free() {
        let mut partitions = Partitions::default();
        partitions.assign(&[place(0)]);
        let tickets: Vec<_> = (0..4).map(|offset| take(&mut partitions, 0, offset)).collect();
        assert!(partitions.fills(&tickets[3], 4) && !partitions.fills(&tickets[3], 4), "once");
        assert_eq!(partitions.open(), []);
        partitions.resolve(&tickets[0]);
        assert_eq!(partitions.has_room(&tickets[0], 4), None, "3 of 4 are open");
        partitions.resolve(&tickets[1]);
        assert_eq!(partitions.has_room(&tickets[1], 4), Some(place(0)));
        assert_eq!(partitions.open(), [place(0)]);
    }
}
