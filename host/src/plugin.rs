//! Handlers' code: built, compiled, linked once; instantiated, limited and called for each event.
//!
//! Nothing here knows where an event comes from or what a failure leads to.

mod aside;
pub(crate) mod bindings;
pub(crate) mod build;
mod canary;
pub(crate) mod capability;
mod contract;
mod data;
mod effects;
pub mod engine;
mod guest;
pub(crate) mod inputs;
pub mod instance;
mod limits;
mod link;
pub(crate) mod load;
pub(crate) mod recording;
mod shadow;
mod tape;
mod trial;
pub(crate) mod version;

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicBool},
};

use crate::{config::HandlerConfig, store::Store, telemetry::CallMetrics};

pub use capability::logging::{LogLevel, LogLine};
pub use data::{Data, Part};
pub use engine::{Capacity, Engine};
pub use guest::Emission;
pub use instance::{Call, Finished};
pub use load::{LoadError, Loader};
pub use recording::{Page, Recording, Setup};
pub use shadow::Compared;
pub use tape::Exchange;
pub use trial::{Asked, Emitted, Ended, Reply, Trial, Written};

use self::{
    capability::http::Outbound,
    version::{Code, Versions},
};

/// A core module as a component, a component as it is: what [`Loader`] does before it compiles.
///
/// # Errors
/// When it is neither, or a core module that does not say of which world it is.
pub fn encode(wasm: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    Ok(build::encode_component(wasm)?)
}

/// A named use of a plugin: its code, its limits, what it was granted.
pub struct Handler {
    /// What the configuration says of it.
    pub config: Arc<HandlerConfig>,
    pub(crate) versions: Versions,
    pub(crate) queues: Arc<HashSet<String>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) outbound: Outbound,
    pub(crate) metrics: CallMetrics,
    /// Its last call computed for long: the next one begins aside.
    pub(crate) heavy: AtomicBool,
    /// Whoever can call keeps the clock running that ends calls.
    pub(crate) engine: Engine,
    /// What is called in place of the code, in a simulation.
    #[cfg(test)]
    pub(crate) stand_in: Option<Arc<dyn StandIn>>,
}

/// What a simulation calls in place of a component.
#[cfg(test)]
pub(crate) trait StandIn: Send + Sync {
    fn call(&self, call: Call) -> std::pin::Pin<Box<dyn Future<Output = Finished> + Send + '_>>;
}

impl Handler {
    /// The digest of what serves now: of the component, or of the script.
    pub fn digest(&self) -> String {
        self.versions.serving().digest.to_string()
    }

    /// Whether it is what this configuration and this code would make.
    pub(crate) fn is(&self, config: &HandlerConfig, queues: &HashSet<String>, digest: &str) -> bool {
        &*self.config == config && *self.queues == *queues && self.versions.wanted() == digest
    }

    /// With what it is set up, as far as a call can tell.
    pub(crate) fn setup(&self) -> Setup {
        let HandlerConfig { grants, config, from_environment, timeout, memory, .. } = &*self.config;
        let shown = config.iter().filter(|(key, _)| !from_environment.contains(*key));
        Setup {
            grants: grants.clone(),
            queues: self.queues.iter().cloned().collect(),
            config: shown.map(|(key, value)| (key.clone(), value.clone())).collect(),
            withheld: from_environment.clone(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            memory: *memory,
        }
    }

    /// Whether a call can have effects: without a grant for one it has none.
    pub fn can_have_effects(&self) -> bool {
        self.config.grants.keyvalue.is_some() || !self.config.grants.emit.is_empty()
    }
}

/// A handler that is nothing but what stands in for it.
#[cfg(test)]
pub(crate) fn bare_handler(config: HandlerConfig, store: Arc<dyn Store>, stand_in: Arc<dyn StandIn>) -> Handler {
    use std::sync::LazyLock;

    /// The least that links: it is never called.
    const COMPONENT: &str = r#"(component
        (core module $module (func (export "handle")))
        (core instance $instance (instantiate $module))
        (func $handle (canon lift (core func $instance "handle")))
        (instance $exports (export "handle" (func $handle)))
        (export "koksmat:plugin/handler@0.1.0" (instance $exports)))"#;
    static CODE: LazyLock<(Engine, link::Linked)> = LazyLock::new(|| {
        let engine = Engine::new(Capacity { instances: 1, memory: 1 << 16 }).expect("an engine");
        let linker = link::linker(engine.wasmtime()).expect("a linker");
        let component = wat::parse_str(COMPONENT).expect("a component");
        let component = wasmtime::component::Component::new(engine.wasmtime(), component).expect("code");
        let linked = link::Linked::new(&linker, &component).expect("what links");
        (engine, linked)
    });
    let (engine, linked) = &*CODE;
    let digest = "simulated".into();
    let code = Code { pre: Some(linked.clone()), digest, positions: build::Positions::default(), script: None, counts: Default::default() };
    Handler {
        outbound: Outbound::new(&[]),
        metrics: CallMetrics::of(&config.tenant, &config.name),
        config: Arc::new(config),
        versions: Versions::of(Arc::new(code), false, Default::default()),
        queues: Arc::default(),
        store,
        heavy: AtomicBool::new(false),
        engine: engine.clone(),
        stand_in: Some(stand_in),
    }
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler").field("config", &self.config).finish_non_exhaustive()
    }
}
