//! The operators' calls, the same through the admin address (with the token) and the control socket: status, dead letters, publishing.

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use crate::{
    admin::{Admin, events, json, letters, operate, problem, reload, store_error},
    health::Report,
    listener::bearer,
    store::DeadLetterQuery,
};

/// How a request proves that it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// By `Authorization: Bearer`.
    Token,
    /// By having reached the socket.
    Socket,
}

/// `koksmat status`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    pub(crate) health: serde_json::Value,
    pub(crate) uptime_ms: u64,
    pub(crate) running: usize,
    pub(crate) waiting: usize,
    pub(crate) lanes: serde_json::Value,
    pub(crate) queues: serde_json::Value,
    /// The hosts that share the store.
    pub(crate) fleet: serde_json::Value,
    pub(crate) ledger: serde_json::Value,
    pub(crate) dead_letters: u64,
}

/// The routes of the API.
pub(crate) fn router(admin: Admin, access: Access) -> Router<Admin> {
    let routes = Router::new()
        .route("/api/status", get(status))
        .route("/api/queues/{name}", post(publish))
        .merge(reload::router())
        .merge(operate::router())
        .merge(letters::router())
        .merge(events::router());
    match access {
        // Who reaches the socket could read the store anyway, and write where this host may.
        Access::Socket => routes.route("/api/backup", post(operate::backup)),
        Access::Token => routes.route_layer(middleware::from_fn_with_state(admin, check_token)),
    }
}

async fn check_token(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if bearer::matches(request.headers(), std::slice::from_ref(admin.token.secret())) {
        next.run(request).await
    } else {
        problem(StatusCode::UNAUTHORIZED, "this needs the token of the host, as `Authorization: Bearer TOKEN`")
    }
}

async fn status(State(admin): State<Admin>) -> Response {
    let report: Report = admin.health.report();
    let controller = admin.status().await.unwrap_or_default();
    let looked = async { Ok((operate::waiting(admin.pauses.records()).await?, admin.store.fleet().await?)) };
    let (queues, fleet) = match looked.await {
        Ok(looked) => looked,
        Err(error) => return store_error(&error),
    };
    let dead_letters = admin.letters.count(DeadLetterQuery::default()).await.unwrap_or_default();
    let value = |v: &dyn erased::Value| v.value();
    json(
        StatusCode::OK,
        &StatusReport {
            health: value(&report),
            uptime_ms: u64::try_from(admin.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            running: controller.running,
            waiting: controller.waiting,
            lanes: value(&controller.lanes),
            queues: value(&queues),
            fleet: value(&fleet),
            ledger: value(&admin.ledgers.ledger()),
            dead_letters,
        },
    )
}

/// Anything serialisable as a JSON value.
mod erased {
    pub(super) trait Value {
        fn value(&self) -> serde_json::Value;
    }
    impl<T: serde::Serialize> Value for T {
        fn value(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap_or_default()
        }
    }
}

/// Publish to an embedded queue: what `POST /queues/NAME` does, for those who reached the socket.
async fn publish(State(admin): State<Admin>, axum::extract::Path(name): axum::extract::Path<String>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let (Ok(uri), Ok(token)) = (format!("/queues/{name}{query}").parse(), format!("Bearer {}", admin.token.secret().expose()).parse())
    else {
        return problem(StatusCode::BAD_REQUEST, "the name of the queue is no path segment");
    };
    parts.uri = uri;
    parts.headers.insert(header::AUTHORIZATION, token);
    admin.routes.respond(Request::from_parts(parts, Body::new(body))).await
}
