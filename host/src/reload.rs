//! Desired state in, outcome out: the configuration and the code that are wanted become what serves, or nothing changes.
//!
//! New code is built, checked and tried beside what serves. Then the whole generation is swapped behind one pointer: an event that was routed
//! before keeps what it was routed with. A source that changed is drained and started again while all others go on.

mod book;
mod changes;
mod versions;
pub(crate) mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{self, Arc, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, watch as signal},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use crate::{
    channel::Origin,
    config::{Config, HandlerConfig, HostConfig, SourceConfig},
    controller::{bell::Bell, generation::Generation},
    event::cloudevents,
    health::Health,
    letters::{DeadLetters, call_of},
    listener::Routes,
    pause::{Parts, Pauses},
    plugin::{
        Ended, LoadError, Loader,
        load::{Loaded, Queues},
    },
    store::Store,
    supervisor::{Member, Supervisor},
    task,
    tenant::Tenant,
};

pub use book::{Earlier, History, Rejected};
pub use changes::{Change, Kind};
pub use versions::{Beside, Plugin};

pub(crate) use book::Book;
pub(crate) use versions::recall;

use changes::Side;

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Reloaded {
    /// It serves.
    Applied {
        /// The number of what serves now; it grows.
        generation: u64,
        /// What is not as it was.
        changes: Vec<Change>,
        /// What looks wrong but kept nothing from serving.
        warnings: Vec<String>,
        /// How long it took, in milliseconds.
        took_ms: u64,
    },
    /// It serves already.
    Unchanged {
        /// The number of what serves.
        generation: u64,
    },
    /// Nothing changed, and why.
    KeptOld {
        /// Every reason that was found.
        reasons: Vec<String>,
    },
}

impl Reloaded {
    pub(crate) fn kept_old(reason: impl Into<String>) -> Self {
        Self::KeptOld { reasons: vec![reason.into()] }
    }

    /// Write it to the log.
    pub(crate) fn log(&self, asked_by: &str) {
        match self {
            Self::Applied { generation, changes, warnings, took_ms } => {
                for change in changes {
                    tracing::info!(generation, "{change}");
                }
                for warning in warnings {
                    tracing::warn!(generation, "{warning}");
                }
                tracing::info!(generation, took_ms, asked_by, "reload: applied");
            }
            Self::Unchanged { generation } => tracing::debug!(generation, asked_by, "reload: nothing has changed"),
            Self::KeptOld { reasons } => tracing::error!(asked_by, "reload: kept old: {}", reasons.join("\n")),
        }
    }
}

/// Handlers that serve, and from what they were loaded.
pub(crate) type Handlers = BTreeMap<(Tenant, String), Loaded>;

/// What a reload works on.
pub(crate) struct Works {
    pub(crate) loader: Arc<Loader>,
    pub(crate) book: Book,
    pub(crate) generation: Arc<ArcSwap<Generation>>,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) pauses: Pauses,
    pub(crate) letters: DeadLetters,
    pub(crate) routes: Routes,
    pub(crate) health: Health,
    pub(crate) bell: Bell,
    pub(crate) store: Arc<dyn Store>,
    /// What of `[host]` can be changed while it runs.
    pub(crate) settings: Arc<ArcSwap<HostConfig>>,
    /// Names of the embedder's own sources.
    pub(crate) own: Vec<String>,
    /// Files are watched whatever the configuration says.
    pub(crate) for_development: bool,
}

/// Carries reloads out. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reloader(Arc<Inner>);

struct Inner {
    works: Works,
    /// What serves.
    serving: ArcSwap<Serving>,
    /// One reload of everything at a time.
    whole: Mutex<()>,
    /// Whose turn it is to have something else serve; held while sources are drained.
    turn: Mutex<()>,
    /// Held, without waiting, while what serves is exchanged or one of its handlers goes to another version.
    exchange: sync::Mutex<()>,
    /// Changes with what serves.
    generation: signal::Sender<u64>,
    closed: CancellationToken,
}

/// What serves.
#[derive(Clone)]
struct Serving {
    config: Arc<Config>,
    handlers: Handlers,
    number: u64,
}

impl Reloader {
    /// A reloader of what serves since the boot.
    pub(crate) fn new(works: Works, config: Config, handlers: Handlers) -> Self {
        works.loader.others_serve();
        let serving = ArcSwap::from_pointee(Serving { config: Arc::new(config), handlers, number: 1 });
        Self(Arc::new(Inner {
            works,
            serving,
            whole: Mutex::default(),
            turn: Mutex::default(),
            exchange: sync::Mutex::default(),
            generation: signal::Sender::new(1),
            closed: CancellationToken::new(),
        }))
    }

