//! Logs and metrics: how they are set up, and every metric name in one place.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::{channel::Origin, outcome::Outcome, plugin::Finished, shutdown::ledger::Tally, store::CallId};

/// Deliveries that came in, by tenant and source.
pub const RECEIVED: &str = "koksmat_received_total";
/// Deliveries that are settled, by tenant, source and what became of them.
pub const SETTLED: &str = "koksmat_settled_total";
/// Handler calls, by tenant, handler and outcome.
pub const CALLS: &str = "koksmat_calls_total";
/// How long handler calls take, in seconds, by tenant and handler.
pub const CALL_SECONDS: &str = "koksmat_call_duration_seconds";
/// Calls that run.
pub const RUNNING: &str = "koksmat_calls_running";
/// Calls that wait for a permit.
pub const WAITING: &str = "koksmat_calls_waiting";
/// Calls that wait for a lane.
pub const LANE_WAITING: &str = "koksmat_lane_waiting";
/// Tasks in the store, by tenant, source, handler and state.
pub const TASKS: &str = "koksmat_tasks";
/// Whether a source takes events, by tenant and source.
pub const SOURCE_READY: &str = "koksmat_source_ready";
/// How often a source was started again, by tenant and source.
pub const SOURCE_RESTARTS: &str = "koksmat_source_restarts_total";

/// Logs to standard error: plain text on a terminal, else `KOKSMAT_LOG_FORMAT=json` for one JSON document a line. `RUST_LOG` filters.
/// Standard output stays free for what a command answers. Called a second time it does nothing.
pub fn init_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let json = std::env::var("KOKSMAT_LOG_FORMAT").is_ok_and(|format| format == "json");
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    let _ = if json {
        registry.with(layer.json().flatten_event(true)).try_init()
    } else {
        registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init()
    };
}

/// Where metrics are kept and from where they are shown. `None`: another recorder is installed already.
pub(crate) fn metrics() -> Option<PrometheusHandle> {
    static HANDLE: std::sync::OnceLock<Option<PrometheusHandle>> = std::sync::OnceLock::new();
    let install = || {
        const BUCKETS: [f64; 12] = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Full(CALL_SECONDS.into()), &BUCKETS).ok()?;
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).ok()?;
        Some(handle)
    };
    HANDLE.get_or_init(install).clone()
}

pub(crate) fn received(origin: &Origin) {
    metrics::counter!(RECEIVED, "tenant" => origin.tenant.to_string(), "source" => origin.source.clone()).increment(1);
}

pub(crate) fn ended(origin: &Origin, tally: Tally) {
    let became = match tally {
        Tally::Done => "done",
        Tally::Dead => "dead",
        Tally::Parked => "parked",
        Tally::Returned => "returned",
    };
    metrics::counter!(SETTLED, "tenant" => origin.tenant.to_string(), "source" => origin.source.clone(), "became" => became).increment(1);
}

pub(crate) fn call_finished(id: &CallId, finished: &Finished) {
    let outcome = match (&finished.failure, &finished.outcome) {
        (Some(crate::outcome::Failure::Timeout(_)), _) => "timeout",
        (Some(crate::outcome::Failure::OutOfMemory { .. }), _) => "out-of-memory",
        (Some(crate::outcome::Failure::Trap(_)), _) => "trap",
        (Some(_), _) => "failure",
        (None, Outcome::Done(_)) => "done",
        (None, Outcome::Retry { .. }) => "retry",
        (None, Outcome::Reject { .. }) => "reject",
    };
    let tenant = id.tenant.to_string();
    metrics::counter!(CALLS, "tenant" => tenant.clone(), "handler" => id.handler.clone(), "outcome" => outcome).increment(1);
    metrics::histogram!(CALL_SECONDS, "tenant" => tenant, "handler" => id.handler.clone()).record(finished.took);
}
