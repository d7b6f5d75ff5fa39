//! Dead letters: what they keep, how they are found, and what a dry run and a replay do with them.

use koksmat_tests::{Folder, Process, TestHost, Witness, process::koksmat, until};
use serde_json::{Value, json};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Fails as long as it is not mended; then it writes, emits, asks and tells the witness.
fn fragile(witness: &Witness) -> String {
    format!(
        r#"
import {{ keyvalue, emit, http, log, Reject }} from "koksmat";
export function handle(event) {{
  log.info("looks", {{ id: event.id }});
  if (!keyvalue.get("mended")) throw new Error("not yet");
  keyvalue.set(`seen/${{event.id}}`, event.text());
  emit({{ type: "order.seen", data: event.text() }});
  if (event.type === "refuse") throw new Reject("never");
  if (event.type === "tell") http.fetch("http://{}/", {{ method: "POST", body: event.id }});
  return "seen";
}}
"#,
        witness.address()
    )
}

const MEND: &str = "import { keyvalue } from \"koksmat\";\nexport function handle() { keyvalue.set(\"mended\", 1); }\n";

fn folder(witness: &Witness) -> Folder {
    let settings = format!(
        "on = [{{ source = \"q\" }}]\nretry = {{ attempts = 2, backoff = \"1ms..2ms\" }}\ngrants = {{ keyvalue = true, emit = [\"order.*\"], http = [{:?}] }}",
        witness.address()
    );
    let mend = "on = [{ source = \"mend\" }]\ngrants = { keyvalue = true }";
    Folder::new().queue("q").queue("mend").script("h", "h.js", &fragile(witness), &settings).script("mend", "mend.js", MEND, mend)
}

async fn send(folder: &Folder, arguments: &[&str]) {
    let sent = koksmat(folder.path(), &[&["send"], arguments].concat()).await;
    assert_eq!(sent.code, Some(0), "{}", sent.said());
}

async fn letters(folder: &Folder, expected: i64) {
    until("dead letters", || async { (folder.count("select count(*) from dead_letter") == expected).then_some(()) }).await;
}

async fn mend(folder: &Folder) {
    send(folder, &["--source", "mend"]).await;
    until("the handler to be mended", || async { folder.value("mended") }).await;
}

