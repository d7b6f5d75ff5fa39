//! What the tests of sources stand on: a context with a controller and a store that are simple enough to see through.

use std::{
    collections::HashMap,
    future::Future,
    ops::ControlFlow,
    pin::Pin,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, response::Response, serve::Listener};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{AcceptRequest, Acceptor, Source, SourceContext, SourceError};
use crate::{
    channel::{ControlReceiver, Credits, Delivery, Origin, control_channel},
    health::Health,
    listener::{
        Routes,
        serve::{self, Stop},
    },
    store::{
        Acceptance, Accepted, CallId, Claim, Commit, Committed, DeadLetter, DeadLetterQuery, Depth, Group, Holder, KeptEvent, KeptQuery,
        Millis, OrderKey, Read, Rerun, RerunRoute, Retention, Settled, Store, StoreError, StoreFuture, Subscriber, Task, Waiting, Want,
    },
    task,
    tenant::Tenant,
};

/// A host with one source and nothing behind it: the test plays the controller.
pub(super) struct TestHost {
    pub(super) ctx: SourceContext,
    pub(super) control: ControlReceiver,
    pub(super) ledger: Arc<Ledger>,
}

/// What was accepted and what was settled.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) accepted: Mutex<Vec<AcceptRequest>>,
    pub(super) settled: Mutex<HashMap<CallId, Settled>>,
    /// How many events may still be accepted before the store fails.
    pub(super) fails_after: Mutex<Option<usize>>,
}

impl TestHost {
    pub(super) fn new(kind: &str, credits: usize) -> Self {
        let (control_sender, control) = control_channel(credits);
        let (ledger, health) = (Arc::new(Ledger::default()), Health::default());
        let origin = Origin { tenant: Tenant::default(), source: "orders".into(), kind: kind.into() };
        health.expect(&origin);
        health.enter(crate::health::Phase::Running);
        let ctx = SourceContext {
            origin: Arc::new(origin),
            control: control_sender,
            credits: Credits::new(credits),
            acceptor: ledger.clone(),
            store: ledger.clone(),
            routes: Routes::default(),
            health,
            stopping: CancellationToken::new(),
        };
        Self { ctx, control, ledger }
    }

    /// Run a source; returns when it is ready.
    pub(super) async fn start(&self, source: impl Source) -> JoinHandle<Result<(), SourceError>> {
        let ctx = self.ctx.clone();
        let running = task::spawn("source", async move { source.run(ctx).await });
        self.ctx.health.wait_for(|report| report.ready).await;
        running
    }

    pub(super) fn router(&self) -> Router {
        self.ctx.routes.router()
    }

    /// Serve what is mounted on a loopback address.
    pub(super) async fn listen(&self) -> (std::net::SocketAddr, Stop, JoinHandle<()>) {
        let listener = serve::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), Stop::default());
        let served = task::spawn("listener", serve::serve(listener, self.router(), stop.clone()));
        (address, stop, served)
    }

    pub(super) async fn delivery(&mut self) -> Delivery {
        let mut deliveries = Vec::new();
        self.control.recv_many(&mut deliveries, 1).await;
        deliveries.remove(0)
    }

    pub(super) fn accepted(&self) -> Vec<AcceptRequest> {
        self.ledger.accepted.lock().unwrap().clone()
    }
}

/// One request, without a network.
pub(super) async fn send(router: &Router, request: Request<Body>) -> Response {
    router.clone().call(request).await.unwrap()
}

pub(super) async fn json(response: Response) -> serde_json::Value {
    serde_json::from_slice(&body(response).await).unwrap()
}

pub(super) async fn body(response: Response) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

impl Acceptor for Ledger {
    fn accept<'a>(
        &'a self,
        _origin: &'a Origin,
        requests: Vec<AcceptRequest>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Accepted>, StoreError>> + Send + 'a>> {
        Box::pin(async move {
            if let Some(left) = &mut *self.fails_after.lock().unwrap() {
                *left = left.checked_sub(1).ok_or_else(|| StoreError::Full("no space left".into()))?;
            }
            let mut accepted = self.accepted.lock().unwrap();
            let accept = |request: AcceptRequest| {
                if let Some(before) = accepted.iter().find(|before| before.key.is_some() && before.key == request.key) {
                    return Accepted::Duplicate { id: before.event.id.clone() };
                }
                if request.backlog.is_some_and(|backlog| accepted.len() as u64 >= backlog) {
                    return Accepted::Full;
                }
                let id = request.event.id.clone();
                accepted.push(request);
                Accepted::New { id }
            };
            Ok(requests.into_iter().map(accept).collect())
        })
    }

    fn dead_letter<'a>(
        &'a self,
        _origin: &'a Origin,
        _event: Arc<crate::Event>,
        _key: Option<String>,
        _reason: String,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>> {
        unsupported()
    }
}

