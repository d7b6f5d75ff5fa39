//! A broker and a consumer for simulations: the offset tracker is the real one, and what Kafka and its library do is simple enough to see
//! through. A member is alone in its group; now and then partitions are taken from it and given back.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::partitions::{Partitions, Place, Ticket, offsets, places};
use crate::{Answer, Event, Source, SourceContext, SourceError, channel::Credit, source::in_flight::InFlight};

const TOPIC: &str = "orders";
/// How long there may be nothing to do before it is looked around.
const LOOK: Duration = Duration::from_millis(100);
/// How long the calls of a partition that goes are waited for.
const LEAVING: Duration = Duration::from_secs(3);

/// What chance decides of a broker.
pub(crate) trait Chance: Send + Sync {
    /// Whether something bad of this probability happens.
    fn strikes(&self, probability: f64) -> bool;
    /// A number from the range.
    fn draw(&self, range: std::ops::Range<u64>) -> u64;
    /// How long the broker takes.
    fn some_time(&self) -> Duration;
    /// Note what happened.
    fn note(&self, what: String);
}

/// The partitions of one topic. It outlives consumers.
pub(crate) struct Broker(Mutex<Vec<Log>>);

#[derive(Default)]
struct Log {
    /// Offset, key and what the event is about; offsets have gaps.
    messages: Vec<(i64, String, String)>,
    committed: i64,
}

impl Broker {
    pub(crate) fn new(partitions: usize) -> Self {
        Self(Mutex::new((0..partitions).map(|_| Log::default()).collect()))
    }

    /// A message at the end of a partition.
    pub(crate) fn publish(&self, partition: usize, gap: i64, key: String, about: String) {
        let mut logs = self.logs();
        let log = &mut logs[partition];
        let offset = log.messages.last().map_or(0, |(offset, ..)| offset + 1) + gap;
        log.messages.push((offset, key, about));
    }

    /// The partition, the key and what it is about of every message, in the order of each log.
    pub(crate) fn messages(&self) -> Vec<(usize, String, String)> {
        let logs = self.logs();
        let of = |(number, log): (usize, &Log)| {
            log.messages.iter().map(move |(_, key, about)| (number, key.clone(), about.clone())).collect::<Vec<_>>()
        };
        logs.iter().enumerate().flat_map(of).collect()
    }

    /// Whether everything is committed.
    pub(crate) fn is_consumed(&self) -> bool {
        self.logs().iter().all(|log| log.messages.last().is_none_or(|(last, ..)| log.committed > *last))
    }

    fn logs(&self) -> MutexGuard<'_, Vec<Log>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> usize {
        self.logs().len()
    }

    fn committed(&self, partition: usize) -> i64 {
        self.logs()[partition].committed
    }

    fn next(&self, partition: usize, from: i64) -> Option<(i64, String, String)> {
        self.logs()[partition].messages.iter().find(|(offset, ..)| *offset >= from).cloned()
    }

    fn commit(&self, partition: i32, offset: i64) {
        self.logs()[usize::try_from(partition).unwrap_or_default()].committed = offset;
    }
}

/// The only member of its group.
pub(crate) struct Consumer {
    pub(crate) broker: Arc<Broker>,
    pub(crate) chance: Arc<dyn Chance>,
    /// The broker hears it.
    pub(crate) alive: Arc<AtomicBool>,
}

impl Source for Consumer {
    fn kind(&self) -> &'static str {
        "kafka"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        Box::pin(async move {
            ctx.ready();
            let all: Vec<Place> = (0..).take(self.broker.len()).map(|partition| (TOPIC.to_owned(), partition)).collect();
            let mut consumption = Consumption {
                broker: &self.broker,
                chance: &*self.chance,
                alive: &self.alive,
                partitions: Partitions::default(),
                positions: vec![0; self.broker.len()],
                in_flight: InFlight::default(),
                again: Vec::new(),
            };
            consumption.assign(&all);
            consumption.run(&ctx, &all).await;
            Ok(())
        })
    }
}

struct Consumption<'a> {
    broker: &'a Broker,
    chance: &'a dyn Chance,
    alive: &'a AtomicBool,
    partitions: Partitions,
    /// The next offset to take.
    positions: Vec<i64>,
    in_flight: InFlight<(Ticket, Arc<Event>)>,
    /// What came back and is sent again before anything new is taken.
    again: Vec<(Ticket, Arc<Event>)>,
}

