//! Kafka: a consumer of twelve partitions that commits every thousand messages.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use koksmat_tests::kafka::{Topic, client};
use rdkafka::{
    Message,
    consumer::{BaseConsumer, CommitMode, Consumer},
};

use super::{Floor, ROUNDS, Rounds, WARM, handle, host, order};

const PARTITIONS: i32 = 12;

pub(super) async fn compare() {
    compare_on(60_000, true).await;
    compare_on(300_000, false).await;
}

async fn compare_on(messages: usize, component: bool) {
    let topic = Topic::create("bench", PARTITIONS).await;
    let order = order();
    topic.produce((0..messages).map(|n| (n.to_string(), order.clone()))).await;
    let floor = component.then(|| Arc::new(Floor::new()));
    let mut rounds = Rounds::new("Kafka", component, messages);
    for _ in 0..ROUNDS {
        let (floor, name) = (floor.clone(), topic.name.clone());
        let bare = tokio::task::spawn_blocking(move || bare_loop(&name, messages, floor.as_deref())).await.unwrap();
        let source = format!(
            "kind = \"kafka\"\nbrokers = \"{}\"\ngroup = \"{}\"\ntopics = [\"{}\"]",
            koksmat_tests::kafka::BROKERS,
            group(),
            topic.name
        );
        rounds.add(bare, host(&source, messages, component).await);
    }
    rounds.end();
}

fn group() -> String {
    format!("bench-{}", uuid::Uuid::now_v7())
}

fn bare_loop(topic: &str, messages: usize, floor: Option<&Floor>) -> Duration {
    let consumer: BaseConsumer = client()
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
        runtime.block_on(handle(floor, message.payload().unwrap()));
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
