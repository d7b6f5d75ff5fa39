//! What arrives at a handler, and what is committed.

use super::*;

const EVENT: &str = "JSON.stringify({ id: event.id, type: event.type, subject: event.subject, source: event.source, content: event.datacontenttype, attributes: event.attributes, headers: event.headers, text: event.text() })";

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_handled_and_committed_with_each_codec_and_each_group_protocol() {
    for (protocol, codec) in [("classic", "gzip"), ("consumer", "snappy"), ("classic", "lz4"), ("consumer", "zstd")] {
        let (topic, group, witness) = (Topic::create("delivery", 3).await, unique("g"), Witness::start().await);
        let messages = (0..300).map(|n| (format!("k{}", n % 20), format!("message {n} {}", "compressible ".repeat(20))));
        topic.produce_with(&[("compression.type", codec)], &[], messages).await;
        let folder = folder(&group, &[&topic.name], &format!("protocol = \"{protocol}\""));
        let process = Process::start(&told(folder, &witness, "event.id", "")).await;
        witness.hears(300).await;
        let ledger = process.stops_well().await;
        assert_eq!((&ledger["received"], &ledger["done"]), (&300.into(), &300.into()), "{protocol}, {codec}");
        assert_eq!(witness.heard().into_iter().collect::<HashSet<_>>(), coordinates(&topic).await);
        assert_eq!(topic.committed(&group).await, topic.ends().await, "lag 0 after the stop");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_named_or_found_by_a_pattern() {
    let (prefix, group, witness) = (unique("pattern"), unique("g"), Witness::start().await);
    let named = Topic::create("named", 1).await;
    let (one, two) =
        (Topic::create_with(&format!("{prefix}.one"), 1, &[]).await, Topic::create_with(&format!("{prefix}.two"), 2, &[]).await);
    for topic in [&named, &one, &two] {
        topic.produce((0..10).map(|n| (n.to_string(), "x"))).await;
    }
    let folder = folder(&group, &[&named.name, &format!("^{prefix}\\..*")], "");
    let process = Process::start(&told(folder, &witness, "event.id", "")).await;
    witness.hears(30).await;
    // One that is made while the host runs is found too.
    let late = Topic::create_with(&format!("{prefix}.late"), 1, &[]).await;
    late.produce((0..10).map(|n| (n.to_string(), "x"))).await;
    witness.hears(40).await;
    process.stops_well().await;
    let mut all = HashSet::new();
    for topic in [&named, &one, &two, &late] {
        all.extend(coordinates(topic).await);
    }
    assert_eq!(witness.heard().into_iter().collect::<HashSet<_>>(), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_messages_and_cloudevents_keep_what_they_say() {
    let (topic, group, witness) = (Topic::create("events", 1).await, unique("g"), Witness::start().await);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    topic
        .produce_with(
            &[],
            &[("Content-Type", "text/plain"), ("traceparent", trace), ("authorization", "secret")],
            [("customer 7", "plain")],
        )
        .await;
    let binary = [
        ("ce_specversion", "1.0"),
        ("ce_id", "A1"),
        ("ce_source", "/shop"),
        ("ce_type", "order.created"),
        ("ce_subject", "42"),
        ("ce_region", "eu"),
        ("content-type", "application/json"),
    ];
    topic.produce_with(&[], &binary, [("customer 7", r#"{"sku": "tea"}"#)]).await;
    let structured = r#"{"specversion":"1.0","id":"A2","source":"/shop","type":"order.created","data":{"n": 1.0}}"#;
    topic.produce_with(&[], &[("content-type", "application/cloudevents+json; charset=utf-8")], [("", structured)]).await;
    let process = Process::start(&told(folder(&group, &[&topic.name], ""), &witness, EVENT, "")).await;
    witness.hears(3).await;
    process.stops_well().await;
    let mut heard: Vec<serde_json::Value> = witness.heard().iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    heard.sort_by_key(|event| event["id"].as_str().unwrap().len());
    let plain = heard.pop().unwrap();
    assert_eq!(plain["id"], format!("{}/0/0", topic.name));
    assert_eq!((&plain["type"], &plain["subject"]), (&"koksmat.queue.message".into(), &"customer 7".into()));
    assert_eq!((&plain["content"], &plain["text"]), (&"text/plain".into(), &"plain".into()));
    assert_eq!(plain["attributes"]["traceparent"], trace);
    assert!(plain["headers"].to_string().contains("content-type") && !plain["headers"].to_string().contains("secret"), "{plain}");
    heard.sort_by_key(|event| event["id"].as_str().unwrap().to_owned());
    let (first, second) = (&heard[0], &heard[1]);
    assert_eq!((&first["id"], &first["source"], &first["type"]), (&"A1".into(), &"/shop".into(), &"order.created".into()));
    assert_eq!((&first["subject"], &first["attributes"]["region"]), (&"42".into(), &"eu".into()));
    assert_eq!(first["attributes"]["partitionkey"], "customer 7", "what orders it in Kafka orders it here");
    assert_eq!(first["text"], r#"{"sku": "tea"}"#, "byte for byte");
    assert_eq!((&second["id"], &second["text"]), (&"A2".into(), &r#"{"n": 1.0}"#.into()), "the exact text of `data`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_cloudevent_though_it_says_so_is_a_dead_letter_and_blocks_nobody() {
    let (topic, group, witness) = (Topic::create("bad", 1).await, unique("g"), Witness::start().await);
    topic.produce_with(&[], &[("content-type", "application/cloudevents+json")], [("k", "{")]).await;
    topic.produce([("k", "fine")]).await;
    let folder = told(folder(&group, &[&topic.name], ""), &witness, "event.id", "");
    let process = Process::start(&folder).await;
    witness.hears(1).await;
    let ledger = process.stops_well().await;
    assert_eq!((&ledger["done"], &ledger["dead"]), (&1.into(), &1.into()));
    let letter: String = folder.store().query_row("select reason || header from dead_letter", [], |row| row.get(0)).unwrap();
    assert!(letter.contains("not a CloudEvent in JSON") && letter.contains(&format!("{}/0/0", topic.name)), "{letter}");
    assert_eq!(topic.committed(&group).await, topic.ends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_message_neither_blocks_its_partition_nor_vanishes() {
    let (topic, group) = (Topic::create("poison", 1).await, unique("g"));
    let messages = (0..20).map(|n| {
        (
            format!("k{}", n % 5),
            if n == 3 {
                "reject".into()
            } else if n == 6 {
                "throw".into()
            } else {
                format!("fine {n}")
            },
        )
    });
    topic.produce(messages).await;
    let script = r#"
        import { keyvalue, Reject } from "koksmat";
        export function handle(event) {
          if (event.text() === "reject") throw new Reject("never");
          if (event.text() === "throw") throw new Error("broken");
          keyvalue.set("done/" + event.id, event.text());
        }
    "#;
    let settings = "on = [{ source = \"orders\" }]\ngrants = { keyvalue = true }\nretry = { attempts = 2, backoff = \"50ms..50ms\" }";
    let folder = folder(&group, &[&topic.name], "").script("notes", "handlers/notes.js", script, settings);
    let mut process = Process::start(&folder).await;
    process.line("failed 2 times").await;
    koksmat_tests::until("18 events", || async { (folder.count("select count(*) from kv") == 18).then_some(()) }).await;
    process.stops_well().await;
    assert_eq!(topic.committed(&group).await, topic.ends().await, "parked or dead: the offset passes it");
    let letters: Vec<(String, String)> = {
        let store = folder.store();
        let mut rows = store.prepare("select header, reason from dead_letter order by id").unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(letters.len(), 2);
    assert!(letters[0].0.contains(&format!("{}/0/3", topic.name)) && letters[0].1.contains("never"), "{letters:?}");
    assert!(letters[1].0.contains(&format!("{}/0/6", topic.name)) && letters[1].1.contains("broken"), "{letters:?}");
    // Mended, it is handled.
    std::fs::write(folder.join("handlers/notes.js"), script.replace("throw new Reject(\"never\")", "true")).unwrap();
    let process = Process::start(&folder).await;
    let replayed = koksmat_tests::process::koksmat(folder.path(), &["dead-letters", "replay", "1"]).await;
    assert_eq!(replayed.code, Some(0), "{}", replayed.said());
    koksmat_tests::until("the replayed event", || async { (folder.count("select count(*) from kv") == 19).then_some(()) }).await;
    process.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_was_reset_is_obeyed_and_clients_that_are_not_ours_see_no_lag() {
    let (topic, group, witness) = (Topic::create("reset", 2).await, unique("g"), Witness::start().await);
    let mut kcat = std::process::Command::new("kcat")
        .args(["-b", BROKERS, "-P", "-t", &topic.name, "-K", ":"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("kcat is installed (Debian's package kcat)");
    std::io::Write::write_all(kcat.stdin.as_mut().unwrap(), (0..50).map(|n| format!("k{n}:v{n}\n")).collect::<String>().as_bytes())
        .unwrap();
    assert!(kcat.wait().unwrap().success());
    java(&["org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", BROKERS, "--topic", &topic.name], "one\ntwo\nthree\n");
    let folder = told(folder(&group, &[&topic.name], ""), &witness, "event.id", "");
    let process = Process::start(&folder).await;
    witness.hears(53).await;
    process.stops_well().await;
    let groups = ["org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", BROKERS, "--group", &group];
    let lag = java(&[&groups[..], &["--describe"]].concat(), "");
    let lags: Vec<&str> =
        lag.lines().filter(|line| line.contains(&topic.name)).map(|line| line.split_whitespace().nth(5).unwrap()).collect();
    assert_eq!(lags, ["0", "0"], "{lag}");
    java(&[&groups[..], &["--reset-offsets", "--to-earliest", "--topic", &topic.name, "--execute"]].concat(), "");
    let process = Process::start(&folder).await;
    witness.hears(106).await;
    process.stops_well().await;
    assert_eq!(witness.heard().into_iter().collect::<HashSet<_>>(), coordinates(&topic).await);
}

/// One of Kafka's own tools.
pub(super) fn java(arguments: &[&str], input: &str) -> String {
    let jars = koksmat_tests::repository().join("target/services/kafka/*");
    let mut child = std::process::Command::new("java")
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(jars)
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}