fn unsupported<'a, T>() -> StoreFuture<'a, T> {
    Box::pin(async { Err(StoreError::Closed) })
}

impl Store for Ledger {
    fn settled(&self, call: CallId) -> StoreFuture<'_, Option<Settled>> {
        Box::pin(async move { Ok(self.settled.lock().unwrap().get(&call).cloned()) })
    }

    // Sources of this folder use nothing else.

    fn accept(&self, _: Vec<Acceptance>) -> StoreFuture<'_, Vec<Accepted>> {
        unsupported()
    }
    fn claim(&self, _: Vec<Want>) -> StoreFuture<'_, Vec<Task>> {
        unsupported()
    }
    fn release(&self, _: Vec<Claim>) -> StoreFuture<'_, ()> {
        unsupported()
    }
    fn claimable(&self) -> StoreFuture<'_, Vec<Group>> {
        unsupported()
    }
    fn next_due(&self, _: Millis) -> StoreFuture<'_, Option<Millis>> {
        unsupported()
    }
    fn alone(&self, _: Claim) -> StoreFuture<'_, ControlFlow<()>> {
        unsupported()
    }
    fn commit(&self, _: Commit) -> StoreFuture<'_, Committed> {
        unsupported()
    }
    fn hold(&self, _: Holder, _: Tenant, _: Vec<Read>, _: Vec<String>, _: std::time::Duration) -> StoreFuture<'_, bool> {
        unsupported()
    }
    fn unhold(&self, _: Holder) {}
    fn get(&self, _: Tenant, _: String) -> StoreFuture<'_, Option<(Bytes, i64)>> {
        unsupported()
    }
    fn list(&self, _: Tenant, _: String, _: Option<String>, _: usize) -> StoreFuture<'_, Vec<String>> {
        unsupported()
    }
    fn state(&self, _: Tenant, _: Arc<str>, _: String) -> StoreFuture<'_, Vec<(String, Vec<u8>)>> {
        unsupported()
    }
    fn set_state(&self, _: Tenant, _: Arc<str>, _: Vec<(String, Option<Vec<u8>>)>) -> StoreFuture<'_, ()> {
        unsupported()
    }
    fn orders(&self) -> StoreFuture<'_, Vec<OrderKey>> {
        unsupported()
    }

    fn backlog(&self, _: Tenant, _: Arc<str>) -> StoreFuture<'_, u64> {
        unsupported()
    }
    fn waiting(&self) -> StoreFuture<'_, Vec<Waiting>> {
        unsupported()
    }
    fn depths(&self) -> StoreFuture<'_, Vec<Depth>> {
        unsupported()
    }
    fn dead_letters(&self, _: DeadLetterQuery) -> StoreFuture<'_, Vec<DeadLetter>> {
        unsupported()
    }
    fn count_dead_letters(&self, _: DeadLetterQuery) -> StoreFuture<'_, u64> {
        unsupported()
    }
    fn recording(&self, _: i64) -> StoreFuture<'_, Option<String>> {
        unsupported()
    }
    fn replay(&self, _: DeadLetterQuery, _: Arc<dyn Fn(&DeadLetter) -> Vec<Subscriber> + Send + Sync>) -> StoreFuture<'_, u64> {
        unsupported()
    }
    fn purge(&self, _: DeadLetterQuery) -> StoreFuture<'_, u64> {
        unsupported()
    }
    fn kept_events(&self, _: KeptQuery) -> StoreFuture<'_, Vec<KeptEvent>> {
        unsupported()
    }
    fn rerun(&self, _: KeptQuery, _: Arc<str>, _: Arc<RerunRoute>) -> StoreFuture<'_, Rerun> {
        unsupported()
    }
    fn expire(&self, _: Retention) -> StoreFuture<'_, u64> {
        unsupported()
    }
    fn start_number(&self) -> u64 {
        1
    }
    fn close(&self) -> StoreFuture<'_, ()> {
        unsupported()
    }

    fn abandon(&self) {}
}
