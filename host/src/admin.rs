//! What operators see and ask: health and metrics for anyone, the rest with the token or through the socket beside the store.
//!
//! It reads, and sends commands; it changes nothing of a running event itself.

mod api;
pub mod client;
mod operate;
pub(crate) mod socket;

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{
    controller::{Command, Commands, Status, bell::Bell, generation::Generation},
    health::Health,
    listener::Routes,
    pause::{Pauses, Records},
    shutdown::ledger::Ledgers,
    store::Store,
    telemetry,
    token::Token,
};

/// What the admin listener and the control socket work on.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) health: Health,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) commands: Commands,
    pub(crate) generation: Arc<ArcSwap<Generation>>,
    pub(crate) bell: Bell,
    pub(crate) pauses: Pauses,
    pub(crate) ledgers: Ledgers,
    pub(crate) token: Token,
    pub(crate) routes: Routes,
    pub(crate) started: Instant,
}

/// What the admin address serves.
pub(crate) fn router(admin: Admin) -> Router {
    let _ = telemetry::metrics();
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .merge(api::router(admin.clone(), api::Access::Token))
        .with_state(admin)
}

/// The operators' calls on a store without a host: dead letters can be looked at, replayed and purged, queues looked at, parts paused.
pub(crate) fn offline(records: Records) -> Router {
    api::offline_router().with_state(records)
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let report = admin.health.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &report)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let Some(handle) = telemetry::metrics() else {
        return (StatusCode::NOT_FOUND, "another metrics recorder is installed in this process\n").into_response();
    };
    let status = admin.status().await.unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    {
        metrics::gauge!(telemetry::RUNNING).set(status.running as f64);
        metrics::gauge!(telemetry::WAITING).set(status.waiting as f64);
        metrics::gauge!(telemetry::LANE_WAITING).set(status.lanes.iter().map(|lane| lane.waiting).sum::<usize>() as f64);
        for depth in admin.store.depths().await.unwrap_or_default() {
            for (state, count) in [("ready", depth.ready), ("later", depth.later), ("running", depth.running)] {
                let (tenant, source, handler) = (depth.tenant.to_string(), depth.source.clone(), depth.handler.clone());
                metrics::gauge!(telemetry::TASKS, "tenant" => tenant, "source" => source, "handler" => handler, "state" => state)
                    .set(count as f64);
            }
        }
    }
    for (name, source) in admin.health.report().sources {
        let (tenant, source_name) = name.split_once('/').unwrap_or(("", &name));
        metrics::gauge!(telemetry::SOURCE_READY, "tenant" => tenant.to_owned(), "source" => source_name.to_owned())
            .set(f64::from(u8::from(source.ready)));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response()
}

impl Admin {
    /// What the controller's loop says.
    pub(crate) async fn status(&self) -> Option<Status> {
        self.commands.ask(Command::Status).await
    }
}

pub(crate) fn json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl axum::extract::FromRef<Records> for Arc<dyn Store> {
    fn from_ref(records: &Records) -> Self {
        records.store.clone()
    }
}

impl axum::extract::FromRef<Admin> for Arc<dyn Store> {
    fn from_ref(admin: &Admin) -> Self {
        admin.store.clone()
    }
}
