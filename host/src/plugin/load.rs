//! From a handler's configuration to a [`Handler`]: build, compile, check, link. Never on the event path.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::available_parallelism,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{Mutex as Turn, OwnedMutexGuard, Semaphore, watch},
    task::spawn_blocking,
};
use wasmtime::component::Linker;

use crate::{
    config::{Config, HandlerConfig, PluginRef},
    plugin::{
        Capacity, Engine, Handler,
        build::{BuildError, Builder, Built, Cache, LOAD, Script},
        capability::{self, Capability, http::Outbound},
        contract,
        engine::TICK,
        guest::Guest,
        inputs::Inputs,
        link::{self, Linked},
        version::{Code, Decisions, ScriptLoad, Versions},
    },
    store::Store,
    task,
    telemetry::CallMetrics,
    tenant::Tenant,
};

/// How long a script's top level may run when its snapshot is made.
const TOP_LEVEL: Duration = Duration::from_secs(5);

/// Why a handler cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its plugin does not build.
    #[error("handlers.{handler}: {error}")]
    Build {
        /// The handler.
        handler: String,
        /// What the build says.
        error: String,
    },
    /// It imports what it was not granted.
    #[error("handlers.{handler}: {plugin} uses {what}, which is not granted; add to [handlers.{handler}]:  grants = {{ {line} }}")]
    NotGranted {
        /// The handler.
        handler: String,
        /// Its plugin.
        plugin: String,
        /// The import.
        what: String,
        /// The grants it has and needs.
        line: String,
    },
    /// It imports what no handler is given.
    #[error("handlers.{handler}: {plugin} imports {import}, which no handler is given (see wit/README.md for what there is)")]
    NoSuchImport {
        /// The handler.
        handler: String,
        /// Its plugin.
        plugin: String,
        /// The import.
        import: String,
    },
    /// It did not handle an event that it must handle before it serves.
    #[error("handlers.{handler}: it fails its self-test {}: {why}", file.display())]
    SelfTest {
        /// The handler.
        handler: String,
        /// The event.
        file: PathBuf,
        /// What it came to.
        why: String,
    },
    /// It is not of our world.
    #[error("handlers.{handler}: {plugin} is no handler of koksmat:plugin@0.1.0: {why}")]
    WrongWorld {
        /// The handler.
        handler: String,
        /// Its plugin.
        plugin: String,
        /// What does not fit.
        why: String,
    },
}

/// Loads handlers.
pub struct Loader {
    linker: Arc<Linker<Guest>>,
    builder: Builder,
    store: Arc<dyn Store>,
    engine: Engine,
    /// How many loads were begun.
    begun: AtomicU64,
    /// Whose turn it is to be loaded: as many at a time as there is something to gain.
    loads: Semaphore,
    /// Whose turn it is to have a tool work in a folder.
    folders: Mutex<HashMap<PathBuf, Arc<Turn<()>>>>,
    /// Whose turn it is to make a snapshot: they take all processors, and the next may be of no use any more when its turn comes.
    snapshots: Semaphore,
    decisions: Decisions,
    late: watch::Sender<Late>,
}

/// Handlers whose code is still being compiled, or what went wrong with it. Who is not in it serves.
pub(crate) type Late = BTreeMap<(Tenant, String), Option<String>>;

/// The embedded queues that guests may emit to.
pub(crate) type Queues = Arc<HashSet<String>>;

/// A handler that was loaded, and from what.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) handler: Arc<Handler>,
    /// The files it was made from.
    pub(crate) inputs: Arc<Inputs>,
    /// What it imports that has to be granted.
    pub(crate) needs: BTreeSet<Capability>,
    /// What the files say,
    pub(crate) code: Arc<Code>,
    /// and its digest.
    pub(crate) digest: Arc<str>,
    /// Which load it was: what was begun later read newer files.
    pub(crate) begun: u64,
}

/// Code, and what is known of it.
struct Version {
    code: Arc<Code>,
    needs: BTreeSet<Capability>,
    inputs: Arc<Inputs>,
    /// What takes over when it is compiled.
    then: Then,
}

/// What is compiled beside what serves, and takes over.
enum Then {
    Nothing,
    /// A script's snapshot, which is still to be made.
    Snapshot(Arc<Script>),
    /// The component itself: until then nothing serves.
    Component(Box<Built>),
}

/// Instances beside those that calls need: one for each lane, some for what is being cut, and one that is tried without effects.
const SPARE_INSTANCES: usize = 8;

