//! The graceful stop: named phases, a deadline, a second signal, the ledger.
//!
//! ```text
//! not ready (+ drain-delay) → sources stop taking → what has not started is returned → calls in flight until the deadline
//!   → what was cut goes back → sources carry out their answers, sinks publish → store closed → ledger → admin listener closed
//! ```

pub(crate) mod ledger;
pub mod signals;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    task::{AbortHandle, JoinHandle},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use ledger::{Counts, Ledger};

use crate::{
    admin::socket::ControlSocket,
    config::{Config, HostConfig},
    controller::{Command, Commands, Last, accept::DurableIntake, settle::Settler},
    health::{Health, Phase},
    host::Host,
    letters::{DeadLetters, HandledEvents},
    listener::{Routes, serve::Stop},
    pause::Pauses,
    reload::{Reloaded, Reloader},
    shutdown::ledger::Ledgers,
    store::Store,
    supervisor::{self, Supervisor},
};

/// What sources and commits may still take once every call has ended,
const RESERVE: Duration = Duration::from_secs(5);
/// and no longer than this past the drain deadline: with what is left to do then the host has ended a second after it.
const OVERTIME: Duration = Duration::from_millis(500);
/// How long a cut call may take to be gone: its fiber is dropped at its next wait, or at the next tick while it computes.
const CUT: Duration = Duration::from_secs(2);
/// What only has to be told that it is over.
const LAST: Duration = Duration::from_secs(1);

/// The parts of a running host that a stop has to do with.
pub(crate) struct Running {
    pub(crate) health: Health,
    pub(crate) ledgers: Ledgers,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) settler: Arc<Settler>,
    pub(crate) letters: DeadLetters,
    pub(crate) events: HandledEvents,
    pub(crate) pauses: Pauses,
    pub(crate) commands: Commands,
    pub(crate) stopping: CancellationToken,
    pub(crate) stop_listening: Stop,
    pub(crate) stop_admin: Stop,
    pub(crate) takedown: Takedown,
    pub(crate) cut: CancellationToken,
    pub(crate) calls: TaskTracker,
    pub(crate) controller: JoinHandle<()>,
    pub(crate) listener: JoinHandle<()>,
    pub(crate) admin: JoinHandle<()>,
    pub(crate) control_socket: Option<ControlSocket>,
    pub(crate) feeder: JoinHandle<()>,
    pub(crate) supervisor: Arc<Supervisor>,
    /// None: what serves never changes.
    pub(crate) reloader: Option<Reloader>,
    /// The last event that came, and who accepts it again.
    pub(crate) last: Option<(Last, Arc<DurableIntake>)>,
    pub(crate) keeper: JoinHandle<()>,
    pub(crate) routes: Routes,
    pub(crate) listen_address: SocketAddr,
    pub(crate) admin_address: SocketAddr,
    /// As they are now: a reload may have changed them.
    pub(crate) settings: Arc<ArcSwap<HostConfig>>,
}

impl Running {
    /// Have what is wanted serve: a configuration, or what the files say. It goes on though nobody waits for it.
    pub(crate) async fn reload(&self, wanted: Option<Config>, force: bool) -> Reloaded {
        match &self.reloader {
            Some(reloader) => reloader.ask(wanted, force, "the program").await,
            None => Reloaded::kept_old("what serves here never changes"),
        }
    }
}

/// What runs before it is stopped, and ends when this is dropped: the parts of a boot that failed, or of a host that was dropped without
/// a stop. For that host it is like the end of its process.
#[derive(Default)]
pub(crate) struct Takedown {
    tokens: Vec<CancellationToken>,
    tasks: Vec<AbortHandle>,
    supervisor: Option<Arc<Supervisor>>,
    store: Option<Arc<dyn Store>>,
}

impl Takedown {
    /// End whatever source and sink runs by then.
    pub(crate) fn supervisor(&mut self, supervisor: &Arc<Supervisor>) {
        self.supervisor = Some(supervisor.clone());
    }

