//! From what a handler names (a script, a crate, a folder with a build command, a `.wasm` file) to a component that can be instantiated.
//!
//! ```text
//!  .js .ts ─► script: read, check, strip types ─► snapshot ─┐
//!  Cargo.toml ─► cargo ───────┐                             ├─► component ─► compiled code ─► (engine)
//!  build command ─► command ──┴─► encode ───────────────────┘
//!  .wasm ─────────────────────────┘             both are kept in the cache, by content
//! ```
//!
//! Nothing here decides what a component may do, and nothing here serves an event.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    thread::available_parallelism,
    time::Instant,
};

use tokio::{
    runtime::Handle,
    sync::{OnceCell, Semaphore},
    task::spawn_blocking,
};
use wasmtime::component::Component;

use crate::{config::PluginRef, plugin::Engine};

pub(crate) use self::{
    cache::Cache,
    encode::{EncodeError, component as encode_component},
    error::BuildError,
    functions::Functions,
    inspect::{Inspection, inspect},
    runtime::{LOAD, Runtime},
    script::{Capability, Script},
    sourcemap::Positions,
};

mod cache;
mod cargo;
mod command;
mod compiler;
mod encode;
mod error;
mod functions;
mod inspect;
mod process;
mod runtime;
mod script;
mod snapshot;
mod sourcemap;

/// The largest file that is taken for a component, in bytes.
const MAX_COMPONENT: u64 = 256 << 20;

/// A component and what it says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The component. It is valid.
    pub(crate) component: Arc<[u8]>,
    /// SHA-256 of it, in hexadecimal.
    pub(crate) digest: String,
    /// Its imports, exports, and what a script's build wrote into it.
    pub(crate) says: Inspection,
    /// Whether nothing had to be built.
    pub(crate) from_cache: bool,
}

/// Builds components for one engine. All that computes or waits for files runs on the blocking threads of the current runtime.
pub(crate) struct Builder {
    engine: Engine,
    cache: Cache,
    /// How many ticks of the engine's epoch a script's top level may run.
    ticks: u64,
    runtime: OnceCell<Arc<Runtime>>,
    toolchain: cargo::Toolchain,
    /// Whose turn it is to compile.
    small: Semaphore,
    large: Semaphore,
}

impl Builder {
    /// `ticks` of the engine's epoch bound a script's top level. What is begun on a blocking thread holds on to the engine, and so keeps
    /// its clock running, also when nobody waits for the result any more.
    pub(crate) fn new(engine: Engine, cache: Cache, ticks: u64) -> Self {
        let cores = available_parallelism().map_or(1, |n| n.get());
        Self {
            engine,
            cache,
            ticks,
            runtime: OnceCell::new(),
            toolchain: cargo::Toolchain::from_env(),
            small: Semaphore::new(cores),
            large: Semaphore::new(1),
        }
    }

    /// From now on compiling gives way to calls.
    pub(crate) fn others_serve(&self) {
        self.cache.others_serve();
    }

    /// Build what a handler names, or find it in the cache. A Rust crate and a build command always run: only their tools know what changed.
    ///
    /// Dropping the future ends the tools it started.
    pub(crate) async fn build(&self, plugin: &PluginRef) -> Result<Built, BuildError> {
        match plugin {
            PluginRef::Wasm(path) => self.encoded(path).await,
            PluginRef::Script(path) => {
                let script = self.script(path).await?;
                match self.prebuilt(&script).await? {
                    Some(built) => Ok(built),
                    None => self.snapshot(&script).await,
                }
            }
            PluginRef::Cargo(folder) => self.encoded(&self.toolchain.build(folder).await?).await,
            PluginRef::Command { folder, command, output } => self.encoded(&command::build(folder, command, output).await?).await,
        }
    }

    /// Read and check a script: milliseconds. With it, new code can serve at once on [`Builder::runtime`].
    pub(crate) async fn script(&self, path: &Path) -> Result<Arc<Script>, BuildError> {
        let path = path.to_owned();
        spawn_blocking(move || Script::read(&path).map(Arc::new)).await?
    }

    /// The script's snapshot, if it was made before.
    pub(crate) async fn prebuilt(&self, script: &Arc<Script>) -> Result<Option<Built>, BuildError> {
        let (cache, script) = (self.cache.clone(), script.clone());
        let found = spawn_blocking(move || cache.component(&snapshot::inputs(&script)).map(|component| Built::of(component, true))).await?;
        // What cannot be read any more is made again.
        Ok(found.and_then(Result::ok))
    }

