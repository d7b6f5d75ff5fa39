//! `koksmat crash-test`: whoever runs a configuration can have it killed, stopped and cut, and is told what came of it.

use std::time::Duration;

use koksmat_tests::{
    Folder,
    databases::Server,
    kafka,
    process::{Ended, koksmat_with},
    rabbitmq::{self, Rabbitmq},
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};

/// A queue and a signed webhook, and a handler with effects.
fn shop() -> Folder {
    let script = r#"
        import { keyvalue } from "koksmat";
        export function handle(event) {
          keyvalue.add("handled", 1);
        }
    "#;
    Folder::new()
        .host("drain-deadline = \"5s\"")
        .queue("orders")
        .toml("[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\nverify = { scheme = \"bearer\", secret = \"env:HOOK_SECRET\" }\n")
        .toml("[sources.clock]\nkind = \"timer\"\ncron = \"* * * * * *\"\n")
        .script("count", "count.js", script, "on = [{ source = \"orders\" }, { source = \"hook\" }]\ngrants = { keyvalue = true }")
}

async fn crash_test(folder: &Folder, faults: &str, environment: &[(&str, &str)]) -> (Ended, Value) {
    folder.write();
    let environment = [&[("HOOK_SECRET", "the-hooks-secret")], environment].concat();
    let arguments = ["crash-test", "--faults", faults, "--seed", "6", "--json"];
    let ended = koksmat_with(folder.path(), &arguments, &environment, Duration::from_secs(300)).await;
    let verdict = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {:?}\n{}", ended.stdout, ended.said()));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".crash-test")), "{left:?}");
    (ended, verdict)
}

fn kept(ended: &Ended, verdict: &Value) {
    assert_eq!((ended.code, &verdict["kept"]), (Some(0), &Value::Bool(true)), "{verdict:#}\n{}", ended.said());
    assert!(verdict["kills"].as_u64() > Some(0) && verdict["accepted"].as_u64() > Some(50), "{verdict:#}");
    for what in ["lost", "effects_repeated", "order_violations", "waiting"] {
        assert_eq!(verdict[what], 0, "{verdict:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_keeps_its_promises_is_told_so() {
    let folder = shop();
    let (ended, verdict) = crash_test(&folder, "6", &[]).await;
    kept(&ended, &verdict);
    assert_eq!(verdict["not_fed"][0][0], "clock");
    assert!(!folder.join("data/koksmat.db").exists(), "the test has a store of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_cut_from_its_store_loses_nothing() {
    let database = Server::Postgres.database("crash_test").await;
    let folder = shop().host("store = \"env:STORE_URL\"");
    let (ended, verdict) = crash_test(&folder, "8", &[("STORE_URL", &database.url())]).await;
    kept(&ended, &verdict);
    assert!(verdict["cuts"].as_u64() > Some(0), "{verdict:#}");
}

/// Topics that were made in place of what a source of this name reads.
fn stand_ins_of(source: &str) -> Vec<String> {
    let client: BaseConsumer = kafka::client().create().unwrap();
    let topics = client.fetch_metadata(None, Duration::from_secs(10)).unwrap();
    topics.topics().iter().map(|topic| topic.name().to_owned()).filter(|name| name.ends_with(&format!("-{source}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_read_brokers_are_under_test_and_what_others_read_is_left_alone() {
    let topic = kafka::Topic::create("crash-test", 3).await;
    let (broker, queue) = (Rabbitmq::connect().await, rabbitmq::name("crash-test"));
    broker.queue(&queue, &[]).await;
    topic.produce([("somebody", "else's")]).await;
    broker.publish(&queue, rabbitmq::id("1"), "somebody else's").await;
    let kafka = format!("kind = \"kafka\"\nbrokers = \"{}\"\ngroup = \"{}\"\ntopics = [\"{}\"]", kafka::BROKERS, topic.name, topic.name);
    let script = "import { keyvalue } from \"koksmat\"; export function handle() { keyvalue.add(\"handled\", 1); }";
    let folder = Folder::new()
        .host("drain-deadline = \"5s\"")
        .toml(&format!("[sources.of-kafka]\n{kafka}\n"))
        .toml(&format!("[sources.of-rabbitmq]\nkind = \"rabbitmq\"\nurl = \"env:RABBITMQ_URL\"\nqueue = \"{queue}\"\n"))
        .script("count", "count.js", script, "on = [{ source = \"of-*\" }]\ngrants = { keyvalue = true }");
    let environment = [("RABBITMQ_URL", rabbitmq::URL)];

    let (ended, verdict) = crash_test(&folder, "8", &environment).await;
    kept(&ended, &verdict);
    assert_eq!((&verdict["not_fed"], &verdict["not_tested"]), (&json!([]), &json!([])), "{verdict:#}");
    assert!(verdict["cuts"].as_u64() > Some(0), "a connection to RabbitMQ can be cut: {verdict:#}");
    let (ended, verdict) = crash_test(&folder, "4", &[environment[0], ("KOKSMAT_PLANTED_MISTAKE", "commit-past-failure")]).await;
    assert_eq!((ended.code, &verdict["kept"]), (Some(5), &Value::Bool(false)), "{verdict:#}");
    assert!(verdict["lost"].as_u64() > Some(0), "{verdict:#}");

    assert_eq!(topic.ends().await.values().sum::<i64>(), 1);
    assert_eq!(topic.committed(&topic.name).await.values().filter(|offset| **offset > 0).count(), 0);
    assert_eq!(broker.count(&queue).await, 1);
    koksmat_tests::until("what was made to be removed", || std::future::ready(stand_ins_of("of-kafka").is_empty().then_some(()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_said_before_anything_starts() {
    let source = "kind = \"kafka\"\nbrokers = \"127.0.0.1:9\"\ngroup = \"orders\"\ntopics = [\"orders\"]";
    let folder = Folder::new().toml(&format!("[sources.orders]\n{source}\n"));
    folder.write();
    let ended = koksmat_with(folder.path(), &["crash-test"], &[], Duration::from_secs(60)).await;
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    assert!(ended.said().contains("orders: the brokers were asked for their topics:"), "{}", ended.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_that_lose_events_are_found() {
    for mistake in ["ack-before-commit", "commit-past-failure"] {
        let (ended, verdict) = crash_test(&shop(), "4", &[("KOKSMAT_PLANTED_MISTAKE", mistake)]).await;
        assert_eq!((ended.code, &verdict["kept"]), (Some(5), &Value::Bool(false)), "{mistake}: {verdict:#}");
        assert!(verdict["lost"].as_u64() > Some(0), "{mistake}: {verdict:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fed_is_said_before_anything_starts() {
    let folder = Folder::new().toml("[sources.clock]\nkind = \"timer\"\ncron = \"* * * * * *\"\n");
    folder.write();
    let ended = koksmat_with(folder.path(), &["crash-test"], &[], Duration::from_secs(60)).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.said().contains("there is no source that could be fed: an embedded queue, or a webhook"), "{}", ended.said());
}
