//! Where an event came from, in the words of what brought it: from the key by which it is recognised, from the event, and from what the
//! configuration says of its source.

use std::collections::{BTreeMap, HashMap};

use crate::{
    config::{Config, PollMode, SourceConfig, SourceKind},
    store::DeadLetter,
    tenant::Tenant,
};

/// Names of places, such as `topic` and `offset`.
pub(crate) type Coordinates = BTreeMap<&'static str, String>;

/// What the configuration says of where each source takes its events.
#[derive(Debug, Default)]
pub(crate) struct Places(HashMap<(Tenant, String), Coordinates>);

impl Places {
    pub(crate) fn of(config: &Config) -> Self {
        let place = |source: &SourceConfig| {
            let place = match &source.kind {
                SourceKind::Kafka(kafka) => Coordinates::from([("group", kafka.group.clone())]),
                SourceKind::Rabbitmq(rabbitmq) => Coordinates::from([("queue", rabbitmq.queue.clone())]),
                SourceKind::Webhook(webhook) => Coordinates::from([("path", webhook.path.clone())]),
                SourceKind::Poller(poller) => match &poller.mode {
                    PollMode::Claim { table, .. } => Coordinates::from([("table", table.clone())]),
                    _ => Coordinates::new(),
                },
                SourceKind::Embedded(_) | SourceKind::Timer(_) => Coordinates::new(),
            };
            ((source.tenant.clone(), source.name.clone()), place)
        };
        Self(config.sources.iter().map(place).collect())
    }

    /// Where the event of a letter came from, as far as anybody knows.
    pub(crate) fn coordinates(&self, letter: &DeadLetter) -> Coordinates {
        let mut found = self.0.get(&(letter.tenant.clone(), letter.source.clone())).cloned().unwrap_or_default();
        let (key, subject) = (letter.key.as_deref(), letter.event.subject.as_deref());
        let said: Vec<(&'static str, Option<&str>)> = match letter.kind.as_str() {
            "kafka" => key.and_then(kafka).map(Vec::from).unwrap_or_default(),
            "rabbitmq" => vec![("message_id", key), ("routing_key", subject)],
            "poller" => vec![("table", subject), ("key", Some(&letter.event.id))],
            "webhook" => vec![("delivery", key), ("path", subject)],
            "timer" => vec![("due", Some(&letter.event.id))],
            _ => Vec::new(),
        };
        for (name, value) in said {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                found.entry(name).or_insert_with(|| value.to_owned());
            }
        }
        found
    }
}

/// The parts of `CLUSTER/TOPIC/PARTITION/OFFSET@TIMESTAMP`. Neither a topic nor a cluster's id has a slash in it.
fn kafka(key: &str) -> Option<[(&'static str, Option<&str>); 5]> {
    let (place, timestamp) = key.rsplit_once('@')?;
    let mut parts = place.rsplitn(4, '/');
    let (offset, partition, topic, cluster) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let said = [("cluster", cluster), ("topic", topic), ("partition", partition), ("offset", offset), ("timestamp", timestamp)];
    Some(said.map(|(name, value)| (name, Some(value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_kafka_message_says_where_it_is() {
        let said = kafka("lkc-7/orders/3/4711@1700000000000").unwrap().map(|(name, value)| format!("{name}={}", value.unwrap()));
        assert_eq!(said.join(" "), "cluster=lkc-7 topic=orders partition=3 offset=4711 timestamp=1700000000000");
        assert_eq!(kafka("a key of something else"), None);
    }
}
