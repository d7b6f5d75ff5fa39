//! What becomes of an event: attempts, dead letters, duplicates, delays, order, several handlers.

mod reply;
mod seen;

use std::time::{Duration, Instant};

use koksmat::{Answer, Event};
use koksmat_tests::{Folder, Inside, Process, TestHost, host::Reply, until, within};
use serde_json::{Value, json};

/// Appends what it is sent to a list in the store; "bad" ones fail before that, as often as they say.
const LIST: &str = r#"
    import { keyvalue } from "koksmat";
    export function handle(event, ctx) {
      const { name, fails = 0 } = event.json();
      if (ctx.attempt <= fails) throw new Error(`${name} fails`);
      keyvalue.set("list", [...JSON.parse(keyvalue.get("list") ?? "[]"), name]);
    }
"#;

fn list(folder: &Folder) -> Vec<String> {
    folder.value("list").map(|list| serde_json::from_str(&list).unwrap()).unwrap_or_default()
}

/// Wait until the list has these names, in this order.
async fn listed(folder: &Folder, names: &[&str]) {
    until(&format!("the list to have {} names", names.len()), async || (list(folder).len() >= names.len()).then_some(())).await;
    assert_eq!(list(folder), names);
}

async fn publish(host: &TestHost, query: &str, data: &Value) -> Reply {
    host.post(&format!("/queues/q?{query}"), &[("content-type", "application/json")], data.to_string()).await
}

