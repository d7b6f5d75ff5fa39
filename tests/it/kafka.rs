//! Events from Kafka, a real one: nothing is lost, an offset never passes what is not handled, order and back-pressure hold.

use std::collections::HashSet;

use koksmat_tests::{
    Folder, Process, Witness,
    kafka::{BROKERS, Topic, unique},
    services,
};

mod back_pressure;
mod clients;
mod delivery;
mod durable;
mod effects;
mod faults;
mod gone;
mod mock;
mod outbox;
mod poison;
mod sinks;
mod stop;

/// A folder whose source `orders` takes topics as a member of a group; `settings` are further lines of its table.
fn folder(group: &str, topics: &[&str], settings: &str) -> Folder {
    folder_at(BROKERS, group, topics, settings)
}

fn folder_at(brokers: &str, group: &str, topics: &[&str], settings: &str) -> Folder {
    let topics = topics.iter().map(|topic| format!("{topic:?}")).collect::<Vec<_>>().join(", ");
    Folder::new().toml(&format!(
        "[sources.orders]\nkind = \"kafka\"\nbrokers = \"{brokers}\"\ngroup = \"{group}\"\ntopics = [{topics}]\n{settings}\n"
    ))
}

/// A handler that tells the witness of each event.
fn told(folder: Folder, witness: &Witness, tell: &str, settings: &str) -> Folder {
    let settings = format!("on = [{{ source = \"orders\" }}]\ngrants = {{ http = [\"{}\"] }}\n{settings}", witness.address());
    folder.script("tell", "handlers/tell.js", &witness.script(tell), &settings)
}

/// A member of a group that is not heard of for six seconds is out of it, and so is one that does not poll for as long.
const IMPATIENT: &str =
    "[sources.orders.settings]\n\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 1000\n\"max.poll.interval.ms\" = 6000\n";

/// A second longer than the group waits for an [`IMPATIENT`] member.
const LONGER_THAN_IT_WAITS: std::time::Duration = std::time::Duration::from_secs(7);

/// Kill it, as nobody asked for.
async fn kill(process: Process) {
    process.signal("KILL").await;
    assert_eq!(process.ended().await.code, None);
}

/// What `koksmat status` says.
async fn status(folder: &Folder) -> String {
    koksmat_tests::process::koksmat(folder.path(), &["status"]).await.stdout
}

/// How far a group has come, all partitions together.
async fn passed(topic: &Topic, group: &str) -> i64 {
    topic.committed(group).await.values().sum()
}

/// Wait until the group has come so far.
async fn passes(topic: &Topic, group: &str, offsets: i64) {
    koksmat_tests::until(&format!("{offsets} offsets to be committed"), || async { (passed(topic, group).await == offsets).then_some(()) })
        .await;
}

/// `topic/partition/offset` of everything in a topic.
async fn coordinates(topic: &Topic) -> HashSet<String> {
    topic.read().await.iter().map(|found| format!("{}/{}/{}", topic.name, found.partition, found.offset)).collect()
}
