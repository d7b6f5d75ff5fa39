//! Three hosts of one group, each with a store of its own, killed, stopped and added at random while they work.
//!
//! `KOKSMAT_TEST_EVENTS` and `KOKSMAT_TEST_FAULTS` raise the figures, `KOKSMAT_TEST_SEED` repeats a run.

use std::{ops::Range, time::Duration};

use koksmat_tests::{Fleet, witness::out_of_order};

use super::*;

const PARTITIONS: i32 = 12;
const KEYS: usize = 500;
const IN_FLIGHT: usize = 64;
/// What one commit covers at most: it is made after so many events, and every second.
const COMMIT_BATCH: usize = 1_000;
/// Every event takes this long outside, so that each fault meets work in flight.
const TELL: &str = "event.id + \" \" + event.subject + \" \" + event.text()";

/// What the hosts of a group have in common.
struct Group {
    topic: Topic,
    name: String,
    witness: Witness,
    strategy: &'static str,
}

impl Group {
    async fn new(topic: &str, strategy: &'static str) -> Self {
        Self { topic: Topic::create(topic, PARTITIONS).await, name: unique("g"), witness: Witness::start().await, strategy }
    }

    /// The folder of a member.
    fn member(&self) -> Folder {
        let settings = match self.strategy {
            "consumer" => format!("in-flight = {IN_FLIGHT}\ncommit-batch = {COMMIT_BATCH}\nprotocol = \"consumer\""),
            strategy => format!(
                "in-flight = {IN_FLIGHT}\ncommit-batch = {COMMIT_BATCH}\n[sources.orders.settings]\n\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 1000\n\
                 \"partition.assignment.strategy\" = \"{strategy}\""
            ),
        };
        told(folder(&self.name, &[&self.topic.name], &settings), &self.witness, TELL, "timeout = \"3s\"").host("concurrency = 16")
    }

    /// The committed offsets are never past an event that nobody has handled.
    async fn committed_only_what_was_handled(&self) {
        // In this order: what is committed was told before.
        let committed = self.topic.committed(&self.name).await;
        let told: HashSet<String> = self.witness.heard().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        for (partition, offset) in committed {
            for before in 0..offset {
                let id = format!("{}/{partition}/{before}", self.topic.name);
                assert!(told.contains(&id), "{id} was never handled, and {offset} is committed");
            }
        }
    }
}

fn events(numbers: Range<usize>) -> impl Iterator<Item = (String, String)> {
    numbers.map(|n| (format!("key-{}", n % KEYS), (n / KEYS).to_string()))
}

/// Key and number of each report, in the order in which they came.
fn numbers(heard: &[String]) -> impl Iterator<Item = (String, u64)> + '_ {
    heard.iter().map(|line| {
        let mut words = line.split(' ').skip(1);
        (words.next().unwrap().to_owned(), words.next().unwrap().parse().unwrap())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_killed_stopped_and_added_lose_nothing_and_keep_the_order() {
    let (count, faults) = (services::figure("KOKSMAT_TEST_EVENTS", 20_000), services::figure("KOKSMAT_TEST_FAULTS", 6));
    let mut random = services::random();
    let group = Group::new("faults", "cooperative-sticky").await;
    let witness = &group.witness;
    let mut fleet = Fleet::of(3, || group.member()).await;
    let between = count / (faults + 1);
    for fault in 1..=faults {
        // Each fault meets work, however long the one before took: the next comes when half of what was sent meanwhile was handled.
        let before = witness.count();
        group.topic.produce(events((fault - 1) * between..fault * between)).await;
        witness.hears(before + between / 2).await;
        let left = fault * between - witness.different();
        assert!(left > fleet.hosts() * IN_FLIGHT, "fault {fault} meets no work in flight: {left} events are left");
        fleet.fault(&mut random).await;
        println!(
            "fault {fault}: {} hosts, {} reports, {} committed",
            fleet.hosts(),
            witness.count(),
            passed(&group.topic, &group.name).await
        );
        group.committed_only_what_was_handled().await;
    }
    group.topic.produce(events(faults * between..count)).await;
    let heard_all = witness.hears_all_within(count, Duration::from_secs(60) + Duration::from_millis(count as u64 * 10)).await;
    let (kills, stops) = (fleet.kills, fleet.stops);
    fleet.stop_all().await;
    let (lost, repeated) = (count - witness.different(), witness.count() - witness.different());
    let allowed = kills * (IN_FLIGHT + COMMIT_BATCH);
    println!(
        "kafka: {count} events, {faults} faults ({kills} kills, {stops} stops): lost {lost}, repeated {repeated} (allowed {allowed}: {kills} kills of {IN_FLIGHT} in flight \
         and {COMMIT_BATCH} in a commit)"
    );
    assert!(heard_all && lost == 0, "{lost} of {count} are lost");
    assert_eq!(out_of_order(numbers(&witness.heard())), None, "first deliveries of a key keep its order");
    assert!(repeated <= allowed, "{repeated} were delivered again");
    assert_eq!(group.topic.committed(&group.name).await, group.topic.ends().await, "lag 0 at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_come_and_go_in_good_order_repeat_nothing() {
    for strategy in ["range", "cooperative-sticky", "consumer"] {
        let count = 2_000;
        let group = Group::new("rebalance", strategy).await;
        group.topic.produce(events(0..count)).await;
        let witness = &group.witness;
        let mut fleet = Fleet::of(1, || group.member()).await;
        witness.hears(200).await;
        fleet.add().await;
        witness.hears(600).await;
        fleet.add().await;
        witness.hears(900).await;
        fleet.stop(0).await;
        witness.hears(1_200).await;
        fleet.stop(0).await;
        group.committed_only_what_was_handled().await;
        witness.hears_all(count).await;
        fleet.stop(0).await;
        let heard = witness.heard();
        assert_eq!(heard.len(), count, "{strategy}: nothing is handled twice");
        assert_eq!(out_of_order(numbers(&heard)), None, "{strategy}");
        assert_eq!(group.topic.committed(&group.name).await, group.topic.ends().await, "{strategy}");
    }
}
