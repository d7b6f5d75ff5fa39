//! From a configuration to a running host: the one file that knows every part.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::serve::Listener as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, Admin},
    channel::{Credits, Origin, control_channel},
    config::{Config, HostConfig, SourceConfig, SourceKind, StoreConfig, Unmatched},
    controller::{
        Commands, Controller,
        accept::{DurableIntake, Router},
        attempts::Attempts,
        bell::Bell,
        generation::{EMIT, EMITTED, Generation, Policy},
        probation::{self, Probation},
        settle::Settler,
    },
    health::{Health, Phase},
    letters::{DeadLetters, HandledEvents},
    listener::{
        Routes,
        serve::{self, Stop},
    },
    pause::{Part, Parts, PauseError, Pauses, Records},
    plugin::{Handler, Loader, load::LoadError},
    shutdown::{Running, Takedown, ledger::Ledgers},
    sink::outbox::Outbox,
    source::{
        Source, SourceContext,
        poller::PollerSource,
        queue::{embedded::EmbeddedQueue, kafka::KafkaSource, rabbitmq::RabbitmqSource},
        supervise,
        tasks::{FeederState, TaskFeeder},
        timer::TimerSource,
        webhook::WebhookSource,
    },
    store::{Retention, Store, postgres::PostgresStore, sqlite::SqliteStore},
    task, telemetry,
    tenant::Tenant,
    token::Token,
};

/// A running host.
///
/// Dropping it without [`Host::shutdown`] is like the end of its process: nothing more is written, its store is free for the next at once
/// (which blocks for as long as a write takes), everything it started ends soon after. What was not settled is delivered again.
pub struct Host {
    pub(crate) running: Running,
}

/// Puts a host together.
pub struct HostBuilder {
    config: Config,
    sources: Vec<(String, usize, Arc<dyn Source>)>,
}

/// Which phase of the boot failed, and why. What was started before it has been stopped again.
#[derive(Debug, thiserror::Error)]
#[error("{phase}: {error:#}")]
pub struct BootError {
    /// The phase.
    pub phase: &'static str,
    /// Why.
    pub error: anyhow::Error,
}

fn phase<E: Into<anyhow::Error>>(phase: &'static str) -> impl FnOnce(E) -> BootError {
    move |error| BootError { phase, error: error.into() }
}

impl Host {
    /// Start putting a host together.
    pub fn builder() -> HostBuilder {
        HostBuilder { config: Config::default(), sources: Vec::new() }
    }

    /// Pause a source or a handler of the default tenant, until it is resumed: a restart does not, and every host that shares the store heeds
    /// it. Pausing twice is no error.
    ///
    /// # Errors
    /// When there is nothing of this name, or the store fails.
    pub async fn pause(&self, part: Part) -> Result<(), PauseError> {
        self.running.pauses.pause(&Tenant::default(), &part).await.map(drop)
    }

    /// Have it go on. `false`: it was not paused.
    ///
    /// # Errors
    /// When there is nothing of this name, or the store fails.
    pub async fn resume(&self, part: Part) -> Result<bool, PauseError> {
        self.running.pauses.resume(&Tenant::default(), &part).await
    }

    /// What is paused now.
    pub fn paused(&self) -> Vec<Part> {
        self.running.pauses.paused().into_keys().map(|(_, part)| part).collect()
    }
}

impl HostBuilder {
    /// What the host does: its store, its limits, its handlers, its sources. [`Config::load`] reads it from a file.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// A source of the embedder's own, under a name that handlers subscribe to; `in_flight` events of it may be inside the host at once.
    pub fn source(mut self, name: impl Into<String>, in_flight: usize, source: impl Source) -> Self {
        self.sources.push((name.into(), in_flight, Arc::new(source)));
        self
    }

    /// Boot: store → plugins → controller → listeners → sources. Returns when sources were started; [`Host::ready`] waits until they take
    /// events.
    ///
    /// # Errors
    /// With the phase that failed; the earlier ones are undone.
    pub async fn build(self) -> Result<Host, BootError> {
        let HostBuilder { config, sources: own } = self;
        let health = Health::default();
        let ledgers = Ledgers::default();

        // Metrics first: whoever counts asks for its counters once.
        let _ = telemetry::metrics();

        // Store.
        let store = open_store(&config).await.map_err(phase("store"))?;
        match boot(&config, own, &store, health, ledgers).await {
            Ok(running) => Ok(Host { running }),
            Err(error) => {
                // That the last end was a bad one is for the start that takes events.
                if store.ended_badly() {
                    store.abandon();
                } else {
                    let _ = store.close().await;
                }
                Err(error)
            }
        }
    }
}