impl Consumption<'_> {
    async fn run(&mut self, ctx: &SourceContext, all: &[Place]) {
        while !ctx.stopping().is_cancelled() {
            if self.chance.strikes(0.004) {
                let some = &all[usize::try_from(self.chance.draw(0..all.len() as u64)).unwrap_or_default()..];
                self.rebalance(some).await;
            }
            let took = match ctx.credits().try_acquire() {
                Some(credit) => self.take(ctx, credit).await,
                None => false,
            };
            if took && self.chance.draw(0..4) > 0 {
                continue;
            }
            tokio::select! {
                biased;
                () = ctx.stopping().cancelled() => {}
                () = self.in_flight.wait(), if !self.in_flight.is_empty() => self.answers(),
                () = tokio::time::sleep(LOOK) => {}
            }
            if self.chance.draw(0..3) == 0 {
                self.commit(None).await;
            }
        }
        while !self.in_flight.is_empty() {
            self.in_flight.wait().await;
            self.answers();
        }
        self.commit(None).await;
    }

    fn assign(&mut self, places: &[Place]) {
        self.partitions.assign(places);
        for (_, partition) in places {
            let partition = usize::try_from(*partition).unwrap_or_default();
            self.positions[partition] = self.broker.committed(partition);
        }
    }

    /// These go to another member, which commits nothing, and come back.
    async fn rebalance(&mut self, places: &[Place]) {
        self.chance.note(format!("rebalance of {places:?}"));
        self.partitions.leave(places);
        let until = tokio::time::Instant::now() + LEAVING;
        while !self.partitions.are_settled(places) {
            tokio::select! {
                biased;
                () = self.in_flight.wait() => self.answers(),
                () = tokio::time::sleep_until(until) => break,
            }
        }
        self.commit(Some(places)).await;
        self.partitions.forget(places);
        self.assign(places);
    }

    /// Send what came back, or the next message. `false`: there is none.
    async fn take(&mut self, ctx: &SourceContext, credit: Credit) -> bool {
        let (ticket, event) = loop {
            match self.again.pop() {
                // Its partition is not this assignment's any more: it comes again from there.
                Some((ticket, _)) if !self.partitions.holds(&ticket) => {}
                Some(again) => break again,
                None => match self.next() {
                    Some(next) => break next,
                    None => return false,
                },
            }
        };
        let Some(place) = self.partitions.enter(&ticket) else { return true };
        let key = format!("{}/{}", ticket.partition, ticket.offset).into();
        let receipt = self.in_flight.receipt((ticket, event.clone()));
        ctx.send_with(event, key, Some(place), receipt, credit).await;
        true
    }

    fn next(&mut self) -> Option<(Ticket, Arc<Event>)> {
        let count = self.positions.len();
        let first = usize::try_from(self.chance.draw(0..count as u64)).unwrap_or_default();
        for partition in (0..count).map(|i| (first + i) % count) {
            let Some((offset, key, about)) = self.broker.next(partition, self.positions[partition]) else { continue };
            let Some(ticket) = self.partitions.take(TOPIC, i32::try_from(partition).unwrap_or_default(), offset) else { continue };
            self.positions[partition] = offset + 1;
            let mut event = Event::new("simulated", about.clone());
            (event.id, event.subject, event.source) = (about, Some(key), "/simulated".into());
            event.time = Some(String::new());
            return Some((ticket, Arc::new(event)));
        }
        None
    }

    fn answers(&mut self) {
        while let Some(((ticket, event), answer)) = self.in_flight.next() {
            match answer {
                Answer::Done { .. } | Answer::Dead { .. } => self.partitions.resolve(&ticket),
                Answer::Again { .. } => {
                    self.partitions.come_back(&ticket);
                    self.again.push((ticket, event));
                }
            }
        }
        // In the order of the log, the oldest last: it is sent first.
        self.again.sort_by_key(|(ticket, _)| std::cmp::Reverse((ticket.partition, ticket.offset)));
    }

    async fn commit(&mut self, of: Option<&[Place]>) {
        let Some(list) = self.partitions.next_commit(of) else { return };
        tokio::time::sleep(self.chance.some_time()).await;
        if self.chance.strikes(0.1) || !self.alive.load(Ordering::Relaxed) {
            self.partitions.commit_failed(&places(&list));
            return;
        }
        let committed = offsets(&list);
        for ((_, partition), offset) in &committed {
            self.broker.commit(*partition, *offset);
        }
        self.chance.note(format!("committed {committed:?}"));
        if !self.chance.strikes(0.05) {
            self.partitions.confirm(&committed);
        }
    }
}
