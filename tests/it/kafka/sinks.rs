//! What handlers emit, published to Kafka.

use koksmat_tests::{
    Proxy,
    kafka::{BEHIND, BEHIND_ADVERTISED},
    until,
};

use super::*;

const SHIP: &str = r#"
    import { emit, Reject } from "koksmat";
    export function handle(event, ctx) {
      const { key, n, size } = event.json();
      emit({ type: "order.shipped", subject: key, data: { n, note: "x".repeat(size ?? 0) } });
      if (n === 3) throw new Reject("not this one");
      if (n === 5 && ctx.attempt === 1) throw new Error("later");
    }
"#;

fn shipping(brokers: &str, topic: &str, settings: &str) -> Folder {
    let handler = "on = [{ source = \"work\" }]\norder = \"key\"\nretry = { attempts = 3, backoff = \"20ms..20ms\" }\ngrants = { emit = [\"order.*\"] }";
    Folder::new().queue("work").script("ship", "handlers/ship.js", SHIP, handler).toml(&format!(
        "[sinks.shipped]\nkind = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"{topic}\"\non = [{{ type = \"order.shipped\" }}]\n{settings}\n"
    ))
}

async fn work(folder: &Folder, process: &Process, key: &str, n: usize, size: usize) {
    let authorization = format!("Bearer {}", folder.token());
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let body = serde_json::json!({ "key": key, "n": n, "size": size }).to_string();
    let reply = process.post(&format!("/queues/work?type=work&subject={key}"), &headers, body).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
}

/// The outbox is empty and every task settled.
async fn settled(folder: &Folder) {
    until("everything to be settled", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
}

fn number(found: &koksmat_tests::kafka::Found) -> u64 {
    serde_json::from_slice::<serde_json::Value>(&found.payload).unwrap()["n"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emit_is_published_when_its_call_is_done_in_order_of_its_key_with_a_stable_id() {
    let topic = Topic::create("shipped", 3).await;
    let folder = shipping(BROKERS, &topic.name, "");
    let process = Process::start(&folder).await;
    for n in 0..30 {
        for key in ["anna", "bob"] {
            work(&folder, &process, key, n, 0).await;
        }
    }
    settled(&folder).await;
    process.stops_well().await;
    let found = topic.read().await;
    for key in ["anna", "bob"] {
        let numbers: Vec<u64> = found.iter().filter(|found| found.key.as_deref() == Some(key)).map(number).collect();
        assert_eq!(numbers, (0..30).filter(|n| *n != 3).collect::<Vec<_>>(), "the call of 3 was rejected, and 5 was tried twice");
    }
    let first = &found[0].headers;
    assert_eq!(
        (first["ce_specversion"].as_str(), first["ce_type"].as_str(), first["ce_source"].as_str()),
        ("1.0", "order.shipped", "/default/ship")
    );
    assert_eq!((&first["content-type"], &first["ce_subject"]), (&"application/json".to_owned(), found[0].key.as_ref().unwrap()));
    assert_eq!(found.iter().map(|found| &found.headers["ce_id"]).collect::<HashSet<_>>().len(), 58);
    let kcat =
        std::process::Command::new("kcat").args(["-b", BROKERS, "-C", "-t", &topic.name, "-e", "-q", "-f", "%h\n"]).output().unwrap();
    assert_eq!(String::from_utf8(kcat.stdout).unwrap().lines().filter(|line| line.contains("ce_type=order.shipped")).count(), 58);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_is_gone_emits_wait_in_the_store_through_a_restart_too() {
    let topic = Topic::create("waiting", 1).await;
    let proxy = Proxy::start(BEHIND_ADVERTISED, BEHIND).await;
    let folder = shipping(BEHIND_ADVERTISED, &topic.name, "[sinks.shipped.settings]\n\"message.timeout.ms\" = 1000");
    let mut process = Process::start(&folder).await;
    work(&folder, &process, "anna", 0, 0).await;
    settled(&folder).await;
    proxy.close();
    for n in 10..20 {
        work(&folder, &process, "anna", n, 0).await;
    }
    process.line("sink cannot publish").await;
    assert_eq!(process.admin("/readyz").await.status, 200, "what is emitted is safe, so the host is ready");
    let status = koksmat_tests::process::koksmat(folder.path(), &["status"]).await.stdout;
    assert!(status.contains("sinks\n  shipped: "), "{status}");
    process.stops_well().await;
    assert_eq!(folder.count("select count(*) from task where handler = 'sink:shipped'"), 10);
    proxy.open();
    let process = Process::start(&folder).await;
    settled(&folder).await;
    process.stops_well().await;
    let numbers: Vec<u64> = topic.read().await.iter().map(number).collect();
    assert_eq!(numbers, [0].into_iter().chain(10..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emit_that_the_broker_will_never_take_is_a_dead_letter_and_blocks_no_other() {
    let topic = Topic::create_with(&unique("small"), 1, &[("max.message.bytes", "20000")]).await;
    let folder = shipping(BROKERS, &topic.name, "mode = \"structured\"");
    let process = Process::start(&folder).await;
    for (n, size) in [(0, 0), (1, 50_000), (2, 0)] {
        work(&folder, &process, "anna", n, size).await;
    }
    settled(&folder).await;
    process.stops_well().await;
    let found = topic.read().await;
    assert_eq!(found.len(), 2);
    let event: serde_json::Value = serde_json::from_slice(&found[1].payload).unwrap();
    assert_eq!((&event["type"], &event["data"]["n"]), (&"order.shipped".into(), &2.into()));
    assert_eq!(found[1].headers["content-type"], "application/cloudevents+json");
    let letter: (String, String) =
        folder.store().query_row("select handler, reason from dead_letter", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert!(letter.0 == "sink:shipped" && letter.1.contains("too large"), "{letter:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emit_that_neither_a_handler_nor_a_sink_wants_is_a_dead_letter() {
    let topic = Topic::create("other", 1).await;
    let script = "import { emit } from \"koksmat\";\nexport function handle() { emit({ type: \"order.lost\", data: {} }); }";
    let folder = shipping(BROKERS, &topic.name, "").script(
        "other",
        "handlers/other.js",
        script,
        "on = [{ source = \"lost\" }]\ngrants = { emit = [\"order.*\"] }",
    );
    let folder = folder.queue("lost");
    let process = Process::start(&folder).await;
    let authorization = format!("Bearer {}", folder.token());
    assert_eq!(process.post("/queues/lost", &[("authorization", &authorization)], "").await.status, 202);
    until("the dead letter", || async { (folder.count("select count(*) from dead_letter where reason = 'no route'") == 1).then_some(()) })
        .await;
    process.stops_well().await;
    assert!(topic.read().await.is_empty());
}
