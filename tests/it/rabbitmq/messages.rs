//! What a message becomes: CloudEvents in both modes, plain messages, and what claims to be an event and is none.

use koksmat_tests::{
    Folder, Process,
    rabbitmq::{URL, headers, id},
    until,
};
use lapin::BasicProperties;
use serde_json::{Value, json};

use super::Queue;

/// Keeps what it saw.
const WITNESS: &str = r#"
    import { keyvalue } from "koksmat";
    export function handle(event) {
      keyvalue.set(event.id, { ...event, text: event.text() });
    }
"#;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test(flavor = "multi_thread")]
async fn messages_become_events_and_what_is_none_a_dead_letter() {
    let queue = Queue::classic().await;
    let publish = async |properties: BasicProperties, body: &str| queue.broker.publish(&queue.name, properties, body).await;
    let plain = id("plain").with_type("order.created".into()).with_content_type("text/plain".into()).with_timestamp(1_522_949_460);
    publish(plain.with_headers(headers(&[("Region", "eu"), ("traceparent", TRACE), ("Authorization", "secret")])), "hello").await;
    let binary = headers(&[
        ("cloudEvents:specversion", "1.0"),
        ("cloudEvents:id", "binary"),
        ("cloudEvents_source", "/shop"),
        ("cloudEvents_type", "order.paid"),
        ("cloudEvents:priority", "high"),
    ]);
    publish(BasicProperties::default().with_content_type("text/plain".into()).with_headers(binary), "paid").await;
    let structured = json!({ "specversion": "1.0", "id": "structured", "source": "/shop", "type": "order.sent", "data": { "n": 1 } });
    let cloud_event = |properties: BasicProperties| properties.with_content_type("application/cloudevents+json".into());
    publish(cloud_event(BasicProperties::default()), &structured.to_string()).await;
    publish(cloud_event(id("broken")), r#"{"specversion":"1.0"}"#).await;

    let settings = "on = [{ source = \"orders\" }]\ngrants = { keyvalue = true }";
    let folder = Folder::new().toml(&queue.source(URL, "")).script("witness", "witness.js", WITNESS, settings);
    let host = Process::start(&folder).await;
    let seen = async |id: &str| -> Value {
        let text = until(&format!("the event {id}"), || async { folder.value(id) }).await;
        serde_json::from_str(&text).unwrap()
    };
    let plain = seen("plain").await;
    assert_eq!(
        (&plain["type"], &plain["text"], &plain["time"]),
        (&json!("order.created"), &json!("hello"), &json!("2018-04-05T17:31:00Z"))
    );
    assert_eq!((&plain["subject"], &plain["source"]), (&json!(queue.name), &json!("/default/orders")));
    let plain = plain.to_string();
    assert!(plain.contains(TRACE) && plain.contains("region") && !plain.contains("secret"), "{plain}");
    let binary = seen("binary").await;
    assert_eq!((&binary["type"], &binary["source"], &binary["text"]), (&json!("order.paid"), &json!("/shop"), &json!("paid")));
    assert!(binary.to_string().contains("\"high\""), "{binary}");
    let structured = seen("structured").await;
    assert_eq!((&structured["type"], &structured["text"]), (&json!("order.sent"), &json!("{\"n\":1}")));

    until("the dead letter", || async { (folder.count("select count(*) from dead_letter") == 1).then_some(()) }).await;
    let ledger = host.stops_well().await;
    assert_eq!((&ledger["done"], &ledger["dead"]), (&json!(3), &json!(1)), "{ledger}");
    let store = folder.store();
    let reason: String = store.query_row("select reason from dead_letter where header ->> 'id' = 'broken'", [], |row| row.get(0)).unwrap();
    assert_eq!(reason, "the message is no CloudEvent though it says so: the required attribute \"id\" is missing");
    assert_eq!(queue.broker.count(&queue.name).await, 0);
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_published_again_is_recognised_and_one_without_a_name_cannot_be() {
    let queue = Queue::classic().await;
    let folder = queue.counted(URL, "id-header = \"X-Order\"");
    let mut host = Process::start(&folder).await;
    for _ in 0..3 {
        queue.broker.publish(&queue.name, id("by-id"), "x").await;
        let named = BasicProperties::default().with_headers(headers(&[("x-order", "by-header")]));
        queue.broker.publish(&queue.name, named, "x").await;
    }
    for _ in 0..3 {
        queue.broker.publish(&queue.name, BasicProperties::default(), "x").await;
    }
    host.line("cannot be recognised, so effects happen at least once").await;
    super::until_handled(&folder, 5).await;
    until("the queue to be empty", || async { (queue.broker.count(&queue.name).await == 0).then_some(()) }).await;
    let log = host.log();
    host.stops_well().await;
    assert_eq!((folder.value("by-id"), folder.value("by-header")), (Some("1".into()), Some("1".into())));
    assert_eq!(super::handled(&folder), 5);
    assert_eq!(log.iter().filter(|line| line.contains("cannot be recognised")).count(), 1);
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_make_delivers_all_it_publishes() {
    let queue = Queue::classic().await;
    let folder = queue.counted(URL, "");
    let host = Process::start(&folder).await;
    for _ in 0..20 {
        let arguments = ["--url=amqp://guest:guest@127.0.0.1:25673/%2f", "-r", &queue.name, "-p", "-C", "text/plain", "-b", "hello"];
        let status = tokio::process::Command::new("amqp-publish").args(arguments).status().await;
        assert!(status.expect("amqp-publish, of Debian's amqp-tools").success());
    }
    super::until_handled(&folder, 20).await;
    let ledger = host.stops_well().await;
    assert_eq!(ledger["done"], 20);
    queue.gone().await;
}