async fn boot(
    config: &Config,
    own: Vec<(String, usize, Arc<dyn Source>)>,
    store: &Arc<dyn Store>,
    health: Health,
    ledgers: Ledgers,
) -> Result<Running, BootError> {
    let mut takedown = Takedown::default();

    // Plugins: built, compiled, linked.
    let handlers = load_handlers(config, store.clone()).await.map_err(phase("plugins"))?;
    let generation = Arc::new(ArcSwap::from_pointee(Generation::new(handlers, policies(config), config.sinks.clone())));

    // The control channel and the controller, receiving.
    let bell = Bell::default();
    let router = Router { generation: generation.clone(), keep: !config.host.keep_events.is_zero() };
    let orders = store.orders().await.map_err(phase("store"))?;
    let parts = own.iter().fold(Parts::of(config), |parts, (name, _, _)| parts.own(name));
    let records = Records { store: store.clone(), parts: Arc::new(parts) };
    let ended_badly = store.ended_badly() || admin::socket::is_left_behind(&config.host.store);
    let in_flight = config.sources.iter().map(|source| source.in_flight as u64).sum();
    let attempts = Attempts::load(store.clone(), ended_badly, in_flight, config.host.dedup_for).await.map_err(phase("store"))?;
    let pauses = Pauses::load(records, health.clone()).await.map_err(phase("store"))?;
    let settler = Arc::new(Settler {
        store: store.clone(),
        ledgers: ledgers.clone(),
        health: health.clone(),
        bell: bell.clone(),
        router: router.clone(),
        pauses: pauses.clone(),
        attempts,
        returned: Default::default(),
        parked: Mutex::new(orders.into_iter().collect()),
    });
    let task_credits = in_flight_of_tasks(config);
    let groups = (config.sources.len() + own.len() + 1) * config.handlers.len().max(1);
    let credits =
        own.iter().map(|(_, n, _)| n).sum::<usize>() + config.sources.iter().map(|s| s.in_flight).sum::<usize>() + groups * task_credits;
    let (control, receiver) = control_channel(credits);
    if ended_badly {
        tracing::warn!("the last host on this store ended without a stop: what was in flight is run with care for a while");
    }
    let probation = if ended_badly { Probation::of(config, own.iter().map(|(name, n, _)| (name.as_str(), *n))) } else { Probation::none() };
    let (commands, command_receiver) = Commands::new();
    let cut = CancellationToken::new();
    let calls = TaskTracker::new();
    let controller = Controller {
        control: receiver,
        commands: command_receiver,
        generation: generation.clone(),
        settler: settler.clone(),
        ledgers: ledgers.clone(),
        probation,
        concurrency: config.host.concurrency,
        credits,
        start_number: store.start_number(),
        cut: cut.clone(),
        calls: calls.clone(),
    };
    takedown.token(&cut);
    let controller = takedown.task(task::spawn("controller", controller.run()));

    // Listeners: bound before anything takes events.
    if let Some(folder) = config.host.store.folder() {
        std::fs::create_dir_all(folder).map_err(phase("folder of the store"))?;
    }
    let token = Token::open(&config.host.store).map_err(phase("token"))?;
    let routes = Routes::default();
    let stop_listening = Stop::default();
    let listener = serve::bind(config.host.listen).await.map_err(phase("listener"))?;
    let listen_address = listener.local_addr().map_err(phase("listener"))?;
    let admin_listener = serve::bind(config.host.admin).await.map_err(phase("admin listener"))?;
    let admin_address = admin_listener.local_addr().map_err(phase("admin listener"))?;
    let letters = DeadLetters::serving(config, store.clone(), generation.clone(), settler.clone());
    let events = HandledEvents::new(store.clone(), generation.clone(), bell.clone());
    let admin = Admin {
        health: health.clone(),
        store: store.clone(),
        letters: letters.clone(),
        events: events.clone(),
        commands: commands.clone(),
        pauses: pauses.clone(),
        ledgers: ledgers.clone(),
        token: token.clone(),
        routes: routes.clone(),
        started: std::time::Instant::now(),
    };
    let stop_admin = Stop::default();
    takedown.token(&stop_listening.now);
    takedown.token(&stop_admin.now);
    let listener = takedown.task(task::spawn("listener", serve::serve(listener, routes.router(), stop_listening.clone())));
    let admin_router = admin::router(admin.clone());
    let admin_task = takedown.task(task::spawn("admin listener", serve::serve(admin_listener, admin_router, stop_admin.clone())));
    let control_socket = admin::socket::start(&config.host.store, admin, stop_admin.clone()).map_err(phase("control socket"))?;

    // Sources.
    let stopping = CancellationToken::new();
    let feeder = TaskFeeder {
        store: store.clone(),
        control: control.clone(),
        settler: settler.clone(),
        bell: bell.clone(),
        pauses: pauses.clone(),
        in_flight: task_credits,
        careful: ended_badly.then(|| (tokio::time::Instant::now() + probation::SOON, config.host.concurrency)),
        stopping: stopping.clone(),
    };
    takedown.token(&stopping);
    takedown.store(store);
    let feeder = takedown.task(task::spawn("tasks", feeder.run(FeederState::default())));
    let mut sources = vec![("tasks".to_owned(), feeder)];
    let acceptor = Arc::new(DurableIntake { router, store: store.clone(), bell, health: health.clone(), ledgers: ledgers.clone() });
    let context = |tenant: Tenant, name: &str, kind: &str, in_flight: usize| {
        let origin = Origin { tenant, source: name.into(), kind: kind.into() };
        SourceContext {
            credits: Credits::behind(pauses.gate(&origin), in_flight),
            origin,
            control: control.clone(),
            acceptor: acceptor.clone(),
            store: store.clone(),
            routes: routes.clone(),
            health: health.clone(),
            stopping: stopping.clone(),
        }
    };
    let mut to_start = Vec::new();
    for source in &config.sources {
        let context = context(source.tenant.clone(), &source.name, source.kind.word(), source.in_flight);
        to_start.push((built_in(source, config, &token), context));
    }
    for (name, in_flight, source) in own {
        let context = context(Tenant::default(), &name, source.kind(), in_flight);
        to_start.push((source, context));
    }
    for (_, context) in &to_start {
        health.expect(context.origin());
    }
    for (source, context) in to_start {
        let name = context.origin().source.to_string();
        sources.push((name, takedown.task(task::spawn("source", supervise::supervise(source, context)))));
    }
    let stop_sinks = CancellationToken::new();
    takedown.token(&stop_sinks);
    let mut sinks = Vec::new();
    for sink in &config.sinks {
        let outbox = Outbox::new(sink.clone(), store.clone(), settler.clone(), settler.bell.clone(), health.clone());
        sinks.push((sink.name.clone(), takedown.task(task::spawn("sink", outbox.run(stop_sinks.clone())))));
    }
    drop((control, acceptor));
    let keep = keep_retention(store.clone(), retention(config), stopping.clone());
    let watch = watch_store(store.clone(), health.clone(), stopping.clone());
    let heed = pauses.clone().keep(stopping.clone());
    let keeper = takedown.task(task::spawn("store keeper", async { tokio::join!(keep, watch, heed).0 }));
    health.enter(Phase::Running);

    Ok(Running {
        health,
        ledgers,
        store: store.clone(),
        settler,
        letters,
        events,
        pauses,
        commands,
        stopping,
        stop_listening,
        stop_admin,
        takedown,
        cut,
        calls,
        controller,
        listener,
        admin: admin_task,
        control_socket,
        sources,
        stop_sinks,
        sinks,
        keeper,
        routes,
        listen_address,
        admin_address,
        drain_deadline: config.host.drain_deadline,
        drain_delay: config.host.drain_delay,
    })
}