    /// Make the script's snapshot: tens of milliseconds once the runtime is compiled.
    ///
    /// # Errors
    /// [`BuildError::Script`] with what its top level threw.
    pub(crate) async fn snapshot(&self, script: &Arc<Script>) -> Result<Built, BuildError> {
        let (engine, cache, ticks, script) = (self.engine.clone(), self.cache.clone(), self.ticks, script.clone());
        let runtime = self.runtime().await?;
        spawn_blocking(move || {
            let component = Handle::current().block_on(snapshot::snapshot(engine.wasmtime(), &runtime, &script, ticks))?;
            cache.keep_component(&snapshot::inputs(&script), &component);
            Built::of(component, false).map_err(|reason| BuildError::Encode { path: PathBuf::from(&script.entry), reason })
        })
        .await?
    }

    /// Keep a component, to be found again by its version's digest when its file says something else.
    pub(crate) async fn keep_version(&self, built: &Built) {
        let (cache, component, inputs) = (self.cache.clone(), built.component.clone(), version_inputs(&built.digest));
        let keep = move || {
            if !cache.has_component(&inputs) {
                cache.keep_component(&inputs, &component);
            }
        };
        // What cannot be kept is only missed when it is wanted.
        let _ = spawn_blocking(keep).await;
    }

    /// The component of a version that was built before, by the digest of the component or of the script.
    pub(crate) async fn version(&self, digest: &str) -> Option<Built> {
        let (cache, digest) = (self.cache.clone(), digest.to_owned());
        let found = spawn_blocking(move || {
            let component = cache.component(&version_inputs(&digest)).or_else(|| cache.component(&snapshot::inputs_of(&digest)))?;
            Built::of(component, true).ok()
        });
        found.await.ok().flatten()
    }

    /// The JavaScript runtime, which is loaded when it is first asked for: milliseconds from the cache, else about a second.
    pub(crate) async fn runtime(&self) -> Result<Arc<Runtime>, BuildError> {
        let load = || async {
            let (engine, cache) = (self.engine.clone(), self.cache.clone());
            spawn_blocking(move || Runtime::load(engine.wasmtime(), &cache).map(Arc::new)).await?
        };
        self.runtime.get_or_try_init(load).await.cloned()
    }

    /// The compiled form of a component: milliseconds from the cache, else about a second for a script.
    ///
    /// What is large takes hundreds of megabytes while it is compiled, so there is one of that at a time; and what others wait for to be
    /// compiled is there when their turn comes, if it is the same.
    pub(crate) async fn compile(&self, built: &Built) -> Result<Component, BuildError> {
        // The wait for a turn is one for idle processors.
        let asked = Instant::now();
        let turns = if built.component.len() > compiler::LARGE { &self.large } else { &self.small };
        let _turn = match self.is_compiled(built) {
            true => None,
            false => turns.acquire().await.ok(),
        };
        let (engine, cache, built) = (self.engine.clone(), self.cache.clone(), built.clone());
        spawn_blocking(move || cache.compile(engine.wasmtime(), &built.digest, asked, || Ok(built.component))).await?
    }

    /// Whether [`Builder::compile`] would take seconds.
    pub(crate) fn takes_long(&self, built: &Built) -> bool {
        built.component.len() > compiler::LARGE && !self.is_compiled(built)
    }

    /// Whether [`Builder::compile`] need not compile.
    pub(crate) fn is_compiled(&self, built: &Built) -> bool {
        self.cache.is_compiled(self.engine.wasmtime(), &built.digest)
    }

    async fn encoded(&self, path: &Path) -> Result<Built, BuildError> {
        let (engine, cache, path) = (self.engine.clone(), self.cache.clone(), path.to_owned());
        spawn_blocking(move || {
            let bytes = read(&path)?;
            let digest = cache::digest(&bytes);
            let refused = |reason| BuildError::Encode { path: path.clone(), reason };
            if cache.is_compiled(engine.wasmtime(), &digest) {
                // It was valid when it was compiled.
                return Built::of(bytes, true).map_err(refused);
            }
            let inputs = format!("encoded {digest}");
            if let Some(component) = cache.component(&inputs) {
                return Built::of(component, true).map_err(refused);
            }
            let component = encode::component(bytes).map_err(refused)?;
            let built = Built::of(component, false).map_err(refused)?;
            if built.digest != digest {
                cache.keep_component(&inputs, &built.component);
            }
            Ok(built)
        })
        .await?
    }
}

fn version_inputs(digest: &str) -> String {
    format!("version {digest}")
}

impl Built {
    fn of(component: Vec<u8>, from_cache: bool) -> Result<Self, EncodeError> {
        let says = inspect(&component)?;
        Ok(Self { digest: cache::digest(&component), component: component.into(), says, from_cache })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    let failed = |reason| BuildError::Read { path: path.to_owned(), reason };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_COMPONENT + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_COMPONENT {
        return Err(failed(std::io::Error::other(format!("larger than {} MiB, the most a component may be", MAX_COMPONENT >> 20))));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
