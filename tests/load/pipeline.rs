//! Events per second through memory source → channel → router → permit → handler → settle, as a ratio to the floor: bare store +
//! instantiate + call + drop of the same component with the same engine settings, in the same run. Both on one thread, pinned to one core.
//!
//!     cargo bench -p koksmat-tests --bench pipeline
//!
//! Rounds of both sides alternate, so that what the machine does besides hits both; the medians are compared.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::time::{Duration, Instant};

use koksmat::{
    Answer, Event, Host,
    plugin::{Capacity, engine},
    source::memory::MemorySource,
};
use koksmat_tests::{Folder, guests};
use wasmtime::{
    Engine, Store, UpdateDeadline,
    component::{Component, ComponentType, InstancePre, Lift, Linker, Lower},
};

const EVENTS: usize = 10_000;
const ROUNDS: usize = 9;
const ORDER: &str = r#"{"id":"018f2b6e-7c1a","sku":"TEA-0042","name":"assam second flush","warehouse":"gothenburg-north","quantity":12,"price":7.25,"tags":["tea","black","loose","organic","single-estate"]}"#;

fn main() {
    pin_to_one_core();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(compare());
}

async fn compare() {
    let floor = Floor::new();
    let host = Hosted::start().await;
    floor.run(EVENTS / 10).await;
    host.run(EVENTS / 10).await;
    let (mut floors, mut hosts, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let (bare, hosted) = (floor.run(EVENTS).await, host.run(EVENTS).await);
        let ratio = hosted.as_secs_f64() / bare.as_secs_f64();
        println!("round {round}: floor {:>6.2} µs, host {:>6.2} µs an event, {ratio:.3}×", micros(bare), micros(hosted));
        floors.push(bare);
        hosts.push(hosted);
        ratios.push(ratio);
    }
    floors.sort();
    hosts.sort();
    ratios.sort_by(f64::total_cmp);
    let (bare, hosted) = (floors[ROUNDS / 2], hosts[ROUNDS / 2]);
    let per_second = |took: Duration| EVENTS as f64 / took.as_secs_f64();
    println!("\nfloor: {:.0} events/s ({:.2} µs)", per_second(bare), micros(bare));
    println!("host:  {:.0} events/s ({:.2} µs)", per_second(hosted), micros(hosted));
    println!("ratio of the medians: {:.3}× (median of the rounds' ratios: {:.3}×)", micros(hosted) / micros(bare), ratios[ROUNDS / 2]);
    host.host.shutdown().await;
}

fn micros(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6 / EVENTS as f64
}

/// The whole host with one handler.
struct Hosted {
    host: Host,
    memory: koksmat::source::memory::MemorySender,
    _folder: Folder,
}

impl Hosted {
    async fn start() -> Self {
        let folder = Folder::new().host("concurrency = 64").guest("stock", "stock", "on = [{ source = \"memory\" }]");
        let (source, memory) = MemorySource::new();
        let config = folder.config_with(&["memory"]);
        let host = Host::builder().config(config).source("memory", 256, source).build().await.unwrap();
        host.ready().await;
        Self { host, memory, _folder: folder }
    }

    async fn run(&self, events: usize) -> Duration {
        let event = Event::new("order.created", ORDER);
        let started = Instant::now();
        let (pending, mut answers) = tokio::sync::mpsc::channel(512);
        let send = async {
            for _ in 0..events {
                pending.send(self.memory.send(event.clone()).await.unwrap()).await.unwrap();
            }
            drop(pending);
        };
        let receive = async {
            while let Some(pending) = answers.recv().await {
                let answer: Answer = koksmat::receipt::Pending::answer(pending).await;
                assert!(matches!(answer, Answer::Done { response: Some(_) }), "{answer:?}");
            }
        };
        tokio::join!(send, receive);
        started.elapsed()
    }
}

/// wasmtime and nothing else.
struct Floor {
    engine: Engine,
    pre: InstancePre<()>,
    _host_engine: engine::Engine,
}

impl Floor {
    fn new() -> Self {
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
        Self { engine, pre, _host_engine: host_engine }
    }

    async fn run(&self, events: usize) -> Duration {
        let component = self.pre.component();
        let (_, interface) = component.get_export(None, "koksmat:plugin/handler@0.1.0").unwrap();
        let (_, handle) = component.get_export(Some(&interface), "handle").unwrap();
        let started = Instant::now();
        for _ in 0..events {
            let mut store = Store::new(&self.engine, ());
            store.set_epoch_deadline(1);
            store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
            let instance = self.pre.instantiate_async(&mut store).await.unwrap();
            let handle =
                instance.get_typed_func::<(FloorEvent, FloorContext), (Result<FloorResponse, FloorFailure>,)>(&mut store, &handle).unwrap();
            let (answer,) = handle.call_async(&mut store, (FloorEvent::order(), FloorContext::call())).await.unwrap();
            assert!(answer.is_ok());
        }
        started.elapsed()
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
struct FloorEvent {
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
    fn order() -> Self {
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
            data: ORDER.into(),
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

/// Start again on the last core alone, with the tool every Linux has.
fn pin_to_one_core() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned();
    let Some(last) = allowed.rsplit([',', '-']).next().filter(|last| *last != allowed) else {
        println!("pinned to core {allowed}");
        return;
    };
    use std::os::unix::process::CommandExt;
    let me = std::env::current_exe().unwrap();
    let error = std::process::Command::new("taskset").arg("-c").arg(last).arg(me).exec();
    panic!("taskset (util-linux) is needed to pin the benchmark: {error}");
}
