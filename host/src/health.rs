//! What readiness knows: whether the host takes events, and what each source says of itself.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tokio::sync::watch;

use crate::{
    ambient::now,
    channel::Origin,
    pause::{Part, Paused},
    plugin::load::Late,
    store::Millis,
    tenant::Tenant,
};

/// The most problems of one outage that are kept to log none of them twice.
const LOGGED: usize = 8;

/// Shared by the sources, which report, and the admin listener, which shows.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    sources: BTreeMap<(String, String), SourceState>,
    store_problem: Option<String>,
    sinks: BTreeMap<String, SinkState>,
    paused: Paused,
    late: Late,
}

struct SourceState {
    health: SourceHealth,
    logged: Logged,
}

#[derive(Default)]
struct SinkState {
    problem: Option<String>,
    logged: Logged,
}

/// The problems of one outage that were logged. A server that is away ends its connections now one way, now another: each attempt has
/// another problem than the one before, and still nothing new is to be said.
#[derive(Default)]
struct Logged(VecDeque<String>);

impl Logged {
    /// Whether this one was not logged yet. Now it is.
    fn is_new(&mut self, problem: &str) -> bool {
        if self.0.iter().any(|known| known == problem) {
            return false;
        }
        if self.0.len() == LOGGED {
            self.0.pop_front();
        }
        self.0.push_back(problem.to_owned());
        true
    }
}

/// Where the host is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Not all sources were started yet.
    #[default]
    Booting,
    /// Sources were started.
    Running,
    /// A stop has begun.
    Draining,
}

/// What a source says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceHealth {
    /// Its kind.
    pub kind: String,
    /// It takes events.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What went wrong last, though it may be over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// Since when it is paused. That is no problem: it stays ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Millis>,
    /// Why it takes nothing now though it could: what it brought is not handled yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back: Option<String>,
    /// How often it was started again.
    pub restarts: u64,
}

/// What went wrong, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// When it was noticed.
    pub at: Millis,
    /// What it was.
    pub error: String,
}

/// Everything readiness knows.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether the host takes events from every source that is not paused.
    pub ready: bool,
    /// Where it is in its life.
    pub phase: Phase,
    /// The store's trouble.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// By `tenant/source`.
    pub sources: BTreeMap<String, SourceHealth>,
    /// By `tenant/sink`: what keeps it from publishing, if anything. The host is ready all the same: what is emitted waits in the store.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sinks: BTreeMap<String, Option<String>>,
    /// By `tenant/handler`: since when it is paused. The host is ready all the same: what it would handle waits in the store.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub paused_handlers: BTreeMap<String, Millis>,
    /// By `tenant/handler`: its code is still being compiled, and what it is to handle waits; or what is wrong with it, and the host is not ready.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub late_handlers: BTreeMap<String, Option<String>>,
}