    /// Have what is wanted serve: a configuration, or what the files say, and say what came of it. It goes on though nobody waits for it.
    pub(crate) async fn ask(&self, wanted: Option<Config>, force: bool, asked_by: &'static str) -> Reloaded {
        let reloader = self.clone();
        let reloading = task::spawn("reload", async move {
            let outcome = match wanted {
                Some(config) => reloader.reload_with(config, force).await,
                None => reloader.reload(force).await,
            };
            outcome.log(asked_by);
            outcome
        });
        reloading.await.unwrap_or_else(|_| Reloaded::kept_old("the reload did not come to its end"))
    }

    /// Read the configuration file again, and all that it names, and have that serve. `force`: though events wait that nobody would take.
    pub(crate) async fn reload(&self, force: bool) -> Reloaded {
        // First its turn: what is read before that may be old when it comes.
        let _whole = self.0.whole.lock().await;
        let file = self.serving().config.file.clone();
        if file.as_os_str().is_empty() {
            return Reloaded::kept_old("the host was not configured by a file: give it the configuration");
        }
        let reloader = self.clone();
        let read = spawn_blocking(move || {
            let own: Vec<&str> = reloader.0.works.own.iter().map(String::as_str).collect();
            Config::load_with_sources(&file, &own)
        });
        let Ok(read) = read.await else { return Reloaded::kept_old("the configuration could not be read") };
        match read {
            Ok(config) => self.reload_whole(config, force).await,
            Err(problems) => Reloaded::KeptOld { reasons: problems.errors.iter().map(ToString::to_string).collect() },
        }
    }

    /// Have this configuration serve.
    pub(crate) async fn reload_with(&self, config: Config, force: bool) -> Reloaded {
        let _whole = self.0.whole.lock().await;
        self.reload_whole(config, force).await
    }

    /// To be called by whoever has the turn.
    async fn reload_whole(&self, config: Config, force: bool) -> Reloaded {
        let began = Instant::now();
        let before = self.serving();
        let fixed = changes::fixed(&before.config.host, &config.host);
        if !fixed.is_empty() {
            return Reloaded::KeptOld { reasons: fixed };
        }
        let handlers = tokio::select! {
            biased;
            () = self.0.closed.cancelled() => return Reloaded::kept_old("the host stops"),
            loaded = load_all(&self.0.works.loader, &config, &before.handlers) => match loaded {
                Ok(handlers) => handlers,
                Err(errors) => {
                    self.forget_late();
                    return Reloaded::KeptOld { reasons: errors.iter().map(|error| reason(error, &before.handlers)).collect() };
                }
            },
        };
        let _turn = self.0.turn.lock().await;
        let serving = self.serving();
        // A handler whose code changed meanwhile may be newer than what was read here.
        let newer = |(key, loaded): ((Tenant, String), Loaded)| {
            let same = |now: &&Loaded| now.handler.config == loaded.handler.config && now.handler.queues == loaded.handler.queues;
            let now = serving.handlers.get(&key).filter(|now| now.begun > loaded.begun).filter(same);
            let loaded = now.cloned().unwrap_or(loaded);
            (key, loaded)
        };
        let handlers = handlers.into_iter().map(newer).collect();
        self.apply(&serving, Arc::new(config), handlers, force, began).await
    }

    /// Build one handler's code again, whose files have changed, and have it serve. Several can be built side by side.
    pub(crate) async fn reload_handler(&self, key: &(Tenant, String)) -> Reloaded {
        let began = Instant::now();
        let serving = self.serving();
        let Some(before) = serving.handlers.get(key) else { return Reloaded::Unchanged { generation: serving.number } };
        let (wanted, queues) = (before.handler.config.clone(), serving.config.queues());
        let loaded = tokio::select! {
            biased;
            () = self.0.closed.cancelled() => return Reloaded::kept_old("the host stops"),
            loaded = load_one(&self.0.works.loader, &wanted, &queues, Some(before)) => match loaded {
                Ok(loaded) => loaded,
                Err(error) => return Reloaded::kept_old(reason(&error, &serving.handlers)),
            },
        };
        let _turn = self.0.turn.lock().await;
        let serving = self.serving();
        let now = serving.handlers.get(key).filter(|now| now.begun < loaded.begun && now.handler.config == wanted);
        if now.is_none() || *serving.config.queues() != *queues {
            // The configuration has changed meanwhile, or something newer serves. What does was made from other files, so it is looked at again.
            return Reloaded::Unchanged { generation: serving.number };
        }
        let mut handlers = serving.handlers.clone();
        handlers.insert(key.clone(), loaded);
        let config = serving.config.clone();
        self.apply(&serving, config, handlers, false, began).await
    }

