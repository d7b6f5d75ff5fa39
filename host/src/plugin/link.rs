//! What a component's imports are given, and whether it is of our world.

use wasmtime::component::{Component, HasSelf, Instance, InstancePre, Linker};
use wasmtime_wasi::{
    WasiView,
    cli::{WasiCli, WasiCliView},
    p2::bindings as wasi,
    random::WasiRandom,
};

use crate::plugin::{
    bindings::{EventHandler, EventHandlerIndices, EventHandlerPre},
    guest::Guest,
};

/// A component with its imports resolved.
#[derive(Clone)]
pub(crate) struct Linked {
    pre: InstancePre<Guest>,
    indices: EventHandlerIndicesOf,
}

type EventHandlerIndicesOf = std::sync::Arc<EventHandlerIndices>;

impl Linked {
    /// Link a component. The error says which import or export does not fit.
    pub(crate) fn new(linker: &Linker<Guest>, component: &Component) -> wasmtime::Result<Self> {
        let pre = linker.instantiate_pre(component)?;
        let indices = EventHandlerIndices::new(&pre)?;
        Ok(Self { pre, indices: indices.into() })
    }

    pub(crate) fn engine(&self) -> &wasmtime::Engine {
        self.pre.engine()
    }

    pub(crate) fn instance_pre(&self) -> &InstancePre<Guest> {
        &self.pre
    }

    /// The typed exports of an instance made from this.
    pub(crate) fn bindings(&self, store: &mut wasmtime::Store<Guest>, instance: &Instance) -> wasmtime::Result<EventHandler> {
        self.indices.load(store, instance)
    }
}

/// A linker with every capability: whether a handler may use one is checked at load and on each call. Sockets and file systems are not there.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::<Guest>::new(engine);
    wasmtime_wasi::p2::add_to_linker_proxy_interfaces_async(&mut linker)?;
    wasi::random::insecure::add_to_linker::<Guest, WasiRandom>(&mut linker, |g| g.ctx().ctx.random())?;
    wasi::random::insecure_seed::add_to_linker::<Guest, WasiRandom>(&mut linker, |g| g.ctx().ctx.random())?;
    wasi::cli::environment::add_to_linker::<Guest, WasiCli>(&mut linker, Guest::cli)?;
    wasi::cli::exit::add_to_linker::<Guest, WasiCli>(&mut linker, Guest::cli)?;
    wasi::cli::terminal_input::add_to_linker::<Guest, WasiCli>(&mut linker, Guest::cli)?;
    wasi::cli::terminal_output::add_to_linker::<Guest, WasiCli>(&mut linker, Guest::cli)?;
    wasi::cli::terminal_stdin::add_to_linker::<Guest, WasiCli>(&mut linker, Guest::cli)?;
    wasi::cli::terminal_stdout::add_to_linker::<Guest, WasiCli>(&mut linker, Guest::cli)?;
    wasi::cli::terminal_stderr::add_to_linker::<Guest, WasiCli>(&mut linker, Guest::cli)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;

    use crate::plugin::bindings::{koksmat, wasi as granted};
    granted::logging::logging::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |g| g)?;
    granted::config::store::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |g| g)?;
    granted::keyvalue::store::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |g| g)?;
    granted::keyvalue::atomics::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |g| g)?;
    granted::keyvalue::batch::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |g| g)?;
    koksmat::plugin::counters::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |g| g)?;
    koksmat::plugin::emit::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |g| g)?;
    koksmat::plugin::types::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |g| g)?;
    Ok(linker)
}

#[allow(unused, reason = "names the type that indices belong to")]
type Pre = EventHandlerPre<Guest>;
