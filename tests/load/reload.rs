//! What a thousand reloads do to those who are not concerned: events from every kind of source through small Rust handlers, rounds in which a
//! handler is replaced again and again beside rounds in which nothing is, in turn, on one host.
//!
//!     tests/services/services.sh run cargo bench -p koksmat-tests --bench reload
//!
//! Of each kind there are two sources: what comes from one is handled by `steady`, which stays, and what comes from the other by `changing`,
//! whose component is another one at every reload: one of its functions was never compiled before. How long an event took is measured from the moment in which
//! it was due, so that a sender who was held up counts too. Nothing may be lost, nothing fail, and every answer must be one of a version that
//! served while it was waited for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use koksmat::{Host, reload::Reloaded, source::memory::MemorySource};
use koksmat_tests::{Folder, guests, kafka, rabbitmq, services};

/// The binary's own.
#[path = "../../host/src/memory.rs"]
mod memory;
#[path = "reload/senders.rs"]
mod senders;

/// Events a second for `steady`, by kind of source; for `changing` it is a fifth of them. With the timers they are 5,042.
const RATES: [(&str, u32); 6] = [("memory", 1_000), ("kafka", 1_600), ("rabbitmq", 900), ("webhook", 200), ("queue", 300), ("rows", 200)];
const HANDLERS: [&str; 2] = ["steady", "changing"];
/// Reloads in a round, and how far apart: 10 a second. Each has a component that was never compiled, of which one function differs.
const RELOADS: u32 = 100;
const APART: Duration = Duration::from_millis(100);

fn main() {
    memory::return_from_time_to_time();
    let rounds = services::figure("KOKSMAT_BENCH_ROUNDS", 10);
    // What a sender does not get is seen by tasks that nobody joins.
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::abort();
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(compare(rounds));
}

async fn compare(rounds: usize) {
    let kafka = kafka::Topic::create("reload", 2).await;
    let kafka_changing = kafka::Topic::create("reload", 2).await;
    let rabbitmq = rabbitmq::Rabbitmq::connect().await;
    let queues = HANDLERS.map(|_| rabbitmq::name("reload"));
    for queue in &queues {
        rabbitmq.queue(queue, &[]).await;
    }
    let folder = folder([&kafka.name, &kafka_changing.name], &queues);
    let (memory, memory_sender) = MemorySource::new();
    let (memory_changing, memory_changing_sender) = MemorySource::new();
    let config = folder.config_with(&["memory-steady", "memory-changing"]);
    let builder = Host::builder().config(config).source("memory-steady", 4_096, memory).source("memory-changing", 4_096, memory_changing);
    let host = builder.build().await.unwrap();
    host.ready().await;

    let seen = Arc::new(Seen::default());
    let sending = senders::Senders {
        memory: [memory_sender, memory_changing_sender],
        topics: [kafka.name.clone(), kafka_changing.name.clone()],
        queues,
        listen: host.listen_address(),
        token: folder.token(),
        rows: folder.join("rows.db"),
        seen: seen.clone(),
    }
    .start();
    // Groups form, caches fill.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (mut quiet, mut reloading, mut slowest) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        seen.take();
        tokio::time::sleep(APART * RELOADS).await;
        quiet.push(seen.take());
        slowest.extend(reload_again_and_again(&host, &folder, &seen).await);
        reloading.push(seen.take());
        print(&format!("round {round}"), quiet.last().unwrap(), reloading.last().unwrap());
    }
    let sent = sending.stop().await;
    handled(&host, &sent).await;
    print("medians of the rounds", &medians(&quiet), &medians(&reloading));
    slowest.sort();
    println!(
        "{} reloads (p50 {:?}, the longest {:?}) under {} events: lost 0, failed 0, by what did not serve 0",
        slowest.len(),
        slowest[slowest.len() / 2],
        slowest[slowest.len() - 1],
        sent.values().sum::<usize>(),
    );
    assert!(host.shutdown().await.ledger.balanced);
}

/// Every kind of source twice, and the two handlers.
fn folder(topics: [&str; 2], queues: &[String; 2]) -> Folder {
    let mut folder = Folder::new()
        .host("concurrency = 64\nwatch = false")
        .file("steady.wasm", guests::version(0))
        .file("changing.wasm", guests::version(first_version()));
    for (n, handler) in HANDLERS.iter().enumerate() {
        folder = folder.queue(&format!("queue-{handler}")).toml(&format!(
            r#"
            [sources.kafka-{handler}]
            kind = "kafka"
            brokers = "{brokers}"
            group = "{topic}"
            topics = ["{topic}"]

            [sources.rabbitmq-{handler}]
            kind = "rabbitmq"
            url = "{rabbitmq}"
            queue = "{queue}"

            [sources.webhook-{handler}]
            kind = "webhook"
            path = "/{handler}"
            reply = "handler"

            [sources.rows-{handler}]
            kind = "poller"
            database = "sqlite:rows.db"
            every = "20ms"
            claim = {{ table = "{handler}", key = "id", done = "delete" }}

            [sources.timer-{handler}]
            kind = "timer"
            cron = "* * * * * *"
            "#,
            brokers = kafka::BROKERS,
            topic = topics[n],
            rabbitmq = rabbitmq::URL,
            queue = queues[n],
        ));
        let on: Vec<String> =
            RATES.iter().map(|(kind, _)| *kind).chain(["timer"]).map(|kind| format!("{{ source = \"{kind}-{handler}\" }}")).collect();
        folder = folder.handler(handler, &format!("{handler}.wasm"), &format!("on = [{}]", on.join(", ")));
    }
    let rows = rusqlite::Connection::open(folder.join("rows.db")).unwrap();
    rows.execute_batch("pragma journal_mode = wal; create table steady (id text primary key); create table changing (id text primary key)")
        .unwrap();
    folder
}

