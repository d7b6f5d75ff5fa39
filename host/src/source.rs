//! What makes events, and what a source may do: the public seam.
//!
//! A source takes a credit, makes an event, sends it (or has it accepted durably) and carries out the answer. It never calls a handler and
//! never decides what a failure means.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    channel::{ControlSender, Credit, Credits, Delivery, InOrder, Intake, Origin},
    event::Event,
    health::Health,
    lane::{self, Inside},
    listener::Routes,
    receipt::{Pending, Receipt},
    store::{Accepted, Millis, Store, StoreError, lane_of},
};

pub(crate) mod backoff;
mod http;
mod in_flight;
pub mod memory;
pub mod poller;
pub mod queue;
pub(crate) mod supervise;
pub(crate) mod tasks;
#[cfg(test)]
mod test_host;
#[cfg(test)]
pub(crate) mod testing;
pub mod timer;
pub mod webhook;

/// Makes events.
///
/// `run` is called when the host is ready to take events and again, with back-off, whenever it returns or panics before the host stops.
/// When [`SourceContext::stopping`] fires the source takes nothing new, waits for the answers it is owed, carries them out and returns.
pub trait Source: Send + Sync + 'static {
    /// The word that routes and metrics use: `webhook`, `poller`, …
    fn kind(&self) -> &str;

    /// Take events until told to stop.
    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>>;
}

/// Why a source ended by itself; it is logged, shown in readiness, and the source is started again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

impl SourceError {
    /// From anything that can be said.
    pub fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// What the host gives a source.
#[derive(Clone)]
pub struct SourceContext {
    pub(crate) origin: Arc<Origin>,
    pub(crate) control: ControlSender,
    pub(crate) credits: Credits,
    pub(crate) acceptor: Arc<dyn Acceptor>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) routes: Routes,
    pub(crate) health: Health,
    pub(crate) stopping: CancellationToken,
}

/// Accepts events durably: routes them and writes one task for each handler. The controller's part of the bargain.
pub(crate) trait Acceptor: Send + Sync {
    fn accept<'a>(
        &'a self,
        origin: &'a Origin,
        requests: Vec<AcceptRequest>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Accepted>, StoreError>> + Send + 'a>>;

    /// Keep an event as a dead letter that no handler gets to see; one that is recognised by its key is there already.
    fn dead_letter<'a>(
        &'a self,
        origin: &'a Origin,
        event: Arc<Event>,
        key: Option<String>,
        reason: String,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;
}

/// An event to be accepted durably, as a source asks for it.
#[derive(Debug, Clone, Default)]
pub struct AcceptRequest {
    /// What happened.
    pub event: Event,
    /// What the event is recognised by; absent: it never is.
    pub key: Option<String>,
    /// When it becomes due; absent: now.
    pub due: Option<Millis>,
    /// The most unsettled tasks the source may have; absent: no bound.
    pub backlog: Option<u64>,
    /// What the source remembers from now on, written with the event. `None` forgets.
    pub state: Vec<(String, Option<Vec<u8>>)>,
    /// Requests of handlers between this event and one from outside: 0 for what a handler has nothing to do with.
    pub hops: u32,
}

impl SourceContext {
    /// Whose source this is, its name and its kind.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The credits of this source.
    pub fn credits(&self) -> &Credits {
        &self.credits
    }

    /// Send an event through the control channel. The answer comes when every handler that wants it has settled.
    ///
    /// `key` is what the event is recognised by when it comes again; a redelivered event runs only the calls that did not settle.
    /// Not cancel safe: dropping the future before it returns may drop the event, which the source then has to deliver again.
    pub async fn send(&self, event: impl Into<Arc<Event>>, key: Option<String>, credit: Credit) -> Pending {
        self.deliver(event.into(), key, credit, Intake::Direct { place: None }).await
    }

    /// Like [`send`](Self::send), from a source that wants the answer where `receipt` says. The event has to be [complete](Self::complete).
    /// `place` is for one that acknowledges in order, "everything up to here".
    pub(crate) async fn send_with(&self, event: Arc<Event>, key: Arc<str>, place: Option<InOrder>, receipt: Receipt, credit: Credit) {
        self.control.send(self.delivery(event, key, place, receipt, credit)).await;
    }

    /// The delivery that [`send_with`](Self::send_with) sends, for a source that sends many [at once](Self::send_all).
    pub(crate) fn delivery(&self, event: Arc<Event>, key: Arc<str>, place: Option<InOrder>, receipt: Receipt, credit: Credit) -> Delivery {
        Delivery { event, origin: self.origin.clone(), key: Some(key), receipt, credit, intake: Intake::Direct { place } }
    }

    /// Send all of these, in this order, and leave none. Not cancel safe: what is left then is not sent.
    pub(crate) async fn send_all(&self, deliveries: &mut Vec<Delivery>) {
        self.control.send_all(deliveries).await;
    }

    /// Like [`send`](Self::send), for a sender that waits for the answer and tries again by itself: one attempt, nothing is parked.
    /// `hops` counts the requests of handlers between this event and one from outside.
    pub async fn request(&self, event: Event, key: Option<String>, hops: u32, credit: Credit) -> Pending {
        self.deliver(Arc::new(event), key, credit, Intake::Reply { hops }).await
    }

    async fn deliver(&self, mut event: Arc<Event>, key: Option<String>, credit: Credit, intake: Intake) -> Pending {
        self.complete_shared(&mut event);
        let (receipt, pending) = Receipt::new();
        let origin = self.origin.clone();
        self.control.send(Delivery { event, origin, key: key.map(Into::into), receipt, credit, intake }).await;
        pending
    }

