//! `intake = "durable"`: an event is the store's when its offset is committed, and the store holds no more than its backlog.

use std::time::Duration;

use koksmat_tests::{Inside, until, witness::out_of_order};

use super::*;

/// A handler that is kept inside, and then tells key and text of its message.
fn held(folder: Folder, inside: &Inside, witness: &Witness) -> Folder {
    let (held, told) = (inside.address(), witness.address());
    let script = format!(
        "import {{ http }} from \"koksmat\";\nexport function handle(event) {{\n  \
         http.fetch(\"http://{held}/hold\", {{ method: \"POST\", body: event.id }});\n  \
         http.fetch(\"http://{told}/\", {{ method: \"POST\", body: event.subject + \" \" + event.text() }});\n}}"
    );
    let settings =
        format!("on = [{{ source = \"orders\" }}]\norder = \"key\"\ntimeout = \"2m\"\ngrants = {{ http = [\"{held}\", \"{told}\"] }}");
    folder.script("held", "handlers/held.js", &script, &settings)
}

fn numbers(heard: &[String]) -> impl Iterator<Item = (String, u64)> + '_ {
    heard.iter().map(|line| line.split_once(' ').unwrap()).map(|(key, number)| (key.to_owned(), number.parse().unwrap()))
}

fn messages(count: usize, keys: usize) -> impl Iterator<Item = (String, String)> {
    (0..count).map(move |n| (format!("k{}", n % keys), n.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backlog_takes_nothing_for_longer_than_a_silent_member_may_stay_and_goes_on_later() {
    let (topic, group, witness) = (Topic::create("backlog", 2).await, unique("g"), Witness::start().await);
    topic.produce(messages(60, 4)).await;
    let inside = Inside::start(Duration::from_secs(3_600)).await;
    let settings = format!("intake = \"durable\"\nbacklog = 10\n{IMPATIENT}");
    let folder = held(folder(&group, &[&topic.name], &settings), &inside, &witness);
    let process = Process::start(&folder).await;
    until("the backlog to be full", || async { (folder.count("select count(*) from task") == 10).then_some(()) }).await;
    until("the reason in the status", || async { status(&folder).await.contains("takes nothing now").then_some(()) }).await;
    passes(&topic, &group, 10).await;
    // The handlers are slower than a member may be silent, and the backlog is full all the time.
    tokio::time::sleep(LONGER_THAN_IT_WAITS).await;
    assert_eq!((folder.count("select count(*) from task"), passed(&topic, &group).await), (10, 10), "no more than the backlog");
    let log = process.log().join("\n");
    assert_eq!(log.matches("partitions assigned").count(), 1, "it never left its group: {log}");
    assert_eq!(process.admin("/readyz").await.status, 200, "a source that waits is well");

    inside.keep_for(Duration::ZERO);
    witness.hears_all(60).await;
    process.stops_well().await;
    assert_eq!(witness.count(), 60, "each once");
    assert_eq!(out_of_order(numbers(&witness.heard())), None, "tasks of a key keep its order");
    assert_eq!(topic.committed(&group).await, topic.ends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_keeps_its_order_through_a_backlog_that_is_full_again_and_again() {
    let (topic, group, witness) = (Topic::create("full", 1).await, unique("g"), Witness::start().await);
    const COUNT: usize = 400;
    topic.produce(messages(COUNT, 3)).await;
    let inside = Inside::start(Duration::ZERO).await;
    let folder = held(folder(&group, &[&topic.name], "intake = \"durable\"\nbacklog = 40"), &inside, &witness);
    let process = Process::start(&folder).await;
    witness.hears_all(COUNT).await;
    process.stops_well().await;
    assert_eq!(witness.count(), COUNT, "each once");
    assert_eq!(out_of_order(numbers(&witness.heard())), None);
    assert_eq!(topic.committed(&group).await, topic.ends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_no_room_in_the_backlog() {
    let (topic, group, witness) = (Topic::create("stop", 2).await, unique("g"), Witness::start().await);
    topic.produce(messages(60, 4)).await;
    let inside = Inside::start(Duration::from_secs(3_600)).await;
    let folder =
        held(folder(&group, &[&topic.name], "intake = \"durable\"\nbacklog = 10"), &inside, &witness).host("drain-deadline = \"500ms\"");
    let process = Process::start(&folder).await;
    inside.reached(4).await;
    until("the store to refuse an event", || async { status(&folder).await.contains("its backlog in the store is full").then_some(()) })
        .await;
    let ended = process.stop().await;
    assert_eq!(ended.code, Some(3), "calls were cut: {}", ended.said());
    assert_eq!(ended.ledger()["ledger"]["balanced"], true, "{}", ended.said());
    assert_eq!(
        (folder.count("select count(*) from task"), passed(&topic, &group).await),
        (10, 10),
        "what the store has is committed, and no more"
    );

    inside.keep_for(Duration::ZERO);
    let process = Process::start(&folder).await;
    witness.hears_all(60).await;
    process.stops_well().await;
    assert_eq!(witness.count(), 60, "each once");
    assert_eq!(out_of_order(numbers(&witness.heard())), None, "tasks of a key keep its order");
    assert_eq!(topic.committed(&group).await, topic.ends().await);
}