/// The first version of `changing`.
fn first_version() -> u32 {
    static FIRST: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *FIRST.get_or_init(guests::never_compiled)
}

/// How long each reload took.
async fn reload_again_and_again(host: &Host, folder: &Folder, seen: &Seen) -> Vec<Duration> {
    let mut ticks = tokio::time::interval(APART);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut took = Vec::new();
    for _ in 0..RELOADS {
        ticks.tick().await;
        let version = seen.written.fetch_add(1, Ordering::SeqCst) + 1;
        std::fs::write(folder.join("changing.wasm"), guests::version(first_version() + version)).unwrap();
        let began = Instant::now();
        let reloaded = host.reload(false).await;
        assert!(matches!(reloaded, Reloaded::Applied { .. }), "{reloaded:?}");
        took.push(began.elapsed());
        seen.applied.store(version, Ordering::SeqCst);
    }
    took
}

/// Wait until everything that was sent is handled; nothing of it failed, not even once.
async fn handled(host: &Host, sent: &BTreeMap<String, usize>) {
    let done = |source: &str| host.ledger().sources.get(source).map_or(0, |counts| counts.done as usize);
    let mut waited = Instant::now();
    koksmat_tests::until("everything to be handled", || {
        let missing: Vec<_> = sent.iter().filter(|(source, sent)| done(source) < **sent).collect();
        if !missing.is_empty() && waited.elapsed() > Duration::from_secs(10) {
            waited = Instant::now();
            missing.iter().for_each(|(source, sent)| println!("{source}: {} of {sent} are handled", done(source)));
        }
        std::future::ready(missing.is_empty().then_some(()))
    })
    .await;
    let ledger = host.ledger();
    assert_eq!((ledger.total.dead, ledger.total.parked, ledger.total.returned), (0, 0, 0), "{ledger:?}");
    for (source, sent) in sent {
        assert_eq!(ledger.sources[source].done as usize, *sent, "{source}: handled more often than sent");
    }
}

/// What the senders saw.
#[derive(Default)]
pub(crate) struct Seen {
    /// Of events for `steady`, by kind of source.
    took: Mutex<BTreeMap<&'static str, Vec<Duration>>>,
    /// The last version whose reload was begun, and the last that was said to be applied; counted from [`first_version`].
    written: AtomicU32,
    applied: AtomicU32,
}

impl Seen {
    fn answered(&self, kind: &'static str, due: Instant) {
        self.took.lock().unwrap().entry(kind).or_default().push(due.elapsed());
    }

    /// What `changing` answered to an event that was sent when `applied` was the last version that was applied.
    fn answered_by_version(&self, answer: &str, applied: u32) {
        let number: u32 =
            answer.strip_prefix("koksmat-version-").and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{answer}"));
        let (first, last) = (first_version() + applied, first_version() + self.written.load(Ordering::SeqCst));
        assert!((first..=last).contains(&number), "answered by {number}, where {first} to {last} served");
    }

    fn take(&self) -> Took {
        let took = std::mem::take(&mut *self.took.lock().unwrap());
        took.into_iter()
            .map(|(kind, mut took)| {
                took.sort();
                (kind, (took[took.len() / 2], took[(took.len() * 99).div_ceil(100) - 1]))
            })
            .collect()
    }
}

/// The median and the 99th percentile, by kind of source.
type Took = BTreeMap<&'static str, (Duration, Duration)>;

fn medians(rounds: &[Took]) -> Took {
    let median = |kind: &str, of: fn(&(Duration, Duration)) -> Duration| {
        let mut all: Vec<Duration> = rounds.iter().map(|round| of(&round[kind])).collect();
        all.sort();
        all[all.len() / 2]
    };
    rounds[0].keys().map(|kind| (*kind, (median(kind, |took| took.0), median(kind, |took| took.1)))).collect()
}

fn print(which: &str, quiet: &Took, reloading: &Took) {
    for (kind, (quiet_half, quiet_most)) in quiet {
        let (half, most) = reloading[kind];
        let allowed = quiet_most.mul_f64(1.5) + Duration::from_millis(5);
        let verdict = if most <= allowed { "kept" } else { "NOT KEPT" };
        println!(
            "{which}, {kind}: p50 {quiet_half:>9.2?} without reloads, {half:>9.2?} with; p99 {quiet_most:>9.2?} and {most:>9.2?}, allowed {allowed:.2?}: {verdict}"
        );
    }
}
