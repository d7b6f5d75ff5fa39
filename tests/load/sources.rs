//! Events per second from real brokers and databases through the whole host, as a ratio to a bare client loop on the same messages in the
//! same run: what anybody would write who has nothing but the client library, which instantiates and calls the same component inline.
//!
//!     tests/services/services.sh run cargo bench -p koksmat-tests --bench sources [-- kafka rabbitmq postgres]
//!
//! Each also with a native no-op in place of the component: the host with `unmatched = "ignore"` and no handler, which is everything but
//! the call, beside a loop that handles nothing. Each side is measured from its first thousand messages on, since groups need seconds to
//! form. Rounds alternate; the medians are compared.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::time::{Duration, Instant};

use koksmat::Host;
use koksmat_tests::Folder;

/// The binary's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod floor;
#[path = "sources/kafka.rs"]
mod kafka;
#[path = "sources/postgres.rs"]
mod postgres;
#[path = "sources/rabbitmq.rs"]
mod rabbitmq;

use floor::{Floor, FloorEvent};

const WARM: usize = 1_000;
const ROUNDS: usize = 5;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("kafka") {
            kafka::compare().await;
        }
        if wanted("rabbitmq") {
            rabbitmq::compare().await;
        }
        if wanted("postgres") {
            postgres::compare().await;
        }
    });
}

/// A message of 1 KiB that the component understands.
fn order() -> String {
    let order = r#"{"id":"018f2b6e-7c1a","sku":"TEA-0042","name":"assam second flush","warehouse":"gothenburg-north","quantity":12,"price":7.25,"tags":["tea","black"],"note":"NOTE"}"#;
    let order = order.replace("NOTE", &"x".repeat(1024 - order.len() + 4));
    assert_eq!(order.len(), 1024);
    order
}

/// What the bare loop does with a message.
async fn handle(floor: Option<&Floor>, data: &[u8]) {
    if let Some(floor) = floor {
        floor.handle(FloorEvent::new(data.to_vec())).await;
    }
}

/// The whole host on a source, until it has handled all messages. `source` is its table.
async fn host(source: &str, messages: usize, component: bool) -> Duration {
    let folder = Folder::new().host("concurrency = 64").toml(&format!("[sources.orders]\nunmatched = \"ignore\"\n{source}\n"));
    let folder = if component { folder.guest("stock", "stock", "on = [{ source = \"orders\" }]") } else { folder };
    let host = Host::builder().config(folder.config()).build().await.unwrap();
    let done = |at_least: usize| {
        let host = &host;
        async move {
            loop {
                let total = host.ledger().total;
                assert_eq!((total.dead, total.parked, total.returned), (0, 0, 0), "the handler takes every message");
                if total.done as usize >= at_least {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Instant::now()
        }
    };
    let began = done(WARM).await;
    let took = done(messages).await - began;
    assert!(host.shutdown().await.ledger.balanced);
    took
}

/// Collects and compares the rounds of both sides.
struct Rounds {
    what: String,
    messages: usize,
    bare: Vec<Duration>,
    hosted: Vec<Duration>,
}

impl Rounds {
    fn new(what: &str, component: bool, messages: usize) -> Self {
        let what = format!("{what}, {}", if component { "with a component" } else { "without one" });
        Self { what, messages, bare: Vec::new(), hosted: Vec::new() }
    }

    fn add(&mut self, bare: Duration, hosted: Duration) {
        self.bare.push(bare);
        self.hosted.push(hosted);
        self.print(&format!("round {}", self.bare.len()), bare, hosted);
    }

    fn end(mut self) {
        self.bare.sort();
        self.hosted.sort();
        self.print("medians", self.bare[self.bare.len() / 2], self.hosted[self.hosted.len() / 2]);
        println!();
    }

    fn print(&self, which: &str, bare: Duration, hosted: Duration) {
        let rate = |took: Duration| (self.messages - WARM) as f64 / took.as_secs_f64();
        let (bare, hosted) = (rate(bare), rate(hosted));
        println!("{}, {which}: bare loop {bare:>8.0}/s, host {hosted:>8.0}/s, {:.3}×", self.what, hosted / bare);
    }
}
