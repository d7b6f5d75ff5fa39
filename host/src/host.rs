//! From a configuration to a running host: the one file that knows every part.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use axum::serve::Listener as _;
use futures_util::{StreamExt, stream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, Admin},
    channel::{Origin, control_channel},
    config::{Config, HandlerConfig, HostConfig, SourceConfig, StoreConfig},
    controller::{
        Commands, Controller, Last,
        accept::{DurableIntake, Router},
        attempts::Attempts,
        bell::Bell,
        generation::Generation,
        probation::{self, Probation},
        settle::Settler,
    },
    event::Event,
    health::{Health, Phase},
    letters::{DeadLetters, HandledEvents},
    listener::{
        Routes,
        serve::{self, Stop},
    },
    pause::{Part, Parts, PauseError, Pauses, Records},
    plugin::{Loader, load::LoadError},
    reload::{self, Book, Handlers, Plugin, Reloaded, Reloader, Works},
    shutdown::{Running, Takedown, ledger::Ledgers},
    source::{
        AcceptRequest, Acceptor, Source,
        tasks::{FeederState, TaskFeeder},
    },
    store::{Retention, Store, StoreError, postgres::PostgresStore, sqlite::SqliteStore},
    supervisor::{Supervisor, Supplies},
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
    last: Option<Last>,
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
        HostBuilder { config: Config::default(), sources: Vec::new(), last: None }
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

    /// Read the configuration file again, and all that it names, and have that serve: everything of it, or nothing where something is wrong
    /// with it. `force`: though events wait that nobody would take any more.
    ///
    /// Cancel safe in that either happens also when this is dropped half way.
    pub async fn reload(&self, force: bool) -> Reloaded {
        self.running.reload(None, force).await
    }

    /// The same with a configuration that is given.
    pub async fn reload_with(&self, config: Config, force: bool) -> Reloaded {
        self.running.reload(Some(config), force).await
    }

    /// Which versions of the handlers serve and served.
    pub fn plugins(&self) -> Vec<Plugin> {
        match &self.running.reloader {
            Some(reloader) => reloader.plugins(),
            None => Vec::new(),
        }
    }

    /// Have an earlier version of a handler serve, and not what its files say, until they say something else. `version`: the beginning of a
    /// digest; none: what serves where new code stands beside it, else the last one that served before. It holds for the next start too.
    pub async fn roll_back(&self, handler: &str, version: Option<&str>) -> Reloaded {
        match &self.running.reloader {
            Some(reloader) => reloader.roll_back(&(Tenant::default(), handler.to_owned()), version).await,
            None => Reloaded::kept_old("what serves here never changes"),
        }
    }

    /// Have the new version of a handler serve that has a share of its calls, without waiting until it is known to be as good.
    pub fn promote(&self, handler: &str) -> Reloaded {
        match &self.running.reloader {
            Some(reloader) => reloader.promote(&(Tenant::default(), handler.to_owned())),
            None => Reloaded::kept_old("what serves here never changes"),
        }
    }

    /// Like [`reload`](Self::reload), without waiting for it: what comes of it is in the log, with who `asked`.
    pub fn begin_reload(&self, asked: &'static str) {
        if let Some(reloader) = self.running.reloader.clone() {
            task::spawn("reload", async move { reloader.ask(None, false, asked).await });
        }
    }

    /// Have the last event that came handled again by all that want it, as if it were a new one; its id. None: none came, or the host is not
    /// one [for development](HostBuilder::for_development).
    ///
    /// # Errors
    /// When the store fails.
    pub async fn replay_last(&self) -> Result<Option<String>, StoreError> {
        let Some((last, acceptor)) = &self.running.last else { return Ok(None) };
        let Some(came) = last.load_full() else { return Ok(None) };
        let (origin, event) = &*came;
        acceptor.accept(origin, vec![AcceptRequest { event: Event::clone(event), ..AcceptRequest::default() }]).await?;
        Ok(Some(event.id.clone()))
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

    /// For whoever writes handlers: files are watched whatever the configuration says of that, and the last event that came is remembered for
    /// [`Host::replay_last`].
    pub fn for_development(mut self) -> Self {
        self.last = Some(Last::default());
        self
    }

    /// Boot: store → plugins → controller → listeners → sources. Returns when sources were started; [`Host::ready`] waits until they take
    /// events.
    ///
    /// # Errors
    /// With the phase that failed; the earlier ones are undone.
    pub async fn build(self) -> Result<Host, BootError> {
        let HostBuilder { config, sources: own, last } = self;
        let health = Health::default();
        let ledgers = Ledgers::default();

        // Metrics first: whoever counts asks for its counters once.
        let _ = telemetry::metrics();

        // Store.
        let store = open_store(&config).await.map_err(phase("store"))?;
        match boot(&config, own, &store, health, ledgers, last).await {
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

/// The least the control channel has room for: a place costs nothing until it is used.
const ROOM: usize = 1 << 16;

async fn boot(
    config: &Config,
    own: Vec<(String, usize, Arc<dyn Source>)>,
    store: &Arc<dyn Store>,
    health: Health,
    ledgers: Ledgers,
    last: Option<Last>,
) -> Result<Running, BootError> {
    let mut takedown = Takedown::default();

    // Plugins: built, compiled, linked.
    let loader = Arc::new(Loader::of(config, store.clone()).map_err(phase("plugins"))?);
    let loaded = reload::load_all(&loader, config, &Handlers::new()).await.map_err(|errors| phase("plugins")(all_of(&errors)))?;
    let book = Book::open(config.host.store.folder());
    reload::recall(&loader, &book, &loaded).await;
    let handlers = loaded.values().map(|loaded| loaded.handler.clone());
    let generation = Arc::new(ArcSwap::from_pointee(Generation::of(config, handlers)));
    let settings = Arc::new(ArcSwap::from_pointee(config.host.clone()));

    // The control channel and the controller, receiving.
    let bell = Bell::default();
    let router = Router { generation: generation.clone(), keep: !config.host.keep_events.is_zero() };
    let orders = store.orders().await.map_err(phase("store"))?;
    let parts = own.iter().fold(Parts::of(config), |parts, (name, _, _)| parts.own(name));
    let records = Records::new(store.clone(), parts);
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
    // Sources that a reload adds have credits too.
    let (control, receiver) = control_channel(credits.max(ROOM));
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
        last: last.clone(),
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
    config.sources.iter().filter_map(SourceConfig::path).for_each(|path| routes.expect(&path));
    let stop_listening = Stop::default();
    let listener = serve::bind(config.host.listen).await.map_err(phase("listener"))?;
    let listen_address = listener.local_addr().map_err(phase("listener"))?;
    let admin_listener = serve::bind(config.host.admin).await.map_err(phase("admin listener"))?;
    let admin_address = admin_listener.local_addr().map_err(phase("admin listener"))?;
    let letters = DeadLetters::serving(config, store.clone(), generation.clone(), settler.clone());
    let events = HandledEvents::new(store.clone(), generation.clone(), bell.clone());
    let stopping = CancellationToken::new();
    let acceptor =
        Arc::new(DurableIntake { router, store: store.clone(), bell: bell.clone(), health: health.clone(), ledgers: ledgers.clone() });
    let last = last.map(|last| (last, acceptor.clone()));
    let supplies = Supplies {
        store: store.clone(),
        acceptor,
        settler: settler.clone(),
        routes: routes.clone(),
        health: health.clone(),
        pauses: pauses.clone(),
        token: token.clone(),
    };
    let supervisor = Arc::new(Supervisor::new(supplies, control.clone(), stopping.clone()));
    takedown.supervisor(&supervisor);
    let works = Works {
        loader,
        book,
        generation,
        supervisor: supervisor.clone(),
        pauses: pauses.clone(),
        letters: letters.clone(),
        routes: routes.clone(),
        health: health.clone(),
        bell: bell.clone(),
        store: store.clone(),
        settings: settings.clone(),
        own: own.iter().map(|(name, _, _)| name.clone()).collect(),
        for_development: last.is_some(),
    };
    let reloader = Reloader::new(works, config.clone(), loaded);
    let admin = Admin {
        health: health.clone(),
        store: store.clone(),
        letters: letters.clone(),
        events: events.clone(),
        commands: commands.clone(),
        pauses: pauses.clone(),
        reloader: reloader.clone(),
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
    for source in &config.sources {
        supervisor.start_source(source, config);
    }
    for (name, in_flight, source) in own {
        let origin = Origin { tenant: Tenant::default(), source: name.into(), kind: source.kind().into() };
        supervisor.start(origin, in_flight, source);
    }
    for sink in &config.sinks {
        supervisor.start_sink(sink);
    }
    drop(control);
    if !config.file.as_os_str().is_empty() {
        takedown.task(task::spawn("watch", reload::watch::watch(reloader.clone(), stopping.clone())));
    }
    takedown.task(task::spawn("versions", reloader.clone().keep_book(stopping.clone())));
    let keep = keep_retention(store.clone(), settings.clone(), stopping.clone());
    let watch = watch_store(store.clone(), health.clone(), stopping.clone());
    let heed = pauses.clone().keep(stopping.clone());
    let keeper = takedown.task(task::spawn("store keeper", async { tokio::join!(keep, watch, heed).0 }));
    takedown.task(task::spawn("metrics", telemetry::sort(stopping.clone())));
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
        feeder,
        supervisor,
        reloader: Some(reloader),
        last,
        keeper,
        routes,
        listen_address,
        admin_address,
        settings,
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
    let at_once = std::thread::available_parallelism().map_or(2, |n| n.get());
    let build = |(nth, handler): (usize, &HandlerConfig)| {
        let (loader, handler, started) = (&loader, handler.clone(), std::time::Instant::now());
        async move { (nth, loader.build(&handler).await, handler.name, started) }
    };
    let mut building = stream::iter(config.handlers.iter().enumerate().map(build)).buffer_unordered(at_once);
    while let Some((nth, result, name, started)) = building.next().await {
        match result {
            Ok(ready) => built(&name, ready, started.elapsed()),
            Err(error) => problems.push((nth, error)),
        }
    }
    // What is wrong is told in the order of the file.
    problems.sort_by_key(|(nth, _)| *nth);
    let problems: Vec<_> = problems.into_iter().map(|(_, error)| error).collect();
    if problems.is_empty() { Ok(()) } else { Err(all_of(&problems)) }
}

/// Every problem, not only the first.
fn all_of(problems: &[LoadError]) -> anyhow::Error {
    anyhow::Error::msg(problems.iter().map(LoadError::to_string).collect::<Vec<_>>().join("\n"))
}

fn in_flight_of_tasks(config: &Config) -> usize {
    config.sources.iter().map(|source| source.in_flight).max().unwrap_or(256)
}

fn retention(host: &HostConfig) -> Retention {
    let HostConfig { dedup_for, keep_dead_letters, keep_events, keep_events_size, .. } = *host;
    Retention { settled: dedup_for, dead_letters: keep_dead_letters, kept: keep_events, kept_bytes: keep_events_size }
}

/// Forget what is older than it has to be remembered, every now and then.
async fn keep_retention(store: Arc<dyn Store>, settings: Arc<ArcSwap<HostConfig>>, stopping: CancellationToken) {
    loop {
        let retention = retention(&settings.load());
        // What is bounded by its bytes is looked at more often than what is bounded by its age alone.
        let every = if retention.kept.is_zero() { Duration::from_secs(600) } else { Duration::from_secs(10) };
        match store.expire(retention).await {
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
            read_from: SystemTime::now(),
        }
    }
}
