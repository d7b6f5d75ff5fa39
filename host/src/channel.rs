//! The control channel: the one bounded way from every source to the controller.
//!
//! It holds as many deliveries as there are credits, so whoever has a credit never waits long to send. Running out of credits is the
//! back-pressure.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::{event::Event, receipt::Receipt, store::Task, tenant::Tenant};

/// Where a delivery comes from: the (tenant, source) whose credit it holds and whose line of the ledger it is counted in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Whose source it is.
    pub tenant: Tenant,
    /// The name of `[sources.NAME]`, or `emit`.
    pub source: Arc<str>,
    /// Its kind: `embedded`, `poller`, `webhook`, `timer`, `memory`, or an embedder's own word.
    pub kind: Arc<str>,
}

/// The right to have one more event inside the host. Given back by dropping it.
#[derive(Debug)]
pub struct Credit {
    _permit: OwnedSemaphorePermit,
}

/// The credits of one (tenant, source).
#[derive(Debug, Clone)]
pub struct Credits {
    permits: Arc<Semaphore>,
    limit: usize,
    gate: Gate,
}

/// Whether a source may take anything new: behind a closed gate it gets no credit.
#[derive(Debug, Clone)]
pub(crate) struct Gate(watch::Receiver<Closed>);

/// Why a gate is closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    /// An operator paused the source.
    pub(crate) paused: bool,
    /// What waits of it in the store is as much as may.
    pub(crate) full: bool,
}

impl Closed {
    fn is_open(self) -> bool {
        self == Self::default()
    }
}

impl Gate {
    /// A gate and what closes it. Without that it stays as it is.
    pub(crate) fn new() -> (watch::Sender<Closed>, Self) {
        let (closed, gate) = watch::channel(Closed::default());
        (closed, Self(gate))
    }

    /// Why it is closed, if it is.
    pub(crate) fn closed(&self) -> Closed {
        *self.0.borrow()
    }

    /// Wait until it is as `condition` says. Cancel safe.
    pub(crate) async fn until(&self, condition: impl Fn(Closed) -> bool) {
        // Mostly it is, and that is asked for each event.
        if condition(self.closed()) {
            return;
        }
        if self.0.clone().wait_for(|closed| condition(*closed)).await.is_err() {
            // Nobody closes or opens it any more.
            std::future::pending().await
        }
    }
}

impl Credits {
    /// `limit` events at once.
    pub fn new(limit: usize) -> Self {
        Self::behind(Gate::new().1, limit)
    }