    /// Swap what serves.
    async fn apply(&self, serving: &Serving, config: Arc<Config>, handlers: Handlers, force: bool, began: Instant) -> Reloaded {
        let works = &self.0.works;
        let old = Side { config: &serving.config, handlers: &serving.handlers };
        let new = Side { config: &config, handlers: &handlers };
        let changes = changes::between(old, new);
        if changes.is_empty() {
            // What they were read from may be newer though it says the same.
            let number = self.exchange(config, handlers, |number| number);
            return Reloaded::Unchanged { generation: number };
        }
        if !force {
            match changes::left_behind(&*works.store, &serving.config, &config).await {
                Ok(left) if left.is_empty() => {}
                Ok(left) => {
                    self.forget_late();
                    return Reloaded::KeptOld { reasons: left };
                }
                Err(error) => return Reloaded::kept_old(format!("what waits in the store cannot be looked at: {error}")),
            }
        }
        let mut warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        let members = changes::members(old, new);

        // What they brought is routed by the generation they were part of. Sinks go after that: until then there are emits for them.
        let (sources, sinks): (Vec<_>, Vec<_>) = members.leaving.iter().cloned().partition(|member| matches!(member, Member::Source(..)));
        for member in works.supervisor.stop(&sources, serving.config.host.drain_deadline).await {
            warnings.push(format!("`{member}` did not stop in time and was aborted: what it had not acknowledged comes again"));
        }
        for member in &members.gone {
            if let Member::Source(tenant, name) = member {
                works.health.forget(tenant, name);
            }
        }
        let paths: BTreeSet<String> = config.sources.iter().filter_map(SourceConfig::path).collect();
        paths.iter().for_each(|path| works.routes.expect(path));
        serving
            .config
            .sources
            .iter()
            .filter_map(SourceConfig::path)
            .filter(|path| !paths.contains(path))
            .for_each(|path| works.routes.forget(&path));
        let parts = works.own.iter().fold(Parts::of(&config), |parts, name| parts.own(name));
        works.pauses.change_parts(parts).await;
        works.letters.change_places(&config);
        works.settings.store(Arc::new(config.host.clone()));
        let number = self.exchange(config.clone(), handlers, |number| number + 1);
        for member in works.supervisor.stop(&sinks, serving.config.host.drain_deadline).await {
            warnings.push(format!("the sink `{member}` did not stop in time: what it was publishing may be published twice"));
        }
        for member in &members.gone {
            if let Member::Sink(tenant, name) = member {
                works.health.forget_sink(&format!("{tenant}/{name}"));
            }
        }
        // A call that failed while its source was drained waits too.
        if let Ok(left) = changes::left_behind(&*works.store, &serving.config, &config).await {
            warnings.extend(left);
        }
        for source in config.sources.iter().filter(|source| members.coming.contains(&Member::source(source))) {
            works.supervisor.start_source(source, &config);
        }
        for sink in config.sinks.iter().filter(|sink| members.coming.contains(&Member::sink(sink))) {
            works.supervisor.start_sink(sink);
        }
        works.bell.ring_all();
        self.forget_late();
        warnings.extend(self.write_down().await);
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Reloaded::Applied { generation: number, changes, warnings, took_ms }
    }

    /// Who does not serve, or does by now, is compiled for nobody who waits.
    fn forget_late(&self) {
        let serving = self.serving();
        let is_pending = |key: &(Tenant, String)| serving.handlers.get(key).is_some_and(|loaded| loaded.handler.versions.is_pending());
        self.0.works.loader.forget_late(is_pending);
    }

