//! Three hosts of one group, each with a store of its own, killed, stopped and added at random while they work.
//!
//! `KOKSMAT_TEST_EVENTS` and `KOKSMAT_TEST_FAULTS` raise the figures, `KOKSMAT_TEST_SEED` repeats a run.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use koksmat_tests::witness::out_of_order;

const PARTITIONS: i32 = 12;
const KEYS: usize = 500;
const IN_FLIGHT: usize = 64;
/// What one commit covers at most: it is made after so many events, and every second.
const COMMIT_BATCH: usize = 1_000;
/// Every event takes this long outside, so that each fault meets work in flight.
const TELL: &str = "event.id + \" \" + event.subject + \" \" + event.text()";

struct Group<'a> {
    topic: &'a Topic,
    group: String,
    witness: &'a Witness,
    strategy: &'a str,
    hosts: Vec<(Folder, Process)>,
}

impl Group<'_> {
    async fn add(&mut self) {
        let settings = match self.strategy {
            "consumer" => format!("in-flight = {IN_FLIGHT}\ncommit-batch = {COMMIT_BATCH}\nprotocol = \"consumer\""),
            strategy => format!(
                "in-flight = {IN_FLIGHT}\ncommit-batch = {COMMIT_BATCH}\n[sources.orders.settings]\n\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 1000\n\
                 \"partition.assignment.strategy\" = \"{strategy}\""
            ),
        };
        let folder =
            told(folder(&self.group, &[&self.topic.name], &settings), self.witness, TELL, "timeout = \"3s\"").host("concurrency = 16");
        let process = Process::start(&folder).await;
        self.hosts.push((folder, process));
    }

    async fn kill(&mut self, which: usize) {
        let (_, process) = self.hosts.remove(which);
        process.signal("KILL").await;
        let _ = process.ended().await;
    }

    /// What a host that is stopped has received and not handled goes back; nothing of it is counted as lost.
    async fn stop(&mut self, which: usize) {
        let (_, process) = self.hosts.remove(which);
        let ledger = stopped(process).await;
        assert_eq!(ledger["balanced"], true, "{ledger}");
    }

    /// The committed offsets are never past an event that nobody has handled.
    async fn committed_only_what_was_handled(&self) {
        // In this order: what is committed was told before.
        let committed = self.topic.committed(&self.group).await;
        let told: HashSet<String> = self.witness.heard().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        for (partition, offset) in committed {
            for before in 0..offset {
                let id = format!("{}/{partition}/{before}", self.topic.name);
                assert!(told.contains(&id), "{id} was never handled, and {offset} is committed");
            }
        }
    }
}

fn events(count: usize) -> impl Iterator<Item = (String, String)> {
    (0..count).map(|n| (format!("key-{}", n % KEYS), (n / KEYS).to_string()))
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
    let seed = services::figure("KOKSMAT_TEST_SEED", rand::random::<u16>().into());
    println!("KOKSMAT_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed as u64);
    let (topic, witness) = (Topic::create("faults", PARTITIONS).await, Witness::start().await);
    topic.produce(events(count)).await;
    let mut group = Group { topic: &topic, group: unique("g"), witness: &witness, strategy: "cooperative-sticky", hosts: Vec::new() };
    for _ in 0..3 {
        group.add().await;
    }
    let different = |heard: &[String]| heard.iter().collect::<HashSet<_>>().len();
    let (mut kills, mut stops, mut made) = (0, 0, 0);
    let between = count / (faults + 1);
    while made < faults {
        // Each fault meets work: the next one comes when some more was handled, with much left.
        let before = witness.count();
        witness.hears(before + between / 2).await;
        let left = count - different(&witness.heard());
        assert!(left > group.hosts.len() * IN_FLIGHT, "fault {} meets no work in flight: {left} events are left", made + 1);
        let which = random.random_range(0..group.hosts.len());
        match random.random_range(0..5) {
            0 | 1 => {
                group.kill(which).await;
                kills += 1;
                group.add().await;
            }
            2 | 3 => {
                group.stop(which).await;
                stops += 1;
                group.add().await;
            }
            _ if group.hosts.len() < 4 => group.add().await,
            _ => {
                group.kill(which).await;
                kills += 1;
            }
        }
        made += 1;
        let committed = topic.committed(&group.group).await.values().sum::<i64>();
        println!("fault {made}: {} hosts, {} reports, {committed} committed", group.hosts.len(), witness.count());
        group.committed_only_what_was_handled().await;
    }
    let patience = Duration::from_secs(60) + Duration::from_millis(count as u64 * 10);
    let all = tokio::time::timeout(patience, async {
        while different(&witness.heard()) < count {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let heard_all = all.await.is_ok();
    while !group.hosts.is_empty() {
        group.stop(0).await;
    }
    let heard = witness.heard();
    let (lost, repeated) = (count - different(&heard), heard.len() - different(&heard));
    let allowed = kills * (IN_FLIGHT + COMMIT_BATCH);
    println!(
        "kafka: {count} events, {made} faults ({kills} kills, {stops} stops): lost {lost}, repeated {repeated} (allowed {allowed}: {kills} kills of {IN_FLIGHT} in flight \
         and {COMMIT_BATCH} in a commit), seed {seed}"
    );
    assert!(heard_all && lost == 0, "{lost} of {count} are lost");
    assert_eq!(made, faults);
    assert_eq!(out_of_order(numbers(&heard)), None, "first deliveries of a key keep its order");
    assert!(repeated <= allowed, "{repeated} were delivered again");
    assert_eq!(topic.committed(&group.group).await, topic.ends().await, "lag 0 at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_come_and_go_in_good_order_repeat_nothing() {
    for strategy in ["range", "cooperative-sticky", "consumer"] {
        let count = 2_000;
        let (topic, witness) = (Topic::create("rebalance", PARTITIONS).await, Witness::start().await);
        topic.produce(events(count)).await;
        let mut group = Group { topic: &topic, group: unique("g"), witness: &witness, strategy, hosts: Vec::new() };
        group.add().await;
        witness.hears(200).await;
        group.add().await;
        witness.hears(600).await;
        group.add().await;
        witness.hears(900).await;
        group.stop(0).await;
        witness.hears(1_200).await;
        group.stop(0).await;
        group.committed_only_what_was_handled().await;
        witness.hears_all(count).await;
        group.stop(0).await;
        let heard = witness.heard();
        assert_eq!(heard.len(), count, "{strategy}: nothing is handled twice");
        assert_eq!(out_of_order(numbers(&heard)), None, "{strategy}");
        assert_eq!(topic.committed(&group.group).await, topic.ends().await, "{strategy}");
    }
}
