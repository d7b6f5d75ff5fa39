//! What a source needs around it, for the tests of sources: a store that remembers states and accepted events, and the far end of the
//! control channel.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{AcceptRequest, Acceptor, Source, SourceContext, SourceError};
use crate::{
    channel::{Closed, ControlReceiver, Credits, Delivery, Gate, Origin, control_channel},
    event::Event,
    health::Health,
    listener::Routes,
    receipt::Answer,
    store::*,
    tenant::Tenant,
};

/// A source in a host that is not there.
pub(crate) struct TestHost {
    pub(crate) context: SourceContext,
    control: ControlReceiver,
    /// What closes the gate before its credits.
    pub(crate) gate: watch::Sender<Closed>,
    running: JoinHandle<Result<(), SourceError>>,
}

/// A store that keeps states and accepted events in memory and can do nothing else.
#[derive(Default)]
pub(crate) struct FakeStore {
    state: Mutex<FakeState>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct FakeState {
    remembered: BTreeMap<String, Vec<u8>>,
    accepted: Vec<(String, Event)>,
    /// How many tasks `depths` reports.
    unsettled: u64,
    failing: bool,
}

impl TestHost {
    /// Start `source` under the name `test` with these many credits.
    pub(crate) fn start(source: impl Source, credits: usize, store: &Arc<FakeStore>) -> Self {
        let origin = Origin { tenant: Tenant::default(), source: "test".into(), kind: source.kind().into() };
        let (sender, control) = control_channel(credits);
        let health = Health::default();
        health.expect(&origin);
        let (gate, open) = Gate::new();
        let context = SourceContext {
            origin: Arc::new(origin),
            control: sender,
            credits: Credits::behind(open, credits),
            acceptor: store.clone(),
            store: store.clone(),
            routes: Routes::default(),
            health,
            stopping: CancellationToken::new(),
        };
        let ctx = context.clone();
        let running = crate::task::spawn("source under test", async move { source.run(ctx).await });
        Self { context, control, gate, running }
    }

    /// The next delivery.
    pub(crate) async fn next(&mut self) -> Delivery {
        let mut deliveries = Vec::new();
        within(self.control.recv_many(&mut deliveries, 1)).await;
        deliveries.pop().expect("the source still runs")
    }

    /// A delivery that is there now.
    pub(crate) fn try_next(&mut self) -> Option<Delivery> {
        self.control.try_recv()
    }

    /// Wait until the source takes events.
    pub(crate) async fn until_ready(&self) {
        within(self.context.health.wait_for(|report| report.sources.values().all(|s| s.ready))).await;
    }

    /// Wait until the source cannot take events: why not.
    pub(crate) async fn until_unready(&self) -> String {
        within(self.context.health.wait_for(|report| report.sources.values().all(|s| s.problem.is_some()))).await;
        let report = self.context.health.report();
        report.sources.values().find_map(|s| s.problem.clone()).unwrap_or_default()
    }

    /// Ask it to stop, and go on.
    pub(crate) fn ask_to_stop(&self) {
        self.context.stopping.cancel();
    }

    /// Stop it and wait for its end. What it had sent and nobody answered is dropped, which means again.
    pub(crate) async fn stop(self) {
        self.context.stopping.cancel();
        drop(self.control);
        within(self.running).await.unwrap().unwrap();
    }

    /// End it without a word, as a kill would.
    pub(crate) async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
    }
}

/// What a test waits for comes, or the test fails instead of hanging.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(std::time::Duration::from_secs(30), future).await.expect("waited for something that never came")
}

/// Answer a delivery and give its credit back.
pub(crate) fn answer(delivery: Delivery, answer: Answer) {
    let Delivery { receipt, credit, .. } = delivery;
    drop(credit);
    receipt.answer(answer);
}

/// Every handler is done with it.
pub(crate) fn done(delivery: Delivery) {
    answer(delivery, Answer::Done { response: None });
}

impl FakeStore {
    fn lock(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut FakeState)) {
        change(&mut self.lock());
        self.changed.send_modify(|n| *n += 1);
    }

    /// Every operation fails from now on, or no longer.
    pub(crate) fn fail(&self, failing: bool) {
        self.change(|state| state.failing = failing);
    }

    pub(crate) fn set_unsettled(&self, unsettled: u64) {
        self.change(|state| state.unsettled = unsettled);
    }

    /// The keys and events accepted so far.
    pub(crate) fn accepted(&self) -> Vec<(String, Event)> {
        self.lock().accepted.clone()
    }

    /// Wait until there are `count` accepted events.
    pub(crate) async fn until_accepted(&self, count: usize) -> Vec<(String, Event)> {
        let mut changed = self.changed.subscribe();
        let _ = within(changed.wait_for(|_| self.lock().accepted.len() >= count)).await;
        self.accepted()
    }

    /// Wait until what is remembered is as `condition` says.
    pub(crate) async fn until_remembered(&self, condition: impl Fn(&BTreeMap<String, Vec<u8>>) -> bool) {
        let mut changed = self.changed.subscribe();
        let _ = within(changed.wait_for(|_| condition(&self.lock().remembered))).await;
    }

    fn works(&self) -> Result<(), StoreError> {
        if self.lock().failing { Err(StoreError::Other("out of order".into())) } else { Ok(()) }
    }

    fn remember(state: &mut FakeState, entries: Vec<(String, Option<Vec<u8>>)>) {
        for (name, value) in entries {
            match value {
                Some(value) => state.remembered.insert(name, value),
                None => state.remembered.remove(&name),
            };
        }
    }
}

