//! A message that cannot be handled: its key waits behind it or goes on without it, its partition never waits.

use koksmat_tests::{process::koksmat, until};
use serde_json::Value;

use super::*;

/// Writes down which messages of a key were handled, in the order in which they were.
const NOTES: &str = r#"
    import { keyvalue } from "koksmat";
    export function handle(event) {
      if (event.text().includes("fails")) throw new Error("not yet");
      const log = "log/" + event.subject;
      keyvalue.set(log, ((keyvalue.get(log) ?? "") + " " + event.text()).trim());
    }
"#;

fn notes(group: &str, topic: &Topic, retry: &str, settings: &str) -> Folder {
    let settings = format!("on = [{{ source = \"orders\" }}]\ngrants = {{ keyvalue = true }}\nretry = {retry}\n{settings}");
    folder(group, &[&topic.name], "").script("notes", "handlers/notes.js", NOTES, &settings)
}

async fn log(folder: &Folder, key: &str, expected: &str) {
    let what = format!("the log of {key} to be `{expected}`");
    until(&what, || async { (folder.value(&format!("log/{key}")).as_deref() == Some(expected)).then_some(()) }).await;
}

/// What `koksmat dead-letters list --json` prints, a document each.
async fn letters(folder: &Folder) -> Vec<Value> {
    let listed = koksmat(folder.path(), &["dead-letters", "list", "--json"]).await;
    assert_eq!(listed.code, Some(0), "{}", listed.said());
    listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_message_parks_its_key_in_order_and_a_kill_forgets_none_of_it() {
    let (topic, group) = (Topic::create("parked", 1).await, unique("g"));
    topic.produce([("a", "a0"), ("b", "b0"), ("a", "a1 fails"), ("b", "b1"), ("a", "a2"), ("a", "a3"), ("b", "b2")]).await;
    let folder = notes(&group, &topic, "{ attempts = 100, backoff = \"300ms..300ms\" }", "order = \"key\"");
    let process = Process::start(&folder).await;
    log(&folder, "b", "b0 b1 b2").await;
    log(&folder, "a", "a0").await;
    passes(&topic, &group, 7).await;
    // What comes later joins those that wait.
    topic.produce([("a", "a4"), ("b", "b3")]).await;
    log(&folder, "b", "b0 b1 b2 b3").await;
    passes(&topic, &group, 9).await;
    assert_eq!(folder.count("select count(*) from task"), 4, "a1 to a4 wait in the store");
    assert_eq!(folder.value("log/a").as_deref(), Some("a0"));
    // The broker will not tell of them again: the store has to.
    kill(process).await;
    topic.produce([("a", "a5")]).await;
    let folder = folder.file("handlers/notes.js", NOTES.replace("includes(\"fails\")", "includes(\"never\")"));
    let process = Process::start(&folder).await;
    log(&folder, "a", "a0 a1 fails a2 a3 a4 a5").await;
    passes(&topic, &group, 10).await;
    process.stops_well().await;
    assert_eq!(folder.count("select count(*) from task"), 0);
    assert_eq!(folder.value("log/b").as_deref(), Some("b0 b1 b2 b3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_last_attempt_a_message_is_a_dead_letter_that_says_where_it_was_and_can_be_replayed() {
    let (topic, group) = (Topic::create("letters", 1).await, unique("g"));
    topic.produce([("a", "a0"), ("a", "a1 fails"), ("a", "a2"), ("b", "b0")]).await;
    let folder = notes(&group, &topic, "{ attempts = 2, backoff = \"20ms..20ms\" }", "");
    let process = Process::start(&folder).await;
    log(&folder, "a", "a0 a2").await;
    log(&folder, "b", "b0").await;
    passes(&topic, &group, 4).await;

    let where_it_was = format!("{}/0/1", topic.name);
    let letter = &letters(&folder).await[..];
    let [letter] = letter else { panic!("one dead letter: {letter:?}") };
    assert_eq!((&letter["source"], &letter["handler"]), (&"orders".into(), &"notes".into()), "{letter}");
    let coordinates = &letter["coordinates"];
    let said = ["topic", "partition", "offset", "group"].map(|name| coordinates[name].as_str().unwrap_or_default());
    assert_eq!(said, [topic.name.as_str(), "0", "1", group.as_str()], "{letter}");
    assert!(coordinates["cluster"].is_string() && coordinates["timestamp"].is_string(), "{letter}");
    assert_eq!((&letter["event"]["id"], &letter["event"]["subject"]), (&where_it_was.as_str().into(), &"a".into()), "{letter}");
    let listed = koksmat(folder.path(), &["dead-letters", "list"]).await.stdout;
    assert!(listed.contains("orders → notes  koksmat.queue.message  failed 2 times; last: Error: not yet"), "{listed}");
    let id = letter["id"].to_string();
    let shown = koksmat(folder.path(), &["dead-letters", "show", &id]).await.stdout;
    assert!(shown.contains(&where_it_was) && shown.matches("not yet").count() >= 2, "each attempt is there: {shown}");

    // Without a host they can be looked at too.
    process.stops_well().await;
    assert_eq!(letters(&folder).await.len(), 1);
    let folder = folder.file("handlers/notes.js", NOTES.replace("includes(\"fails\")", "includes(\"never\")"));
    let process = Process::start(&folder).await;
    let replayed = koksmat(folder.path(), &["dead-letters", "replay", &id]).await;
    assert_eq!((replayed.code, replayed.stdout.trim()), (Some(0), "1 go round again"));
    log(&folder, "a", "a0 a2 a1 fails").await;
    assert_eq!(letters(&folder).await, Vec::<Value>::new());
    process.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_order_of_the_source_nothing_passes_a_message_that_fails() {
    let (topic, group) = (Topic::create("in-place", 1).await, unique("g"));
    let messages = (0..12).map(|n| (format!("k{n}"), n.to_string()));
    topic.produce(messages).await;
    let script = r#"
        import { keyvalue } from "koksmat";
        export function handle(event, ctx) {
          if (["3", "7"].includes(event.text()) && ctx.attempt < 3) throw new Error("not yet");
          keyvalue.set("log/all", ((keyvalue.get("log/all") ?? "") + " " + event.text()).trim());
        }
    "#;
    let settings = "on = [{ source = \"orders\" }]\norder = \"source\"\ngrants = { keyvalue = true }\nretry = { attempts = 3, backoff = \"200ms..200ms\" }";
    let folder = folder(&group, &[&topic.name], "").script("notes", "handlers/notes.js", script, settings);
    let process = Process::start(&folder).await;
    log(&folder, "all", "0 1 2 3 4 5 6 7 8 9 10 11").await;
    passes(&topic, &group, 12).await;
    process.stops_well().await;
}
