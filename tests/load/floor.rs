//! What benchmarks compare the host with: wasmtime and nothing else, with the engine settings of the host.

use koksmat::plugin::{Capacity, engine};
use koksmat_tests::guests;
use wasmtime::{
    Engine, Store, UpdateDeadline,
    component::{Component, ComponentExportIndex, ComponentType, InstancePre, Lift, Linker, Lower},
};

/// wasmtime and nothing else.
pub(crate) struct Floor {
    engine: Engine,
    pre: InstancePre<()>,
    handle: ComponentExportIndex,
    _host_engine: engine::Engine,
}

impl Floor {
    pub(crate) fn new() -> Self {
        let capacity = Capacity { instances: 72, memory: 64 << 20 };
        // The host's own engine type, for its epoch ticker.
        let host_engine = engine::Engine::new(capacity).unwrap();
        let engine = host_engine.wasmtime().clone();
        let core = std::fs::read(guests::core_module("stock")).unwrap();
        let bytes = koksmat::plugin::encode(core).unwrap();
        let component = Component::from_binary(&engine, &bytes).unwrap();
        let mut linker = Linker::<()>::new(&engine);
        let mut logging = linker.instance("wasi:logging/logging@0.1.0-draft").unwrap();
        logging.func_wrap("log", |_, _: (Level, String, String)| Ok(())).unwrap();
        let pre = linker.instantiate_pre(&component).unwrap();
        let component = pre.component();
        let (_, interface) = component.get_export(None, "koksmat:plugin/handler@0.1.0").unwrap();
        let (_, handle) = component.get_export(Some(&interface), "handle").unwrap();
        Self { engine, pre, handle, _host_engine: host_engine }
    }

    /// A store, an instance, a call, and the drop of all of it.
    pub(crate) async fn handle(&self, event: FloorEvent) {
        let mut store = Store::new(&self.engine, ());
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        let instance = self.pre.instantiate_async(&mut store).await.unwrap();
        let handle = instance
            .get_typed_func::<(FloorEvent, FloorContext), (Result<FloorResponse, FloorFailure>,)>(&mut store, &self.handle)
            .unwrap();
        let (answer,) = handle.call_async(&mut store, (event, FloorContext::call())).await.unwrap();
        assert!(answer.is_ok());
    }
}

#[derive(ComponentType, Lift, Lower, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "the guest chooses")]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct FloorEvent {
    id: String,
    source: String,
    #[component(name = "type")]
    ty: String,
    subject: Option<String>,
    time: Option<String>,
    datacontenttype: Option<String>,
    dataschema: Option<String>,
    attributes: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    data: Vec<u8>,
}

impl FloorEvent {
    /// An event with this data.
    pub(crate) fn new(data: Vec<u8>) -> Self {
        Self {
            id: "01a2065b-351e-7225-82d7-bd4458a13104".into(),
            source: "/default/memory".into(),
            ty: "order.created".into(),
            subject: None,
            time: Some("2026-11-23T03:02:49.016672Z".into()),
            datacontenttype: None,
            dataschema: None,
            attributes: Vec::new(),
            headers: Vec::new(),
            data,
        }
    }
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct FloorContext {
    tenant: String,
    handler: String,
    attempt: u32,
    #[component(name = "idempotency-key")]
    idempotency_key: String,
    deadline: u64,
    #[component(name = "fencing-token")]
    fencing_token: Option<u64>,
    traceparent: Option<String>,
}

impl FloorContext {
    fn call() -> Self {
        Self {
            tenant: "default".into(),
            handler: "stock".into(),
            attempt: 1,
            idempotency_key: "b1946ac92492d2347c6235b4d2611184".into(),
            deadline: 1_795_000_000_000,
            fencing_token: None,
            traceparent: None,
        }
    }
}

#[derive(ComponentType, Lift)]
#[component(record)]
#[expect(dead_code, reason = "lifted, which is part of the call")]
struct FloorResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

#[derive(ComponentType, Lift, Debug)]
#[component(variant)]
#[expect(dead_code, reason = "lifted, which is part of the call")]
enum FloorFailure {
    #[component(name = "retry")]
    Retry(FloorAdvice),
    #[component(name = "reject")]
    Reject(String),
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
#[expect(dead_code, reason = "lifted, which is part of the call")]
struct FloorAdvice {
    reason: String,
    after: Option<u64>,
}
