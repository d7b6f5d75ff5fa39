//! From a handler's configuration to a [`Handler`]: build, compile, check, link. Never on the event path.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use wasmtime::component::Linker;

use crate::{
    config::{Config, HandlerConfig, PluginRef, SourceKind},
    plugin::{
        Capacity, Code, Engine, Handler, ScriptLoad,
        build::{BuildError, Builder, Built, Cache, LOAD, Script},
        capability::{self, Capability, http::Outbound},
        contract,
        engine::TICK,
        guest::Guest,
        link::{self, Linked},
    },
    store::Store,
    task,
    telemetry::CallMetrics,
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
    linker: Linker<Guest>,
    builder: Builder,
    store: Arc<dyn Store>,
    queues: Arc<HashSet<String>>,
    engine: Engine,
}

/// Instances beside those that calls need: one for each lane, some for what is being cut, and one that is tried without effects.
const SPARE_INSTANCES: usize = 8;

impl Loader {
    /// A loader for the handlers of a configuration.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when the kernel's limits do not allow as many instances as are asked for.
    pub fn of(config: &Config, store: Arc<dyn Store>) -> anyhow::Result<Self> {
        let memory = config.handlers.iter().map(|h| h.memory).max().unwrap_or(64 << 20);
        let instances = u32::try_from(config.host.concurrency + SPARE_INSTANCES)?;
        let engine = Engine::new(Capacity { instances, memory })?;
        let queues = config.sources.iter().filter(|s| matches!(s.kind, SourceKind::Embedded(_))).map(|s| s.name.clone()).collect();
        Self::new(engine, &config.cache_dir(), store, queues)
    }

    /// A loader that keeps what it builds and compiles in `cache_dir`. `queues` are the embedded queues that guests may emit to.
    ///
    /// # Errors
    /// When the folder cannot be made or the engine has no linker for our world.
    pub fn new(engine: Engine, cache_dir: &Path, store: Arc<dyn Store>, queues: HashSet<String>) -> anyhow::Result<Self> {
        let linker = link::linker(engine.wasmtime()).map_err(|e| anyhow::anyhow!("{e:#}"))?;
        let ticks = u64::try_from(TOP_LEVEL.as_millis() / TICK.as_millis()).unwrap_or(1);
        let builder = Builder::new(engine.clone(), Cache::open(cache_dir)?, ticks);
        Ok(Self { linker, builder, store, queues: queues.into(), engine })
    }

    /// Build, compile, check and link one handler.
    ///
    /// A script that was never built is served by the generic runtime at once, while its snapshot is compiled in the background.
    ///
    /// # Errors
    /// When it does not build, is of another world, or uses what it was not granted.
    pub async fn load(self: &Arc<Self>, config: &HandlerConfig) -> Result<Arc<Handler>, LoadError> {
        let (handler, script) = self.load_first(config).await?;
        if let Some(script) = script {
            task::spawn("snapshot", take_over(self.clone(), handler.clone(), script));
        }
        Ok(handler)
    }

