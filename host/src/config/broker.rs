//! Brokers: where they are, what is taken from them, what is published to them.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Secret, Subscription};
use crate::tenant::Tenant;

/// `kind = "kafka"`, as a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Where the cluster is and how it is reached.
    pub cluster: KafkaCluster,
    /// The consumer group.
    pub group: String,
    /// The topics; one that begins with `^` is a regular expression.
    pub topics: Vec<String>,
    /// Where a group without offsets begins.
    pub start: Start,
    /// How the group shares its partitions.
    pub protocol: Protocol,
    /// The most offsets of one partition between the oldest event that is not handled and the newest that was taken.
    pub span: u64,
    /// The most handled events that the broker has not confirmed as committed.
    pub commit_batch: usize,
    /// When an offset may be committed.
    pub intake: Intake,
    /// With durable intake: the most unsettled tasks it may have.
    pub backlog: u64,
}

impl KafkaConfig {
    /// How long a member of a classic group may be silent before its partitions go to others.
    pub(crate) const SESSION: Duration = Duration::from_secs(10);

    /// How long a partition that is taken away may wait for its calls: half of what a silent member has.
    pub(crate) fn patience(&self) -> Duration {
        let own = self.cluster.settings.iter().find(|(name, _)| name == "session.timeout.ms");
        own.and_then(|(_, value)| value.expose().parse().ok()).map_or(Self::SESSION, Duration::from_millis) / 2
    }
}

/// Where a Kafka cluster is and how it is reached: settings of librdkafka by its own names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaCluster {
    /// Brokers to begin with, `host:port` with commas between.
    pub brokers: String,
    /// Everything else, TLS and SASL included; any of them may be a secret.
    pub settings: Vec<(String, Secret)>,
}

/// `kind = "rabbitmq"`, as a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RabbitmqConfig {
    /// Where the broker is and how it is reached.
    pub broker: AmqpConfig,
    /// The queue.
    pub queue: String,
    /// Declare the queue so; absent: it has to be there.
    pub declare: Option<Declare>,
    /// The header that says which message it is, where that is not the `message-id`.
    pub id_header: Option<String>,
    /// The URL of the management interface.
    pub management: Option<Secret>,
    /// When a message is acknowledged.
    pub intake: Intake,
    /// With durable intake: the most unsettled tasks it may have.
    pub backlog: u64,
}

/// Where a RabbitMQ broker is and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpConfig {
    /// `amqp:` or `amqps:`; it may hold a password.
    pub url: Secret,
    /// What `amqps:` trusts and shows.
    pub tls: TlsConfig,
}

/// Transport security.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// A PEM file with the authority that is trusted; absent: the ones browsers trust.
    pub ca: Option<PathBuf>,
    /// PEM files with the client's own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The properties of a queue that is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declare {
    /// Its type.
    pub ty: QueueType,
    /// Where messages go that the broker gives up on.
    pub dead_letter_exchange: Option<String>,
    /// Their routing key.
    pub dead_letter_routing_key: Option<String>,
    /// How often a message is delivered before the broker gives up on it.
    pub delivery_limit: Option<u32>,
    /// One consumer at a time gets messages.
    pub single_active_consumer: bool,
}

/// One sink: where emitted events are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkConfig {
    /// Whose.
    pub tenant: Tenant,
    /// `[sinks.NAME]`.
    pub name: String,
    /// Which emitted events: any of these.
    pub on: Vec<Subscription>,
    /// How events are written.
    pub mode: ContentMode,
    /// Where to.
    pub kind: SinkKind,
}

/// Where a sink publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkKind {
    /// A topic of Apache Kafka.
    Kafka {
        /// Where the cluster is.
        cluster: KafkaCluster,
        /// The topic.
        topic: String,
    },
    /// An exchange of RabbitMQ.
    Rabbitmq {
        /// Where the broker is.
        broker: AmqpConfig,
        /// The exchange; the one without a name leads to the queue that the routing key names.
        exchange: String,
        /// The routing key; absent: the type of the event.
        routing_key: Option<String>,
    },
}

/// When a broker's event is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Intake {
    /// When it is handled.
    Direct,
    /// When it is in the store.
    Durable,
}

/// Where a consumer group without offsets begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// With the oldest message there is.
    Earliest,
    /// With the next one that comes.
    Latest,
}

/// How a consumer group shares its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// By the members themselves.
    Classic,
    /// By the broker (KIP-848).
    Consumer,
}

/// The type of a RabbitMQ queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QueueType {
    /// Replicated, and counts deliveries.
    Quorum,
    /// On one node.
    Classic,
}

/// How a CloudEvent is written into a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ContentMode {
    /// Attributes as headers, data as it is.
    #[default]
    Binary,
    /// One JSON text.
    Structured,
}
