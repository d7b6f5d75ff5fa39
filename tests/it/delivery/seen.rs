//! What one sees of it: metrics and readiness.

use super::*;

/// The values of a metric, by its labels as they are written.
fn metric<'a>(metrics: &'a str, name: &str) -> Vec<(&'a str, f64)> {
    let value = |line: &'a str| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then(|| (labels, value.parse().unwrap()))
    };
    metrics.lines().filter_map(value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_became_of_every_event() {
    let inside = Inside::start(Duration::from_secs(60)).await;
    let settings = format!(
        "on = [{{ source = \"q\" }}]\ntimeout = \"30s\"\nretry = {{ attempts = 2, backoff = \"1ms..2ms\" }}\n\
         grants = {{ keyvalue = true, emit = [\"*\"], http = [\"{}\"] }}",
        inside.address()
    );
    let folder = Folder::new().host("drain-deadline = \"1s\"").queue("q").guest("behave", "behave", &settings);
    let process = Process::start(&folder).await;
    let bearer = format!("Bearer {}", folder.token());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let send = async |step: Value| assert_eq!(process.post("/queues/q?type=t", &headers, step.to_string()).await.status, 202);
    send(json!({ "do": "ok" })).await;
    send(json!({ "do": "set", "key": "k", "value": 1 })).await;
    send(json!({ "do": "reject" })).await;
    send(json!({ "do": "trap" })).await;
    until("four to be settled", async || (folder.count("select count(*) from task") == 0).then_some(())).await;
    // One that runs, one that waits for its time, one that is delayed.
    send(json!({ "do": "fetch", "url": inside.url(), "method": "POST", "body": "held" })).await;
    inside.reached(1).await;
    send(json!({ "do": "retry", "after": 3_600_000 })).await;
    assert_eq!(process.post("/queues/q?type=t&after=1h", &headers, "{}").await.status, 202);
    until("one to be parked", async || (folder.count("select count(*) from task where attempts = 1") == 1).then_some(())).await;

    let reply = process.admin("/metrics").await;
    assert_eq!((reply.status, reply.headers["content-type"].to_str().unwrap()), (200, "text/plain; version=0.0.4"));
    let text = reply.text();
    let of = |name: &str, label: &str| {
        let found = metric(&text, name);
        found.iter().find(|(labels, _)| labels.contains(label)).unwrap_or_else(|| panic!("no {name} {label}:\n{text}")).1
    };
    // The trap was tried twice.
    assert_eq!(of("koksmat_received_total", "tenant=\"default\",source=\"q\""), 7.0);
    for (became, count) in [("done", 2.0), ("dead", 2.0), ("parked", 2.0)] {
        assert_eq!(of("koksmat_settled_total", &format!("became=\"{became}\"")), count, "{became}");
    }
    for (outcome, count) in [("done", 2.0), ("reject", 1.0), ("trap", 2.0), ("retry", 1.0), ("timeout", 0.0)] {
        assert_eq!(of("koksmat_calls_total", &format!("handler=\"behave\",outcome=\"{outcome}\"")), count, "{outcome}");
    }
    assert_eq!(of("koksmat_call_duration_seconds_count", "handler=\"behave\""), 6.0);
    assert_eq!((of("koksmat_calls_running", ""), of("koksmat_calls_waiting", ""), of("koksmat_lane_waiting", "")), (1.0, 0.0, 0.0));
    for (state, count) in [("ready", 0.0), ("running", 1.0), ("later", 2.0)] {
        assert_eq!(of("koksmat_tasks", &format!("state=\"{state}\"")), count, "{state}");
    }
    assert_eq!(of("koksmat_source_ready", "source=\"q\""), 1.0);
    // Every line belongs to a metric that says its type.
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(line.starts_with("koksmat_"), "{line}");
    }
    process.signal("TERM").await;
    assert_eq!(process.ended().await.code, Some(3), "the held call was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_which_source_takes_events() {
    let folder = Folder::new().queue("q").toml("[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\n").script(
        "h",
        "h.js",
        LIST,
        "on = [{ source = \"q\" }, { source = \"hook\" }]\ngrants = { keyvalue = true }",
    );
    let host = TestHost::start(folder).await;
    let ready = host.admin("/readyz").await;
    let source = |kind: &str| json!({ "kind": kind, "ready": true, "restarts": 0 });
    let expected = json!({
        "ready": true, "phase": "running",
        "sources": { "default/hook": source("webhook"), "default/memory": source("memory"), "default/q": source("embedded") },
    });
    assert_eq!((ready.status, ready.json()), (200, expected));
    assert_eq!((host.admin("/livez").await.status, host.admin("/livez").await.text()), (200, "alive\n".into()));
    host.stop().await;
}
