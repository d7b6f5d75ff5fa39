//! What the host has of the queue's messages: each from its delivery to its acknowledgement.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    Acker,
    options::{BasicAckOptions, BasicNackOptions},
};
use tokio_util::sync::CancellationToken;

use super::message::Message;
use crate::{
    channel::Credit,
    config::{Intake as When, RabbitmqConfig},
    event::Event,
    receipt::{Answer, Pending},
    source::{AcceptRequest, SourceContext, backoff::Backoff},
    store::Accepted,
};

/// The longest wait before an event that came back is sent into the host again.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The shortest.
const MIN_WAIT: Duration = Duration::from_millis(200);
const BACKLOG_FULL: &str = "its backlog in the store is full: it waits for its handlers";

/// Messages that are inside the host, and their acknowledgements.
pub(super) struct Intake {
    ctx: SourceContext,
    config: RabbitmqConfig,
    held: HashMap<u64, Held>,
    by_key: HashMap<String, u64>,
    next: u64,
    inside: FuturesUnordered<BoxFuture<'static, Settled>>,
    acks: FuturesUnordered<BoxFuture<'static, ()>>,
    /// A message came that can never be recognised, and that was said.
    said_unrecognised: bool,
}

/// A message that is inside the host.
struct Held {
    key: Option<String>,
    /// Of its delivery, and of those of the same message that came meanwhile. One whose channel is gone acknowledges nothing.
    ackers: Vec<Acker>,
}

/// What became of one.
pub(super) struct Settled {
    number: u64,
    /// It is handled, a dead letter, or in the store; else it has to be handed back.
    pub(super) done: bool,
    pub(super) times_returned: u64,
}

impl Intake {
    pub(super) fn new(ctx: SourceContext, config: RabbitmqConfig) -> Self {
        Self {
            ctx,
            config,
            held: HashMap::new(),
            by_key: HashMap::new(),
            next: 0,
            inside: FuturesUnordered::new(),
            acks: FuturesUnordered::new(),
            said_unrecognised: false,
        }
    }

    /// Whether one more may be taken: in the store they have to be in the queue's order where that is kept.
    pub(super) fn takes(&self, in_order: bool) -> bool {
        !(in_order && self.config.intake == When::Durable) || self.inside.is_empty()
    }

    /// Whether a message that is recognised is inside already: it came again after its connection was lost, or was published twice.
    /// Its answer is this one's too.
    pub(super) fn joins(&mut self, message: &Message) -> bool {
        let number = message.key.as_ref().and_then(|key| self.by_key.get(key));
        let Some(held) = number.and_then(|number| self.held.get_mut(number)) else { return false };
        held.ackers.retain(Acker::usable);
        held.ackers.push(message.acker.clone());
        true
    }

    /// Take a message in.
    pub(super) async fn take(&mut self, message: Message, credit: Credit) {
        if self.joins(&message) {
            return;
        }
        let Message { acker, times_returned, event, key, refused } = message;
        if key.is_none() {
            self.warn_unrecognised();
        }
        let number = self.next;
        self.next += 1;
        if let Some(key) = &key {
            self.by_key.insert(key.clone(), number);
        }
        self.held.insert(number, Held { key: key.clone(), ackers: vec![acker] });
        let way = Way { ctx: self.ctx.clone(), event: Arc::new(event), key };
        let inside = match refused {
            Some(reason) => way.dead_letter(reason, credit).boxed(),
            None if self.config.intake == When::Durable => way.accept(self.config.backlog, credit).boxed(),
            None => {
                // The first time here, in the order of the queue.
                let pending = way.send(credit).await;
                way.handle(pending).boxed()
            }
        };
        self.inside.push(async move { Settled { number, done: inside.await, times_returned } }.boxed());
    }

    /// The next that is settled; `None`: nothing is inside. Cancel safe.
    pub(super) async fn settled(&mut self) -> Option<Settled> {
        self.inside.next().await
    }

    /// Wait until something is settled, or an acknowledgement has gone out. Cancel safe.
    pub(super) async fn progress(&mut self) -> Option<Settled> {
        tokio::select! {
            biased;
            Some(settled) = self.inside.next() => Some(settled),
            Some(()) = self.acks.next() => None,
            else => std::future::pending().await,
        }
    }

