//! The operators' calls that hold the host's parts still and look at what waits, beside a running host or on the store of none.

use std::{collections::HashMap, path::PathBuf};

use axum::{
    Router,
    extract::{FromRef, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use crate::{
    admin::{Admin, json},
    ambient::now,
    listener::problem::Problem,
    pause::{Part, PauseError, Paused, Pauses, Records},
    store::{Depth, Millis, StoreError},
    tenant::Tenant,
};

/// Whoever carries out what operators ask: the host, or its store while none runs.
#[derive(Clone)]
pub(super) enum Operator {
    Host(Pauses),
    Store(Records),
}

impl FromRef<Admin> for Operator {
    fn from_ref(admin: &Admin) -> Self {
        Self::Host(admin.pauses.clone())
    }
}

impl FromRef<Records> for Operator {
    fn from_ref(records: &Records) -> Self {
        Self::Store(records.clone())
    }
}

/// The routes, but for the backup's: it writes where it is told.
pub(super) fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Operator: FromRef<S>,
{
    Router::new().route("/api/queues", get(queues)).route("/api/pause", post(pause)).route("/api/resume", post(resume))
}

impl Operator {
    async fn pause(&self, tenant: &Tenant, part: &Part) -> Result<Millis, PauseError> {
        match self {
            Self::Host(pauses) => pauses.pause(tenant, part).await,
            Self::Store(records) => records.pause(tenant, part).await,
        }
    }

    async fn resume(&self, tenant: &Tenant, part: &Part) -> Result<bool, PauseError> {
        match self {
            Self::Host(pauses) => pauses.resume(tenant, part).await,
            Self::Store(records) => records.resume(tenant, part).await,
        }
    }

    fn records(&self) -> &Records {
        match self {
            Self::Host(pauses) => pauses.records(),
            Self::Store(records) => records,
        }
    }
}

/// What to pause or resume, as a query string has it: one of the two.
#[derive(Debug, Deserialize)]
pub(super) struct Which {
    source: Option<String>,
    handler: Option<String>,
}

impl Which {
    fn part(self) -> Result<Part, Problem> {
        match (self.source, self.handler) {
            (Some(source), None) => Ok(Part::Source(source)),
            (None, Some(handler)) => Ok(Part::Handler(handler)),
            _ => Err(Problem::new(StatusCode::BAD_REQUEST, "say which: `source=NAME` or `handler=NAME`")),
        }
    }
}

/// `POST /api/pause`
pub(super) async fn pause(State(operator): State<Operator>, Query(which): Query<Which>) -> Result<Response, Problem> {
    let since = operator.pause(&Tenant::default(), &which.part()?).await.map_err(refused)?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "paused": since })))
}

/// `POST /api/resume`
pub(super) async fn resume(State(operator): State<Operator>, Query(which): Query<Which>) -> Result<Response, Problem> {
    let resumed = operator.resume(&Tenant::default(), &which.part()?).await.map_err(refused)?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "resumed": resumed })))
}

fn refused(error: PauseError) -> Problem {
    let status = match &error {
        PauseError::Unknown { .. } => StatusCode::NOT_FOUND,
        PauseError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error.to_string())
}

/// Where a copy of the store goes, as a query string has it.
#[derive(Debug, Deserialize)]
pub(super) struct Copy {
    to: PathBuf,
    #[serde(default)]
    replace: bool,
}

/// `POST /api/backup`
pub(super) async fn backup(State(operator): State<Operator>, Query(copy): Query<Copy>) -> Response {
    if !copy.to.is_absolute() {
        return Problem::new(StatusCode::BAD_REQUEST, "`to` is an absolute path").into_response();
    }
    match operator.records().store.backup(copy.to.clone(), copy.replace).await {
        Ok(()) => {
            tracing::info!(file = %copy.to.display(), "the store was backed up");
            json(StatusCode::OK, &serde_json::json!({ "to": copy.to }))
        }
        Err(error) => Problem::new(StatusCode::CONFLICT, error.to_string()).into_response(),
    }
}

/// What waits in the store from one source for one handler or sink.
#[derive(Debug, Serialize)]
pub(super) struct Queue {
    #[serde(flatten)]
    depth: Depth,
    /// How long ago the oldest was accepted.
    oldest_ms: Option<Millis>,
    /// How much waits of the source, for all of its handlers.
    backlog: u64,
    /// The most that may.
    bound: Option<u64>,
    /// The source is paused, or the handler.
    paused: bool,
}

/// `GET /api/queues`
pub(super) async fn queues(State(operator): State<Operator>) -> Response {
    match waiting(operator.records()).await {
        Ok(queues) => json(StatusCode::OK, &queues),
        Err(error) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

/// What waits in the store.
pub(super) async fn waiting(records: &Records) -> Result<Vec<Queue>, StoreError> {
    let (depths, paused) = (records.store.depths().await?, records.read().await?);
    let mut backlogs = HashMap::<(Tenant, String), u64>::new();
    for depth in &depths {
        *backlogs.entry((depth.tenant.clone(), depth.source.clone())).or_default() += depth.ready + depth.later + depth.running;
    }
    let (at, parts) = (now(), records.parts());
    let queue = |depth: Depth| Queue {
        oldest_ms: depth.oldest.map(|oldest| at.saturating_sub(oldest).max(0)),
        backlog: backlogs.get(&(depth.tenant.clone(), depth.source.clone())).copied().unwrap_or_default(),
        bound: parts.bound(&depth.tenant, &depth.source),
        paused: is_paused(&paused, &depth),
        depth,
    };
    Ok(depths.into_iter().map(queue).collect())
}

fn is_paused(paused: &Paused, depth: &Depth) -> bool {
    [Part::Source(depth.source.clone()), Part::Handler(depth.handler.clone())]
        .into_iter()
        .any(|part| paused.contains_key(&(depth.tenant.clone(), part)))
}
