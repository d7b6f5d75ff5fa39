//! `order = "key"` for events that come directly from their source: calls of one key never overlap and keep their order, through failures
//! and restarts; other keys go on.

use koksmat::{Answer, Event};
use koksmat_tests::{Folder, TestHost, until, within};

/// Writes down which events of a key were handled, in the order in which they were; fails where the event says so.
const NOTES: &str = r#"
    import { keyvalue } from "koksmat";
    export function handle(event, ctx) {
      const { seq, fails } = event.json();
      if (ctx.attempt <= (fails ?? 0)) throw new Error("not yet");
      const log = "log/" + event.subject;
      keyvalue.set(log, ((keyvalue.get(log) ?? "") + " " + seq).trim());
    }
"#;

fn folder(order: &str, backoff: &str) -> Folder {
    let settings = format!(
        "on = [{{ source = \"memory\" }}]\norder = \"{order}\"\nretry = {{ attempts = 9, backoff = \"{backoff}\" }}\ngrants = {{ keyvalue = true }}"
    );
    Folder::new().script("notes", "handlers/notes.js", NOTES, &settings)
}

fn event(key: &str, seq: usize, fails: u32) -> Event {
    let mut event = Event::json("note", &serde_json::json!({ "seq": seq, "fails": fails })).unwrap();
    event.subject = Some(key.into());
    event
}

async fn send(host: &TestHost, event: Event) -> koksmat::receipt::Pending {
    within("a credit", host.memory.send(event)).await.unwrap()
}

fn in_order(from: usize, to: usize) -> String {
    (from..to).map(|seq| seq.to_string()).collect::<Vec<_>>().join(" ")
}

/// Forty events of each of ten keys, all at once; the log of each key.
async fn logs(order: &str) -> Vec<String> {
    let host = TestHost::start(folder(order, "1ms..1ms")).await;
    let mut pending = Vec::new();
    for seq in 0..40 {
        for key in 0..10 {
            pending.push(send(&host, event(&key.to_string(), seq, 0)).await);
        }
    }
    for pending in pending {
        assert!(matches!(within("an answer", pending.answer()).await, Answer::Done { .. }));
    }
    let (folder, _) = host.stop().await;
    (0..10).map(|key| folder.value(&format!("log/{key}")).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_key_are_handled_in_their_order() {
    assert_eq!(logs("key").await, vec![in_order(0, 40); 10]);
    assert_ne!(logs("none").await, vec![in_order(0, 40); 10], "else this could not fail");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_event_parks_its_key_and_other_keys_go_on() {
    let host = TestHost::start(folder("key", "300ms..300ms")).await;
    let mut pending = Vec::new();
    for seq in 0..20 {
        pending.push(send(&host, event("fails", seq, if seq == 3 { 2 } else { 0 })).await);
        pending.push(send(&host, event("works", seq, 0)).await);
    }
    for pending in pending {
        // What is parked is the host's: its source goes on.
        assert!(matches!(within("an answer", pending.answer()).await, Answer::Done { .. }));
    }
    assert_eq!(host.folder.value("log/works").unwrap(), in_order(0, 20));
    assert_eq!(host.folder.value("log/fails").unwrap(), in_order(0, 3), "the rest waits behind it");
    host.settled().await;
    let (folder, stopped) = host.stop().await;
    assert_eq!(folder.value("log/fails").unwrap(), in_order(0, 20));
    // 17 of them were parked, one without an attempt each but for the first, and done as tasks, the first in two more attempts.
    assert_eq!(stopped.ledger.total.dead, 0);
    assert!(stopped.ledger.total.parked >= 17, "{}", stopped.line());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_key_is_parked_after_a_restart_too() {
    let host = TestHost::start(folder("key", "2s..2s")).await;
    within("the answer", send(&host, event("a", 0, 1)).await.answer()).await;
    let (folder, _) = host.stop().await;
    assert_eq!(folder.count("select count(*) from task where order_key is not null"), 1);
    let host = TestHost::start(folder).await;
    within("the answer", send(&host, event("a", 1, 0)).await.answer()).await;
    within("the answer", send(&host, event("b", 0, 0)).await.answer()).await;
    until("the log of a", || async { host.folder.value("log/a").filter(|log| log.len() == 3) }).await;
    let (folder, _) = host.stop().await;
    assert_eq!(folder.value("log/a").unwrap(), "0 1");
    assert_eq!(folder.value("log/b").unwrap(), "0");
}
