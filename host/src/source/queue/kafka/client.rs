//! The client library: its settings, whether the brokers answer, and what it says when they do not.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig,
    client::Client,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::{
    channel::Origin,
    config::{KafkaCluster, KafkaConfig, Protocol, Start},
};

/// How long the brokers may take to answer a question about themselves.
const ANSWER: Duration = Duration::from_secs(5);

/// What every client of a cluster is set to.
pub(crate) fn settings(cluster: &KafkaCluster, client: String) -> ClientConfig {
    let mut config = ClientConfig::new();
    // What the library logs goes where everything is logged and is filtered there; its own setting `debug` says how much it logs.
    config.set_log_level(RDKafkaLogLevel::Debug);
    config.set("client.id", client);
    config.set("bootstrap.servers", &cluster.brokers);
    // Brokers that come back are found within a second, not ten.
    config.set("reconnect.backoff.max.ms", "1000");
    config
}

/// The settings of the configuration file, which come last.
pub(crate) fn with_own(mut config: ClientConfig, cluster: &KafkaCluster) -> ClientConfig {
    for (name, value) in &cluster.settings {
        config.set(name, value.expose());
    }
    config
}

/// A member of a consumer group that commits by itself.
pub(super) fn consumer(config: &KafkaConfig, origin: &Origin) -> ClientConfig {
    let mut client = settings(&config.cluster, format!("koksmat-{}-{}", origin.tenant, origin.source));
    client.set("group.id", &config.group);
    client.set("enable.auto.commit", "false");
    client.set("enable.auto.offset.store", "false");
    client.set("auto.offset.reset", if config.start == Start::Earliest { "earliest" } else { "latest" });
    // What is fetched ahead and not taken is fetched again after a pause: a little of it is enough.
    client.set("queued.max.messages.kbytes", "16384");
    // And as little is soon taken: the library's own second of waiting until it fetches more is longer than that lasts.
    client.set("fetch.queue.backoff.ms", "10");
    // Longer than a broker may hold a fetch back (`fetch.wait.max.ms`, 500). A commit that is retried while the library looks for the group's
    // coordinator fails when it has found it, which makes the library look for it again: the question is answered behind the fetch, so with
    // the library's 100 ms this goes on until the session is over and everything uncommitted comes again.
    client.set("retry.backoff.ms", "1000");
    match config.protocol {
        Protocol::Classic => {
            client.set("group.protocol", "classic");
            client.set("session.timeout.ms", KafkaConfig::SESSION.as_millis().to_string());
            // Partitions that stay where they are go on through a rebalance.
            client.set("partition.assignment.strategy", "cooperative-sticky");
        }
        // The broker decides.
        Protocol::Consumer => drop(client.set("group.protocol", "consumer")),
    }
    if config.topics.iter().any(|topic| topic.starts_with('^')) {
        // A topic that is made later is found within this time.
        client.set("topic.metadata.refresh.interval.ms", "10000");
    }
    with_own(client, &config.cluster)
}

/// Ask the brokers about topics that have to be there. The answer is the cluster's id. Blocks for some seconds at most.
pub(super) fn reachable<C: rdkafka::ClientContext>(client: &Client<C>, topics: &[String]) -> Result<Arc<str>, Problem> {
    let named = topics.iter().filter(|topic| !topic.starts_with('^')).map(|topic| Some(topic.as_str()));
    let mut asked = named.collect::<Vec<_>>();
    if asked.is_empty() {
        asked.push(None);
    }
    for topic in asked {
        let metadata = client.fetch_metadata(topic, ANSWER).map_err(|error| Problem::Silent(error.to_string()))?;
        let missing = metadata.topics().iter().find_map(|found| Some((found.name(), found.error()?)));
        if let (Some((name, error)), Some(_)) = (missing, topic) {
            return Err(Problem::Topic(format!("the topic `{name}`: {}", RDKafkaErrorCode::from(error))));
        }
    }
    Ok(client.fetch_cluster_id(ANSWER).unwrap_or_default().into())
}

/// Why the brokers were asked in vain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// They do not answer; what the library says elsewhere of the reason is better than this.
    Silent(String),
    /// They answer, and something is wrong with a topic.
    Topic(String),
}

/// Why the library refuses its settings. Values may be secrets and are not shown.
pub(crate) fn refused(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, _, name, _) => format!("librdkafka refuses the setting `{name}`"),
        error => error.to_string(),
    }
}

/// What the library says of an error, without what differs each time it is said, so that it is said once. `None`: that all brokers are
/// down, which it says after having said why.
pub(crate) fn said(error: &KafkaError, reason: &str) -> Option<String> {
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
        return None;
    }
    let reason = reason.split(" (after ").next().unwrap_or(reason).trim();
    Some(if reason.is_empty() { error.to_string() } else { reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_repeats_reads_the_same() {
        let reason = "ssl://127.0.0.1:9093/bootstrap: SSL handshake failed: certificate verify failed (after 12ms in state SSL_HANDSHAKE, 2 identical error(s) suppressed)";
        let ssl = KafkaError::Global(RDKafkaErrorCode::SSL);
        assert_eq!(said(&ssl, reason).unwrap(), "ssl://127.0.0.1:9093/bootstrap: SSL handshake failed: certificate verify failed");
        assert_eq!(said(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down"), None);
    }
}
