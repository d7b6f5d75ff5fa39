//! The host's side of one call: what the capabilities work on. Made for a call, dropped with it.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::{
    config::HandlerConfig,
    event::Event,
    plugin::{
        Call, Handler,
        capability::{
            http::{OutboundCall, Outside},
            logging::{CallLog, Stdio, StdioLevel},
        },
        effects::CallEffects,
        limits::{HEADER_BYTES, Limiter},
    },
    store::{CallId, Store},
};

/// An event a call emitted.
#[derive(Debug)]
pub struct Emission {
    /// The event.
    pub event: Event,
    /// The embedded queue it goes to; absent: routed.
    pub queue: Option<String>,
    /// Held back so long.
    pub after: Option<Duration>,
    /// The guest gave the id: an event with it is accepted once.
    pub recognised: bool,
}

/// What the capabilities work on.
pub(crate) struct Guest {
    pub(crate) id: CallId,
    pub(crate) handler: Arc<HandlerConfig>,
    pub(crate) queues: Arc<HashSet<String>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) effects: CallEffects,
    pub(crate) limiter: Limiter,
    pub(crate) log: CallLog,
    /// Something of the host failed under the call: it fails whatever the guest makes of it.
    pub(crate) host_failure: Option<String>,
    /// The deadline passed while the guest was computing.
    pub(crate) timed_out: bool,
    pub(crate) outbound: OutboundCall,
    pub(crate) table: ResourceTable,
    /// Made when it is first used: many calls never do, and it seeds two generators of random numbers.
    wasi: Option<WasiCtx>,
    http: WasiHttpCtx,
}

impl Guest {
    pub(crate) fn new(handler: &Handler, call: &Call, deadline: Instant, log: CallLog, outside: Outside) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADER_BYTES);
        let mut table = ResourceTable::new();
        table.set_max_capacity(crate::plugin::limits::HANDLES);
        let outbound = OutboundCall::new(handler.outbound.clone(), handler.store.clone(), call, deadline, outside);
        Self {
            limiter: Limiter::new(handler.config.memory),
            id: call.id.clone(),
            handler: handler.config.clone(),
            queues: handler.queues.clone(),
            store: handler.store.clone(),
            effects: CallEffects::default(),
            log,
            host_failure: None,
            timed_out: false,
            outbound,
            table,
            wasi: None,
            http,
        }
    }
}

/// No files, no sockets, no arguments and no environment; what is printed goes into the log.
fn wasi_of(log: &CallLog) -> WasiCtx {
    let stdio = |level| Stdio { log: log.clone(), level };
    WasiCtx::builder()
        .stdout(stdio(StdioLevel::Out))
        .stderr(stdio(StdioLevel::Err))
        .max_random_size(1 << 20)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

impl crate::plugin::bindings::koksmat::plugin::types::Host for Guest {}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Self { wasi, table, log, .. } = self;
        WasiCtxView { ctx: wasi.get_or_insert_with(|| wasi_of(log)), table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.outbound.note_reads(&self.effects);
        WasiHttpCtxView { hooks: &mut self.outbound, table: &mut self.table, ctx: &mut self.http }
    }
}