impl Health {
    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.changed.send_modify(|n| *n += 1);
        result
    }

    /// A source will report.
    pub(crate) fn expect(&self, origin: &Origin) {
        self.change(|s| {
            let kind = origin.kind.to_string();
            let health = SourceHealth { kind, ready: false, problem: None, last_error: None, paused: None, held_back: None, restarts: 0 };
            // One that was started again with other settings begins anew.
            s.sources.insert(key(origin), SourceState { health, logged: Logged::default() });
        });
    }

    /// The source is not there any more.
    pub(crate) fn forget(&self, tenant: &Tenant, source: &str) {
        self.change(|s| drop(s.sources.remove(&(tenant.to_string(), source.to_owned()))));
    }

    /// The sink, `tenant/sink`, is not there any more.
    pub(crate) fn forget_sink(&self, sink: &str) {
        self.change(|s| drop(s.sinks.remove(sink)));
    }

    pub(crate) fn source_ready(&self, origin: &Origin) {
        let before = self.change(|s| {
            let source = s.sources.get_mut(&key(origin))?;
            source.logged = Logged::default();
            source.health.problem = None;
            Some(std::mem::replace(&mut source.health.ready, true))
        });
        if before == Some(false) {
            tracing::info!(tenant = %origin.tenant, source = %origin.source, kind = %origin.kind, "source takes events");
        }
    }

    /// What keeps a source from taking events now. Logged once until it takes events again.
    pub(crate) fn source_unready(&self, origin: &Origin, why: &str) {
        let is_new = self.change(|s| {
            let Some(SourceState { health, logged }) = s.sources.get_mut(&key(origin)) else { return false };
            health.ready = false;
            health.problem = Some(why.to_owned());
            health.last_error = Some(LastError { at: now(), error: why.to_owned() });
            logged.is_new(why)
        });
        if is_new {
            tracing::warn!(tenant = %origin.tenant, source = %origin.source, kind = %origin.kind, problem = why, "source cannot take events");
        }
    }

    pub(crate) fn source_held_back(&self, tenant: &Tenant, source: &str, why: Option<&str>) {
        self.change(|s| {
            if let Some(source) = s.sources.get_mut(&(tenant.to_string(), source.to_owned())) {
                source.health.held_back = why.map(str::to_owned);
            }
        });
    }

    /// What is paused from now on.
    pub(crate) fn paused(&self, paused: &Paused) {
        self.change(|s| s.paused.clone_from(paused));
    }

    /// Handlers whose code is still being compiled, or does not compile.
    pub(crate) fn late(&self, late: Late) {
        if self.0.state.lock().unwrap_or_else(PoisonError::into_inner).late != late {
            self.change(|s| s.late = late);
        }
    }

    pub(crate) fn source_restarted(&self, origin: &Origin) {
        self.change(|s| {
            if let Some(source) = s.sources.get_mut(&key(origin)) {
                source.health.restarts += 1;
            }
        });
    }

    pub(crate) fn store_problem(&self, problem: Option<String>) {
        let changed = self.change(|s| {
            let changed = s.store_problem.is_some() != problem.is_some();
            s.store_problem.clone_from(&problem);
            changed
        });
        match problem {
            Some(problem) if changed => tracing::error!(problem, "the store does not take writes"),
            None if changed => tracing::info!("the store takes writes again"),
            _ => {}
        }
    }

    /// There is a sink of this name, `tenant/sink`.
    pub(crate) fn expect_sink(&self, sink: &str) {
        self.change(|s| drop(s.sinks.insert(sink.to_owned(), SinkState::default())));
    }

    /// What keeps a sink from publishing now, logged once until it publishes again; `None`: nothing any more.
    pub(crate) fn sink_problem(&self, sink: &str, problem: Option<&str>) {
        let known = self.0.state.lock().unwrap_or_else(PoisonError::into_inner).sinks.get(sink).and_then(|s| s.problem.clone());
        if known.as_deref() == problem {
            return;
        }
        let is_new = self.change(|s| {
            let state = s.sinks.entry(sink.to_owned()).or_default();
            state.problem = problem.map(str::to_owned);
            match problem {
                Some(problem) => state.logged.is_new(problem),
                None => {
                    state.logged = Logged::default();
                    true
                }
            }
        });
        match problem {
            Some(problem) if is_new => tracing::warn!(sink, problem, "sink cannot publish: what is emitted waits in the store"),
            None => tracing::info!(sink, "sink publishes again"),
            _ => {}
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.change(|s| s.phase = phase);
    }

    /// What readiness knows now.
    pub fn report(&self) -> Report {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let sources: BTreeMap<_, _> =
            state.sources.iter().map(|((t, s), source)| (format!("{t}/{s}"), state.shown(t, s, &source.health))).collect();
        Report {
            // One that is paused takes nothing because somebody wants that: no reason to send everything else elsewhere.
            ready: state.phase == Phase::Running
                && state.store_problem.is_none()
                && state.late.values().all(Option::is_none)
                && sources.values().all(|s| s.ready || s.paused.is_some()),
            phase: state.phase,
            store: state.store_problem.clone(),
            sinks: state.sinks.iter().map(|(name, sink)| (name.clone(), sink.problem.clone())).collect(),
            sources,
            paused_handlers: state.paused_handlers(),
            late_handlers: state.late.iter().map(|((tenant, name), problem)| (format!("{tenant}/{name}"), problem.clone())).collect(),
        }
    }

    /// Wait until `condition` holds of the report. Cancel safe.
    pub async fn wait_for(&self, condition: impl Fn(&Report) -> bool) {
        let mut changed = self.0.changed.subscribe();
        while !condition(&self.report()) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn shown(&self, tenant: &str, source: &str, health: &SourceHealth) -> SourceHealth {
        let paused = self.paused.get(&(Tenant::new(tenant), Part::Source(source.to_owned()))).copied();
        SourceHealth { paused, ..health.clone() }
    }

    fn paused_handlers(&self) -> BTreeMap<String, Millis> {
        let handler = |((tenant, part), since): (&(Tenant, Part), &Millis)| match part {
            Part::Handler(name) => Some((format!("{tenant}/{name}"), *since)),
            Part::Source(_) => None,
        };
        self.paused.iter().filter_map(handler).collect()
    }
}

fn key(origin: &Origin) -> (String, String) {
    (origin.tenant.to_string(), origin.source.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_logged_once_in_an_outage_though_another_came_between() {
        let mut logged = Logged::default();
        assert_eq!(
            ["reset", "closed", "reset", "closed", "refused"].map(|problem| logged.is_new(problem)),
            [true, true, false, false, true]
        );
    }

    #[test]
    fn no_more_problems_are_kept_than_a_few() {
        let mut logged = Logged::default();
        for n in 0..100 {
            assert!(logged.is_new(&format!("connection {n} was lost")));
        }
        assert_eq!(logged.0.len(), LOGGED);
        assert!(!logged.is_new("connection 99 was lost"));
    }
}
