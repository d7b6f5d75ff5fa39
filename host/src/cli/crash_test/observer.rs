//! What the observers tell: how often each attempt of each call ran.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use tokio::task::JoinSet;

/// How often an attempt ran, by "handler event attempt".
type Calls = Arc<Mutex<HashMap<String, u32>>>;

/// Listens to the observers, on the loopback address.
pub(super) struct Observer {
    address: SocketAddr,
    calls: Calls,
    /// Ends with this.
    _serving: JoinSet<()>,
}

impl Observer {
    pub(super) async fn start() -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot listen on the loopback address: {error}");
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let calls = Calls::default();
        let router = Router::new().route("/", post(heard)).with_state(calls.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Self { address, calls, _serving: serving })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Attempts that ran more than once: how often too much.
    pub(super) fn repeated(&self) -> u64 {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.values().map(|times| u64::from(times - 1)).sum()
    }
}

async fn heard(State(calls): State<Calls>, call: String) -> StatusCode {
    *calls.lock().unwrap_or_else(PoisonError::into_inner).entry(call).or_default() += 1;
    StatusCode::NO_CONTENT
}
