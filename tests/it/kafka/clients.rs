//! What other clients put into a topic, and what they see of ours.

use koksmat_tests::process::koksmat;

use super::{delivery::java, *};

const MEMBERS: [&str; 3] = ["org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", BROKERS];

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_arrives_when_it_is_committed_and_one_that_is_aborted_never_does() {
    let (topic, group, witness) = (Topic::create("transactions", 1).await, unique("g"), Witness::start().await);
    topic.transaction(true, &[("a", "committed 1"), ("b", "committed 2")]).await;
    topic.transaction(false, &[("a", "aborted 1"), ("b", "aborted 2")]).await;
    topic.transaction(true, &[("a", "committed 3")]).await;
    topic.produce([("a", "plain")]).await;
    let folder = told(folder(&group, &[&topic.name], ""), &witness, "event.id + \" \" + event.text()", "");
    let process = Process::start(&folder).await;
    witness.hears(4).await;
    process.stops_well().await;
    // 2 and 5 are the markers that end a transaction, 3 and 4 what was aborted, 7 is a marker again.
    let expected = [(0, "committed 1"), (1, "committed 2"), (6, "committed 3"), (8, "plain")];
    let expected: HashSet<String> = expected.iter().map(|(offset, text)| format!("{}/0/{offset} {text}", topic.name)).collect();
    assert_eq!(witness.heard().into_iter().collect::<HashSet<_>>(), expected);
    assert_eq!(topic.committed(&group).await, topic.ends().await, "gaps hold nothing up");
    // A restart repeats nothing.
    let process = Process::start(&folder).await;
    topic.produce([("a", "later")]).await;
    witness.hears(5).await;
    process.stops_well().await;
    assert_eq!(witness.count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_and_what_is_not_there_arrive_as_they_are() {
    let (topic, group, witness) = (Topic::create("bytes", 1).await, unique("g"), Witness::start().await);
    // A tombstone; no key at all; a key, a payload and a header that are no text; a header without a value.
    topic.produce_bytes(Some(b"gone"), None, &[]).await;
    topic.produce_bytes(None, Some(b"no key"), &[("X-Empty", None), ("X-Name", Some(b"value"))]).await;
    topic.produce_bytes(Some(&[0xff, 0x00]), Some(&[0xfe, 0x01, 0x00]), &[("x-raw", Some(&[0xff]))]).await;
    let tell = "JSON.stringify([event.id.split(\"/\").pop(), event.subject ?? null, Array.from(event.bytes()), event.headers])";
    let process = Process::start(&told(folder(&group, &[&topic.name], ""), &witness, tell, "order = \"source\"")).await;
    witness.hears(3).await;
    process.stops_well().await;
    let mut heard: Vec<serde_json::Value> = witness.heard().iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    heard.sort_by_key(|event| event[0].as_str().unwrap().to_owned());
    assert_eq!((&heard[0][1], &heard[0][2]), (&"gone".into(), &serde_json::json!([])), "{heard:?}");
    assert_eq!((&heard[1][1], &heard[1][2]), (&serde_json::Value::Null, &serde_json::json!(b"no key")), "{heard:?}");
    let headers = heard[1][3].to_string();
    assert!(headers.contains("x-empty") && headers.contains("x-name") && headers.contains("value"), "{headers}");
    assert_eq!(heard[2][2], serde_json::json!([0xfe, 0x01, 0x00]), "byte for byte");
    // `/wA=` and `/w==`: what is no text is told as base64.
    assert_eq!(heard[2][1], "/wA=", "{heard:?}");
    assert!(heard[2][3].to_string().contains("/w=="), "{heard:?}");
    assert_eq!(topic.committed(&group).await, topic.ends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_library_are_passed_through() {
    let (mut topic, group, witness) = (Topic::create("settings", 1).await, unique("g"), Witness::start().await);
    topic.produce([("a", "one")]).await;
    let settings = "[sources.orders.settings]\n\"client.id\" = \"shop-of-anna\"\n\"group.instance.id\" = \"anna-1\"\n\
                    \"topic.metadata.refresh.interval.ms\" = 500";
    let folder = told(folder(&group, &[&topic.name], settings), &witness, "event.id", "");
    let process = Process::start(&folder).await;
    witness.hears(1).await;
    let members = java(&[&MEMBERS[..], &["--group", &group, "--describe", "--members"]].concat(), "");
    assert!(members.contains("shop-of-anna") && members.contains("anna-1"), "{members}");
    // With the default of five minutes nobody would wait for these.
    topic.grow(3).await;
    topic.produce((0..30).map(|n| (format!("k{n}"), "more"))).await;
    witness.hears(31).await;
    process.stops_well().await;
    assert_eq!(witness.heard().into_iter().collect::<HashSet<_>>(), coordinates(&topic).await);
    assert_eq!(topic.committed(&group).await, topic.ends().await);

    for (setting, said) in [
        ("\"fetch.wait.max.mss\" = 5", "librdkafka has no setting `fetch.wait.max.mss`"),
        ("\"enable.auto.commit\" = true", "the host commits what was handled"),
        ("\"ssl.key.password\" = \"hunter2\"", "a secret does not belong in this file"),
    ] {
        let folder =
            told(super::folder(&group, &[&topic.name], &format!("[sources.orders.settings]\n{setting}")), &witness, "event.id", "");
        folder.write();
        let checked = koksmat(folder.path(), &["check"]).await;
        let all = checked.stdout.clone() + &checked.said();
        assert_eq!(checked.code, Some(2), "{all}");
        assert!(all.contains(said) && all.contains("koksmat.toml:") && !all.contains("hunter2"), "{all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_has_left_its_group_when_it_has_ended() {
    for protocol in ["classic", "consumer"] {
        let (topic, group, witness) = (Topic::create("leaves", 2).await, unique("g"), Witness::start().await);
        topic.produce([("a", "one")]).await;
        let folder = told(folder(&group, &[&topic.name], &format!("protocol = \"{protocol}\"")), &witness, "event.id", "");
        let process = Process::start(&folder).await;
        witness.hears(1).await;
        let state = || java(&[&MEMBERS[..], &["--group", &group, "--describe", "--state"]].concat(), "");
        assert!(state().contains("Stable"), "{}", state());
        process.stops_well().await;
        // Not after the session timeout: now.
        assert!(state().contains("Empty"), "{protocol}: {}", state());
    }
}
