//! A broker that is away, and one that does not let us in.

use std::time::Duration;

use koksmat_tests::{
    Proxy,
    kafka::{BEHIND, BEHIND_ADVERTISED, PASSWORD, SCRAM, TLS},
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_gone_for_a_while_ends_nothing_and_is_said_once() {
    let away = Duration::from_secs(services::figure("KOKSMAT_TEST_GONE", 12) as u64);
    let (topic, group, witness) = (Topic::create("gone", 3).await, unique("g"), Witness::start().await);
    let proxy = Proxy::start(BEHIND_ADVERTISED, BEHIND).await;
    let folder = folder_at(BEHIND_ADVERTISED, &group, &[&topic.name], "[sources.orders.settings]\n\"session.timeout.ms\" = 6000");
    let process = Process::start(&told(folder, &witness, "event.id", "")).await;
    topic.produce((0..50).map(|n| (n.to_string(), "x"))).await;
    witness.hears(50).await;
    proxy.close();
    koksmat_tests::until("the host not to be ready", || async { (process.admin("/readyz").await.status == 503).then_some(()) }).await;
    topic.produce((0..50).map(|n| (n.to_string(), "x"))).await;
    tokio::time::sleep(away).await;
    assert_eq!(process.admin("/livez").await.status, 200);
    proxy.open();
    // The member was thrown out meanwhile: what it had handled and not committed comes again.
    witness.hears_all(100).await;
    koksmat_tests::until("the host to be ready", || async { (process.admin("/readyz").await.status == 200).then_some(()) }).await;
    let log = process.log();
    let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    let outages = koksmat_tests::outages(&log);
    assert!(outages.len() == 1 && outages[0].len() <= 3, "once per change of what is wrong: {outages:?}");
    assert_eq!(said("source takes events"), 2, "{}", log.join("\n"));
    process.stops_well().await;
    assert_eq!(witness.heard().into_iter().collect::<HashSet<_>>(), coordinates(&topic).await);
    assert_eq!(topic.committed(&group).await, topic.ends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_scram_work_and_what_is_wrong_is_said_in_one_line_without_the_secret() {
    let (topic, witness) = (Topic::create("secured", 1).await, Witness::start().await);
    topic.produce([("k", "x")]).await;
    let tls = |ca: std::path::PathBuf| format!("tls = {{ ca = {ca:?} }}\n");
    let sasl = "sasl = { username = \"koksmat\", password = \"env:KAFKA_PASSWORD\" }\n";
    let start = async |brokers: &str, settings: String, password: &str| {
        let folder = told(folder_at(brokers, &unique("g"), &[&topic.name], &settings), &witness, "event.id", "");
        let mut process = Process::spawn(&folder, &[("KAFKA_PASSWORD", password)]);
        process.listens().await;
        (folder, process)
    };
    for (brokers, settings) in [(TLS, tls(services::ca())), (SCRAM, format!("{}{sasl}", tls(services::ca())))] {
        let before = witness.count();
        let (_folder, process) = start(brokers, settings, PASSWORD).await;
        witness.hears(before + 1).await;
        process.stops_well().await;
    }
    for (brokers, settings, words) in [
        (TLS, tls(services::other_ca()), "certificate verify failed"),
        (SCRAM, format!("{}{sasl}", tls(services::ca())), "invalid credentials with SASL mechanism SCRAM-SHA-512"),
    ] {
        let (_folder, mut process) = start(brokers, settings, "hunter2-is-wrong").await;
        let line = process.line("source cannot take events").await;
        assert!(line.contains(words), "{line}");
        // The client goes on trying, and nothing more is said.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let log = process.log();
        assert_eq!(log.iter().filter(|line| line.contains("source cannot take events")).count(), 1, "{}", log.join("\n"));
        assert!(!log.join("\n").contains("hunter2"), "{}", log.join("\n"));
        process.stops_well().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_yet_is_waited_for() {
    let (name, witness) = (unique("late"), Witness::start().await);
    let folder = told(folder(&unique("g"), &[&name], ""), &witness, "event.id", "");
    let mut process = Process::spawn(&folder, &[]);
    process.listens().await;
    let line = process.line("source cannot take events").await;
    assert!(line.contains(&format!("the topic `{name}`")), "{line}");
    let topic = Topic::create_with(&name, 1, &[]).await;
    topic.produce([("k", "x")]).await;
    witness.hears(1).await;
    process.stops_well().await;
}
