//! The operators' calls on dead letters: on those of a running host, and on those of a store that no host has open.

use axum::{
    Router,
    extract::{FromRef, Query, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;

use crate::{
    admin::{json, problem, store_error},
    letters::{DeadLetters, LettersError, moment},
    store::{DeadLetterQuery, Millis},
};

/// The routes.
pub(crate) fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    DeadLetters: FromRef<S>,
{
    Router::new()
        .route("/api/dead-letters", get(list).delete(purge))
        .route("/api/dead-letters/replay", post(replay))
        .route("/api/dead-letters/dry-run", post(dry_run))
        .route("/api/dead-letters/export", get(export))
}

/// Which dead letters, as a query string has it.
#[derive(Debug, Default, Deserialize)]
struct Which {
    id: Option<i64>,
    handler: Option<String>,
    source: Option<String>,
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    after: i64,
    limit: Option<usize>,
    #[serde(default)]
    all: bool,
}

impl Which {
    fn query(self) -> Result<DeadLetterQuery, &'static str> {
        Ok(DeadLetterQuery {
            id: self.id,
            tenant: None,
            handler: self.handler,
            source: self.source,
            since: time(self.since.as_deref())?,
            until: time(self.until.as_deref())?,
            after: self.after,
            limit: self.limit.unwrap_or(usize::MAX),
        })
    }

    /// Something must be said: one command must not change everything by leaving something out.
    fn chosen(self) -> Result<DeadLetterQuery, &'static str> {
        let times = self.since.is_some() || self.until.is_some();
        let said = self.id.is_some() || self.handler.is_some() || self.source.is_some() || times || self.all;
        if said { self.query() } else { Err("say which: `id`, `handler`, `source`, `since`, `until`, or `all=true`") }
    }
}

/// A time in a query string.
pub(super) fn time(text: Option<&str>) -> Result<Option<Millis>, &'static str> {
    const NO_TIME: &str = "`since` and `until` are durations before now, such as `1h`, or times in RFC 3339";
    text.map(|text| moment(text).ok_or(NO_TIME)).transpose()
}

async fn list(State(letters): State<DeadLetters>, Query(which): Query<Which>) -> Response {
    const PAGE: usize = 1_000;
    let query = match which.query() {
        Ok(query) => DeadLetterQuery { limit: query.limit.min(PAGE), ..query },
        Err(why) => return problem(StatusCode::BAD_REQUEST, why),
    };
    match letters.list(query).await {
        Ok(found) => json(StatusCode::OK, &found.iter().map(|letter| letters.shown(letter)).collect::<Vec<_>>()),
        Err(error) => store_error(&error),
    }
}

async fn replay(State(letters): State<DeadLetters>, Query(which): Query<Which>) -> Response {
    let query = match which.chosen() {
        Ok(query) => query,
        Err(why) => return problem(StatusCode::BAD_REQUEST, why),
    };
    match letters.replay(query).await {
        Ok(replayed) => json(StatusCode::OK, &replayed),
        Err(error) => store_error(&error),
    }
}

async fn dry_run(State(letters): State<DeadLetters>, Query(which): Query<Which>) -> Response {
    let Some(id) = which.id else { return problem(StatusCode::BAD_REQUEST, "say which: `id`") };
    match letters.dry_run(id).await {
        Ok(trials) => json(StatusCode::OK, &serde_json::json!({ "id": id, "trials": trials })),
        Err(error) => refused(&error),
    }
}

async fn export(State(letters): State<DeadLetters>, Query(which): Query<Which>) -> Response {
    let Some(id) = which.id else { return problem(StatusCode::BAD_REQUEST, "say which: `id`") };
    match letters.export(id).await {
        Ok(exported) => json(StatusCode::OK, &exported),
        Err(error) => refused(&error),
    }
}

fn refused(error: &LettersError) -> Response {
    match error {
        LettersError::Store(error) => store_error(error),
        LettersError::None(_) => problem(StatusCode::NOT_FOUND, &error.to_string()),
        LettersError::Unusable { .. } => problem(StatusCode::CONFLICT, &error.to_string()),
    }
}

async fn purge(State(letters): State<DeadLetters>, Query(which): Query<Which>) -> Response {
    let query = match which.chosen() {
        Ok(query) => query,
        Err(why) => return problem(StatusCode::BAD_REQUEST, why),
    };
    match letters.purge(query).await {
        Ok(count) => json(StatusCode::OK, &serde_json::json!({ "purged": count })),
        Err(error) => store_error(&error),
    }
}
