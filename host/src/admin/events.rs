//! The operators' calls on handled events that are kept: found, tried, handled again.

use axum::{
    Router,
    extract::{FromRef, Query, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    admin::{json, letters::time, problem, store_error},
    letters::HandledEvents,
    store::{KeptEvent, KeptQuery},
};

/// The routes.
pub(crate) fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    HandledEvents: FromRef<S>,
{
    Router::new().route("/api/events", get(list)).route("/api/events/replay", post(replay)).route("/api/events/dry-run", post(dry_run))
}

/// Which events, as a query string has it.
#[derive(Debug, Default, Deserialize)]
struct Which {
    number: Option<i64>,
    id: Option<String>,
    source: Option<String>,
    since: Option<String>,
    until: Option<String>,
    handler: Option<String>,
    request: Option<String>,
    #[serde(default)]
    after: i64,
}

impl Which {
    fn query(&self) -> Result<KeptQuery, &'static str> {
        Ok(KeptQuery {
            number: self.number,
            id: self.id.clone(),
            tenant: None,
            source: self.source.clone(),
            since: time(self.since.as_deref())?,
            until: time(self.until.as_deref())?,
            after: self.after,
            limit: usize::MAX,
        })
    }
}

async fn list(State(events): State<HandledEvents>, Query(which): Query<Which>) -> Response {
    const PAGE: usize = 100;
    let query = match which.query() {
        Ok(query) => KeptQuery { limit: PAGE, ..query },
        Err(why) => return problem(StatusCode::BAD_REQUEST, why),
    };
    match events.list(query).await {
        Ok(found) => json(StatusCode::OK, &found.iter().map(shown).collect::<Vec<_>>()),
        Err(error) => store_error(&error),
    }
}

fn shown(kept: &KeptEvent) -> serde_json::Value {
    let event: serde_json::Value = serde_json::from_str(&crate::event::cloudevents::to_structured(&kept.event)).unwrap_or_default();
    json!({
        "number": kept.number, "tenant": kept.tenant, "source": kept.source, "kind": kept.kind, "key": kept.key,
        "accepted_at": kept.accepted_at, "event": event,
    })
}

/// One command must not have everything handled again by leaving something out, so that events are named by their id or their source.
async fn replay(State(events): State<HandledEvents>, Query(which): Query<Which>) -> Response {
    if which.id.is_none() && (which.source.is_none() || which.since.is_none()) {
        return problem(StatusCode::BAD_REQUEST, "say which: `id`, or `source` and `since`");
    }
    let Some(request) = which.request.as_deref().filter(|request| (1..=128).contains(&request.len())) else {
        return problem(StatusCode::BAD_REQUEST, "name the request by `request`, 1 to 128 bytes: the same one made again makes nothing");
    };
    let query = match which.query() {
        Ok(query) => query,
        Err(why) => return problem(StatusCode::BAD_REQUEST, why),
    };
    match events.replay(query, which.handler.as_deref(), request).await {
        Ok(rerun) => json(StatusCode::OK, &rerun),
        Err(error) => store_error(&error),
    }
}

async fn dry_run(State(events): State<HandledEvents>, Query(which): Query<Which>) -> Response {
    let Some(number) = which.number else { return problem(StatusCode::BAD_REQUEST, "say which: `number`") };
    match events.dry_run(number, which.handler.as_deref()).await {
        Ok(trials) => json(StatusCode::OK, &json!({ "number": number, "trials": trials })),
        Err(error) => store_error(&error),
    }
}