async fn open_store(config: &Config) -> Result<Arc<dyn Store>, crate::store::StoreError> {
    let place = config.host.store.clone();
    let opened = match place {
        StoreConfig::Postgres { url, .. } => return Ok(Arc::new(PostgresStore::open(&url).await?)),
        StoreConfig::Sqlite(path) => tokio::task::spawn_blocking(move || SqliteStore::open(&path)),
        StoreConfig::Memory => tokio::task::spawn_blocking(SqliteStore::in_memory),
    };
    let store = opened.await.map_err(|e| crate::store::StoreError::Other(e.to_string()))??;
    Ok(Arc::new(store))
}

/// Load every handler; every problem is reported, not only the first.
async fn load_handlers(config: &Config, store: Arc<dyn Store>) -> anyhow::Result<Vec<Arc<Handler>>> {
    let loader = Arc::new(Loader::of(config, store)?);
    let mut handlers = Vec::new();
    let mut problems = Vec::new();
    for handler in &config.handlers {
        match loader.load(handler).await {
            Ok(handler) => handlers.push(handler),
            Err(error) => problems.push(error),
        }
    }
    all_or(handlers, problems)
}

/// Build and load every handler and serve nothing, as `koksmat check` does.
///
/// # Errors
/// Everything that is wrong with them.
pub async fn check_handlers(config: &Config) -> anyhow::Result<()> {
    build_handlers(config, |_, _, _| {}).await
}