    /// The same behind a gate.
    pub(crate) fn behind(gate: Gate, limit: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(limit)), limit, gate }
    }

    /// Wait for a credit. Cancel safe; first come, first served.
    pub async fn acquire(&self) -> Credit {
        loop {
            self.gate.until(Closed::is_open).await;
            match self.permits.clone().acquire_owned().await {
                // It may have been closed while this waited.
                Ok(permit) if self.gate.closed().is_open() => return Credit { _permit: permit },
                Ok(_) => {}
                // The semaphore is never closed; waiting forever is what no credit means.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Wait until half of the credits are free. Cancel safe.
    pub(crate) async fn half_free(&self) {
        self.gate.until(Closed::is_open).await;
        let half = u32::try_from(self.limit.div_ceil(2)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        drop(self.permits.acquire_many(half).await);
    }

    /// A credit, if one is free now.
    pub fn try_acquire(&self) -> Option<Credit> {
        if !self.gate.closed().is_open() {
            return None;
        }
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        Some(Credit { _permit: permit })
    }

    /// How many can be had now: none while the source is paused, or has as much waiting in the store as may.
    pub fn free(&self) -> usize {
        if self.gate.closed().is_open() { self.permits.available_permits() } else { 0 }
    }

    /// Whether all of them are in use.
    pub(crate) fn used_up(&self) -> bool {
        self.permits.available_permits() == 0
    }

    /// The gate before them.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// How many there are.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

/// An event on its way through the host.
#[derive(Debug)]
pub struct Delivery {
    /// What happened.
    pub event: Arc<Event>,
    /// Which source brought it.
    pub origin: Arc<Origin>,
    /// What the event is recognised by when it comes again; absent: it never is.
    pub key: Option<Arc<str>>,
    /// Where the answer goes.
    pub receipt: Receipt,
    /// Given back when the event is settled.
    pub credit: Credit,
    /// What is known besides, by how the event came in.
    pub intake: Intake,
}

/// Where an event stands among those that its source acknowledges by "everything up to here".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InOrder {
    /// What is acknowledged in order: a partition, for as long as it is assigned.
    pub line: Arc<str>,
    /// The place in it; grows.
    pub at: i64,
}

/// How an event came in, which decides what its failures become.
#[derive(Debug)]
pub enum Intake {
    /// Acknowledged when handled: a failed call is parked in the store so that its source can go on.
    Direct {
        /// Its place, where its source acknowledges in order: when the host stops, an event before one that was started is handled too, or
        /// the one behind it would come again.
        place: Option<InOrder>,
    },
    /// Someone waits for the answer and tries again by himself: one attempt, nothing is parked.
    Reply {
        /// Requests of handlers between this event and one from outside.
        hops: u32,
    },
    /// A claimed task of our own store: one handler, attempts counted in its row.
    Task(Box<Task>),
}

/// The sending half, for sources.
#[derive(Debug, Clone)]
pub struct ControlSender(mpsc::Sender<Delivery>);

impl ControlSender {
    /// Send. When the controller is gone the delivery is dropped, which answers its receipt with "again". So it is when this is cancelled.
    pub async fn send(&self, delivery: Delivery) {
        let _ = self.0.send(delivery).await;
    }

    /// Send all of these, in this order: a controller that waits is woken once. Cancelled before there is room they stay where they are.
    pub(crate) async fn send_all(&self, deliveries: &mut Vec<Delivery>) {
        let Ok(permits) = self.0.reserve_many(deliveries.len()).await else {
            // The controller is gone, or there are more than the channel holds at once.
            for delivery in deliveries.drain(..) {
                self.send(delivery).await;
            }
            return;
        };
        permits.zip(deliveries.drain(..)).for_each(|(permit, delivery)| permit.send(delivery));
    }
}

/// The receiving half, for the controller.
#[derive(Debug)]
pub struct ControlReceiver(mpsc::Receiver<Delivery>);

impl ControlReceiver {
    /// Up to `limit` deliveries into `into`; 0 when every sender is gone. Cancel safe.
    pub(crate) async fn recv_many(&mut self, into: &mut Vec<Delivery>, limit: usize) -> usize {
        self.0.recv_many(into, limit).await
    }

    /// What is still inside, without waiting.
    pub(crate) fn try_recv(&mut self) -> Option<Delivery> {
        self.0.try_recv().ok()
    }
}

/// A control channel with room for `credits` deliveries.
pub fn control_channel(credits: usize) -> (ControlSender, ControlReceiver) {
    let (tx, rx) = mpsc::channel(credits.max(1));
    (ControlSender(tx), ControlReceiver(rx))
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, poll};

    use super::*;

    fn deliveries(ids: std::ops::Range<usize>, credits: &Credits) -> Vec<Delivery> {
        let origin = Arc::new(Origin { tenant: Tenant::default(), source: "orders".into(), kind: "kafka".into() });
        let delivery = |id: usize| Delivery {
            event: Arc::new(Event { id: id.to_string(), ..Event::default() }),
            origin: origin.clone(),
            key: None,
            receipt: Receipt::new().0,
            credit: credits.try_acquire().unwrap(),
            intake: Intake::Direct { place: None },
        };
        ids.map(delivery).collect()
    }

    #[tokio::test]
    async fn what_is_sent_at_once_comes_in_its_order_even_if_it_is_more_than_fits() {
        let credits = Credits::new(20);
        let (sender, mut receiver) = control_channel(8);
        let mut received = Vec::new();
        for at_once in [0..0, 0..8, 8..20] {
            let mut outgoing = deliveries(at_once.clone(), &credits);
            tokio::join!(sender.send_all(&mut outgoing), async {
                while received.len() < at_once.end {
                    receiver.recv_many(&mut received, 3).await;
                }
            });
            assert!(outgoing.is_empty());
        }
        let ids: Vec<String> = received.iter().map(|delivery| delivery.event.id.clone()).collect();
        assert_eq!(ids, (0..20).map(|id| id.to_string()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_is_sent_to_nobody_is_answered_and_gives_its_credits_back() {
        let credits = Credits::new(3);
        let (sender, receiver) = control_channel(3);
        drop(receiver);
        let mut outgoing = deliveries(0..3, &credits);
        sender.send_all(&mut outgoing).await;
        assert_eq!((outgoing.len(), credits.free()), (0, 3));
    }

    #[tokio::test]
    async fn behind_a_closed_gate_there_are_no_credits_whatever_closed_it() {
        let (closed, gate) = Gate::new();
        let credits = Credits::behind(gate, 2);
        let held = credits.acquire().await;
        for why in [Closed { paused: true, full: false }, Closed { paused: false, full: true }] {
            closed.send_replace(why);
            assert!(credits.try_acquire().is_none() && credits.free() == 0);
            let mut acquiring = Box::pin(credits.acquire());
            assert!(poll!(&mut acquiring).is_pending());
            closed.send_replace(Closed::default());
            drop(acquiring.await);
        }
        assert_eq!((credits.free(), credits.used_up()), (1, false));
        drop(held);
    }

    #[tokio::test]
    async fn who_waits_for_a_credit_when_the_gate_closes_gets_none() {
        let (closed, gate) = Gate::new();
        let credits = Credits::behind(gate, 1);
        let held = credits.acquire().await;
        let mut acquiring = Box::pin(credits.acquire());
        assert!(poll!(&mut acquiring).is_pending());
        closed.send_modify(|closed| closed.paused = true);
        drop(held);
        assert!(poll!(&mut acquiring).is_pending());
        assert!(!credits.used_up(), "it holds on to nothing");
        closed.send_modify(|closed| closed.paused = false);
        assert!(acquiring.now_or_never().is_some());
    }
}