/// The most memory a handler's configuration can ask for, in bytes: it may ask for more with the next reload. What each call gets is
/// bounded by its own handler's; here it is a matter of addresses alone.
const MEMORY: usize = 1 << 30;

impl Loader {
    /// A loader for the handlers of a configuration.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when the kernel's limits do not allow as many instances as are asked for.
    pub fn of(config: &Config, store: Arc<dyn Store>) -> anyhow::Result<Self> {
        let instances = u32::try_from(config.host.concurrency + SPARE_INSTANCES)?;
        let engine = Engine::new(Capacity { instances, memory: MEMORY })?;
        Self::new(engine, &config.cache_dir(), store)
    }

    /// A loader that keeps what it builds and compiles in `cache_dir`.
    ///
    /// # Errors
    /// When the folder cannot be made or the engine has no linker for our world.
    pub fn new(engine: Engine, cache_dir: &Path, store: Arc<dyn Store>) -> anyhow::Result<Self> {
        let linker = Arc::new(link::linker(engine.wasmtime()).map_err(|e| anyhow::anyhow!("{e:#}"))?);
        let ticks = u64::try_from(TOP_LEVEL.as_millis() / TICK.as_millis()).unwrap_or(1);
        let builder = Builder::new(engine.clone(), Cache::open(cache_dir)?, ticks);
        let at_once = available_parallelism().map_or(2, |n| n.get()) * 2;
        Ok(Self {
            linker,
            builder,
            store,
            engine,
            begun: AtomicU64::new(0),
            loads: Semaphore::new(at_once),
            folders: Mutex::default(),
            snapshots: Semaphore::new(1),
            decisions: Decisions::default(),
            late: watch::Sender::default(),
        })
    }

    /// Build, compile, check and link one handler. What did not change since it was loaded `before` is the same as then: its code where
    /// that is the same, and the handler itself where nothing of it changed.
    ///
    /// A script that was never built is served by the generic runtime at once, while its snapshot is compiled in the background.
    ///
    /// # Errors
    /// When it does not build, is of another world, or uses what it was not granted.
    pub(crate) async fn load(
        self: &Arc<Self>,
        config: &HandlerConfig,
        queues: &Queues,
        before: Option<&Loaded>,
    ) -> Result<Loaded, LoadError> {
        let _folder = self.turn_in_folder(&config.plugin).await;
        let _turn = self.loads.acquire().await.ok();
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        let Version { code, needs, inputs, then } = self.version(config, before).await?;
        let digest = code.digest.clone();
        let same = |before: &&Loaded| before.handler.is(config, queues, &digest) && !before.handler.versions.is_pending();
        if let Some(before) = before.filter(same) {
            return Ok(Loaded { handler: before.handler.clone(), inputs, needs, code, digest, begun });
        }
        let handler = self.handler(config, queues, code.clone());
        if let Some(before) = before {
            handler.versions.follow(&before.handler.versions, code.clone(), config.canary.clone());
        }
        match then {
            Then::Nothing => {}
            Then::Snapshot(script) => drop(task::spawn("snapshot", take_over(self.clone(), Arc::downgrade(&handler), script))),
            Then::Component(built) => {
                self.late.send_modify(|late| drop(late.insert(key_of(config), None)));
                task::spawn("compile", compile_late(self.clone(), Arc::downgrade(&handler), *built));
            }
        }
        Ok(Loaded { handler, inputs, needs, code, digest, begun })
    }

