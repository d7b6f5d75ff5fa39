//! Logs and metrics: how they are set up, and every metric name in one place.

mod places;

use std::{io::IsTerminal, time::Duration};

use metrics::{Counter, Histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::{
    channel::Origin,
    outcome::{Failure, Outcome},
    plugin::Finished,
    shutdown::ledger::Tally,
    tenant::Tenant,
};

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
/// Whether a source or handler is paused, by tenant, part (`source`, `handler`) and name.
pub const PAUSED: &str = "koksmat_paused";
/// Events on their way out, by tenant, sink and what became of them.
pub const PUBLISHED: &str = "koksmat_sink_events_total";
/// How often a source was started again, by tenant and source.
pub const SOURCE_RESTARTS: &str = "koksmat_source_restarts_total";

/// What is logged unless `RUST_LOG` says otherwise. The client for RabbitMQ logs each failure in its own words, and messages that are
/// returned with all they hold; sources and sinks say once what there is to say.
const DEFAULT_FILTER: &str = "info,lapin=off";

/// Logs to standard error: plain text on a terminal, else `KOKSMAT_LOG_FORMAT=json` for one JSON document a line. `RUST_LOG` filters.
/// Standard output stays free for what a command answers. Called a second time it does nothing.
pub fn init_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let json = std::env::var("KOKSMAT_LOG_FORMAT").is_ok_and(|format| format == "json");
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    let _ = if json {
        registry.with(layer.json().flatten_event(true)).try_init()
    } else {
        registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init()
    };
}

/// The same for whoever writes handlers in `folder`: a line is short, and where it names a place in a file there, the place is shown.
pub fn init_dev_logs(folder: std::path::PathBuf) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let format = places::Places { folder, ansi: std::io::stderr().is_terminal() };
    let layer = fmt::layer().with_writer(std::io::stderr).event_format(format);
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
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

/// Sort what was measured into the histograms, until told to stop: unsorted, each call takes memory until somebody asks for the metrics.
pub(crate) async fn sort(stopping: CancellationToken) {
    let Some(metrics) = metrics() else { return };
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = every_second.tick() => metrics.run_upkeep(),
        }
    }
}

/// The counters of one source, looked up once.
#[derive(Debug)]
pub(crate) struct SourceMetrics {
    received: Counter,
    settled: [Counter; 4],
}

impl SourceMetrics {
    pub(crate) fn of(origin: &Origin) -> Self {
        let (tenant, source) = (origin.tenant.to_string(), origin.source.to_string());
        let settled =
            |became: &'static str| metrics::counter!(SETTLED, "tenant" => tenant.clone(), "source" => source.clone(), "became" => became);
        Self {
            received: metrics::counter!(RECEIVED, "tenant" => tenant.clone(), "source" => source.clone()),
            settled: ["done", "dead", "parked", "returned"].map(settled),
        }
    }

    pub(crate) fn received(&self) {
        self.received.increment(1);
    }

    pub(crate) fn ended(&self, tally: Tally) {
        let [done, dead, parked, returned] = &self.settled;
        let counter = match tally {
            Tally::Done => done,
            Tally::Dead => dead,
            Tally::Parked => parked,
            Tally::Returned => returned,
        };
        counter.increment(1);
    }
}

/// The metrics of one handler's calls, looked up once.
#[derive(Debug)]
pub(crate) struct CallMetrics {
    took: Histogram,
    done: Counter,
    retry: Counter,
    reject: Counter,
    timeout: Counter,
    out_of_memory: Counter,
    trap: Counter,
    failure: Counter,
}

impl CallMetrics {
    pub(crate) fn of(tenant: &Tenant, handler: &str) -> Self {
        let calls = |outcome: &'static str| metrics::counter!(CALLS, "tenant" => tenant.to_string(), "handler" => handler.to_owned(), "outcome" => outcome);
        Self {
            took: metrics::histogram!(CALL_SECONDS, "tenant" => tenant.to_string(), "handler" => handler.to_owned()),
            done: calls("done"),
            retry: calls("retry"),
            reject: calls("reject"),
            timeout: calls("timeout"),
            out_of_memory: calls("out-of-memory"),
            trap: calls("trap"),
            failure: calls("failure"),
        }
    }

    pub(crate) fn finished(&self, finished: &Finished) {
        let counter = match (&finished.failure, &finished.outcome) {
            (Some(Failure::Timeout(_)), _) => &self.timeout,
            (Some(Failure::OutOfMemory { .. }), _) => &self.out_of_memory,
            (Some(Failure::Trap(_)), _) => &self.trap,
            (Some(_), _) => &self.failure,
            (None, Outcome::Done(_)) => &self.done,
            (None, Outcome::Retry { .. }) => &self.retry,
            (None, Outcome::Reject { .. }) => &self.reject,
        };
        counter.increment(1);
        self.took.record(finished.took);
    }
}
