//! Slow handlers hold the source back, and nothing else happens.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn out_of_credits_partitions_are_paused_the_member_stays_and_it_is_said_why() {
    let (topic, group) = (Topic::create("slow", 4).await, unique("g"));
    topic.produce((0..24).map(|n| (n.to_string(), "x"))).await;
    let inside = koksmat_tests::Inside::start(std::time::Duration::from_secs(600)).await;
    // A member that is not polled for six seconds would be thrown out of the group.
    let settings = "in-flight = 8\n[sources.orders.settings]\n\"session.timeout.ms\" = 6000\n\"max.poll.interval.ms\" = 6000";
    let script = format!(
        "import {{ http }} from \"koksmat\";\nexport function handle(event) {{ http.fetch(\"http://{}/hold\", {{ method: \"POST\", body: event.id }}); }}",
        inside.address()
    );
    let handler =
        format!("on = [{{ source = \"orders\" }}]\ntimeout = \"1m\"\norder = \"none\"\ngrants = {{ http = [\"{}\"] }}", inside.address());
    let folder = folder(&group, &[&topic.name], settings).script("slow", "handlers/slow.js", &script, &handler);
    let process = Process::start(&folder).await;
    koksmat_tests::until("the reason in the status", || async {
        let status = koksmat_tests::process::koksmat(folder.path(), &["status"]).await.stdout;
        status.contains("takes nothing now: all 4 partitions are paused: 8 of its events are inside").then_some(())
    })
    .await;
    // Twice the time after which it would be out.
    tokio::time::sleep(std::time::Duration::from_secs(13)).await;
    assert_eq!(inside.most(), 8, "no more than there are credits");
    let assigned = process.log().iter().filter(|line| line.contains("partitions assigned")).count();
    assert_eq!(assigned, 1, "it never left its group: {}", process.log().join("\n"));
    assert_eq!(topic.committed(&group).await.values().sum::<i64>(), 0, "nothing is handled yet");
    inside.keep_for(std::time::Duration::ZERO);
    koksmat_tests::until("all events to be handled", || async { (inside.entered().len() == 24).then_some(()) }).await;
    let ledger = process.stops_well().await;
    assert_eq!(ledger["done"], 24);
    assert_eq!(topic.committed(&group).await, topic.ends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_an_event_that_is_not_handled_no_more_is_taken_than_the_span() {
    let (topic, group, witness) = (Topic::create("span", 1).await, unique("g"), Witness::start().await);
    topic.produce((0..300).map(|n| (n.to_string(), n.to_string()))).await;
    let inside = koksmat_tests::Inside::start(std::time::Duration::from_secs(600)).await;
    let script = format!(
        "import {{ http }} from \"koksmat\";\nexport function handle(event) {{\n  const stuck = event.text() === \"10\";\n  \
         http.fetch(stuck ? \"http://{}/hold\" : \"http://{}/\", {{ method: \"POST\", body: event.id }});\n}}",
        inside.address(),
        witness.address()
    );
    let handler = format!(
        "on = [{{ source = \"orders\" }}]\ntimeout = \"1m\"\ngrants = {{ http = [\"{}\", \"{}\"] }}",
        inside.address(),
        witness.address()
    );
    let folder = folder(&group, &[&topic.name], "span = 50").script("some", "handlers/some.js", &script, &handler);
    let process = Process::start(&folder).await;
    koksmat_tests::until("the reason in the status", || async {
        let status = koksmat_tests::process::koksmat(folder.path(), &["status"]).await.stdout;
        status.contains("1 of 1 partitions are paused: 50 offsets behind an event that is not handled yet").then_some(())
    })
    .await;
    witness.hears(49).await;
    assert!(witness.count() <= 59, "0 to 9, and of 11 to 59 what was taken before the span was used up: {}", witness.count());
    inside.keep_for(std::time::Duration::ZERO);
    witness.hears(299).await;
    process.stops_well().await;
    assert_eq!(topic.committed(&group).await, topic.ends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_durable_intake_an_offset_is_committed_when_the_event_is_in_the_store() {
    let (topic, group, witness) = (Topic::create("durable", 2).await, unique("g"), Witness::start().await);
    topic.produce((0..40).map(|n| (format!("k{}", n % 4), n.to_string()))).await;
    let inside = koksmat_tests::Inside::start(std::time::Duration::from_secs(600)).await;
    let script = format!(
        "import {{ http }} from \"koksmat\";\nexport function handle(event) {{\n  http.fetch(\"http://{}/hold\", {{ method: \"POST\", body: \"\" }});\n  \
         http.fetch(\"http://{}/\", {{ method: \"POST\", body: event.subject + \" \" + event.text() }});\n}}",
        inside.address(),
        witness.address()
    );
    let handler = format!(
        "on = [{{ source = \"orders\" }}]\ntimeout = \"1m\"\ngrants = {{ http = [\"{}\", \"{}\"] }}",
        inside.address(),
        witness.address()
    );
    let folder = folder(&group, &[&topic.name], "intake = \"durable\"").script("slow", "handlers/slow.js", &script, &handler);
    let process = Process::start(&folder).await;
    let ends = topic.ends().await;
    koksmat_tests::until("the offsets to be committed", || async { (topic.committed(&group).await == ends).then_some(()) }).await;
    assert_eq!((witness.count(), folder.count("select count(*) from task")), (0, 40), "and nothing is handled yet");
    process.signal("KILL").await;
    let _ = process.ended().await;
    inside.keep_for(std::time::Duration::ZERO);
    let process = Process::start(&folder).await;
    witness.hears_all(40).await;
    process.stops_well().await;
    let heard = witness.heard();
    let numbers = heard.iter().map(|line| line.split_once(' ').unwrap()).map(|(key, n)| (key.to_owned(), n.parse().unwrap()));
    assert_eq!(koksmat_tests::witness::out_of_order(numbers), None, "tasks of a key keep its order");
}