    /// Like [`load`](Self::load), for a handler that is called once: no snapshot is made for it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) async fn load_once(&self, config: &HandlerConfig, queues: &Queues) -> Result<Arc<Handler>, LoadError> {
        let _folder = self.turn_in_folder(&config.plugin).await;
        let version = self.version(config, None).await?;
        let code = match version.then {
            Then::Component(built) => Arc::new(self.link(config, *built, None).await?),
            Then::Nothing | Then::Snapshot(_) => version.code,
        };
        Ok(self.handler(config, queues, code))
    }

    fn handler(&self, config: &HandlerConfig, queues: &Queues, code: Arc<Code>) -> Arc<Handler> {
        Arc::new(Handler {
            outbound: Outbound::new(&config.grants.http),
            metrics: CallMetrics::of(&config.tenant, &config.name),
            config: Arc::new(config.clone()),
            versions: Versions::of(code, config.pin_retries, self.decisions.clone()),
            queues: queues.clone(),
            store: self.store.clone(),
            heavy: AtomicBool::new(false),
            engine: self.engine.clone(),
            #[cfg(test)]
            stand_in: None,
        })
    }

    /// Like [`load`](Self::load), to the end: a script's snapshot is made and compiled before this returns. Whether it was all there.
    ///
    /// # Errors
    /// As [`load`](Self::load), and what a script's top level throws.
    pub async fn build(&self, config: &HandlerConfig) -> Result<bool, LoadError> {
        let _folder = self.turn_in_folder(&config.plugin).await;
        let built = self.built(config).await?;
        let ready = built.from_cache && self.builder.is_compiled(&built);
        check_built(config, &built)?;
        self.link(config, built, None).await?;
        Ok(ready)
    }

    /// Wait until no other tool works in the plugin's folder. Two at once would read what the other one writes: the configuration and the
    /// code may change at the same time, and handlers may share a folder.
    async fn turn_in_folder(&self, plugin: &PluginRef) -> Option<OwnedMutexGuard<()>> {
        let (PluginRef::Cargo(folder) | PluginRef::Command { folder, .. }) = plugin else { return None };
        let turn = {
            let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
            folders.retain(|_, turn| Arc::strong_count(turn) > 1);
            folders.entry(folder.clone()).or_default().clone()
        };
        Some(turn.lock_owned().await)
    }

    async fn built(&self, config: &HandlerConfig) -> Result<Built, LoadError> {
        self.builder.build(&config.plugin).await.map_err(|error| build_error(config, error))
    }

    /// Code to serve with now.
    async fn version(&self, config: &HandlerConfig, before: Option<&Loaded>) -> Result<Version, LoadError> {
        let failed = |error| build_error(config, error);
        let read_from = SystemTime::now();
        if let Some(before) = before
            && before.handler.config.plugin == config.plugin
            && let Some(code) = before.handler.versions.at_hand(&before.digest)
            && code.script.is_none()
            && code.pre.is_some()
            && unchanged(before.inputs.clone()).await
        {
            check_grants(config, &before.needs, |need| format!("`{need}`"))?;
            return Ok(Version { code, needs: before.needs.clone(), inputs: before.inputs.clone(), then: Then::Nothing });
        }
        let same = |digest: &str| before.and_then(|before| before.handler.versions.at_hand(digest)).filter(|code| code.pre.is_some());
        let PluginRef::Script(entry) = &config.plugin else {
            let built = self.built(config).await?;
            let inputs = match &config.plugin {
                PluginRef::Wasm(path) | PluginRef::Script(path) => files(path, Vec::new(), read_from).await,
                PluginRef::Cargo(folder) => folder_of(folder, None, read_from, before).await,
                PluginRef::Command { folder, output, .. } => folder_of(folder, Some(output), read_from, before).await,
            };
            let needs = check_built(config, &built)?;
            let code = match same(&built.digest) {
                Some(code) => code,
                None if before.is_none() && config.self_test.is_empty() && self.builder.takes_long(&built) => {
                    // It holds nobody up: what it is to handle waits for it.
                    let digest = built.digest.as_str().into();
                    let code = Code { pre: None, digest, positions: Default::default(), script: None, counts: Default::default() };
                    return Ok(Version { code: code.into(), needs, inputs, then: Then::Component(built.into()) });
                }
                None => {
                    self.builder.keep_version(&built).await;
                    Arc::new(self.link(config, built, None).await?)
                }
            };
            return Ok(Version { code, needs, inputs, then: Then::Nothing });
        };
        let script = self.builder.script(entry).await.map_err(failed)?;
        let inputs = files(entry, script.files.clone(), read_from).await;
        let needs = script.needs.clone();
        check_grants_for(config, &needs, &script.hosts(), of_script)?;
        if let Some(code) = same(&script.digest) {
            let then = if code.script.is_some() { Then::Snapshot(script) } else { Then::Nothing };
            return Ok(Version { code, needs, inputs, then });
        }
        if let Some(built) = self.builder.prebuilt(&script).await.map_err(failed)?
            && self.builder.is_compiled(&built)
        {
            let code = Arc::new(self.link(config, built, Some(&script)).await?);
            return Ok(Version { code, needs, inputs, then: Then::Nothing });
        }
        let code = Arc::new(self.generic(config, &script).await?);
        Ok(Version { code, needs, inputs, then: Then::Snapshot(script) })
    }

    /// The code of an earlier version, by its digest, if it is still there.
    ///
    /// # Errors
    /// When it uses what it is not granted now.
    pub(crate) async fn earlier(&self, config: &HandlerConfig, digest: &str) -> Result<Option<Arc<Code>>, LoadError> {
        let Some(built) = self.builder.version(digest).await else { return Ok(None) };
        check_built(config, &built)?;
        let code = self.link(config, built, None).await?;
        Ok(Some(Arc::new(Code { digest: digest.into(), ..code })))
    }

    /// The handlers that were loaded so far serve, and loading others gives way to their calls.
    pub(crate) fn others_serve(&self) {
        self.builder.others_serve();
    }

    /// Who serves by now, or is gone, is no longer waited for.
    pub(crate) fn forget_late(&self, is_waited_for: impl Fn(&(Tenant, String)) -> bool) {
        self.late.send_if_modified(|late| {
            let before = late.len();
            late.retain(|key, _| is_waited_for(key));
            late.len() != before
        });
    }

    /// Which handlers are still being compiled.
    pub(crate) fn late(&self) -> watch::Receiver<Late> {
        self.late.subscribe()
    }

    /// What was decided about new code that served beside old.
    pub(crate) fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Compile and link. A script's snapshot is the same version as the script.
    async fn link(&self, config: &HandlerConfig, built: Built, script: Option<&Script>) -> Result<Code, LoadError> {
        let component = self.builder.compile(&built).await.map_err(|error| build_error(config, error))?;
        let (engine, linker) = (self.engine.clone(), self.linker.clone());
        // Not on a thread that calls run on.
        let linked = spawn_blocking(move || {
            contract::check(engine.wasmtime(), &component)?;
            Linked::new(&linker, &component).map_err(|error| format!("{error:#}"))
        });
        let linked = linked.await.unwrap_or_else(|error| Err(error.to_string()));
        let pre = linked.map_err(|why| wrong_world(config, &why))?;
        let digest = script.map_or(built.digest.as_str(), |script| script.digest.as_str()).into();
        Ok(Code { pre: Some(pre), digest, positions: built.says.positions, script: None, counts: Default::default() })
    }

    /// The generic runtime with the script's modules beside it.
    async fn generic(&self, config: &HandlerConfig, script: &Script) -> Result<Code, LoadError> {
        let runtime = self.builder.runtime().await.map_err(|error| build_error(config, error))?;
        let component = runtime.component();
        let load = component.get_export_index(None, LOAD).ok_or_else(|| wrong_world(config, "the script runtime has no `load`"))?;
        let pre = Linked::new(&self.linker, component).map_err(|error| wrong_world(config, &format!("{error:#}")))?;
        let script_load = ScriptLoad { load, entry: script.entry.clone(), modules: script.modules.clone() };
        let digest = script.digest.as_str().into();
        Ok(Code {
            pre: Some(pre),
            digest,
            positions: script.positions.clone(),
            script: Some(script_load.into()),
            counts: Default::default(),
        })
    }
}