    /// End something by its token.
    pub(crate) fn token(&mut self, token: &CancellationToken) {
        self.tokens.push(token.clone());
    }

    /// End a task.
    pub(crate) fn task<T>(&mut self, task: JoinHandle<T>) -> JoinHandle<T> {
        self.tasks.push(task.abort_handle());
        task
    }

    /// Let go of the store too, first of all: what ends afterwards writes nothing more.
    pub(crate) fn store(&mut self, store: &Arc<dyn Store>) {
        self.store = Some(store.clone());
    }

    /// Everything has ended in good order.
    fn done(mut self) {
        self.tokens.clear();
        self.tasks.clear();
        self.supervisor = None;
        self.store = None;
    }
}

impl Drop for Takedown {
    fn drop(&mut self) {
        if let Some(store) = &self.store {
            store.abandon();
        }
        self.tokens.iter().for_each(CancellationToken::cancel);
        if let Some(supervisor) = &self.supervisor {
            supervisor.abort();
        }
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// What was received and what became of each.
    pub ledger: Ledger,
    /// The sources that ignored their stop signal and were aborted.
    pub aborted: Vec<String>,
    /// How long it took from the first signal, without `drain-delay`.
    pub took: Duration,
}

impl Stopped {
    /// The one line the binary writes to standard output.
    pub fn line(&self) -> String {
        #[derive(serde::Serialize)]
        struct Line<'a> {
            ledger: &'a Ledger,
            drain_ms: u64,
        }
        let drain_ms = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        serde_json::to_string(&Line { ledger: &self.ledger, drain_ms }).unwrap_or_default()
    }

    /// 0: clean, 3: a started call was cut, 4: the ledger does not balance.
    pub fn exit_code(&self) -> u8 {
        match (self.ledger.balanced, self.ledger.cut) {
            (false, _) => 4,
            (true, 0) => 0,
            (true, _) => 3,
        }
    }
}

impl Host {
    /// Where webhooks and queues are served.
    pub fn listen_address(&self) -> SocketAddr {
        self.running.listen_address
    }

    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub fn admin_address(&self) -> SocketAddr {
        self.running.admin_address
    }

    /// What readiness knows.
    pub fn health(&self) -> &Health {
        &self.running.health
    }

    /// Wait until every source takes events. Cancel safe.
    pub async fn ready(&self) {
        self.running.health.wait_for(|report| report.ready).await;
    }

    /// Its dead letters.
    pub fn dead_letters(&self) -> DeadLetters {
        self.running.letters.clone()
    }

    /// The handled events that it keeps.
    pub fn handled_events(&self) -> HandledEvents {
        self.running.events.clone()
    }

    /// What was received so far and what became of it.
    pub fn ledger(&self) -> Ledger {
        self.running.ledgers.ledger()
    }

