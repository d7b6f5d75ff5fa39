//! What runs the sources and sinks of a host, and changes which of them run while the others go on.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::{AbortHandle, JoinHandle},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    channel::{ControlSender, Credits, Origin},
    config::{Config, SinkConfig, SourceConfig, SourceKind},
    controller::settle::Settler,
    health::Health,
    listener::Routes,
    pause::Pauses,
    sink::outbox::Outbox,
    source::{
        Acceptor, Source, SourceContext,
        poller::PollerSource,
        queue::{embedded::EmbeddedQueue, kafka::KafkaSource, rabbitmq::RabbitmqSource},
        supervise,
        timer::TimerSource,
        webhook::WebhookSource,
    },
    store::Store,
    task,
    tenant::Tenant,
    token::Token,
};

/// How long something that was aborted may take to be gone.
const LAST: Duration = Duration::from_secs(1);

/// Which source or sink.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Member {
    /// `[sources.NAME]`, or one of the embedder's own.
    Source(Tenant, String),
    /// `[sinks.NAME]`
    Sink(Tenant, String),
}

impl Member {
    pub(crate) fn source(source: &SourceConfig) -> Self {
        Self::Source(source.tenant.clone(), source.name.clone())
    }

    pub(crate) fn sink(sink: &SinkConfig) -> Self {
        Self::Sink(sink.tenant.clone(), sink.name.clone())
    }

    /// As logs call it.
    pub(crate) fn name(&self) -> &str {
        let (Self::Source(_, name) | Self::Sink(_, name)) = self;
        name
    }
}

/// What sources and sinks are given.
pub(crate) struct Supplies {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) acceptor: Arc<dyn Acceptor>,
    pub(crate) settler: Arc<Settler>,
    pub(crate) routes: Routes,
    pub(crate) health: Health,
    pub(crate) pauses: Pauses,
    pub(crate) token: Token,
}

/// Runs sources and sinks.
pub(crate) struct Supervisor {
    /// Nothing, once nothing is started any more: who holds on to it keeps the controller from ending.
    supplies: Mutex<Option<(Arc<Supplies>, ControlSender)>>,
    /// All sources stop.
    stopping: CancellationToken,
    stop_sinks: CancellationToken,
    running: Mutex<BTreeMap<Member, Running>>,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What ran when the host began to stop, by name.
pub(crate) struct Leaving {
    pub(crate) sources: Vec<(String, JoinHandle<()>)>,
    pub(crate) sinks: Vec<(String, JoinHandle<()>)>,
}

impl Supervisor {
    /// A supervisor whose sources stop with `stopping`.
    pub(crate) fn new(supplies: Supplies, control: ControlSender, stopping: CancellationToken) -> Self {
        Self {
            supplies: Mutex::new(Some((Arc::new(supplies), control))),
            stopping,
            stop_sinks: CancellationToken::new(),
            running: Mutex::default(),
        }
    }

    /// Start a source of the configuration. Its gate has to be there already.
    pub(crate) fn start_source(&self, source: &SourceConfig, config: &Config) {
        let Some((supplies, _)) = self.supplies() else { return };
        let built = built_in(source, config, &supplies.token);
        let origin = Origin { tenant: source.tenant.clone(), source: source.name.as_str().into(), kind: source.kind.word().into() };
        self.start(origin, source.in_flight, built);
    }

    /// Start any source.
    pub(crate) fn start(&self, origin: Origin, in_flight: usize, source: Arc<dyn Source>) {
        let Some((supplies, control)) = self.supplies() else { return };
        let stop = self.stopping.child_token();
        let member = Member::Source(origin.tenant.clone(), origin.source.to_string());
        supplies.health.expect(&origin);
        let context = SourceContext {
            credits: Credits::behind(supplies.pauses.gate(&origin), in_flight),
            origin: Arc::new(origin),
            control,
            acceptor: supplies.acceptor.clone(),
            store: supplies.store.clone(),
            routes: supplies.routes.clone(),
            health: supplies.health.clone(),
            stopping: stop.clone(),
        };
        let task = task::spawn("source", supervise::supervise(source, context));
        self.running().insert(member, Running { stop, task });
    }

