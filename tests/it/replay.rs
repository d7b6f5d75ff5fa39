//! `koksmat replay`: events that were handled are handled again because somebody wants it, and only then.

use koksmat_tests::{Folder, Process, TestHost, process::koksmat, until};
use serde_json::{Value, json};

const COUNT: &str = "import { keyvalue } from \"koksmat\";\nexport function handle(event) {\n  keyvalue.set(\"HANDLER/\" + event.id, 1 + Number(keyvalue.get(\"HANDLER/\" + event.id) ?? 0));\n  if (event.type === \"work\") return event.text();\n}\n";

/// Two handlers that count how often each event was theirs.
fn folder(keep: &str) -> Folder {
    let counts = |folder: Folder, handler: &str| {
        let settings = "on = [{ source = \"q\" }]\ngrants = { keyvalue = true }";
        folder.script(handler, &format!("{handler}.js"), &COUNT.replace("HANDLER", handler), settings)
    };
    counts(counts(Folder::new().host(keep).queue("q"), "a"), "b")
}

async fn send(folder: &Folder, id: &str) {
    let sent = koksmat(folder.path(), &["send", "-t", "work", "--id", id, "-d", "tea"]).await;
    assert_eq!(sent.code, Some(0), "{}", sent.said());
}

async fn counted(folder: &Folder, key: &str, count: &str) {
    until(&format!("{key} to be {count}"), || async { folder.value(key).filter(|value| value == count) }).await;
    until("nothing to be left", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
}

async fn replay(folder: &Folder, arguments: &[&str]) -> Value {
    let ended = koksmat(folder.path(), &[&["replay", "--json"], arguments].concat()).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    serde_json::from_str(&ended.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handled_event_is_handled_again_and_stays_recognised() {
    let folder = folder("keep-events = \"1h\"");
    let process = Process::start(&folder).await;
    for id in ["e1", "e2"] {
        send(&folder, id).await;
        counted(&folder, &format!("a/{id}"), "1").await;
        counted(&folder, &format!("b/{id}"), "1").await;
    }

    let text = koksmat(folder.path(), &["replay", "e1"]).await;
    assert_eq!(text.stdout, "1 events go round again, as 2 calls\n", "{}", text.said());
    counted(&folder, "a/e1", "2").await;
    counted(&folder, "b/e1", "2").await;
    let one = replay(&folder, &["--source", "q", "--since", "1h", "--handler", "b", "--request", "monday"]).await;
    assert_eq!((&one["events"], &one["calls"]), (&json!(2), &json!(2)));
    counted(&folder, "b/e1", "3").await;
    counted(&folder, "b/e2", "2").await;
    let again = replay(&folder, &["--source", "q", "--since", "1h", "--handler", "b", "--request", "monday"]).await;
    assert_eq!((&again["events"], &again["repeated"]), (&json!(0), &json!(2)), "the same request");
    let earlier = koksmat(folder.path(), &["replay", "--source", "q", "--since", "2020-01-01T00:00:00Z", "--until", "1h"]).await;
    assert_eq!(earlier.code, Some(1), "nothing of that time is kept: {}", earlier.stdout);

    // The publisher sends it once more: it was accepted.
    send(&folder, "e1").await;
    assert_eq!(folder.count("select count(*) from task"), 0);
    assert_eq!((folder.value("a/e1").as_deref(), folder.value("a/e2").as_deref()), (Some("2"), Some("1")));
    process.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_replay_shows_what_would_happen_and_nothing_does() {
    let folder = folder("keep-events = \"1h\"");
    let process = Process::start(&folder).await;
    send(&folder, "e1").await;
    counted(&folder, "a/e1", "1").await;
    counted(&folder, "b/e1", "1").await;
    let trials = replay(&folder, &["e1", "--dry"]).await["trials"].clone();
    assert_eq!((&trials[0]["writes"], &trials[1]["writes"]), (&json!({ "a/e1": { "set": "2" } }), &json!({ "b/e1": { "set": "2" } })));
    let text = koksmat(folder.path(), &["replay", "e1", "--dry", "--handler", "a"]).await;
    assert!(text.code == Some(0) && text.stdout.starts_with("e1  a: done: 200 tea ("), "{}", text.stdout);
    assert_eq!(folder.count("select count(*) from task"), 0);
    assert_eq!(folder.value("a/e1").as_deref(), Some("1"));
    process.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_asked_to_a_host_keeps_no_event() {
    let folder = folder("");
    let process = Process::start(&folder).await;
    send(&folder, "e1").await;
    counted(&folder, "a/e1", "1").await;
    counted(&folder, "b/e1", "1").await;
    assert_eq!(folder.count("select count(*) from event"), 0);
    let replay = koksmat(folder.path(), &["replay", "e1"]).await;
    assert_eq!(replay.code, Some(2));
    assert!(replay.said().contains("keep-events = \"24h\""), "{}", replay.said());
    process.stops_well().await;
    let folder = folder
        .toml("[sources.rows]\nkind = \"poller\"\ndatabase = \"sqlite:rows.db\"\nevery = \"1h\"\nclaim = { table = \"t\", key = \"id\" }");
    folder.write();
    let rows = koksmat(folder.path(), &["replay", "--source", "rows", "--since", "1h"]).await;
    assert!(rows.code == Some(2) && rows.said().contains("koksmat_claims"), "{}", rows.said());
    for odd in [&["replay"][..], &["replay", "--source", "q"], &["replay", "e1", "--handler", "nobody"]] {
        let ended = koksmat(folder.path(), odd).await;
        assert_eq!(ended.code, Some(2), "{odd:?}: {}", ended.said());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedder_replays_what_it_kept() {
    let host = TestHost::start(folder("keep-events = \"1h\"")).await;
    let id = host.publish("q", "work", &json!("tea")).await;
    counted(&host.folder, &format!("b/{id}"), "1").await;
    let events = host.host.handled_events();
    let query = || koksmat::store::KeptQuery { limit: 10, ..Default::default() };
    assert_eq!(events.list(query()).await.unwrap()[0].event.id, id);
    assert_eq!(events.replay(query(), Some("b"), "once").await.unwrap().calls, 1);
    counted(&host.folder, &format!("b/{id}"), "2").await;
    host.stop().await;
}