    /// Like [`load`](Self::load), for a handler that is called once: no snapshot is made for it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn load_once(&self, config: &HandlerConfig) -> Result<Arc<Handler>, LoadError> {
        Ok(self.load_first(config).await?.0)
    }

    async fn load_first(&self, config: &HandlerConfig) -> Result<(Arc<Handler>, Option<Arc<Script>>), LoadError> {
        let (code, script) = self.code(config).await?;
        let handler = Arc::new(Handler {
            outbound: Outbound::new(&config.grants.http),
            metrics: CallMetrics::of(&config.tenant, &config.name),
            config: Arc::new(config.clone()),
            code: ArcSwap::from_pointee(code),
            queues: self.queues.clone(),
            store: self.store.clone(),
            heavy: AtomicBool::new(false),
            engine: self.engine.clone(),
            #[cfg(test)]
            stand_in: None,
        });
        Ok((handler, script))
    }

    /// Like [`load`](Self::load), to the end: a script's snapshot is made and compiled before this returns. Whether it was all there.
    ///
    /// # Errors
    /// As [`load`](Self::load), and what a script's top level throws.
    pub async fn build(&self, config: &HandlerConfig) -> Result<bool, LoadError> {
        let built = self.built(config).await?;
        let ready = built.from_cache && self.builder.is_compiled(&built);
        self.link(config, built).await?;
        Ok(ready)
    }

    async fn built(&self, config: &HandlerConfig) -> Result<Built, LoadError> {
        self.builder.build(&config.plugin).await.map_err(|error| build_error(config, error))
    }

    /// Code to serve with now, and the script whose snapshot is still to be made.
    async fn code(&self, config: &HandlerConfig) -> Result<(Code, Option<Arc<Script>>), LoadError> {
        let failed = |error| build_error(config, error);
        let PluginRef::Script(entry) = &config.plugin else {
            let built = self.built(config).await?;
            return Ok((self.link(config, built).await?, None));
        };
        let script = self.builder.script(entry).await.map_err(failed)?;
        if let Some(built) = self.builder.prebuilt(&script).await.map_err(failed)?
            && self.builder.is_compiled(&built)
        {
            return Ok((self.link(config, built).await?, None));
        }
        Ok((self.generic(config, &script).await?, Some(script)))
    }

    async fn link(&self, config: &HandlerConfig, built: Built) -> Result<Code, LoadError> {
        match &built.says.needs {
            Some(needs) => check_grants(config, needs, of_script)?,
            None => check_imports(config, &built.says.imports)?,
        }
        let component = self.builder.compile(&built).await.map_err(|error| build_error(config, error))?;
        contract::check(self.engine.wasmtime(), &component).map_err(|why| wrong_world(config, &why))?;
        let pre = Linked::new(&self.linker, &component).map_err(|error| wrong_world(config, &format!("{error:#}")))?;
        Ok(Code { pre, digest: built.digest.into(), positions: built.says.positions, script: None })
    }

    /// The generic runtime with the script's modules beside it.
    async fn generic(&self, config: &HandlerConfig, script: &Script) -> Result<Code, LoadError> {
        check_grants(config, &script.needs, of_script)?;
        let runtime = self.builder.runtime().await.map_err(|error| build_error(config, error))?;
        let component = runtime.component();
        let load = component.get_export_index(None, LOAD).ok_or_else(|| wrong_world(config, "the script runtime has no `load`"))?;
        let pre = Linked::new(&self.linker, component).map_err(|error| wrong_world(config, &format!("{error:#}")))?;
        let script_load = ScriptLoad { load, entry: script.entry.clone(), modules: script.modules.clone() };
        let digest = script.digest.as_str().into();
        Ok(Code { pre, digest, positions: script.positions.clone(), script: Some(script_load.into()) })
    }
}

fn build_error(config: &HandlerConfig, error: BuildError) -> LoadError {
    LoadError::Build { handler: config.name.clone(), error: error.to_string() }
}

fn of_script(need: Capability) -> String {
    format!("`{need}` of \"koksmat\"")
}

fn check_imports(config: &HandlerConfig, imports: &[String]) -> Result<(), LoadError> {
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
    check_grants(config, &needs, import_of)
}

fn check_grants(config: &HandlerConfig, needs: &BTreeSet<Capability>, describe: impl Fn(Capability) -> String) -> Result<(), LoadError> {
    let missing = capability::missing(needs, &config.grants);
    if missing.is_empty() {
        return Ok(());
    }
    Err(LoadError::NotGranted {
        handler: config.name.clone(),
        plugin: config.plugin.path().display().to_string(),
        what: missing.iter().map(|m| describe(*m)).collect::<Vec<_>>().join(" and "),
        line: capability::grants_line(&config.grants, &missing),
    })
}

fn wrong_world(config: &HandlerConfig, why: &str) -> LoadError {
    LoadError::WrongWorld { handler: config.name.clone(), plugin: config.plugin.path().display().to_string(), why: why.to_owned() }
}

/// Make the snapshot of a script that already serves, compile it and let it take over.
async fn take_over(loader: Arc<Loader>, handler: Arc<Handler>, script: Arc<Script>) {
    let started = Instant::now();
    let config = &handler.config;
    let made = async {
        let built = loader.builder.snapshot(&script).await.map_err(|error| build_error(config, error))?;
        loader.link(config, built).await
    };
    match made.await {
        Ok(code) => {
            handler.code.store(Arc::new(code));
            tracing::debug!(tenant = %config.tenant, handler = config.name, took = ?started.elapsed(), "the script's snapshot serves");
        }
        // The first tier means the same and goes on serving; every event will say what is wrong with the script, if anything is.
        Err(error) => tracing::warn!(tenant = %config.tenant, handler = config.name, %error, "no snapshot of the script"),
    }
}