    /// Start the outbox of a sink.
    pub(crate) fn start_sink(&self, sink: &SinkConfig) {
        let Some((supplies, _)) = self.supplies() else { return };
        let stop = self.stop_sinks.child_token();
        let (settler, bell) = (supplies.settler.clone(), supplies.settler.bell.clone());
        let outbox = Outbox::new(sink.clone(), supplies.store.clone(), settler, bell, supplies.health.clone());
        let task = task::spawn("sink", outbox.run(stop.clone()));
        self.running().insert(Member::sink(sink), Running { stop, task });
    }

    /// Stop some, side by side: a source takes nothing new, what it brought is handled, its answers are carried out. The names of those that
    /// were aborted, because they did not end within this time.
    pub(crate) async fn stop(&self, members: &[Member], within: Option<Duration>) -> Vec<String> {
        let mut leaving = Vec::new();
        for member in members {
            let Some(running) = self.running().remove(member) else { continue };
            running.stop.cancel();
            leaving.push((member, running.task));
        }
        let by = within.map(|within| Instant::now() + within);
        let mut aborted = Vec::new();
        for (member, task) in leaving {
            if !ends(member.name(), task, by).await {
                aborted.push(member.name().to_owned());
            }
        }
        aborted
    }

    /// Whether a source has ended that nobody stopped.
    pub(crate) fn one_ended(&self) -> bool {
        self.running().iter().any(|(member, running)| matches!(member, Member::Source(..)) && running.task.is_finished())
    }

    /// Start nothing any more.
    pub(crate) fn start_no_more(&self) {
        drop(self.supplies.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Give away what runs.
    pub(crate) fn leave(&self) -> Leaving {
        let mut leaving = Leaving { sources: Vec::new(), sinks: Vec::new() };
        for (member, running) in mem::take(&mut *self.running()) {
            match member {
                Member::Source(_, name) => leaving.sources.push((name, running.task)),
                Member::Sink(_, name) => leaving.sinks.push((name, running.task)),
            }
        }
        leaving
    }

    /// The sinks publish what they can at once, and end.
    pub(crate) fn stop_sinks(&self) {
        self.stop_sinks.cancel();
    }

    /// End everything, wherever it is: the host is gone.
    pub(crate) fn abort(&self) {
        self.stopping.cancel();
        self.stop_sinks.cancel();
        self.start_no_more();
        self.running().values().for_each(|running| running.task.abort());
    }

    fn supplies(&self) -> Option<(Arc<Supplies>, ControlSender)> {
        self.supplies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<Member, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wait until a source or sink that was told to stop has ended. `false`: it did not in time, and was aborted.
pub(crate) async fn ends(name: &str, mut task: JoinHandle<()>, by: Option<Instant>) -> bool {
    let ended = match by {
        Some(by) => timeout_at(by, &mut task).await.ok(),
        None => Some((&mut task).await),
    };
    match ended {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            tracing::error!(name, %error, "a source or sink ended badly");
            true
        }
        None => {
            tracing::error!(name, "it ignores its stop: aborted");
            let handle: AbortHandle = task.abort_handle();
            handle.abort();
            // What it holds of the control channel goes with it, unless it never lets its thread go.
            let _ = timeout(LAST, task).await;
            false
        }
    }
}

fn built_in(source: &SourceConfig, config: &Config, token: &Token) -> Arc<dyn Source> {
    match &source.kind {
        SourceKind::Kafka(kafka) => Arc::new(KafkaSource::new(kafka.clone())),
        SourceKind::Rabbitmq(rabbitmq) => Arc::new(RabbitmqSource::new(rabbitmq.clone())),
        SourceKind::Embedded(embedded) => Arc::new(EmbeddedQueue::new(embedded.clone(), token.secret().clone())),
        SourceKind::Poller(poller) => Arc::new(PollerSource::new(poller.clone())),
        SourceKind::Webhook(webhook) => Arc::new(WebhookSource::new(webhook.clone(), config.reply_handler(source))),
        SourceKind::Timer(timer) => Arc::new(TimerSource::new(timer.clone())),
    }
}