    /// From here on something else serves; its number.
    fn exchange(&self, config: Arc<Config>, handlers: Handlers, number: impl Fn(u64) -> u64) -> u64 {
        let _exchange = self.0.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.serving();
        // What was decided about versions while these were loaded, and sources drained, holds.
        for (key, loaded) in &handlers {
            if let Some(now) = before.handlers.get(key).filter(|now| !Arc::ptr_eq(&now.handler, &loaded.handler)) {
                // A snapshot may have been made of it since it was loaded.
                let wanted = loaded.handler.versions.at_hand(&loaded.digest).unwrap_or_else(|| loaded.code.clone());
                loaded.handler.versions.follow(&now.handler.versions, wanted, loaded.handler.config.canary.clone());
            }
        }
        let number = number(before.number);
        // Also where nothing is said to have changed: a handler that was still being compiled may have been linked anew.
        let generation = Generation::of(&config, handlers.values().map(|loaded| loaded.handler.clone()));
        self.0.works.generation.store(Arc::new(generation));
        self.0.serving.store(Arc::new(Serving { config, handlers, number }));
        self.0.generation.send_replace(number);
        number
    }

    /// The number of what serves now, and a signal of its changes.
    pub(crate) fn generation(&self) -> signal::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// Reload nothing any more. Returns when nothing is being changed.
    pub(crate) async fn close(&self, by: tokio::time::Instant) {
        self.0.closed.cancel();
        if tokio::time::timeout_at(by, self.0.turn.lock()).await.is_err() {
            tracing::warn!("a reload was still going on when the host stopped");
        }
    }

    /// Whether what is saved serves without being asked for.
    fn watches(&self) -> bool {
        self.0.works.for_development || self.serving().config.host.watch
    }

    fn serving(&self) -> Arc<Serving> {
        self.0.serving.load_full()
    }
}

/// Load all handlers of a configuration side by side.
pub(crate) async fn load_all(loader: &Arc<Loader>, config: &Config, before: &Handlers) -> Result<Handlers, Vec<LoadError>> {
    let queues = config.queues();
    let load = |handler: &HandlerConfig| {
        let (key, handler, queues) = ((handler.tenant.clone(), handler.name.clone()), handler.clone(), &queues);
        async move {
            let loaded = load_one(loader, &handler, queues, before.get(&key)).await;
            loaded.map(|loaded| (key, loaded))
        }
    };
    let (mut handlers, mut errors) = (Handlers::new(), Vec::new());
    // In the order of the file, in which what is wrong is told.
    for loaded in join_all(config.handlers.iter().map(load)).await {
        match loaded {
            Ok((key, loaded)) => drop(handlers.insert(key, loaded)),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(handlers) } else { Err(errors) }
}

/// Load a handler and try it.
async fn load_one(loader: &Arc<Loader>, config: &HandlerConfig, queues: &Queues, before: Option<&Loaded>) -> Result<Loaded, LoadError> {
    let loaded = loader.load(config, queues, before).await?;
    let is_new = before.is_none_or(|before| before.digest != loaded.digest || before.handler.config.self_test != config.self_test);
    if is_new {
        for file in &config.self_test {
            self_test(&loaded, file).await?;
        }
    }
    Ok(loaded)
}

/// Have new code handle an event whose effects are thrown away: what does not come to a good end never serves.
async fn self_test(loaded: &Loaded, file: &Path) -> Result<(), LoadError> {
    let config = &loaded.handler.config;
    let failed = |why: String| LoadError::SelfTest { handler: config.name.clone(), file: file.to_owned(), why };
    let json = tokio::fs::read(file).await.map_err(|error| failed(error.to_string()))?;
    let event = cloudevents::from_structured(&json).map_err(|error| failed(error.to_string()))?;
    let Some(code) = loaded.handler.versions.at_hand(&loaded.digest) else { return Ok(()) };
    let origin = Origin { tenant: config.tenant.clone(), source: "self-test".into(), kind: "self-test".into() };
    let call = call_of(&origin, None, &event, 0, &config.name, &loaded.handler);
    let trial = loaded.handler.dry_run_on(code, call).await;
    match trial.outcome {
        Ended::Done => Ok(()),
        _ => Err(failed(trial.reason.unwrap_or_default())),
    }
}

/// Why a handler does not serve, with what is new of it.
fn reason(error: &LoadError, before: &Handlers) -> String {
    let LoadError::NotGranted { handler, .. } = error else { return error.to_string() };
    match before.iter().find(|((_, name), _)| name == handler) {
        Some((_, loaded)) => {
            format!("{error}\nthat is new: version {}, which serves on, does not use it", changes::short(&loaded.handler.digest()))
        }
        None => error.to_string(),
    }
}
