//! The host's side of one call: what the capabilities work on. Made for a call, dropped with it.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{HostWallClock, WasiCtx, WasiCtxView, WasiView};
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
        effects::{CallEffects, Keys},
        limits::{HEADER_BYTES, Limiter},
        recording::Playback,
    },
    store::CallId,
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
    pub(crate) keys: Keys,
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
        let (keys, record) = match &outside {
            Outside::Open => (Keys::Store(handler.store.clone()), handler.config.record || call.record),
            Outside::Safe => (Keys::Store(handler.store.clone()), true),
            Outside::Recorded(playback) => (Keys::Recorded(playback.clone()), true),
        };
        let outbound = OutboundCall::new(handler.outbound.clone(), handler.store.clone(), call, deadline, outside, record);
        Self {
            limiter: Limiter::new(handler.config.memory),
            id: call.id.clone(),
            handler: handler.config.clone(),
            queues: handler.queues.clone(),
            keys,
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

impl Guest {
    /// What answers its host calls in the world's place.
    pub(crate) fn playback(&self) -> Option<&Arc<Playback>> {
        match &self.keys {
            Keys::Recorded(playback) => Some(playback),
            Keys::Store(_) => None,
        }
    }
}

/// A clock that began at some other time.
struct RecordedClock {
    began: Duration,
    started: Instant,
}

impl HostWallClock for RecordedClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        self.began + self.started.elapsed()
    }
}

/// No files, no sockets, no arguments and no environment; what is printed goes into the log.
fn wasi_of(log: &CallLog, keys: &Keys) -> WasiCtx {
    let stdio = |level| Stdio { log: log.clone(), level };
    let mut wasi = WasiCtx::builder();
    if let Keys::Recorded(playback) = keys
        && let Some(at) = playback.at()
    {
        wasi.wall_clock(RecordedClock { began: Duration::from_millis(at.unsigned_abs()), started: Instant::now() });
    }
    wasi.stdout(stdio(StdioLevel::Out))
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
        let Self { wasi, table, log, keys, .. } = self;
        WasiCtxView { ctx: wasi.get_or_insert_with(|| wasi_of(log, keys)), table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.outbound.note_reads(&self.effects);
        WasiHttpCtxView { hooks: &mut self.outbound, table: &mut self.table, ctx: &mut self.http }
    }
}
