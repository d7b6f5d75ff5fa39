//! What a call changes through the host takes effect once, however often its message is delivered.

use std::collections::HashMap;

use koksmat_tests::until;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

/// Counts each message under its own coordinates, and emits one event for it.
const COUNT: &str = r#"
    import { keyvalue, emit } from "koksmat";
    export function handle(event) {
      keyvalue.add(event.id, 1);
      emit({ type: "order.shipped", subject: event.subject, data: { of: event.id, n: event.text() } });
    }
"#;

/// One host that takes `topic` and publishes what it emits to `shipped`.
fn counting(group: &str, topic: &Topic, shipped: &Topic) -> Folder {
    let settings = "on = [{ source = \"orders\" }]\ngrants = { keyvalue = true, emit = [\"order.*\"] }";
    folder(group, &[&topic.name], "[sources.orders.settings]\n\"session.timeout.ms\" = 3000\n\"heartbeat.interval.ms\" = 500")
        .toml(&format!(
            "[sinks.shipped]\nkind = \"kafka\"\nbrokers = \"{BROKERS}\"\ntopic = \"{}\"\non = [{{ type = \"order.shipped\" }}]\n",
            shipped.name
        ))
        .script("count", "handlers/count.js", COUNT, settings)
}

fn handled(folder: &Folder) -> i64 {
    folder.count("select count(*) from kv")
}

fn once(folder: &Folder) -> i64 {
    folder.count("select count(*) from kv where cast(value as text) = '1'")
}

/// `KOKSMAT_TEST_EFFECTS` raises the number of events, `KOKSMAT_TEST_SEED` repeats a run.
#[tokio::test(flavor = "multi_thread")]
async fn through_kills_every_message_takes_effect_once_and_what_it_emits_is_published_under_one_id() {
    const KILLS: i64 = 5;
    let count = i64::try_from(services::figure("KOKSMAT_TEST_EFFECTS", 4_000)).unwrap();
    let seed = services::figure("KOKSMAT_TEST_SEED", rand::random::<u16>().into());
    let mut random = StdRng::seed_from_u64(seed as u64);
    let (topic, shipped, group) = (Topic::create("effects", 6).await, Topic::create("shipped", 2).await, unique("g"));
    topic.produce((0..count).map(|n| (format!("k{}", n % 50), (n / 50).to_string()))).await;
    let folder = counting(&group, &topic, &shipped);
    for kill_at in 1..=KILLS {
        let process = Process::start(&folder).await;
        let at = handled(&folder) + random.random_range(1..count / (KILLS + 2));
        until(&format!("kill {kill_at}"), || async { (handled(&folder) >= at).then_some(()) }).await;
        kill(process).await;
        let handled = handled(&folder);
        assert!(handled < count, "the kill {kill_at} met no work in flight");
        // After a kill events are in the store before they are handled.
        let stored = folder.count("select count(*) from task where source = 'orders'");
        assert!(passed(&topic, &group).await <= handled + stored, "an offset passed what is neither handled nor in the store");
    }
    let process = Process::start(&folder).await;
    passes(&topic, &group, count).await;
    until("everything to be published", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
    process.stops_well().await;
    assert_eq!((handled(&folder), once(&folder)), (count, count), "seed {seed}");

    let published = shipped.read().await;
    let mut ids = HashMap::<String, HashSet<String>>::new();
    for found in &published {
        let data: serde_json::Value = serde_json::from_slice(&found.payload).unwrap();
        ids.entry(data["of"].as_str().unwrap().to_owned()).or_default().insert(found.headers["ce_id"].clone());
    }
    println!(
        "kafka effects: {count} events, {KILLS} kills: each took effect once; {} published, {} of them again under the same id, seed {seed}",
        ids.len(),
        published.len() - ids.len()
    );
    assert_eq!(ids.len(), usize::try_from(count).unwrap(), "what was emitted is published");
    assert!(ids.values().all(|ids| ids.len() == 1), "published again it has the same id: {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_was_reset_repeats_no_effect() {
    let (topic, shipped, group) = (Topic::create("again", 2).await, Topic::create("shipped", 1).await, unique("g"));
    topic.produce((0..100).map(|n| (format!("k{n}"), n.to_string()))).await;
    let folder = counting(&group, &topic, &shipped);
    let process = Process::start(&folder).await;
    passes(&topic, &group, 100).await;
    process.stops_well().await;
    let groups = ["org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", BROKERS, "--group", &group];
    super::delivery::java(&[&groups[..], &["--reset-offsets", "--to-earliest", "--topic", &topic.name, "--execute"]].concat(), "");
    assert_eq!(passed(&topic, &group).await, 0, "else this could not fail");
    let process = Process::start(&folder).await;
    passes(&topic, &group, 100).await;
    let ledger = process.stops_well().await;
    assert_eq!(ledger["sources"]["orders"]["received"], 100, "all of them came again: {ledger}");
    assert_eq!((handled(&folder), once(&folder)), (100, 100));
    assert_eq!(shipped.read().await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_has_new_messages_though_their_offsets_are_the_same() {
    let (topic, shipped, group) = (Topic::create("anew", 1).await, Topic::create("shipped", 1).await, unique("g"));
    topic.produce((0..10).map(|n| (format!("k{n}"), "old"))).await;
    let folder = counting(&group, &topic, &shipped);
    let process = Process::start(&folder).await;
    passes(&topic, &group, 10).await;
    process.stops_well().await;
    topic.delete().await;
    let topic = Topic::create_with(&topic.name, 1, &[]).await;
    topic.produce((0..10).map(|n| (format!("k{n}"), "new"))).await;
    let process = Process::start(&folder).await;
    let twice = "select count(*) from kv where cast(value as text) = '2'";
    until("the new messages to be handled", || async { (folder.count(twice) == 10).then_some(()) }).await;
    process.stops_well().await;
    assert_eq!(topic.committed(&group).await, topic.ends().await);
}