    /// Have an event accepted durably: when this returns [`Accepted::New`] it is on disk and will be handled.
    ///
    /// # Errors
    /// When the store fails: the event is not accepted and the source must have it delivered again.
    pub async fn accept(&self, request: AcceptRequest) -> Result<Accepted, StoreError> {
        // There is an answer to each.
        Ok(self.accept_in_order(vec![request]).await?.pop().unwrap_or(Accepted::Full))
    }

    /// Like [`accept`](Self::accept) for several, in this order: once there is no room for one there is none for those behind it. They are
    /// written together, or none of them is.
    ///
    /// # Errors
    /// When the store fails: none of them is accepted.
    pub async fn accept_in_order(&self, mut requests: Vec<AcceptRequest>) -> Result<Vec<Accepted>, StoreError> {
        requests.iter_mut().for_each(|request| self.complete(&mut request.event));
        self.acceptor.accept(&self.origin, requests).await
    }

    /// Keep as a dead letter what this source received and cannot make a proper event of, with the reason: it must neither block what comes
    /// behind it nor vanish. When this returns it is on disk.
    ///
    /// # Errors
    /// When the store fails: the event is not kept and the source must have it delivered again.
    pub async fn dead_letter(&self, mut event: Event, key: Option<String>, reason: String) -> Result<(), StoreError> {
        self.complete(&mut event);
        self.acceptor.dead_letter(&self.origin, Arc::new(event), key, reason).await
    }

    /// What this source remembers under names that begin with `prefix`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn state(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.store.state(self.origin.tenant.clone(), self.origin.source.clone(), prefix.into()).await
    }

    /// Change what this source remembers; `None` forgets.
    ///
    /// # Errors
    /// When the store fails: nothing changed.
    pub async fn set_state(&self, entries: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        self.store.set_state(self.origin.tenant.clone(), self.origin.source.clone(), entries).await
    }

    /// The kept response of a settled call of this source, for a duplicate of a request.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn settled(&self, key: &str, handler: &str) -> Result<Option<crate::store::Settled>, StoreError> {
        let call = crate::store::CallId {
            tenant: self.origin.tenant.clone(),
            source: self.origin.source.clone(),
            key: Some(key.into()),
            handler: handler.into(),
        };
        self.store.settled(call).await
    }

    /// How many tasks of this source are not settled: waiting, running or parked.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn unsettled(&self) -> Result<u64, StoreError> {
        self.store.backlog(self.origin.tenant.clone(), self.origin.source.clone()).await
    }

    /// Wait until this host is the only one that runs this source, for one whose place in what it reads is not divided among hosts. At once,
    /// where no other host shares the store.
    pub(crate) async fn alone(&self) -> Option<Inside> {
        if !self.store.shared() {
            return None;
        }
        let lane = lane_of(&self.origin.tenant, &self.origin.source);
        self.ready();
        self.held_back(Some("another host that shares the store runs it"));
        let inside = lane::enter(&self.store, &lane).await;
        self.held_back(None);
        Some(inside)
    }

    /// Whether other hosts may run this source on the same store.
    pub(crate) fn shares_its_store(&self) -> bool {
        self.store.shared()
    }

    /// The number of this start of the host on its store.
    pub(crate) fn start_number(&self) -> u64 {
        self.store.start_number()
    }

    /// Whether an operator has paused this source. It gets no credits then, so one that takes a credit for each event has nothing to look
    /// at; one that is asked by others, or holds something open, may want to know.
    pub fn is_paused(&self) -> bool {
        self.credits.gate().closed().paused
    }

    /// Wait until the source is paused. Cancel safe.
    pub async fn paused(&self) {
        self.credits.gate().until(|closed| closed.paused).await;
    }

    /// Wait until the source is not paused. Cancel safe.
    pub async fn resumed(&self) {
        self.credits.gate().until(|closed| !closed.paused).await;
    }

    /// The HTTP routes of the host's listener.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Fires when the source must take nothing new.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// The source takes events. Said once per change.
    pub fn ready(&self) {
        self.health.source_ready(&self.origin);
    }

    /// The source cannot take events now, and why (no secrets). Each reason is logged once until it takes events again; readiness shows the last.
    pub fn unready(&self, why: impl std::fmt::Display) {
        self.health.source_unready(&self.origin, &why.to_string());
    }

    /// The source takes nothing now though it could, and why: its credits are used up, its backlog is full. `None`: it goes on. This is no
    /// problem of the source, and it stays ready; `koksmat status` shows it.
    pub fn held_back(&self, why: Option<&str>) {
        self.health.source_held_back(&self.origin.tenant, &self.origin.source, why);
    }

    /// What the events of this source have as theirs, unless they say another.
    pub(crate) fn uri(&self) -> String {
        ["/", self.origin.tenant.as_str(), "/", &*self.origin.source].concat()
    }

    /// Fill in what an event must have and its maker left out.
    pub(crate) fn complete(&self, event: &mut Event) {
        if event.id.is_empty() {
            event.id = uuid::Uuid::now_v7().to_string();
        }
        if event.source.is_empty() {
            event.source = self.uri();
        }
        if event.time.is_none() {
            event.time = Some(jiff::Timestamp::now().to_string());
        }
    }

    /// The same for one that may be shared: one that is sent again has it all and is not copied.
    pub(crate) fn complete_shared(&self, event: &mut Arc<Event>) {
        if event.id.is_empty() || event.source.is_empty() || event.time.is_none() {
            self.complete(Arc::make_mut(event));
        }
    }
}