    /// Tell the broker what became of a message. It may take a moment: [`acknowledged`](Self::acknowledged) waits for it.
    pub(super) fn answer(&mut self, settled: &Settled) {
        let Some(held) = self.held.remove(&settled.number) else { return };
        if let Some(key) = &held.key
            && self.by_key.get(key) == Some(&settled.number)
        {
            self.by_key.remove(key);
        }
        for acker in held.ackers {
            if settled.done {
                self.acks.push(acknowledge(acker).boxed());
            } else {
                self.acks.push(hand_back(acker).boxed());
            }
        }
    }

    /// Hand back what never went into the host.
    pub(super) fn hand_back(&mut self, acker: Acker) {
        self.acks.push(hand_back(acker).boxed());
    }

    /// Wait until every acknowledgement has gone out.
    pub(super) async fn all_acknowledged(&mut self) {
        while self.acks.next().await.is_some() {}
    }

    fn warn_unrecognised(&mut self) {
        if !std::mem::replace(&mut self.said_unrecognised, true) {
            let origin = self.ctx.origin();
            tracing::warn!(tenant = %origin.tenant, source = %origin.source,
                "messages come without a message-id: one that is delivered again cannot be recognised, so effects happen at least once; have the \
                 sender set it, or name the header that says which message it is with `id-header`");
        }
    }
}

/// The channel may be gone by now: then the broker delivers the message again, and it is recognised.
async fn acknowledge(acker: Acker) {
    if let Err(error) = acker.ack(BasicAckOptions::default()).await {
        tracing::debug!(%error, "an acknowledgement did not reach the broker");
    }
}

async fn hand_back(acker: Acker) {
    let requeue = BasicNackOptions { requeue: true, multiple: false };
    if let Err(error) = acker.nack(requeue).await {
        tracing::debug!(%error, "the broker takes a message back by itself");
    }
}

/// One event on its way into the host. `true`: it is settled; `false`: the host stops, and it has to be handed back.
struct Way {
    ctx: SourceContext,
    event: Arc<Event>,
    key: Option<String>,
}

impl Way {
    async fn send(&self, credit: Credit) -> Pending {
        self.ctx.send(self.event.clone(), self.key.clone(), credit).await
    }

    /// Wait for the answer. What comes back while the host runs is sent again from here: a broker would count it and, after some times,
    /// give up on a message that nobody has tried.
    async fn handle(self, mut pending: Pending) -> bool {
        let mut backoff = Backoff::new(MIN_WAIT, MAX_WAIT);
        let stopping = self.ctx.stopping().clone();
        loop {
            let Answer::Again { after, .. } = pending.answer().await else { return true };
            let wait = after.unwrap_or_default().clamp(backoff.after_failure(), MAX_WAIT);
            if !waited(&stopping, wait).await {
                return false;
            }
            let credit = tokio::select! {
                biased;
                () = stopping.cancelled() => return false,
                credit = self.ctx.credits().acquire() => credit,
            };
            pending = self.send(credit).await;
        }
    }

    /// Have it accepted durably. The credit is held until then: it bounds how many are on their way.
    async fn accept(self, backlog: u64, _credit: Credit) -> bool {
        let mut backoff = Backoff::new(MIN_WAIT, MAX_WAIT);
        let mut full = false;
        loop {
            let request =
                AcceptRequest { event: (*self.event).clone(), key: self.key.clone(), backlog: Some(backlog), ..AcceptRequest::default() };
            match self.ctx.accept(request).await {
                Ok(Accepted::New { .. } | Accepted::Duplicate { .. }) => break,
                Ok(Accepted::Full) => {
                    full = true;
                    self.ctx.held_back(Some(BACKLOG_FULL));
                }
                // The host knows that its store fails, and says so.
                Err(error) => tracing::debug!(%error, "a message waits for the store"),
            }
            if !waited(self.ctx.stopping(), backoff.after_failure()).await {
                return false;
            }
        }
        if full {
            self.ctx.held_back(None);
        }
        true
    }

    /// Keep what is no proper event.
    async fn dead_letter(self, reason: String, _credit: Credit) -> bool {
        let mut backoff = Backoff::new(MIN_WAIT, MAX_WAIT);
        while self.ctx.dead_letter((*self.event).clone(), self.key.clone(), reason.clone()).await.is_err() {
            if !waited(self.ctx.stopping(), backoff.after_failure()).await {
                return false;
            }
        }
        true
    }
}

/// Wait, unless the host stops.
async fn waited(stopping: &CancellationToken, wait: Duration) -> bool {
    tokio::time::timeout(wait, stopping.cancelled()).await.is_err()
}
