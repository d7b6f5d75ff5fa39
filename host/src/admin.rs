//! What operators see and ask: health and metrics for anyone, the rest with the token or through the socket beside the store.
//!
//! It reads, and sends commands; it changes nothing of a running event itself.

mod api;
pub mod client;
mod events;
mod letters;
mod operate;
mod reload;
pub(crate) mod socket;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use crate::{
    controller::{Command, Commands, Status},
    health::Health,
    letters::{DeadLetters, HandledEvents},
    listener::{Routes, problem::Problem},
    pause::{Pauses, Records},
    reload::Reloader,
    shutdown::ledger::Ledgers,
    store::{Store, StoreError},
    telemetry,
    token::Token,
};

/// What the admin listener and the control socket work on.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) health: Health,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) letters: DeadLetters,
    pub(crate) events: HandledEvents,
    pub(crate) commands: Commands,
    pub(crate) pauses: Pauses,
    pub(crate) reloader: Reloader,
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

/// The operators' calls on a store without a host: dead letters can be looked at, tried, replayed and purged, queues looked at, parts paused.
pub(crate) fn offline(letters: DeadLetters, records: Records) -> Router {
    let operate = operate::router().route("/api/backup", post(operate::backup)).with_state(records);
    letters::router()
        .with_state(letters)
        .merge(operate)
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "no host runs on this store: start it with `koksmat run`") })
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

fn problem(status: StatusCode, detail: &str) -> Response {
    Problem::new(status, detail).into_response()
}

fn store_error(error: &StoreError) -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
}

pub(crate) fn json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl axum::extract::FromRef<Admin> for HandledEvents {
    fn from_ref(admin: &Admin) -> Self {
        admin.events.clone()
    }
}

impl axum::extract::FromRef<Admin> for DeadLetters {
    fn from_ref(admin: &Admin) -> Self {
        admin.letters.clone()
    }
}