fn build_error(config: &HandlerConfig, error: BuildError) -> LoadError {
    LoadError::Build { handler: config.name.clone(), error: error.to_string() }
}

fn of_script(need: Capability) -> String {
    format!("`{need}` of \"koksmat\"")
}

/// The files that a plugin was made from, and those that lead to them.
async fn files(plugin: &Path, mut files: Vec<PathBuf>, read_from: SystemTime) -> Arc<Inputs> {
    files.extend(plugin.canonicalize().ok().filter(|real| real != plugin));
    files.push(plugin.to_owned());
    looked(move || Inputs::files(files, read_from)).await
}

async fn folder_of(folder: &Path, made: Option<&Path>, read_from: SystemTime, before: Option<&Loaded>) -> Arc<Inputs> {
    let (folder, made, before) = (folder.to_owned(), made.map(Path::to_owned), before.map(|before| before.inputs.clone()));
    looked(move || Inputs::folder(&folder, made.as_deref(), read_from, before.as_deref())).await
}

async fn looked(look: impl FnOnce() -> Inputs + Send + 'static) -> Arc<Inputs> {
    Arc::new(spawn_blocking(look).await.unwrap_or_default())
}

async fn unchanged(inputs: Arc<Inputs>) -> bool {
    spawn_blocking(move || !inputs.have_changed()).await.unwrap_or(false)
}