fn documents(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_says_what_was_tried_by_which_code_and_where_it_came_from() {
    let witness = Witness::start().await;
    let folder = folder(&witness).toml("[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\n[handlers.hooked]\nplugin = \"h.js\"\non = [{ source = \"hook\" }]\nretry = { attempts = 1 }\ngrants = { keyvalue = true, emit = [\"*\"], http = [\"a.example\"] }");
    let process = Process::start(&folder).await;
    let posted = process.post("/hook", &[("traceparent", TRACE), ("content-type", "text/plain")], "hello").await;
    assert_eq!(posted.status, 202);
    letters(&folder, 1).await;
    send(&folder, &["--source", "q", "--id", "A1", "-d", "x"]).await;
    letters(&folder, 2).await;

    let listed = documents(&koksmat(folder.path(), &["dead-letters", "list", "--json"]).await.stdout);
    let [hooked, queued] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(hooked["traceparent"], TRACE);
    assert_eq!(hooked["coordinates"], json!({ "path": "/hook" }), "{hooked}");
    assert_eq!((&queued["key"], &queued["hops"]), (&json!("A1"), &json!(0)));
    assert!(queued["accepted_at"].as_i64().unwrap() <= queued["at"].as_i64().unwrap(), "{queued}");
    let attempts = queued["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    for attempt in attempts {
        assert!(attempt["error"].as_str().unwrap().contains("not yet"), "{attempt}");
        assert_eq!(attempt["plugin"].as_str().map(str::len), Some(64), "the digest of what ran: {attempt}");
    }
    assert_eq!(queued["plugin"], attempts[1]["plugin"]);

    let of = async |arguments: &[&str]| {
        let listed = koksmat(folder.path(), &[&["dead-letters", "list", "--json"], arguments].concat()).await;
        documents(&listed.stdout).len()
    };
    assert_eq!(of(&["--since", "1h"]).await, 2);
    assert_eq!(of(&["--until", "1h"]).await, 0);
    assert_eq!(of(&["--since", "2020-01-01T00:00:00Z", "--handler", "h"]).await, 1);
    let odd = koksmat(folder.path(), &["dead-letters", "list", "--since", "yesterday"]).await;
    assert!(odd.code == Some(1) && odd.said().contains("RFC 3339"), "{}", odd.said());
    let status = koksmat(folder.path(), &["status", "--json"]).await.stdout;
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["dead_letters"], 2);
    process.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_what_would_happen_and_nothing_does() {
    let witness = Witness::start().await;
    let folder = folder(&witness);
    let process = Process::start(&folder).await;
    for (n, ty) in ["order", "refuse", "tell"].iter().enumerate() {
        send(&folder, &["--source", "q", "-t", ty, "--id", ty, "-d", "tea"]).await;
        letters(&folder, n as i64 + 1).await;
    }
    let dry = async |id: &str| koksmat(folder.path(), &["dead-letters", "replay", id, "--dry", "--json"]).await;
    let trial = |stdout: &str| documents(stdout)[0]["trials"][0].clone();

    let failing = dry("1").await;
    let before = trial(&failing.stdout);
    assert_eq!((failing.code, &before["outcome"]), (Some(1), &json!("retry")), "{before}");
    assert!(before["reason"].as_str().unwrap().contains("not yet") && before["writes"] == json!({}), "{before}");
    assert_eq!(before["log"][0]["level"], "info");
    mend(&folder).await;

    let done = dry("1").await;
    let after = trial(&done.stdout);
    assert_eq!((done.code, &after["outcome"], &after["response"]["body"]), (Some(0), &json!("done"), &json!("seen")), "{after}");
    assert_eq!(after["writes"], json!({ "seen/order": { "set": "tea" } }));
    assert_eq!((&after["emits"][0]["event"]["type"], &after["emits"][0]["event"]["data"]), (&json!("order.seen"), &json!("tea")));
    let rejected = dry("2").await;
    assert_eq!((rejected.code, &trial(&rejected.stdout)["outcome"]), (Some(1), &json!("reject")));
    let told = trial(&dry("3").await.stdout);
    assert_eq!((&told["requests"][0]["method"], told["requests"].as_array().unwrap().len()), (&json!("POST"), 1), "{told}");
    assert!(told["requests"][0]["error"].as_str().unwrap().contains("a dry run sends no POST"), "{told}");

    let all = koksmat(folder.path(), &["dead-letters", "replay", "--all", "--dry"]).await;
    assert_eq!(all.code, Some(1), "not every one is done");
    assert!(all.stdout.contains("1  h: done: 200 seen (") && all.stdout.contains("  write    seen/order = tea"), "{}", all.stdout);
    let gone = koksmat(folder.path(), &["dead-letters", "replay", "4711", "--dry"]).await;
    assert_eq!((gone.code, gone.said().as_str()), (Some(2), "there is no dead letter 4711"));

    assert_eq!(folder.value("seen/order"), None, "nothing was written");
    assert_eq!(witness.heard(), Vec::<String>::new(), "nothing was told");
    assert_eq!(folder.count("select count(*) from dead_letter"), 3, "they stay, and nothing was emitted");
    let ledger = process.stop().await.ledger();
    assert_eq!(ledger["ledger"]["sources"]["emit"], Value::Null, "{ledger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_host_a_dry_run_loads_the_handler_from_the_configuration() {
    let witness = Witness::start().await;
    let folder = folder(&witness);
    let process = Process::start(&folder).await;
    send(&folder, &["--source", "q", "--id", "A1", "-d", "tea"]).await;
    letters(&folder, 1).await;
    mend(&folder).await;
    process.stops_well().await;
    let dry = koksmat(folder.path(), &["dead-letters", "replay", "1", "--dry"]).await;
    assert_eq!(dry.code, Some(0), "{}", dry.said());
    assert!(dry.stdout.starts_with("1  h: done: 200 seen ("), "{}", dry.stdout);
    assert_eq!(folder.value("seen/A1"), None);
    assert_eq!(folder.count("select count(*) from dead_letter"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_runs_on_the_current_version_and_leaves_what_nobody_takes() {
    let witness = Witness::start().await;
    let folder = folder(&witness).queue("nobodys");
    let process = Process::start(&folder).await;
    send(&folder, &["--source", "q", "--id", "A1", "-d", "tea"]).await;
    letters(&folder, 1).await;
    let version = koksmat(folder.path(), &["dead-letters", "replay", "1", "--version", "abc"]).await;
    assert_eq!(version.code, Some(2));
    assert!(version.said().contains("a replay runs on the current version"), "{}", version.said());
    mend(&folder).await;
    send(&folder, &["--source", "nobodys", "-d", "x"]).await;
    letters(&folder, 2).await;

    let replay = koksmat(folder.path(), &["dead-letters", "replay", "--source", "nobodys"]).await;
    assert_eq!(replay.stdout, "0 go round again\n1 stay: no handler that is configured takes them\n", "{}", replay.said());
    process.stops_well().await;

    // A configuration that has another handler by now.
    let store = format!("store = \"sqlite:{}\"", folder.join("data/koksmat.db").display());
    let other =
        Folder::new().host(&store).queue("q").script("other", "other.js", MEND, "on = [{ type = \"none\" }]\ngrants = { keyvalue = true }");
    let process = Process::start(&other).await;
    let replay = koksmat(other.path(), &["dead-letters", "replay", "--handler", "h"]).await;
    assert_eq!(replay.stdout, "0 go round again\n1 stay: no handler that is configured takes them\n", "{}", replay.said());
    let dry = koksmat(other.path(), &["dead-letters", "replay", "1", "--dry"]).await;
    assert!(dry.code == Some(1) && dry.said().contains("the configuration has no handler `h`"), "{}", dry.said());
    process.stops_well().await;

    let process = Process::start(&folder).await;
    let replay = koksmat(folder.path(), &["dead-letters", "replay", "--since", "1h", "--json"]).await;
    assert_eq!(documents(&replay.stdout), [json!({ "replayed": 1, "left": 1 })]);
    until("it to be handled", || async { folder.value("seen/A1") }).await;
    let purge = koksmat(folder.path(), &["dead-letters", "purge", "--all", "--json"]).await;
    assert_eq!(documents(&purge.stdout), [json!({ "purged": 2 })], "the other is what it emitted, which nobody wants");
    process.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedder_lists_tries_replays_and_purges_them() {
    let witness = Witness::start().await;
    let host = TestHost::start(folder(&witness)).await;
    let letters = host.host.dead_letters();
    host.publish("q", "order", &json!("tea")).await;
    let query = || koksmat::store::DeadLetterQuery { limit: 10, ..Default::default() };
    let letter = until("a dead letter", || async { letters.list(query()).await.unwrap().pop() }).await;
    assert_eq!((letter.handler.as_deref(), letters.count(query()).await.unwrap()), (Some("h"), 1));
    let trials = letters.dry_run(letter.id).await.unwrap();
    assert_eq!((trials.len(), trials[0].outcome), (1, koksmat::plugin::Ended::Retry));
    assert_eq!(letters.replay(query()).await.unwrap().replayed, 1);
    until("it to come back", || async { letters.list(query()).await.unwrap().pop().filter(|again| again.id > letter.id) }).await;
    assert_eq!(letters.purge(query()).await.unwrap(), 1);
    host.stop().await;
}
