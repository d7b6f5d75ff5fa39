//! `koksmat queues` and `koksmat status`

use std::time::Duration;

use koksmat_tests::{Folder, Inside, Process, until};
use serde_json::json;

use super::{lists, publish, says};

const HELD: &str = "import { http } from \"koksmat\";\nexport function handle(event) { http.fetch(event.text(), { method: \"POST\", body: event.id }); }\n";

#[tokio::test(flavor = "multi_thread")]
async fn queues_tell_what_waits_for_which_handler_beside_a_host_and_without_one() {
    let inside = Inside::start(Duration::from_secs(3600)).await;
    let settings =
        format!("on = [{{ source = \"q\" }}]\nconcurrency = 1\ntimeout = \"120s\"\ngrants = {{ http = [\"{}\"] }}", inside.address());
    let failing = "export function handle() { throw new Error(\"no\"); }\n";
    let folder = Folder::new().toml("[sources.q]\nkind = \"embedded\"\nbacklog = 50\n").script("held", "held.js", HELD, &settings).script(
        "failing",
        "failing.js",
        failing,
        "on = [{ source = \"q\", type = \"fails\" }]\nretry = { backoff = \"1h..1h\" }",
    );
    let host = Process::start(&folder).await;
    assert_eq!(says(&folder, &["queues"]).await, "nothing waits in the store\n");
    assert!(lists(&folder, &["queues", "--json"]).await.is_empty());
    publish(&host, &folder, "type=fails", &inside.url()).await;
    inside.reached(1).await;
    publish(&host, &folder, "after=1h", &inside.url()).await;
    let queues = until("the failure", async || {
        let queues = lists(&folder, &["queues", "--json"]).await;
        queues.iter().any(|queue| queue["failed"] == 1).then_some(queues)
    })
    .await;
    let counts: Vec<_> = queues.iter().map(|q| json!([q["handler"], q["ready"], q["later"], q["failed"], q["running"]])).collect();
    assert_eq!(counts, [json!(["failing", 0, 1, 1, 0]), json!(["held", 0, 1, 0, 1])]);
    for queue in &queues {
        assert_eq!(
            (&queue["source"], &queue["backlog"], &queue["bound"], &queue["paused"]),
            (&json!("q"), &json!(3), &json!(50), &json!(false))
        );
        assert!(queue["oldest_ms"].as_i64().unwrap() >= 0, "{queue}");
    }
    let text = says(&folder, &["queues"]).await;
    assert!(
        text.contains("q → failing: 0 ready, 1 later (1 failed before), 0 running; oldest ") && text.contains("; 3 of 50 in all"),
        "{text}"
    );
    inside.keep_for(Duration::ZERO);
    host.stops_well().await;

    let counts: Vec<_> =
        lists(&folder, &["queues", "--json"]).await.iter().map(|q| json!([q["handler"], q["later"], q["running"]])).collect();
    assert_eq!(counts, [json!(["failing", 1, 0]), json!(["held", 1, 0])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_without_a_host_leaves_how_the_last_one_ended_for_the_next() {
    let inside = Inside::start(Duration::from_secs(3600)).await;
    let settings = format!("on = [{{ source = \"q\" }}]\ntimeout = \"120s\"\ngrants = {{ http = [\"{}\"] }}", inside.address());
    let folder = Folder::new().queue("q").script("held", "held.js", HELD, &settings);
    let host = Process::start(&folder).await;
    publish(&host, &folder, "", &inside.url()).await;
    inside.reached(1).await;
    let starts = folder.count("select value from meta where name = 'start_number'");
    host.signal("KILL").await;
    host.ended().await;
    assert_eq!(lists(&folder, &["queues", "--json"]).await[0]["running"], 1);
    assert_eq!(folder.count("select count(*) from task where state = 1 and not suspect"), 1);
    assert_eq!(folder.count("select value from meta where name = 'start_number'"), starts);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_the_lane_the_queues_and_the_last_error_of_each_source() {
    let inside = Inside::start(Duration::from_secs(3600)).await;
    let settings =
        format!("on = [{{ source = \"q\" }}]\natomic = true\ntimeout = \"120s\"\ngrants = {{ http = [\"{}\"] }}", inside.address());
    let poller = "[sources.rows]\nkind = \"poller\"\ndatabase = \"sqlite:shop.db\"\nevery = \"20ms\"\nclaim = { table = \"outbox\", key = \"id\" }\n";
    let folder = Folder::new().queue("q").toml(poller).script("held", "held.js", HELD, &settings);
    let mut host = Process::spawn(&folder, &[]);
    host.listens().await;
    publish(&host, &folder, "id=first", &inside.url()).await;
    inside.reached(1).await;
    publish(&host, &folder, "id=second", &inside.url()).await;
    let error = until("the poller's error", async || {
        let status = says(&folder, &["status", "--json"]).await;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        Some(status["health"]["sources"]["default/rows"]["last_error"].clone()).filter(|error| !error.is_null())
    })
    .await;
    assert!(error["error"].as_str().unwrap().contains("cannot open the database") && error["at"].as_i64().unwrap() > 0, "{error}");
    rusqlite::Connection::open(folder.join("shop.db")).unwrap().execute_batch("create table outbox (id text primary key)").unwrap();
    host.ready().await;
    let text = until("the second to wait for the lane", async || {
        Some(says(&folder, &["status"]).await)
            .filter(|text| text.contains("lane: held by held for event first since ") && text.contains("), 1 wait"))
    })
    .await;
    assert!(
        text.contains("rows (poller): takes events\n    last error at ") && text.contains("q → held: 0 ready, 0 later, 2 running"),
        "{text}"
    );
    assert!(!text.contains("hosts that share"), "it is the only one: {text}");
    inside.keep_for(Duration::ZERO);
    host.stops_well().await;
}