/// What a component uses that has to be granted, which is.
fn check_built(config: &HandlerConfig, built: &Built) -> Result<BTreeSet<Capability>, LoadError> {
    match &built.says.needs {
        Some(needs) => {
            check_grants(config, needs, of_script)?;
            Ok(needs.clone())
        }
        None => check_imports(config, &built.says.imports),
    }
}

fn check_imports(config: &HandlerConfig, imports: &[String]) -> Result<BTreeSet<Capability>, LoadError> {
    let mut needs = BTreeSet::new();
    for import in imports {
        match Capability::of_import(import) {
            Ok(need) => needs.extend(need),
            Err(()) => {
                let (handler, plugin) = (config.name.clone(), config.plugin.path().display().to_string());
                return Err(LoadError::NoSuchImport { handler, plugin, import: import.clone() });
            }
        }
    }
    let import_of = |need: Capability| {
        let mut of = imports.iter().filter(|i| Capability::of_import(i) == Ok(Some(need)));
        of.next().cloned().unwrap_or_default()
    };
    check_grants(config, &needs, import_of)?;
    Ok(needs)
}

fn check_grants(config: &HandlerConfig, needs: &BTreeSet<Capability>, describe: impl Fn(Capability) -> String) -> Result<(), LoadError> {
    check_grants_for(config, needs, &[], describe)
}

/// The same for code that names these hosts.
fn check_grants_for(
    config: &HandlerConfig,
    needs: &BTreeSet<Capability>,
    hosts: &[String],
    describe: impl Fn(Capability) -> String,
) -> Result<(), LoadError> {
    let missing = capability::missing(needs, &config.grants);
    if missing.is_empty() {
        return Ok(());
    }
    Err(LoadError::NotGranted {
        handler: config.name.clone(),
        plugin: config.plugin.path().display().to_string(),
        what: missing.iter().map(|m| describe(*m)).collect::<Vec<_>>().join(" and "),
        line: capability::grants_line(&config.grants, &missing, hosts),
    })
}

fn wrong_world(config: &HandlerConfig, why: &str) -> LoadError {
    LoadError::WrongWorld { handler: config.name.clone(), plugin: config.plugin.path().display().to_string(), why: why.to_owned() }
}

fn key_of(config: &HandlerConfig) -> (Tenant, String) {
    (config.tenant.clone(), config.name.clone())
}

/// Compile what takes long, and let it serve.
async fn compile_late(loader: Arc<Loader>, handler: Weak<Handler>, built: Built) {
    let Some(config) = handler.upgrade().map(|handler| handler.config.clone()) else { return };
    let started = Instant::now();
    let digest = built.digest.clone();
    loader.builder.keep_version(&built).await;
    let linked = loader.link(&config, built, None).await;
    let Some(handler) = handler.upgrade().filter(|handler| handler.versions.has(&digest)) else {
        // Other code serves by now.
        loader.late.send_modify(|late| drop(late.remove(&key_of(&config))));
        return;
    };
    match linked {
        Ok(code) => {
            handler.versions.take_over(code);
            tracing::info!(tenant = %config.tenant, handler = config.name, took = ?started.elapsed(), "compiled: it serves");
            loader.late.send_modify(|late| drop(late.remove(&key_of(&config))));
        }
        Err(error) => {
            tracing::error!(tenant = %config.tenant, handler = config.name, %error, "it does not serve: what it is to handle waits");
            loader.late.send_modify(|late| drop(late.insert(key_of(&config), Some(error.to_string()))));
        }
    }
}

/// Make the snapshot of a script that already serves, compile it and let it take over, unless other code serves by then.
async fn take_over(loader: Arc<Loader>, handler: Weak<Handler>, script: Arc<Script>) {
    let Ok(_turn) = loader.snapshots.acquire().await else { return };
    let Some(config) = handler.upgrade().map(|handler| handler.config.clone()) else { return };
    let started = Instant::now();
    let made = async {
        let built = loader.builder.snapshot(&script).await.map_err(|error| build_error(&config, error))?;
        loader.link(&config, built, Some(&script)).await
    };
    let made = made.await;
    let Some(handler) = handler.upgrade() else { return };
    match made {
        Ok(code) => {
            handler.versions.take_over(code);
            tracing::debug!(tenant = %config.tenant, handler = config.name, took = ?started.elapsed(), "the script's snapshot serves");
        }
        // The first tier means the same and goes on serving; every event will say what is wrong with the script, if anything is.
        Err(error) => tracing::warn!(tenant = %config.tenant, handler = config.name, %error, "no snapshot of the script"),
    }
}
