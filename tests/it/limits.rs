//! A limit limits: whatever a handler does, its call ends in time, its event as the policy says, and nobody else notices.

mod neighbour;
mod outbound;
mod scripts;

use std::time::{Duration, Instant};

use koksmat::{Answer, Event, outcome::Response};
use koksmat_tests::{Folder, Inside, Process, TestHost, guests, within};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_millis(300);
/// How much later than its timeout a call may end.
const LATE: Duration = Duration::from_millis(100);
/// Another process of this machine may keep a call waiting, but not every time.
const ROUNDS: usize = 4;

const LIMITS: &str = "timeout = \"300ms\"\nmemory = \"16MiB\"\n";

/// What hostile handlers are granted: everything, and one address.
fn granted(address: impl std::fmt::Display) -> String {
    format!("grants = {{ keyvalue = true, emit = [\"*\"], http = [\"{address}\"] }}\n")
}

/// A host with a handler that does what the event says, once.
async fn host_of_behave(settings: &str) -> TestHost {
    let settings = format!("on = [{{ source = \"memory\" }}]\nretry = {{ attempts = 1 }}\n{LIMITS}{settings}");
    TestHost::start(Folder::new().guest("behave", "behave", &settings)).await
}

fn attack(step: &Value) -> Event {
    Event::json("attack", step).unwrap()
}

/// Who measures time is alone, as far as the tests of this file go.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Several calls at once: their answers, and how long the slowest took.
async fn at_once(host: &TestHost, events: &[Event]) -> (Vec<Answer>, Duration) {
    let (mut pending, mut answers) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for event in events {
        pending.push(within("a credit", host.memory.send(event.clone())).await.unwrap());
    }
    for pending in pending {
        answers.push(within("the end of a call", pending.answer()).await);
    }
    (answers, began.elapsed())
}

/// The same; each must end within its timeout and a little.
async fn in_time(host: &TestHost, events: &[Event]) -> Vec<Answer> {
    let _alone = ALONE.lock().await;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let (answers, slowest) = at_once(host, events).await;
        if slowest <= TIMEOUT + LATE {
            return answers;
        }
        took.push(slowest);
    }
    panic!("{} × {:?} took {took:?}, each time longer than {TIMEOUT:?} + {LATE:?}", events.len(), events[0])
}

/// Alone and eight at once; every one must end up as a dead letter for this reason. Eight who work hard may be cut before they come to it.
async fn dies_in_time(host: &TestHost, step: Value, reason: &str) {
    for count in [1, 8] {
        for answer in in_time(host, &vec![attack(&step); count]).await {
            let as_it_should = |found: &str| found.contains(reason) || count == 8 && found.contains(CUT);
            assert!(matches!(&answer, Answer::Dead { reason } if as_it_should(reason)), "{step}: {answer:?}, not {reason}");
        }
    }
}

fn response(answer: Answer) -> Response {
    match answer {
        Answer::Done { response: Some(response) } => response,
        other => panic!("not done: {other:?}"),
    }
}