/// Build, compile and load every handler into the cache. `built` is told of each: whether it was there already, and how long it took.
///
/// # Errors
/// Everything that is wrong with them.
pub async fn build_handlers(config: &Config, built: impl Fn(&str, bool, Duration)) -> anyhow::Result<()> {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory()?);
    let loader = Arc::new(Loader::of(config, store)?);
    let mut problems = Vec::new();
    for handler in &config.handlers {
        let started = std::time::Instant::now();
        match loader.build(handler).await {
            Ok(ready) => built(&handler.name, ready, started.elapsed()),
            Err(error) => problems.push(error),
        }
    }
    all_or((), problems)
}

fn all_or<T>(value: T, problems: Vec<LoadError>) -> anyhow::Result<T> {
    if problems.is_empty() {
        return Ok(value);
    }
    Err(anyhow::Error::msg(problems.iter().map(LoadError::to_string).collect::<Vec<_>>().join("\n")))
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

fn policies(config: &Config) -> HashMap<(Tenant, Arc<str>), Policy> {
    let of = |source: &SourceConfig| {
        let backlog = match &source.kind {
            SourceKind::Embedded(embedded) => Some(embedded.backlog),
            _ => None,
        };
        ((source.tenant.clone(), Arc::from(source.name.as_str())), Policy { unmatched: source.unmatched, backlog })
    };
    // What sinks cannot publish now waits in the store, like any backlog up to a bound.
    let emitted = ((Tenant::default(), Arc::from(EMIT)), Policy { unmatched: Unmatched::DeadLetter, backlog: Some(EMITTED) });
    config.sources.iter().map(of).chain([emitted]).collect()
}

fn in_flight_of_tasks(config: &Config) -> usize {
    config.sources.iter().map(|source| source.in_flight).max().unwrap_or(256)
}

fn retention(config: &Config) -> Retention {
    let HostConfig { dedup_for, keep_dead_letters, keep_events, keep_events_size, .. } = config.host;
    Retention { settled: dedup_for, dead_letters: keep_dead_letters, kept: keep_events, kept_bytes: keep_events_size }
}

/// Forget what is older than it has to be remembered, every now and then.
async fn keep_retention(store: Arc<dyn Store>, retention: Retention, stopping: CancellationToken) {
    // What is bounded by its bytes is looked at more often than what is bounded by its age alone.
    let every = if retention.kept.is_zero() { Duration::from_secs(600) } else { Duration::from_secs(10) };
    loop {
        match store.expire(retention.clone()).await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, "forgot what is older than it has to be remembered"),
            Err(error) => tracing::warn!(%error, "cannot forget old rows"),
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// While the store takes no writes, try whether it does again: nobody may send anything to a host that is not ready.
async fn watch_store(store: Arc<dyn Store>, health: Health, stopping: CancellationToken) {
    const EVERY: Duration = Duration::from_secs(1);
    /// Room for some calls: what takes the last free page makes no store ready.
    const PROBE: usize = 64 << 10;
    let write = |value| store.set_state(Tenant::default(), "(store)".into(), vec![("probe".to_owned(), value)]);
    let watch = async {
        loop {
            health.wait_for(|report| report.store.is_some()).await;
            tokio::time::sleep(EVERY).await;
            let probed = match write(Some(vec![0; PROBE])).await {
                Ok(()) => write(None).await,
                failed => failed,
            };
            health.store_problem(probed.err().map(|error| error.to_string()));
        }
    };
    tokio::select! {
        () = stopping.cancelled() => {}
        () = watch => {}
    }
}

impl Default for Config {
    /// No file, a store in memory, listeners on free ports of the loopback address: for embedders that add what they need.
    fn default() -> Self {
        let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            file: Default::default(),
            host: HostConfig {
                listen: loopback,
                admin: loopback,
                store: StoreConfig::Memory,
                concurrency: 64,
                drain_deadline: Some(Duration::from_secs(30)),
                drain_delay: Duration::ZERO,
                watch: false,
                dedup_for: Duration::from_secs(7 * 24 * 3600),
                keep_dead_letters: Duration::from_secs(30 * 24 * 3600),
                keep_events: Duration::ZERO,
                keep_events_size: 256 << 20,
            },
            sources: Vec::new(),
            handlers: Vec::new(),
            sinks: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Config {
    /// The one handler that answers the requests of a webhook with `reply = "handler"`.
    fn reply_handler(&self, source: &SourceConfig) -> Option<String> {
        let event_of = |entry: &crate::config::Subscription| {
            let fits = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| crate::config::matches(wanted, found));
            fits(&entry.source, &source.name) && fits(&entry.kind, source.kind.word())
        };
        let mut wanting = self.handlers.iter().filter(|h| h.tenant == source.tenant && h.on.iter().any(event_of));
        wanting.next().map(|handler| handler.name.clone())
    }
}
