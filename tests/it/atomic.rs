//! Handlers marked atomic never overlap, and neither plain nor atomic calls wait for the other kind.

use std::time::Duration;

use koksmat::Event;
use koksmat_tests::{Folder, Inside, TestHost};
use serde_json::json;

fn hold(inside: &Inside, n: usize) -> Event {
    Event::json("hold", &json!({ "do": "fetch", "url": inside.url(), "method": "POST", "body": n.to_string() })).unwrap()
}

async fn two_hundred_calls(atomic: bool, concurrency: usize) -> Inside {
    let inside = Inside::start(Duration::from_millis(4)).await;
    let settings =
        format!("atomic = {atomic}\ngrants = {{ http = [\"{}\"], keyvalue = true, emit = [\"*\"] }}\ntimeout = \"30s\"", inside.address());
    let folder = Folder::new()
        .host(&format!("concurrency = {concurrency}"))
        .guest("one", "behave", &format!("on = [{{ source = \"memory\", type = \"hold\" }}]\n{settings}"))
        .guest("two", "behave", &format!("on = [{{ source = \"memory\", type = \"hold.other\" }}]\n{settings}"));
    let host = TestHost::start(folder).await;
    let mut pending = Vec::new();
    for n in 0..200 {
        let mut event = hold(&inside, n);
        if n % 2 == 1 {
            event.ty = "hold.other".into();
        }
        pending.push(host.memory.send(event).await.unwrap());
    }
    for pending in pending {
        let answer = koksmat_tests::within("an answer", pending.answer()).await;
        assert!(matches!(answer, koksmat::Answer::Done { .. }), "{answer:?}");
    }
    host.stop().await;
    inside
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_handlers_never_overlap_and_keep_the_order_of_the_channel() {
    for concurrency in [1, 4, 64] {
        let inside = two_hundred_calls(true, concurrency).await;
        assert_eq!(inside.most(), 1, "at concurrency {concurrency}");
        assert_eq!(inside.entered(), (0..200).map(|n| n.to_string()).collect::<Vec<_>>(), "at concurrency {concurrency}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_handlers_not_marked_atomic_do_overlap() {
    let inside = two_hundred_calls(false, 64).await;
    assert!(inside.most() > 1, "otherwise the test of the lane could not fail");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_calls_of_many_seconds_delay_no_atomic_call() {
    let inside = Inside::start(Duration::from_secs(20)).await;
    let quick = Inside::start(Duration::ZERO).await;
    let grants = format!("grants = {{ http = [\"{}\", \"{}\"], keyvalue = true, emit = [\"*\"] }}", inside.address(), quick.address());
    let folder = Folder::new()
        .host("concurrency = 64\ndrain-deadline = \"1s\"")
        .guest("slow", "behave", &format!("on = [{{ source = \"memory\", type = \"slow\" }}]\ntimeout = \"60s\"\n{grants}"))
        .guest("lane", "behave", &format!("on = [{{ source = \"memory\", type = \"atomic\" }}]\natomic = true\n{grants}"));
    let host = TestHost::start(folder).await;
    for n in 0..64 {
        let mut event = hold(&inside, n);
        event.ty = "slow".into();
        drop(host.memory.send(event).await.unwrap());
    }
    inside.reached(64).await;
    let mut event = hold(&quick, 0);
    event.ty = "atomic".into();
    let answer = host.handle(event).await;
    assert!(matches!(answer, koksmat::Answer::Done { .. }), "{answer:?}");
    assert_eq!(inside.now(), 64, "every slow call is still inside");
    // What is cut at the deadline is said.
    let (_, stopped) = host.stop().await;
    assert_eq!((stopped.ledger.cut, stopped.exit_code()), (64, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiting_atomic_calls_delay_no_plain_one() {
    let inside = Inside::start(Duration::from_secs(20)).await;
    let grants = format!("grants = {{ http = [\"{}\"], keyvalue = true, emit = [\"*\"] }}", inside.address());
    let folder = Folder::new()
        .host("concurrency = 4\ndrain-deadline = \"1s\"")
        .guest(
            "lane",
            "behave",
            &format!("on = [{{ source = \"memory\", type = \"atomic\" }}]\natomic = true\ntimeout = \"60s\"\n{grants}"),
        )
        .guest("plain", "behave", &format!("on = [{{ source = \"memory\", type = \"plain\" }}]\n{grants}"));
    let host = TestHost::start(folder).await;
    for n in 0..1000 {
        let mut event = hold(&inside, n);
        event.ty = "atomic".into();
        drop(host.memory.send(event).await.unwrap());
    }
    inside.reached(1).await;
    let answer = host.handle(Event::json("plain", &json!({ "do": "ok" })).unwrap()).await;
    assert!(matches!(answer, koksmat::Answer::Done { .. }), "{answer:?}");
    assert_eq!((inside.now(), inside.entered().len()), (1, 1), "the lane is still held by the first");
    let (_, stopped) = host.stop().await;
    assert_eq!((stopped.ledger.total.done, stopped.ledger.total.returned), (1, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_one_source_delays_no_plain_event_of_another() {
    let inside = Inside::start(Duration::from_millis(50)).await;
    let grants = format!("timeout = \"60s\"\ngrants = {{ http = [\"{}\"], keyvalue = true, emit = [\"*\"] }}", inside.address());
    let folder = Folder::new().host("concurrency = 4\ndrain-deadline = \"1s\"").queue("other").guest(
        "one",
        "behave",
        &format!("on = [{{ source = \"memory\" }}, {{ source = \"other\" }}]\n{grants}"),
    );
    let host = TestHost::start(folder).await;
    for n in 0..2000 {
        drop(host.memory.send(hold(&inside, n)).await.unwrap());
    }
    inside.reached(4).await;
    let before = inside.entered().len();
    host.publish("other", "hold", &json!({ "do": "fetch", "url": inside.url(), "method": "POST", "body": "other" })).await;
    inside.reached_by("other").await;
    let position = inside.entered().iter().position(|body| body == "other").unwrap();
    assert!(position < before + 200, "it was number {position}, {before} were there before it, 2000 wait");
    host.stop().await;
}
