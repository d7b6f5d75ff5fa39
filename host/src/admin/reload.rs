//! The operators' calls that change what serves, and show it.

use axum::{
    Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;

use crate::{
    admin::{Admin, json},
    reload::Reloaded,
    tenant::Tenant,
};

/// The routes.
pub(super) fn router() -> Router<Admin> {
    Router::new()
        .route("/api/reload", post(reload))
        .route("/api/plugins", get(plugins))
        .route("/api/plugins/{handler}/rollback", post(roll_back))
        .route("/api/plugins/{handler}/promote", post(promote))
}

/// How to reload, as a query string has it.
#[derive(Debug, Deserialize)]
struct How {
    /// Though events wait that nobody would take any more.
    #[serde(default)]
    force: bool,
}

/// `POST /api/reload`
async fn reload(State(admin): State<Admin>, Query(How { force }): Query<How>) -> Response {
    told(&admin.reloader.ask(None, force, BY).await)
}

/// `GET /api/plugins`
async fn plugins(State(admin): State<Admin>) -> Response {
    json(StatusCode::OK, &admin.reloader.plugins())
}

/// To which version to go back.
#[derive(Debug, Deserialize)]
struct Which {
    /// The beginning of its digest.
    version: Option<String>,
}

/// `POST /api/plugins/HANDLER/rollback`
async fn roll_back(State(admin): State<Admin>, Path(handler): Path<String>, Query(which): Query<Which>) -> Response {
    let outcome = admin.reloader.roll_back(&(Tenant::default(), handler), which.version.as_deref()).await;
    outcome.log(BY);
    told(&outcome)
}

/// `POST /api/plugins/HANDLER/promote`
async fn promote(State(admin): State<Admin>, Path(handler): Path<String>) -> Response {
    let outcome = admin.reloader.promote(&(Tenant::default(), handler));
    outcome.log(BY);
    told(&outcome)
}

const BY: &str = "an operator";

/// 200 with what came of it, 409 where what served goes on.
fn told(outcome: &Reloaded) -> Response {
    let status = match outcome {
        Reloaded::KeptOld { .. } => StatusCode::CONFLICT,
        Reloaded::Applied { .. } | Reloaded::Unchanged { .. } => StatusCode::OK,
    };
    json(status, outcome)
}
