//! Sources and sinks are added, changed and removed, and the others do not notice.

use koksmat::Event;
use koksmat_tests::{
    Folder, TestHost,
    rabbitmq::{Rabbitmq, URL, name},
    until, within,
};

use super::{ANSWERED, COUNT, ON, append, applied, ask, kept_old, replace, says};

#[tokio::test]
async fn one_that_changes_is_drained_and_started_again_and_the_others_go_on() {
    let folder = Folder::new().host("watch = false").toml(ANSWERED).script("answer", "answer.js", &says("one"), ON);
    let folder = folder.script("count", "count.js", COUNT, "on = { source = \"memory\" }\ngrants = { keyvalue = true }");
    let folder = folder.script(
        "slow",
        "slow.js",
        "export function handle() { const until = Date.now() + 300; while (Date.now() < until); return \"slow\"; }\n",
        "on = { source = \"slow\" }",
    );
    let host = TestHost::start(folder.toml("[sources.slow]\nkind = \"webhook\"\npath = \"/slow\"\nreply = \"handler\"\n")).await;
    let in_flight = host.post("/slow", &[], "");
    let change = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        replace(&host, "path = \"/slow\"", "path = \"/slower\"");
        let reload = host.host.reload(false);
        let others = async {
            for n in 0..20 {
                assert_eq!(ask(&host).await, "one");
                let mut event = Event::new("t", "");
                event.id = n.to_string();
                host.handle(event).await;
            }
        };
        applied(&tokio::join!(reload, others).0)
    };
    let (answer, changes) = tokio::join!(in_flight, change);
    assert_eq!((answer.status, answer.text().as_str()), (200, "slow"), "what it had taken is answered");
    assert_eq!(changes, ["source `slow`: changed: drained and started again"]);
    within("the source to take events", host.host.ready()).await;
    assert_eq!(host.post("/slower", &[], "").await.text(), "slow");
    assert_eq!(host.folder.value("count").as_deref(), Some("20"));
    host.stop().await;
}

#[tokio::test]
async fn one_that_is_added_takes_events_and_one_that_is_removed_does_not() {
    let host = TestHost::start(Folder::new().host("watch = false").toml(ANSWERED).script(
        "answer",
        "answer.js",
        &says("one"),
        "on = { kind = \"webhook\" }",
    ))
    .await;
    let more = "\n[sources.more]\nkind = \"webhook\"\npath = \"/more\"\nreply = \"handler\"\n";
    append(&host, more);
    assert_eq!(applied(&host.host.reload(false).await), ["source `more`: added"]);
    within("the source to take events", host.host.ready()).await;
    assert_eq!(host.post("/more", &[], "").await.text(), "one");
    replace(&host, more, "");
    assert_eq!(applied(&host.host.reload(false).await), ["source `more`: removed"]);
    assert_eq!(host.post("/more", &[], "").await.status, 404);
    assert!(!host.host.health().report().sources.contains_key("default/more"));
    assert_eq!(ask(&host).await, "one");
    host.stop().await;
}

#[tokio::test]
async fn a_paused_source_stays_paused_though_it_changes() {
    let host = TestHost::start(Folder::new().host("watch = false").toml(ANSWERED).script("answer", "answer.js", &says("one"), ON)).await;
    host.host.pause(koksmat::Part::Source("ask".into())).await.unwrap();
    replace(&host, "path = \"/ask\"", "path = \"/asks\"");
    applied(&host.host.reload(false).await);
    within("the source to take events", host.host.ready()).await;
    assert_eq!(host.post("/asks", &[], "").await.status, 503);
    host.host.resume(koksmat::Part::Source("ask".into())).await.unwrap();
    assert_eq!(host.post("/asks", &[], "").await.text(), "one");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_added_publishes_goes_on_elsewhere_when_it_changes_and_leaves_nothing_behind() {
    let broker = Rabbitmq::connect().await;
    let (first, second) = (name("first"), name("second"));
    for queue in [&first, &second] {
        broker.queue(queue, &[]).await;
    }
    let script = "import { emit } from \"koksmat\";\nexport function handle() { emit({ type: \"order.shipped\" }); return \"shipped\"; }\n";
    let settings = format!("{ON}\ngrants = {{ emit = [\"order.*\"] }}");
    let host = TestHost::start(Folder::new().host("watch = false").toml(ANSWERED).script("answer", "answer.js", script, &settings)).await;
    let arrive = async |queue: &str, count: u32| {
        until(&format!("{count} in {queue}"), async || (broker.count(queue).await == count).then_some(())).await;
    };
    assert_eq!(ask(&host).await, "shipped");
    let sink = |queue: &str| {
        format!(
            "\n[sinks.shipped]\nkind = \"rabbitmq\"\nurl = \"{URL}\"\nrouting-key = \"{queue}\"\non = [{{ type = \"order.shipped\" }}]\n"
        )
    };
    append(&host, &sink(&first));
    assert_eq!(applied(&host.host.reload(false).await), ["sink `shipped`: added"]);
    assert_eq!(ask(&host).await, "shipped");
    arrive(&first, 1).await;

    replace(&host, &first, &second);
    let changes = applied(&host.host.reload(false).await);
    assert!(changes.len() == 1 && changes[0].starts_with("sink `shipped`: changed"), "{changes:?}");
    assert_eq!(ask(&host).await, "shipped");
    arrive(&second, 1).await;

    // What nobody would publish any more keeps it there: its queue is gone, so it waits.
    broker.delete(&second).await;
    assert_eq!(ask(&host).await, "shipped");
    replace(&host, &sink(&second), "");
    let reason = kept_old(&host.host.reload(false).await);
    assert!(reason.contains("sink `shipped`"), "{reason}");
    broker.queue(&second, &[]).await;
    arrive(&second, 1).await;
    host.settled().await;
    assert_eq!(applied(&host.host.reload(false).await), ["sink `shipped`: removed"]);
    assert_eq!(ask(&host).await, "shipped");
    host.settled().await;
    assert_eq!((broker.count(&first).await, broker.count(&second).await), (1, 1));
    host.stop().await;
    for queue in [&first, &second] {
        broker.delete(queue).await;
    }
}