impl Acceptor for FakeStore {
    fn accept<'a>(
        &'a self,
        _origin: &'a Origin,
        requests: Vec<AcceptRequest>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Accepted>, StoreError>> + Send + 'a>> {
        Box::pin(async move {
            self.works()?;
            let accept = |request: AcceptRequest| {
                let id = request.event.id.clone();
                let key = request.key.unwrap_or_default();
                if self.lock().accepted.iter().any(|(k, _)| *k == key) {
                    return Accepted::Duplicate { id };
                }
                self.change(|state| {
                    Self::remember(state, request.state);
                    state.accepted.push((key, request.event));
                });
                Accepted::New { id }
            };
            Ok(requests.into_iter().map(accept).collect())
        })
    }

    fn dead_letter<'a>(
        &'a self,
        _origin: &'a Origin,
        _event: Arc<Event>,
        _key: Option<String>,
        _reason: String,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>> {
        closed()
    }
}

fn closed<'a, T: Send + 'a>() -> StoreFuture<'a, T> {
    Box::pin(async { Err(StoreError::Closed) })
}

impl Store for FakeStore {
    fn state(&self, _tenant: Tenant, _source: Arc<str>, prefix: String) -> StoreFuture<'_, Vec<(String, Vec<u8>)>> {
        Box::pin(async move {
            self.works()?;
            let state = self.lock();
            Ok(state.remembered.iter().filter(|(k, _)| k.starts_with(&prefix)).map(|(k, v)| (k.clone(), v.clone())).collect())
        })
    }

    fn set_state(&self, _tenant: Tenant, _source: Arc<str>, entries: Vec<(String, Option<Vec<u8>>)>) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.works()?;
            self.change(|state| Self::remember(state, entries));
            Ok(())
        })
    }

    fn orders(&self) -> StoreFuture<'_, Vec<OrderKey>> {
        closed()
    }

    fn backlog(&self, _: Tenant, _: Arc<str>) -> StoreFuture<'_, u64> {
        Box::pin(async move {
            self.works()?;
            Ok(self.lock().unsettled)
        })
    }

    fn waiting(&self) -> StoreFuture<'_, Vec<Waiting>> {
        closed()
    }

    fn depths(&self) -> StoreFuture<'_, Vec<Depth>> {
        closed()
    }

    fn accept(&self, _: Vec<Acceptance>) -> StoreFuture<'_, Vec<Accepted>> {
        closed()
    }
    fn claim(&self, _: Vec<Want>) -> StoreFuture<'_, Vec<Task>> {
        closed()
    }
    fn release(&self, _: Vec<Claim>) -> StoreFuture<'_, ()> {
        closed()
    }
    fn claimable(&self) -> StoreFuture<'_, Vec<Group>> {
        closed()
    }
    fn next_due(&self, _: Millis) -> StoreFuture<'_, Option<Millis>> {
        closed()
    }
    fn alone(&self, _: Claim) -> StoreFuture<'_, ControlFlow<()>> {
        closed()
    }
    fn commit(&self, _: Commit) -> StoreFuture<'_, Committed> {
        closed()
    }
    fn hold(&self, _: Holder, _: Tenant, _: Vec<Read>, _: Vec<String>, _: std::time::Duration) -> StoreFuture<'_, bool> {
        closed()
    }
    fn unhold(&self, _: Holder) {}
    fn settled(&self, _: CallId) -> StoreFuture<'_, Option<Settled>> {
        closed()
    }
    fn get(&self, _: Tenant, _: String) -> StoreFuture<'_, Option<(Bytes, i64)>> {
        closed()
    }
    fn list(&self, _: Tenant, _: String, _: Option<String>, _: usize) -> StoreFuture<'_, Vec<String>> {
        closed()
    }
    fn dead_letters(&self, _: DeadLetterQuery) -> StoreFuture<'_, Vec<DeadLetter>> {
        closed()
    }
    fn count_dead_letters(&self, _: DeadLetterQuery) -> StoreFuture<'_, u64> {
        closed()
    }
    fn recording(&self, _: i64) -> StoreFuture<'_, Option<String>> {
        closed()
    }
    fn replay(&self, _: DeadLetterQuery, _: Arc<dyn Fn(&DeadLetter) -> Vec<Subscriber> + Send + Sync>) -> StoreFuture<'_, u64> {
        closed()
    }
    fn purge(&self, _: DeadLetterQuery) -> StoreFuture<'_, u64> {
        closed()
    }
    fn kept_events(&self, _: KeptQuery) -> StoreFuture<'_, Vec<KeptEvent>> {
        closed()
    }
    fn rerun(&self, _: KeptQuery, _: Arc<str>, _: Arc<RerunRoute>) -> StoreFuture<'_, Rerun> {
        closed()
    }
    fn expire(&self, _: Retention) -> StoreFuture<'_, u64> {
        closed()
    }
    fn start_number(&self) -> u64 {
        1
    }
    fn close(&self) -> StoreFuture<'_, ()> {
        closed()
    }

    fn abandon(&self) {}
}