const CUT: &str = "timeout: the call was cut after 300ms";
const OUT_OF_MEMORY: &str = "out of memory: the handler's limit is 16777216 bytes";

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_is_cut() {
    let never = Inside::start(Duration::from_secs(60)).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let host =
        host_of_behave(&format!("grants = {{ keyvalue = true, emit = [\"*\"], http = [\"{}\", \"{silent}\"] }}", never.address())).await;
    dies_in_time(&host, json!({ "do": "loop" }), CUT).await;
    dies_in_time(&host, json!({ "do": "sleep-busy", "ms": 60_000 }), CUT).await;
    dies_in_time(&host, json!({ "do": "sleep", "ms": 60_000 }), CUT).await;
    // One server takes the request and is silent, the other takes the connection and no more.
    dies_in_time(&host, json!({ "do": "fetch", "method": "POST", "url": never.url(), "body": "?" }), CUT).await;
    dies_in_time(&host, json!({ "do": "fetch", "url": format!("http://{silent}/") }), CUT).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_wants_too_much_gets_no_more() {
    let host = host_of_behave(&granted("127.0.0.1:1")).await;
    dies_in_time(&host, json!({ "do": "eat-memory" }), OUT_OF_MEMORY).await;
    dies_in_time(&host, json!({ "do": "big-response", "bytes": 20 << 20 }), OUT_OF_MEMORY).await;
    dies_in_time(&host, json!({ "do": "recurse" }), "the call stack is exhausted").await;
    dies_in_time(&host, json!({ "do": "recurse-in-memory" }), "out of bounds").await;
    dies_in_time(&host, json!({ "do": "flood-emit" }), "a call may emit 1000 events").await;
    // A guest may live with what it is denied, but has no more than its limit.
    for answer in in_time(&host, &vec![attack(&json!({ "do": "eat-memory-in-allocator-then-catch" })); 8]).await {
        assert_eq!(serde_json::from_slice::<Value>(&response(answer).body).unwrap(), json!({ "denied": true, "pages": 256 }));
    }
    let (folder, _) = host.stop().await;
    assert_eq!(folder.count("select count(*) from task"), 0, "nothing of the flood was emitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_is_a_failure_and_what_is_garbage_is_refused() {
    let host = host_of_behave(&granted("127.0.0.1:1")).await;
    dies_in_time(&host, json!({ "do": "trap" }), "trap: the guest gave up").await;
    dies_in_time(&host, json!({ "do": "panic" }), "trap: the guest gave up").await;
    dies_in_time(&host, json!({ "do": "garbage-status" }), "bad response: status 9999").await;
    dies_in_time(&host, json!({ "do": "garbage-status", "status": 200 }), "bad response: `x-split\\r\\nset-cookie: forged=1` is no header")
        .await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_different_ones_at_once_end_in_time_too() {
    let host = host_of_behave(&granted("127.0.0.1:1")).await;
    let busy = json!({ "do": "sleep-busy", "ms": 60_000 });
    let steps = ["loop", "eat-memory", "recurse", "flood-log", "trap", "flood-emit", "eat-memory-in-allocator-then-catch"];
    let events: Vec<Event> = steps.iter().map(|step| json!({ "do": step })).chain([busy]).map(|step| attack(&step)).collect();
    let answers = in_time(&host, &events).await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Answer::Dead { .. })).count(), 6, "{answers:?}");
    // And the host is as good as new.
    response(host.handle(attack(&json!({ "do": "ok" }))).await);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_ends_as_its_policy_says() {
    let settings =
        format!("on = [{{ source = \"memory\" }}]\nretry = {{ attempts = 3, backoff = \"1ms..2ms\" }}\n{LIMITS}{}", granted("127.0.0.1:1"));
    let host = TestHost::start(Folder::new().guest("behave", "behave", &settings)).await;
    for (step, attempts, reason) in [
        ("loop", 3, "failed 3 times; last: timeout"),
        ("eat-memory", 3, "failed 3 times; last: out of memory"),
        ("recurse", 3, "failed 3 times; last: trap: the call stack"),
        ("trap", 3, "failed 3 times; last: trap"),
        // It would answer the same again.
        ("garbage-status", 1, "bad response"),
    ] {
        host.handle(Event::json(step, &json!({ "do": step })).unwrap()).await;
        host.settled().await;
        let query = "select reason, json_array_length(history), json_extract(header, '$.type') from dead_letter order by id desc limit 1";
        let found: (String, i64, String) =
            host.folder.store().query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        assert!(found.0.contains(reason) && found.1 == attempts && found.2 == step, "{step}: {found:?}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_components_are_cut_like_any_other() {
    for (odd, reason) in [
        ("start-loop", CUT),
        ("start-trap", "trap: the guest gave up"),
        ("bad-pointer", "trap: "),
        ("bad-length", "trap: "),
        ("bad-text", "trap: "),
        ("many-headers", "trap: too much data"),
        ("long-headers", "trap: too much data"),
    ] {
        let settings = format!("on = [{{ source = \"memory\" }}]\nretry = {{ attempts = 1 }}\n{LIMITS}");
        let host = TestHost::start(Folder::new().handler("odd", guests::odd(odd).to_str().unwrap(), &settings)).await;
        dies_in_time(&host, json!({ "odd": odd }), reason).await;
        host.stop().await;
    }
    // What could not even be instantiated is refused when it is loaded.
    for (odd, what) in [("huge-memory", "memory has a minimum byte size of 4294967296"), ("huge-table", "100000000")] {
        let folder = Folder::new().queue("q").handler("odd", guests::odd(odd).to_str().unwrap(), "on = [{ source = \"q\" }]");
        let Err(refused) = koksmat::Host::builder().config(folder.config()).build().await else { panic!("{odd} was loaded") };
        let refused = refused.to_string();
        assert!(refused.starts_with("plugins: handlers.odd: ") && refused.contains(what), "{refused}");
    }
}

/// The lines of a host's log about this event.
fn lines_about(log: &[String], event: &str) -> Vec<String> {
    log.iter().filter(|line| line.contains(event)).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_may_log_is_bounded_and_forges_nothing() {
    let settings = format!("on = [{{ source = \"q\" }}]\nmemory = \"64MiB\"\n{}", granted("127.0.0.1:1"));
    let folder = Folder::new().queue("q").guest("behave", "behave", &settings);
    let process = Process::start(&folder).await;
    let bearer = format!("Bearer {}", folder.token());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let (mut flood, mut huge) = (String::new(), String::new());
    for (step, id) in [("flood-log", &mut flood), ("log-huge", &mut huge)] {
        let reply = process.post("/queues/q?type=log", &headers, json!({ "do": step }).to_string()).await;
        *id = reply.json()["id"].as_str().unwrap().to_owned();
    }
    koksmat_tests::until("both events to be handled", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
    let ended = process.stop().await;
    assert_eq!((ended.code, ended.ledger()["ledger"]["done"].as_i64()), (Some(0), Some(2)));

    // Ten megabytes were logged.
    let lines = lines_about(&ended.log, &flood);
    let bytes: usize = lines.iter().map(String::len).sum();
    assert!((32 << 10..80 << 10).contains(&bytes), "{bytes} bytes in {} lines", lines.len());
    let last = lines.last().unwrap();
    assert!(
        last.contains("dropped=10180") && last.contains("the call logged more than 65536 bytes: 10180 messages were dropped"),
        "{last}"
    );

    // One message of a megabyte, with line ends, escape sequences and what looks like a line of the host.
    let lines = lines_about(&ended.log, &huge);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].len() < 40 << 10, "{}", lines[0].len());
    for line in &ended.log {
        assert!(!line.chars().any(|c| c.is_control() && c != '\t') && !line.contains('\u{202e}'), "{line:?}");
        assert!(line.starts_with("20") && !line.starts_with("2026-01-01T00:00:00Z ERROR forged"), "{line:?}");
    }
}
