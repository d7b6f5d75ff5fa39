//! What is in a queue is handled, acknowledged and done once.

use koksmat_tests::{
    Folder, Process,
    rabbitmq::{MANAGEMENT, Rabbitmq, TLS_URL, URL, certificate, id, name, text},
    until,
};
use serde_json::json;

use super::{Queue, handled, repeated, until_handled};

async fn all_of(queue: Queue, url: &str, lines: &str) {
    const MESSAGES: usize = 500;
    queue.broker.publish_many(&queue.name, "m", MESSAGES).await;
    let folder = queue.counted(url, lines);
    let host = Process::start(&folder).await;
    until_handled(&folder, MESSAGES).await;
    let ledger = host.stops_well().await;
    assert_eq!((&ledger["done"], &ledger["returned"]), (&json!(MESSAGES), &json!(0)), "{ledger}");
    assert_eq!((handled(&folder), repeated(&folder)), (MESSAGES, 0));
    assert_eq!((queue.broker.count(&queue.name).await, queue.broker.count(&queue.dead).await), (0, 0));
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_a_classic_queue_is_handled_and_acknowledged() {
    all_of(Queue::classic().await, URL, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_a_quorum_queue_is_handled_and_acknowledged() {
    all_of(Queue::quorum().await, URL, "in-flight = 32").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_a_queue_with_a_single_active_consumer_is_handled_and_acknowledged() {
    let queue = Queue::named().await;
    let single = lapin::types::AMQPValue::Boolean(true);
    queue.broker.queue(&queue.name, &[("x-queue-type", text("quorum")), ("x-single-active-consumer", single)]).await;
    all_of(queue, URL, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_an_authority_of_ones_own() {
    let tls = format!("tls = {{ ca = {:?} }}", certificate("ca.pem"));
    all_of(Queue::classic().await, TLS_URL, &tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_intake_acknowledges_what_is_in_the_store() {
    let queue = Queue::quorum().await;
    queue.broker.publish_many(&queue.name, "m", 300).await;
    // Nothing is handled: the handler waits for itself.
    let script = "import { keyvalue } from 'koksmat'; export function handle(event) { keyvalue.add(event.id, 1); }";
    let settings = "on = [{ source = \"orders\" }]\ngrants = { keyvalue = true }\nconcurrency = 1";
    let folder = Folder::new().toml(&queue.source(URL, "intake = \"durable\"\nbacklog = 50")).script("count", "count.js", script, settings);
    let host = Process::start(&folder).await;
    until_handled(&folder, 300).await;
    host.stops_well().await;
    assert_eq!((handled(&folder), repeated(&folder)), (300, 0));
    assert_eq!(queue.broker.count(&queue.name).await, 0);
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_handler_can_take_becomes_a_dead_letter_and_blocks_nobody() {
    let queue = Queue::quorum().await;
    queue.broker.publish(&queue.name, id("poison"), "x").await;
    queue.broker.publish_many(&queue.name, "m", 100).await;
    let script = r#"
        import { keyvalue } from "koksmat";
        export function handle(event) {
          if (event.id === "poison") throw new Error("never");
          keyvalue.add(event.id, 1);
        }
    "#;
    let settings = "on = [{ source = \"orders\" }]\ngrants = { keyvalue = true }\nretry = { attempts = 3, backoff = \"10ms..20ms\" }";
    let folder = Folder::new().toml(&queue.source(URL, "in-flight = 1")).script("count", "count.js", script, settings);
    let host = Process::start(&folder).await;
    until_handled(&folder, 100).await;
    until("the dead letter", || async { (folder.count("select count(*) from dead_letter") == 1).then_some(()) }).await;
    host.stops_well().await;
    assert_eq!((queue.broker.count(&queue.name).await, queue.broker.count(&queue.dead).await), (0, 0));
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_declared_is_there_with_what_was_said_of_it() {
    let broker = Rabbitmq::connect().await;
    let (queue, dead) = (name("declared"), name("dead"));
    broker.fanout(&dead).await;
    let queue = Queue { broker, name: queue, dead };
    let declare = format!("declare = {{ dead-letter-exchange = \"{}\", delivery-limit = 20 }}", queue.dead);
    let folder = queue.counted(URL, &declare);
    let host = Process::start(&folder).await;
    queue.broker.publish_many(&queue.name, "m", 50).await;
    until_handled(&folder, 50).await;
    host.stops_well().await;
    let url = format!("{}/api/queues/%2f/{}", MANAGEMENT.replace("guest:guest@", ""), queue.name);
    let described =
        koksmat_tests::host::request(&url, "GET", &[("authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=")], Default::default()).await.json();
    assert_eq!(described["type"], "quorum");
    assert_eq!(described["arguments"]["x-delivery-limit"], 20);
    assert_eq!(described["arguments"]["x-dead-letter-exchange"], queue.dead.as_str());
    queue.gone().await;
}
