//! The operators' calls, the same through the admin address (with the token) and the control socket: status, dead letters, publishing.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use crate::{
    admin::{Admin, json, operate},
    channel::Origin,
    controller::{bell::Group, router},
    health::Report,
    listener::{bearer, problem::Problem},
    pause::Records,
    store::{DeadLetter, DeadLetterQuery, Store, Subscriber},
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

/// Which dead letters, as a query string has it.
#[derive(Debug, Default, Deserialize)]
struct Which {
    id: Option<i64>,
    handler: Option<String>,
    source: Option<String>,
    #[serde(default)]
    after: i64,
    limit: Option<usize>,
    #[serde(default)]
    all: bool,
}

/// The routes of the API.
pub(crate) fn router(admin: Admin, access: Access) -> Router<Admin> {
    let routes = Router::new()
        .route("/api/status", get(status))
        .route("/api/dead-letters", get(list).delete(purge))
        .route("/api/dead-letters/replay", post(replay))
        .route("/api/queues", get(operate::queues))
        .route("/api/queues/{name}", post(publish))
        .route("/api/pause", post(operate::pause))
        .route("/api/resume", post(operate::resume));
    match access {
        // Who reaches the socket could read the store anyway, and write where this host may.
        Access::Socket => routes.route("/api/backup", post(operate::backup)),
        Access::Token => routes.route_layer(middleware::from_fn_with_state(admin, check_token)),
    }
}

/// What can be asked of a store without a host. Nothing is routed: a dead letter that no handler wanted stays.
pub(crate) fn offline_router() -> Router<Records> {
    Router::new()
        .route("/api/dead-letters", get(list).delete(purge))
        .route("/api/dead-letters/replay", post(replay_offline))
        .route("/api/queues", get(operate::queues))
        .route("/api/pause", post(operate::pause))
        .route("/api/resume", post(operate::resume))
        .route("/api/backup", post(operate::backup))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "no host runs on this store: start it with `koksmat run`") })
}

async fn replay_offline(State(store): State<Arc<dyn Store>>, Query(which): Query<Which>) -> Response {
    let Some(query) = which.query() else { return say_which() };
    match store.replay(query, Arc::new(|_: &DeadLetter| Vec::new())).await {
        Ok(count) => json(StatusCode::OK, &serde_json::json!({ "replayed": count })),
        Err(error) => store_error(&error),
    }
}

async fn check_token(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if bearer::matches(request.headers(), std::slice::from_ref(admin.token.secret())) {
        next.run(request).await
    } else {
        problem(StatusCode::UNAUTHORIZED, "this needs the token of the host, as `Authorization: Bearer TOKEN`")
    }
}

fn problem(status: StatusCode, detail: &str) -> Response {
    Problem::new(status, detail).into_response()
}

async fn status(State(admin): State<Admin>) -> Response {
    let report: Report = admin.health.report();
    let controller = admin.status().await.unwrap_or_default();
    let looked = async { Ok((operate::waiting(admin.pauses.records()).await?, admin.store.fleet().await?)) };
    let (queues, fleet) = match looked.await {
        Ok(looked) => looked,
        Err(error) => return store_error(&error),
    };
    let dead_letters =
        admin.store.dead_letters(DeadLetterQuery { limit: 10_000, ..Default::default() }).await.map_or(0, |d| d.len() as u64);
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

impl Which {
    /// `None`: nothing was said; one command must not change everything by leaving something out.
    fn query(self) -> Option<DeadLetterQuery> {
        let said = self.id.is_some() || self.handler.is_some() || self.source.is_some() || self.all;
        let query = DeadLetterQuery { id: self.id, tenant: None, handler: self.handler, source: self.source, after: 0, limit: usize::MAX };
        said.then_some(query)
    }
}

fn say_which() -> Response {
    problem(StatusCode::BAD_REQUEST, "say which: `id`, `handler`, `source`, or `all=true`")
}

async fn list(State(store): State<Arc<dyn Store>>, Query(which): Query<Which>) -> Response {
    const PAGE: usize = 1_000;
    let query = DeadLetterQuery {
        id: which.id,
        tenant: None,
        handler: which.handler,
        source: which.source,
        after: which.after,
        limit: which.limit.unwrap_or(PAGE).min(PAGE),
    };
    match store.dead_letters(query).await {
        Ok(letters) => json(StatusCode::OK, &letters.iter().map(shown).collect::<Vec<_>>()),
        Err(error) => store_error(&error),
    }
}

/// A dead letter as it is shown: its event in the JSON format of CloudEvents.
pub(crate) fn shown(letter: &DeadLetter) -> serde_json::Value {
    let mut value = serde_json::to_value(letter).unwrap_or_default();
    value["event"] = serde_json::from_str(&crate::event::cloudevents::to_structured(&letter.event)).unwrap_or_default();
    value
}

async fn replay(State(admin): State<Admin>, Query(which): Query<Which>) -> Response {
    let Some(query) = which.query() else { return say_which() };
    let (generation, bell) = (admin.generation.load_full(), admin.bell.clone());
    let route = move |letter: &DeadLetter| -> Vec<Subscriber> {
        let origin = Origin { tenant: letter.tenant.clone(), source: letter.source.as_str().into(), kind: letter.kind.as_str().into() };
        let routed = router::route(&generation, &origin, &letter.event);
        routed.iter().map(router::Routed::subscriber).collect()
    };
    let letters = admin.store.dead_letters(query.clone()).await.unwrap_or_default();
    match admin.store.replay(query, Arc::new(route.clone())).await {
        Ok(count) => {
            for letter in &letters {
                let handlers = match &letter.handler {
                    Some(handler) => vec![Arc::from(handler.as_str())],
                    None => route(letter).into_iter().map(|s| s.handler).collect(),
                };
                for handler in handlers {
                    bell.ring(Group { tenant: letter.tenant.clone(), source: letter.source.as_str().into(), handler });
                }
            }
            json(StatusCode::OK, &serde_json::json!({ "replayed": count }))
        }
        Err(error) => store_error(&error),
    }
}

async fn purge(State(store): State<Arc<dyn Store>>, Query(which): Query<Which>) -> Response {
    let Some(query) = which.query() else { return say_which() };
    match store.purge(query).await {
        Ok(count) => json(StatusCode::OK, &serde_json::json!({ "purged": count })),
        Err(error) => store_error(&error),
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

fn store_error(error: &crate::store::StoreError) -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
}
