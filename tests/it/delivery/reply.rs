//! `reply = "handler"`: the sender gets what came of its event, once.

use super::*;

const WEBHOOK: &str = "[sources.ask]\nkind = \"webhook\"\npath = \"/ask\"\nreply = \"handler\"\nid-header = \"x-delivery\"\n";

async fn host(inside: Option<&Inside>) -> TestHost {
    let address = inside.map_or_else(|| "127.0.0.1:1".into(), |inside| inside.address().to_string());
    let timeout = if inside.is_some() { "30s" } else { "500ms" };
    let settings = format!(
        "on = [{{ source = \"ask\" }}]\ntimeout = \"{timeout}\"\nmemory = \"16MiB\"\nretry = {{ attempts = 5 }}\n\
         grants = {{ keyvalue = true, emit = [\"*\"], http = [\"{address}\"] }}"
    );
    TestHost::start(Folder::new().toml(WEBHOOK).guest("behave", "behave", &settings)).await
}

async fn ask(host: &TestHost, step: &Value) -> Reply {
    host.post("/ask", &[], step.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_call_has_its_status() {
    let host = host(None).await;
    let done = ask(&host, &json!({ "do": "ok", "status": 201, "body": { "made": 1 } })).await;
    assert_eq!((done.status, done.json()), (201, json!({ "made": 1 })));
    assert_eq!(done.headers["content-type"], "application/json");
    assert_eq!(ask(&host, &json!({ "do": "ok" })).await.status, 204);
    for (step, status, detail) in [
        (json!({ "do": "reject", "reason": "out of stock" }), 422, "out of stock"),
        (json!({ "do": "retry", "reason": "not said", "after": 2500 }), 503, "the handler asks to try again"),
        (json!({ "do": "sleep", "ms": 60_000 }), 504, "the handler took too long"),
        (json!({ "do": "loop" }), 504, "the handler took too long"),
        (json!({ "do": "trap" }), 500, "the handler crashed"),
        (json!({ "do": "eat-memory" }), 500, "the handler crashed"),
    ] {
        let reply = ask(&host, &step).await;
        assert_eq!((reply.status, reply.json()["detail"].as_str()), (status, Some(detail)), "{step}");
        assert_eq!(reply.headers["content-type"], "application/problem+json");
        let retry_after = reply.headers.get("retry-after").map(|value| value.to_str().unwrap());
        assert_eq!(retry_after, (status == 503).then_some("3"), "{step}");
    }
    let garbage = ask(&host, &json!({ "do": "garbage-status" })).await;
    assert_eq!(garbage.status, 422, "{}", garbage.text());
    let (folder, stopped) = host.stop().await;
    // One attempt each; the sender tries again by himself.
    for table in ["task", "dead_letter", "settled"] {
        assert_eq!(folder.count(&format!("select count(*) from {table}")), 0, "{table}");
    }
    assert_eq!(stopped.ledger.total.parked, 0);
}

fn hold(inside: &Inside, body: &str) -> Value {
    json!({ "do": "steps", "steps": [
        { "do": "increment", "key": "calls" },
        { "do": "fetch", "url": inside.url(), "method": "POST", "body": body },
    ] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_waits_for_the_running_call_and_gets_the_same_response() {
    let inside = Inside::start(Duration::from_millis(200)).await;
    let host = host(Some(&inside)).await;
    let step = hold(&inside, "first").to_string();
    let post = || host.post("/ask", &[("x-delivery", "D1")], step.clone());
    let second = async {
        inside.reached(1).await;
        post().await
    };
    let (first, second) = tokio::join!(post(), second);
    assert_eq!((first.status, second.status), (200, 200), "{} {}", first.text(), second.text());
    assert_eq!(first.body, second.body);
    // Later it gets the response that was kept.
    let third = post().await;
    assert_eq!((third.status, third.body), (200, first.body));
    assert_eq!(inside.entered(), ["first"], "one call");
    // Another delivery, and one that has no name, are calls of their own.
    assert_eq!(host.post("/ask", &[("x-delivery", "D2")], hold(&inside, "second").to_string()).await.status, 200);
    assert_eq!(ask(&host, &hold(&inside, "third")).await.status, 200);
    let (folder, _) = host.stop().await;
    assert_eq!(inside.entered(), ["first", "second", "third"]);
    assert_eq!(folder.value("calls").unwrap(), "3");
    let host = TestHost::start(folder).await;
    assert_eq!(host.post("/ask", &[("x-delivery", "D1")], step).await.status, 200, "kept beyond a restart");
    assert_eq!(inside.entered().len(), 3);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delivery_is_tried_anew_when_it_comes_again() {
    let host = host(None).await;
    let post = async |step: Value| host.post("/ask", &[("x-delivery", "D1")], step.to_string()).await.status;
    assert_eq!(post(json!({ "do": "retry" })).await, 503);
    assert_eq!(post(json!({ "do": "trap" })).await, 500);
    assert_eq!(post(json!({ "do": "set", "key": "k", "value": 1 })).await, 200);
    assert_eq!(post(json!({ "do": "trap" })).await, 200, "the response that was kept");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_goes_away_cancels_nothing() {
    let inside = Inside::start(Duration::from_millis(200)).await;
    let host = host(Some(&inside)).await;
    let step = hold(&inside, "gone");
    tokio::select! {
        _ = ask(&host, &step) => panic!("it was to be left alone"),
        () = inside.reached(1) => {}
    }
    assert_eq!(until("the call's effect", async || host.folder.value("calls")).await, "1");
    let (_, stopped) = host.stop().await;
    assert_eq!(stopped.ledger.total.done, 1);
}
