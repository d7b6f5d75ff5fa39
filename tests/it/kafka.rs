//! Events from Kafka, a real one: nothing is lost, an offset never passes what is not handled, order and back-pressure hold.

use std::collections::HashSet;

use koksmat_tests::{
    Folder, Process, Witness,
    kafka::{BROKERS, Topic, unique},
    services,
};

mod back_pressure;
mod delivery;
mod faults;
mod gone;
mod sinks;

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

/// `topic/partition/offset` of everything in a topic.
async fn coordinates(topic: &Topic) -> HashSet<String> {
    topic.read().await.iter().map(|found| format!("{}/{}/{}", topic.name, found.partition, found.offset)).collect()
}

/// A host that is stopped ends well, with its ledger in balance.
async fn stopped(process: Process) -> serde_json::Value {
    let ended = process.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    // What a failing test needs to be understood.
    ended.log.iter().filter(|line| line.contains("WARN") || line.contains("consume")).for_each(|line| println!("{line}"));
    ended.ledger()["ledger"].clone()
}
