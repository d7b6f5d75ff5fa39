//! Events per second from a real Kafka through the whole host, as a ratio to a bare client loop on the same messages in the same run: a
//! consumer that instantiates and calls the same component inline, stores the offset and commits every thousand.
//!
//!     tests/services/services.sh run cargo bench -p koksmat-tests --bench kafka
//!
//! And without a component: the host with `unmatched = "ignore"` and no handler, which is everything but the call, to the bare loop.
//! Groups need seconds to form, so each side is measured from its first thousand messages on. Rounds alternate; the medians are compared.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::time::{Duration, Instant};

use koksmat::Host;
use koksmat_tests::Folder;
use rdkafka::{
    ClientConfig, Message,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    producer::{FutureProducer, FutureRecord},
};

mod floor;

use floor::{Floor, FloorEvent};

const BROKERS: &str = "127.0.0.1:29092";
const PARTITIONS: i32 = 12;
const HANDLED: usize = 60_000;
const IGNORED: usize = 300_000;
const WARM: usize = 1_000;
const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        compare("with a component", HANDLED, true).await;
        compare("without one", IGNORED, false).await;
    });
}

async fn compare(what: &str, messages: usize, component: bool) {
    let topic = format!("bench-{}", uuid::Uuid::now_v7());
    fill(&topic, messages).await;
    let floor = component.then(|| std::sync::Arc::new(Floor::new()));
    let (mut bare, mut hosted) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let (of, on) = (floor.clone(), topic.clone());
        bare.push(tokio::task::spawn_blocking(move || bare_loop(&on, messages, of.as_deref())).await.unwrap());
        hosted.push(host(&topic, messages, component).await);
        let (bare, hosted) = (rate(bare[round - 1], messages), rate(hosted[round - 1], messages));
        println!("{what}, round {round}: bare loop {bare:>8.0}/s, host {hosted:>8.0}/s, {:.3}×", hosted / bare);
    }
    bare.sort();
    hosted.sort();
    let (bare, hosted) = (rate(bare[ROUNDS / 2], messages), rate(hosted[ROUNDS / 2], messages));
    println!("{what}: bare loop {bare:.0}/s, host {hosted:.0}/s: {:.3}× (medians of {ROUNDS})\n", hosted / bare);
}

fn rate(took: Duration, messages: usize) -> f64 {
    (messages - WARM) as f64 / took.as_secs_f64()
}

/// Messages of 1 KiB that the component understands.
async fn fill(topic: &str, messages: usize) {
    let config = ClientConfig::new().set("bootstrap.servers", BROKERS).clone();
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    admin.create_topics([&new], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let producer: FutureProducer = config.clone().set("linger.ms", "20").set("queue.buffering.max.messages", "1000000").create().unwrap();
    let order = r#"{"id":"018f2b6e-7c1a","sku":"TEA-0042","name":"assam second flush","warehouse":"gothenburg-north","quantity":12,"price":7.25,"tags":["tea","black"],"note":"NOTE"}"#;
    let order = order.replace("NOTE", &"x".repeat(1024 - order.len() + 4));
    assert_eq!(order.len(), 1024);
    let sent: Vec<_> = (0..messages)
        .map(|n| producer.send_result(FutureRecord::to(topic).key(&n.to_string()).payload(&order)).map_err(|(error, _)| error).unwrap())
        .collect();
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
}

fn group() -> String {
    format!("bench-{}", uuid::Uuid::now_v7())
}

/// What anybody would write who has nothing but the client library.
fn bare_loop(topic: &str, messages: usize, floor: Option<&Floor>) -> Duration {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", BROKERS)
        .set("group.id", group())
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .create()
        .unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut began = Instant::now();
    let mut handled = 0;
    while handled < messages {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        if let Some(floor) = floor {
            runtime.block_on(floor.handle(FloorEvent::new(message.payload().unwrap().to_vec())));
        }
        consumer.store_offset_from_message(&message).unwrap();
        handled += 1;
        if handled % 1_000 == 0 {
            consumer.commit_consumer_state(CommitMode::Async).unwrap();
        }
        if handled == WARM {
            began = Instant::now();
        }
    }
    began.elapsed()
}

/// The whole host.
async fn host(topic: &str, messages: usize, component: bool) -> Duration {
    let source = format!(
        "[sources.orders]\nkind = \"kafka\"\nbrokers = \"{BROKERS}\"\ngroup = \"{}\"\ntopics = [\"{topic}\"]\nunmatched = \"ignore\"\n",
        group()
    );
    let folder = Folder::new().host("concurrency = 64").toml(&source);
    let folder = if component { folder.guest("stock", "stock", "on = [{ source = \"orders\" }]") } else { folder };
    let host = Host::builder().config(folder.config()).build().await.unwrap();
    let done = |at_least: usize| {
        let host = &host;
        async move {
            while (host.ledger().total.done as usize) < at_least {
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