/// The attempts of the only dead letter: when each ended, and how; and its reason.
fn dead(folder: &Folder) -> (Vec<(i64, String)>, String) {
    let query = "select history, reason from dead_letter";
    let (history, reason): (String, String) = folder.store().query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let history: Vec<Value> = serde_json::from_str(&history).unwrap();
    let attempt = |attempt: &Value| (attempt["at"].as_i64().unwrap(), attempt["error"].as_str().unwrap().to_owned());
    (history.iter().map(attempt).collect(), reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_call_is_tried_again_with_growing_waits_and_then_a_dead_letter() {
    let script = "export function handle(event, ctx) { throw new Error(`attempt ${ctx.attempt}`); }";
    let settings = "on = [{ source = \"q\" }]\nretry = { attempts = 5, backoff = \"40ms..160ms\" }";
    let host = TestHost::start(Folder::new().queue("q").script("h", "h.js", script, settings)).await;
    assert_eq!(publish(&host, "", &json!({})).await.status, 202);
    host.settled().await;
    let (folder, stopped) = host.stop().await;
    let (attempts, reason) = dead(&folder);
    let errors: Vec<&str> = attempts.iter().map(|(_, error)| error.lines().next().unwrap()).collect();
    assert_eq!(errors, ["Error: attempt 1", "Error: attempt 2", "Error: attempt 3", "Error: attempt 4", "Error: attempt 5"]);
    assert!(reason.starts_with("failed 5 times; last: Error: attempt 5"), "{reason}");
    // Chance takes up to half of each wait.
    for (pair, wait) in attempts.windows(2).zip([40, 80, 160, 160]) {
        assert!(pair[1].0 - pair[0].0 >= wait / 2, "less than half of {wait} ms: {attempts:?}");
    }
    let total = stopped.ledger.total;
    assert_eq!((total.received, total.parked, total.dead), (5, 4, 1), "each claim of a task is a delivery");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_says_when_to_try_again_and_when_never() {
    let script = r#"
        import { keyvalue, Retry, Reject } from "koksmat";
        export function handle(event, ctx) {
          const { after, reject } = event.json();
          if (reject) throw new Reject("never");
          if (ctx.attempt === 1) throw new Retry("busy", { after });
          keyvalue.set("done", ctx.attempt);
        }
    "#;
    // By itself it would be tried again in an hour.
    let settings = "on = [{ source = \"q\" }]\nretry = { attempts = 5, backoff = \"1h..2h\" }\ngrants = { keyvalue = true }";
    let host = TestHost::start(Folder::new().queue("q").script("h", "h.js", script, settings)).await;
    let began = Instant::now();
    publish(&host, "", &json!({ "after": "400ms" })).await;
    assert_eq!(until("the second attempt", async || host.folder.value("done")).await, "2");
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    publish(&host, "", &json!({ "reject": true })).await;
    host.settled().await;
    let (folder, _) = host.stop().await;
    let (attempts, reason) = dead(&folder);
    assert_eq!((attempts.len(), reason.as_str()), (1, "never"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_nobody_wants_is_a_dead_letter_or_ignored_as_its_source_says() {
    let folder = Folder::new().queue("q").toml("[sources.quiet]\nkind = \"embedded\"\nunmatched = \"ignore\"\n").script(
        "h",
        "h.js",
        LIST,
        "on = [{ type = \"wanted\" }]\ngrants = { keyvalue = true }",
    );
    let host = TestHost::start(folder).await;
    for queue in ["q", "quiet"] {
        host.publish(queue, "unwanted", &json!({})).await;
        host.publish(queue, "wanted", &json!({ "name": queue })).await;
    }
    let answer = host.handle(Event::json("unwanted", &json!({})).unwrap()).await;
    assert!(matches!(&answer, Answer::Dead { reason } if reason == "no handler wants this event"), "{answer:?}");
    host.settled().await;
    let letters = "select group_concat(source || ' ' || reason || ' ' || ifnull(handler, '-'), ', ') from dead_letter";
    let letters: String = host.folder.store().query_row(letters, [], |row| row.get(0)).unwrap();
    assert_eq!(letters, "q no route -, memory no route -");
    let (folder, stopped) = host.stop().await;
    assert_eq!(list(&folder).len(), 2);
    assert_eq!((stopped.ledger.total.done, stopped.ledger.total.dead), (2, 2), "{}", stopped.line());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_again_is_recognised_after_a_restart_too() {
    let folder = Folder::new().queue("q").queue("p").script(
        "h",
        "h.js",
        LIST,
        "on = [{ source = \"q\" }, { source = \"p\" }]\ngrants = { keyvalue = true }",
    );
    let host = TestHost::start(folder).await;
    let first = publish(&host, "id=A1", &json!({ "name": "one" })).await;
    assert_eq!((first.status, first.json()), (202, json!({ "id": "A1" })));
    host.settled().await;
    let again = publish(&host, "id=A1", &json!({ "name": "another" })).await;
    assert_eq!((again.status, again.json()), (200, json!({ "id": "A1" })));
    let key = [("content-type", "application/json"), ("idempotency-key", "K1")];
    let keyed = host.post("/queues/q", &key, json!({ "name": "keyed" }).to_string()).await;
    assert_eq!(keyed.status, 202);
    let again = host.post("/queues/q", &key, json!({ "name": "keyed" }).to_string()).await;
    assert_eq!((again.status, again.json()), (200, keyed.json()), "the id that it got the first time");
    // What is the same in one queue is another event in another queue.
    assert_eq!(host.post("/queues/p?id=A1", &[], json!({ "name": "elsewhere" }).to_string()).await.status, 202);
    host.settled().await;
    let (folder, stopped) = host.stop().await;
    assert_eq!(stopped.ledger.total.done, 3);

    let host = TestHost::start(folder).await;
    assert_eq!(publish(&host, "id=A1", &json!({ "name": "after the restart" })).await.status, 200);
    host.settled().await;
    let mut names = list(&host.stop().await.0);
    names.sort();
    assert_eq!(names, ["elsewhere", "keyed", "one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_event_waits_and_others_pass_it() {
    let script = r#"
        import { emit } from "koksmat";
        export function handle(event) { emit({ type: "later", data: { name: "emitted" }, after: "600ms" }); }
    "#;
    let folder = Folder::new()
        .queue("q")
        .script("list", "list.js", LIST, "on = [{ source = \"q\", type = \"now\" }, { type = \"later\" }]\ngrants = { keyvalue = true }")
        .script("emits", "emits.js", script, "on = [{ source = \"q\", type = \"emit\" }]\ngrants = { emit = [\"later\"] }");
    let host = TestHost::start(folder).await;
    let began = Instant::now();
    publish(&host, "type=now&after=2s", &json!({ "name": "delayed" })).await;
    publish(&host, "type=emit", &json!({})).await;
    publish(&host, "type=now", &json!({ "name": "at once" })).await;
    listed(&host.folder, &["at once"]).await;
    listed(&host.folder, &["at once", "emitted"]).await;
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    listed(&host.folder, &["at once", "emitted", "delayed"]).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    for nonsense in ["after=soon", "after=-5s", "after=9999d", "afterwards=5s"] {
        assert_eq!(publish(&host, nonsense, &json!({})).await.status, 400, "{nonsense}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_keeps_its_order_behind_a_failing_head_and_other_keys_go_on() {
    let settings =
        "on = [{ source = \"q\" }]\norder = \"key\"\nretry = { attempts = 3, backoff = \"1s..1s\" }\ngrants = { keyvalue = true }";
    let host = TestHost::start(Folder::new().queue("q").script("h", "h.js", LIST, settings)).await;
    let send = async |subject: &str, name: &str, fails: u32| {
        publish(&host, &format!("subject={subject}"), &json!({ "name": name, "fails": fails })).await;
    };
    send("a", "a1", 2).await;
    send("a", "a2", 0).await;
    send("a", "a3", 0).await;
    send("b", "b1", 0).await;
    listed(&host.folder, &["b1", "a1", "a2", "a3"]).await;
    // After the last attempt it is a dead letter, and its key goes on.
    send("a", "a4", 9).await;
    send("a", "a5", 0).await;
    send("b", "b2", 0).await;
    listed(&host.folder, &["b1", "a1", "a2", "a3", "b2", "a5"]).await;
    let (folder, _) = host.stop().await;
    assert_eq!(dead(&folder).0.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_order_the_others_do_not_wait() {
    let settings =
        "on = [{ source = \"q\" }]\norder = \"none\"\nretry = { attempts = 3, backoff = \"1s..1s\" }\ngrants = { keyvalue = true }";
    let host = TestHost::start(Folder::new().queue("q").script("h", "h.js", LIST, settings)).await;
    for (name, fails) in [("a1", 2), ("a2", 0)] {
        publish(&host, "subject=a", &json!({ "name": name, "fails": fails })).await;
    }
    listed(&host.folder, &["a2", "a1"]).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_handler_of_an_event_has_a_call_of_its_own() {
    let count = |name: &str| {
        format!(
            "import {{ keyvalue }} from \"koksmat\";\nexport function handle() {{ keyvalue.set(\"{name}\", Number(keyvalue.get(\"{name}\") ?? 0) + 1); }}"
        )
    };
    let fails = "import { keyvalue } from \"koksmat\";\nexport function handle(event, ctx) { if (ctx.attempt < 3) throw new Error(\"not yet\"); keyvalue.set(\"third\", ctx.attempt); }";
    let settings = "on = [{ source = \"q\" }, { source = \"memory\" }]\nretry = { attempts = 3, backoff = \"1ms..2ms\" }\ngrants = { keyvalue = true }";
    let folder = Folder::new()
        .queue("q")
        .script("one", "one.js", &count("one"), settings)
        .script("two", "two.js", &count("two"), settings)
        .script("third", "third.js", fails, settings)
        .script("other", "other.js", &count("other"), "on = [{ source = \"q\", type = \"other\" }]\ngrants = { keyvalue = true }");
    let host = TestHost::start(folder).await;
    let value = |key: &str| host.folder.value(key);
    publish(&host, "type=t", &json!({})).await;
    host.settled().await;
    assert_eq!((value("one"), value("two"), value("third"), value("other")), (Some("1".into()), Some("1".into()), Some("3".into()), None));
    // The same from a source that is acknowledged when it is handled: what failed is parked, and a redelivery repeats nothing.
    for _ in 0..2 {
        let pending = host.memory.send_with_key(Event::json("t", &json!({})).unwrap(), "same").await.unwrap();
        assert!(matches!(within("the answer", pending.answer()).await, Answer::Done { .. }));
        host.settled().await;
    }
    assert_eq!((value("one"), value("two")), (Some("2".into()), Some("2".into())));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_takes_no_more_than_its_backlog() {
    let webhook = |name: &str| format!("[sources.{name}]\nkind = \"webhook\"\npath = \"/{name}\"\nbacklog = 3\n");
    let grants = "grants = { keyvalue = true, emit = [\"*\"], http = [\"127.0.0.1:1\"] }";
    let folder = Folder::new().toml(&webhook("full")).toml(&webhook("other")).guest(
        "behave",
        "behave",
        &format!("on = [{{ source = \"full\" }}, {{ source = \"other\" }}]\n{grants}"),
    );
    let host = TestHost::start(folder).await;
    // Each is parked for an hour.
    let busy = json!({ "do": "retry", "after": 3_600_000 }).to_string();
    for _ in 0..3 {
        assert_eq!(host.post("/full", &[], busy.clone()).await.status, 202);
    }
    let full = host.post("/full", &[], busy.clone()).await;
    assert_eq!((full.status, full.json()["detail"].as_str()), (503, Some("too many events wait to be handled; send it again later")));
    assert_eq!(full.headers["retry-after"], "1");
    assert_eq!(host.post("/other", &[], busy).await.status, 202, "a source's backlog is its own");
    assert_eq!(host.admin("/readyz").await.status, 200, "the host is well");
    until("all to be parked", async || (host.folder.count("select count(*) from task where attempts = 1") == 4).then_some(())).await;
    let (folder, _) = host.stop().await;
    assert_eq!(folder.count("select count(*) from task"), 4);
}
