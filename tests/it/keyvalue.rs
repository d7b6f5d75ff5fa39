//! Effects through the host: concurrent calls never lose an update, a call that was overtaken runs again.

use std::time::Duration;

use koksmat::{Answer, Event};
use koksmat_tests::{Folder, Inside, TestHost, within};
use serde_json::{Value, json};

const ALL: &str = "grants = { keyvalue = true, emit = [\"*\"], http = [\"127.0.0.1:1\"] }";

async fn host(settings: &str) -> TestHost {
    let settings = format!("on = [{{ source = \"memory\" }}]\ntimeout = \"60s\"\n{settings}");
    TestHost::start(Folder::new().guest("behave", "behave", &settings)).await
}

/// Send them all at once; every one must be done.
async fn all_done(host: &TestHost, events: impl IntoIterator<Item = Value>) {
    let mut pending = Vec::new();
    for data in events {
        pending.push(within("a credit", host.memory.send(Event::json("test", &data).unwrap())).await.unwrap());
    }
    for pending in pending {
        let answer = within("an answer", pending.answer()).await;
        assert!(matches!(answer, Answer::Done { .. }), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_counted_a_thousand_times_side_by_side_ends_at_a_thousand() {
    let host = host(ALL).await;
    all_done(&host, (0..1000).map(|_| json!({ "do": "rmw", "key": "read-and-written" }))).await;
    all_done(&host, (0..1000).map(|_| json!({ "do": "increment", "key": "incremented" }))).await;
    all_done(&host, (0..1000).map(|_| json!({ "do": "add", "key": "added", "by": 1 }))).await;
    let (folder, _) = host.stop().await;
    assert_eq!(folder.value("read-and-written").unwrap(), "1000");
    assert_eq!(folder.value("incremented").unwrap(), "1000");
    assert_eq!(folder.value("added").unwrap(), "1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_calls_that_read_and_write_the_same_keys_never_lose_an_update() {
    let host = host(ALL).await;
    // Half of them write a then b, the other half b then a: whoever is overtaken must not wait for the other for ever.
    let both = |first: &str, second: &str| json!({ "do": "steps", "steps": [{ "do": "rmw", "key": first }, { "do": "sleep", "ms": 1 }, { "do": "rmw", "key": second }] });
    all_done(&host, (0..200).map(|n| if n % 2 == 0 { both("a", "b") } else { both("b", "a") })).await;
    let (folder, _) = host.stop().await;
    assert_eq!(folder.value("a").unwrap(), "200");
    assert_eq!(folder.value("b").unwrap(), "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_did_not_work_out_leaves_nothing_behind() {
    let host = host(&format!("{ALL}\nretry = {{ attempts = 1 }}")).await;
    for end in [json!({ "do": "reject" }), json!({ "do": "trap" }), json!({ "do": "retry" })] {
        let steps = json!({ "do": "steps", "steps": [
            { "do": "set", "key": "half", "value": "written" },
            { "do": "emit", "type": "half.done", "data": {} },
            end
        ] });
        let answer = host.handle(Event::json("test", &steps).unwrap()).await;
        assert!(matches!(answer, Answer::Dead { .. }), "{answer:?}");
    }
    let (folder, stopped) = host.stop().await;
    assert_eq!(folder.value("half"), None);
    assert_eq!(folder.count("select count(*) from task"), 0);
    assert_eq!(folder.count("select count(*) from dead_letter"), 3);
    assert_eq!(stopped.ledger.total.dead, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_body_is_not_repeated_with_other_content_under_the_same_key() {
    let inside = Inside::start(Duration::from_millis(2)).await;
    let grants = format!("grants = {{ keyvalue = true, emit = [\"*\"], http = [\"{}\"] }}", inside.address());
    let script = r#"
        import { keyvalue, http } from "koksmat";
        export function handle(event) {
          const next = Number(keyvalue.get("n") ?? 0) + 1;
          http.fetch(event.text(), { method: "POST", body: `number ${next}` });
          keyvalue.set("n", next);
        }
    "#;
    let settings = format!("on = [{{ source = \"memory\" }}]\ntimeout = \"60s\"\n{grants}");
    let folder = Folder::new().script("numbers", "numbers.js", script, &settings.replace(", emit = [\"*\"]", ""));
    let host = TestHost::start(folder).await;
    let mut pending = Vec::new();
    for _ in 0..50 {
        pending.push(host.memory.send(Event::new("test", inside.url())).await.unwrap());
    }
    for pending in pending {
        assert!(matches!(within("an answer", pending.answer()).await, Answer::Done { .. }));
    }
    let (folder, _) = host.stop().await;
    assert_eq!(folder.value("n").unwrap(), "50");
    let mut by_key = std::collections::HashMap::new();
    for (key, body) in inside.keys().into_iter().zip(inside.entered()) {
        assert!(!key.is_empty());
        let first = by_key.entry(key).or_insert_with(|| body.clone());
        assert_eq!(*first, body, "the same idempotency key with other content");
    }
    assert_eq!(by_key.len(), 50, "one key for each call");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_sees_its_own_writes_at_once_and_others_see_them_when_it_is_done() {
    let inside = Inside::start(Duration::from_millis(200)).await;
    let script = r#"
        import { keyvalue, http } from "koksmat";
        export function handle(event) {
          if (event.type === "look") return { seen: keyvalue.get("k") ?? null, keys: keyvalue.keys() };
          keyvalue.set("k", "new");
          const own = keyvalue.get("k");
          http.fetch(event.text(), { method: "GET" });
          return { own, keys: keyvalue.keys() };
        }
    "#;
    // The server answers POST only; the status does not matter, the wait does.
    let settings = format!("on = [{{ source = \"memory\" }}]\ngrants = {{ keyvalue = true, http = [\"{}\"] }}", inside.address());
    let host = TestHost::start(Folder::new().script("own", "own.js", &script.replace("GET", "POST"), &settings)).await;
    let writer = host.memory.send(Event::new("write", inside.url())).await.unwrap();
    inside.reached(1).await;
    let Answer::Done { response: Some(looked) } = host.handle(Event::new("look", "")).await else { panic!("not done") };
    assert_eq!(serde_json::from_slice::<Value>(&looked.body).unwrap(), json!({ "seen": null, "keys": [] }));
    let Answer::Done { response: Some(wrote) } = within("the writer", writer.answer()).await else { panic!("not done") };
    assert_eq!(serde_json::from_slice::<Value>(&wrote.body).unwrap(), json!({ "own": "new", "keys": ["k"] }));
    let Answer::Done { response: Some(looked) } = host.handle(Event::new("look", "")).await else { panic!("not done") };
    assert_eq!(serde_json::from_slice::<Value>(&looked.body).unwrap(), json!({ "seen": "new", "keys": ["k"] }));
    host.stop().await;
}