    /// Wait until something of the host has ended that cannot be started again; then it has to be shut down. Cancel safe.
    pub async fn failed(&self) {
        let Running { controller, listener, feeder, supervisor, .. } = &self.running;
        // Sources are kept running by their task; when it ends before the stop, nobody does.
        while !(controller.is_finished() || listener.is_finished() || feeder.is_finished() || supervisor.one_ended()) {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Stop: drain what is in flight and account for everything. `hurry` fires when calls that still run are to be cut at once (a second
    /// signal).
    ///
    /// Not cancel safe: dropped half way, what was not settled is delivered again.
    pub async fn shutdown_with(self, hurry: CancellationToken) -> Stopped {
        drain(self.running, hurry).await
    }

    /// Stop: drain what is in flight and account for everything.
    ///
    /// Not cancel safe: dropped half way, what was not settled is delivered again.
    pub async fn shutdown(self) -> Stopped {
        self.shutdown_with(CancellationToken::new()).await
    }
}

/// Says how long each phase of the drain took.
struct Phases {
    began: Instant,
}

impl Phases {
    fn ended(&mut self, phase: &str) {
        tracing::info!(phase, took = ?self.began.elapsed(), "drain");
        self.began = Instant::now();
    }
}

async fn drain(running: Running, hurry: CancellationToken) -> Stopped {
    let mut phases = Phases { began: Instant::now() };
    running.health.enter(Phase::Draining);
    let settings = running.settings.load_full();
    if !settings.drain_delay.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(settings.drain_delay) => {}
            () = hurry.cancelled() => {}
        }
    }
    phases.ended("not ready");
    let began = Instant::now();
    let deadline = settings.drain_deadline.map(|deadline| began + deadline);

    running.stop_listening.graceful.cancel();
    running.supervisor.start_no_more();
    running.stopping.cancel();
    running.pauses.open_gates();
    phases.ended("sources stop taking");

    let commands = &running.commands;
    // No answer: the controller is gone, and with it all that waited.
    let _ = commands.ask(Command::Return).await;
    phases.ended("what has not started is returned");

    running.calls.close();
    tokio::select! {
        _ = async { tokio::join!(commands.ask(Command::Idle), running.calls.wait()) } => {}
        () = until(deadline) => tracing::warn!("the drain deadline has passed: calls that still run are cut"),
        () = hurry.cancelled() => tracing::warn!("a second signal: calls that still run are cut"),
    }
    phases.ended("calls in flight");

    running.cut.cancel();
    let _ = commands.ask(Command::ReturnAll).await;
    if timeout(CUT, running.calls.wait()).await.is_err() {
        tracing::error!("a call that was cut is still not gone");
    }
    phases.ended("what was cut goes back");

    let reserve = Instant::now() + RESERVE;
    let flushed_by = deadline.map_or(reserve, |deadline| reserve.min(deadline + OVERTIME));
    if let Some(reloader) = &running.reloader {
        reloader.close(flushed_by).await;
    }
    let leaving = running.supervisor.leave();
    let mut aborted = Vec::new();
    for (name, source) in leaving.sources.into_iter().chain([("tasks".to_owned(), running.feeder)]) {
        if !supervisor::ends(&name, source, Some(flushed_by)).await {
            aborted.push(name);
        }
    }
    // No call runs any more: what was emitted is in the store, and goes out as far as the brokers take it now.
    running.supervisor.stop_sinks();
    for (name, sink) in leaving.sinks {
        stop_task(&name, sink, flushed_by).await;
    }
    stop_task("listener", running.listener, flushed_by).await;
    running.stop_listening.now.cancel();
    stop_task("store keeper", running.keeper, flushed_by).await;
    drop((running.commands, running.routes));
    // With the last sender gone the controller returns what was still in the channel.
    stop_task("controller", running.controller, flushed_by.max(Instant::now() + LAST)).await;
    if timeout(LAST, running.calls.wait()).await.is_err() {
        tracing::error!("a call is still not settled");
    }
    if let Err(error) = running.settler.release_returned().await {
        tracing::warn!(%error, "claims could not be released; they end with this process");
    }
    phases.ended("sources flushed");

    if let Err(error) = running.store.close().await {
        tracing::error!(%error, "the store did not close cleanly");
    }
    phases.ended("store closed");

    let stopped = Stopped { ledger: running.ledgers.ledger(), aborted, took: began.elapsed() };
    running.stop_admin.graceful.cancel();
    drop(running.control_socket);
    stop_task("admin listener", running.admin, Instant::now() + Duration::from_secs(1)).await;
    phases.ended("admin listener closed");
    running.takedown.done();
    stopped
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn stop_task(name: &str, mut task: JoinHandle<()>, by: Instant) {
    if timeout_at(by, &mut task).await.is_err() {
        task.abort();
        tracing::warn!(task = name, "did not end in time: aborted");
    }
}
