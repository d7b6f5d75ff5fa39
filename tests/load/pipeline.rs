//! Events per second through memory source → channel → router → permit → handler → settle, as a ratio to the floor: bare store +
//! instantiate + call + drop of the same component with the same engine settings, in the same run. Both on one thread, pinned to one core.
//!
//!     cargo bench -p koksmat-tests --bench pipeline
//!
//! Rounds of both sides alternate, so that what the machine does besides hits both; the medians are compared.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::time::{Duration, Instant};

use koksmat::{Answer, Event, Host, source::memory::MemorySource};
use koksmat_tests::Folder;

/// The binary's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod floor;

use floor::{Floor, FloorEvent};

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
    run(&floor, EVENTS / 10).await;
    host.run(EVENTS / 10).await;
    let (mut floors, mut hosts, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let (bare, hosted) = (run(&floor, EVENTS).await, host.run(EVENTS).await);
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

/// The floor alone.
async fn run(floor: &Floor, events: usize) -> Duration {
    let started = Instant::now();
    for _ in 0..events {
        floor.handle(FloorEvent::new(ORDER.into())).await;
    }
    started.elapsed()
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
