//! A stop that has to cut: no offset passes an event that was not handled, and nothing with an effect is done twice.

use std::time::Duration;

use koksmat_tests::{Inside, until};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_deadline_is_not_committed_and_what_finished_behind_it_takes_effect_once() {
    let (topic, group) = (Topic::create("cut", 1).await, unique("g"));
    topic.produce((0..20).map(|n| (format!("k{n}"), if n == 4 { "held" } else { "quick" }))).await;
    let inside = Inside::start(Duration::from_secs(3_600)).await;
    let script = format!(
        "import {{ http, keyvalue }} from \"koksmat\";\nexport function handle(event) {{\n  \
         if (event.text() === \"held\") http.fetch(\"http://{}/hold\", {{ method: \"POST\", body: event.id }});\n  \
         keyvalue.add(event.subject, 1);\n}}",
        inside.address()
    );
    let settings =
        format!("on = [{{ source = \"orders\" }}]\ntimeout = \"2m\"\ngrants = {{ keyvalue = true, http = [\"{}\"] }}", inside.address());
    let folder = folder(&group, &[&topic.name], "").host("drain-deadline = \"500ms\"").script("h", "handlers/h.js", &script, &settings);
    let handled = |folder: &Folder| folder.count("select count(*) from kv");
    let process = Process::start(&folder).await;
    inside.reached(1).await;
    until("the others to be handled", || async { (handled(&folder) == 19).then_some(()) }).await;
    passes(&topic, &group, 4).await;
    let ended = process.stop().await;
    assert_eq!(ended.code, Some(3), "a started call was cut: {}", ended.said());
    let ledger = &ended.ledger()["ledger"];
    assert_eq!((&ledger["balanced"], &ledger["returned"]), (&true.into(), &1.into()), "{ledger}");
    assert_eq!(passed(&topic, &group).await, 4, "it did not pass the event that was cut");
    assert_eq!(folder.count("select count(*) from task"), 0, "a stop parks no event of a broker on a store of its own");

    inside.keep_for(Duration::ZERO);
    let process = Process::start(&folder).await;
    until("the event that was cut", || async { (handled(&folder) == 20).then_some(()) }).await;
    passes(&topic, &group, 20).await;
    process.stops_well().await;
    assert_eq!(folder.count("select count(*) from kv where cast(value as text) = '1'"), 20, "each took effect once");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_finish_are_committed_and_what_has_not_started_is_left_to_the_group() {
    let (topic, group) = (Topic::create("finish", 2).await, unique("g"));
    topic.produce((0..40).map(|n| (format!("k{n}"), "x"))).await;
    let inside = Inside::start(Duration::from_secs(3_600)).await;
    let script = format!(
        "import {{ http }} from \"koksmat\";\nexport function handle(event) {{ http.fetch(\"http://{}/hold\", {{ method: \"POST\", body: event.id }}); }}",
        inside.address()
    );
    let settings = format!("on = [{{ source = \"orders\" }}]\ntimeout = \"2m\"\ngrants = {{ http = [\"{}\"] }}", inside.address());
    let folder = folder(&group, &[&topic.name], "in-flight = 16").host("concurrency = 4").script("h", "handlers/h.js", &script, &settings);
    let mut process = Process::start(&folder).await;
    inside.reached(4).await;
    process.signal("TERM").await;
    process.line("what has not started is returned").await;
    inside.keep_for(Duration::ZERO);
    let ended = process.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    let ledger = &ended.ledger()["ledger"];
    assert_eq!((&ledger["balanced"], &ledger["done"]), (&true.into(), &4.into()), "{ledger}");
    assert_eq!(inside.entered().len(), 4, "what has not started is never started");
    let process = Process::start(&folder).await;
    inside.reached(40).await;
    process.stops_well().await;
    assert_eq!(topic.committed(&group).await, topic.ends().await);
    let entered = inside.entered();
    assert_eq!(entered.iter().collect::<HashSet<_>>().len(), 40);
    // Only what finished behind an event that had not started comes again, in the same partition.
    assert!(entered.len() <= 44, "{} calls", entered.len());
}
