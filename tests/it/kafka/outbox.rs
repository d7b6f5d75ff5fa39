//! What is published, when, and under which key: the outbox of a sink.

use std::time::Duration;

use koksmat_tests::{Inside, Proxy, kafka::BEHIND, kafka::BEHIND_ADVERTISED, until};

use super::*;

/// Emits, and only then does what takes its time.
fn emits_first(inside: &Inside, brokers: &str, topic: &str) -> Folder {
    let script = format!(
        "import {{ emit, http }} from \"koksmat\";\nexport function handle(event) {{\n  \
         const {{ n, key, fails }} = event.json();\n  \
         emit({{ type: \"order.shipped\", subject: \"order-\" + n, attributes: {{ partitionkey: key }}, data: {{ n }} }});\n  \
         http.fetch(\"http://{}/hold\", {{ method: \"POST\", body: String(n) }});\n  \
         if (fails) throw new Error(\"it fails\");\n}}",
        inside.address()
    );
    let settings = format!(
        "on = [{{ source = \"work\" }}]\ntimeout = \"2m\"\nretry = {{ attempts = 2, backoff = \"10ms..10ms\" }}\n\
         grants = {{ emit = [\"order.*\"], http = [\"{}\"] }}",
        inside.address()
    );
    Folder::new().queue("work").script("ship", "handlers/ship.js", &script, &settings).toml(&format!(
        "[sinks.shipped]\nkind = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"{topic}\"\non = [{{ type = \"order.shipped\" }}]\n"
    ))
}

async fn work(folder: &Folder, process: &Process, n: usize, key: &str, fails: bool) {
    let authorization = format!("Bearer {}", folder.token());
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let body = serde_json::json!({ "n": n, "key": key, "fails": fails }).to_string();
    assert_eq!(process.post("/queues/work", &headers, body).await.status, 202);
}

async fn settled(folder: &Folder) {
    until("everything to be settled", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
}

fn number(found: &koksmat_tests::kafka::Found) -> u64 {
    serde_json::from_slice::<serde_json::Value>(&found.payload).unwrap()["n"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_before_its_call_is_done_and_nothing_of_a_call_that_fails_after_it_emitted() {
    let (topic, inside) = (Topic::create("committed", 1).await, Inside::start(Duration::from_secs(3_600)).await);
    let folder = emits_first(&inside, BROKERS, &topic.name);
    let process = Process::start(&folder).await;
    work(&folder, &process, 1, "a", true).await;
    work(&folder, &process, 2, "a", false).await;
    inside.reached(2).await;
    // Both have emitted and neither is done. An event that another call emits is published meanwhile: the sink is at work.
    work(&folder, &process, 3, "b", false).await;
    inside.reached(3).await;
    assert_eq!(topic.read().await, [], "a call that runs has published");
    inside.keep_for(Duration::ZERO);
    settled(&folder).await;
    process.stops_well().await;
    let mut numbers: Vec<u64> = topic.read().await.iter().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "1 was tried twice and failed twice, after it had emitted");
    assert_eq!(inside.entered().iter().filter(|n| *n == "1").count(), 2);
    assert_eq!(folder.count("select count(*) from dead_letter where handler = 'ship'"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_partition_key_of_an_event_is_the_key_of_its_message_and_others_read_it_as_a_cloudevent() {
    let (topic, group) = (Topic::create("keys", 4).await, unique("g"));
    let (inside, witness) = (Inside::start(Duration::ZERO).await, Witness::start().await);
    // A host that publishes, and one that takes what it has published.
    let folder = emits_first(&inside, BROKERS, &topic.name);
    let process = Process::start(&folder).await;
    for n in 0..12 {
        work(&folder, &process, n, ["anna", "bob", "carla"][n % 3], false).await;
    }
    settled(&folder).await;
    process.stops_well().await;
    let found = topic.read().await;
    for key in ["anna", "bob", "carla"] {
        let of: Vec<_> = found.iter().filter(|found| found.key.as_deref() == Some(key)).collect();
        assert_eq!(of.len(), 4, "{found:?}");
        assert_eq!(of.iter().map(|found| found.partition).collect::<HashSet<_>>().len(), 1, "one key, one partition");
        assert!(of.iter().all(|found| found.headers["ce_partitionkey"] == key && found.headers["ce_subject"].starts_with("order-")));
    }
    let tell = "JSON.stringify([event.id, event.type, event.source, event.subject, event.attributes.partitionkey, event.json().n])";
    let process = Process::start(&told(super::folder(&group, &[&topic.name], ""), &witness, tell, "")).await;
    witness.hears(12).await;
    process.stops_well().await;
    let heard: HashSet<String> = witness.heard().into_iter().collect();
    for found in &found {
        let header = |name: &str| found.headers[name].clone();
        let expected = serde_json::json!([
            header("ce_id"),
            "order.shipped",
            "/default/ship",
            header("ce_subject"),
            found.key.as_deref().unwrap(),
            number(found)
        ]);
        assert!(heard.contains(&expected.to_string()), "{expected} is not in {heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_broker_outlives_a_kill_and_is_published_in_order() {
    let (topic, inside) = (Topic::create("outlives", 1).await, Inside::start(Duration::ZERO).await);
    let proxy = Proxy::start(BEHIND_ADVERTISED, BEHIND).await;
    proxy.close();
    let folder = emits_first(&inside, BEHIND_ADVERTISED, &topic.name);
    let waits = || folder.count("select count(*) from task where handler = 'sink:shipped'");
    // The broker is not there when the host starts, nor when it is killed.
    let process = Process::start(&folder).await;
    for n in 0..20 {
        work(&folder, &process, n, "anna", false).await;
        until("the emit to wait", || async { (waits() == n as i64 + 1).then_some(()) }).await;
    }
    kill(process).await;
    let process = Process::start(&folder).await;
    assert_eq!((waits(), topic.ends().await[&0]), (20, 0));
    proxy.open();
    settled(&folder).await;
    process.stops_well().await;
    let found = topic.read().await;
    assert_eq!(found.iter().map(number).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert_eq!(found.iter().map(|found| &found.headers["ce_id"]).collect::<HashSet<_>>().len(), 20);
}
