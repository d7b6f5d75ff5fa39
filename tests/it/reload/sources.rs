//! Sources are added, changed and removed, and the others do not notice.

use koksmat::Event;
use koksmat_tests::{Folder, TestHost, within};

use super::{ANSWERED, COUNT, ON, append, applied, ask, replace, says};

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
