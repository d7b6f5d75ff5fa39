//! `[sinks.NAME]`, one type for each `kind`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{At, OneOrMany, Reference, Sasl, Settings, Subscription, Table, Tls};
use crate::config::ContentMode;

/// Where emitted events are published.
#[derive(JsonSchema)]
#[schemars(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Sink {
    /// A topic of Apache Kafka.
    Kafka(KafkaSink),
    /// An exchange of RabbitMQ.
    Rabbitmq(RabbitmqSink),
}

/// A topic of Apache Kafka. Events with one key, the `partitionkey` attribute or else the subject, keep their order.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct KafkaSink {
    /// Which emitted events are published here: any of these, by type, subject and attributes.
    #[schemars(required)]
    pub(crate) on: Option<OneOrMany<Table<Subscription>>>,
    /// How events are written: `binary` (attributes as headers, data as it is) or `structured` (one JSON text). Default: `binary`.
    pub(crate) mode: Option<ContentMode>,
    /// Brokers to begin with: `host:port`, several with commas between.
    #[schemars(required)]
    pub(crate) brokers: Option<At<String>>,
    /// The topic.
    #[schemars(required)]
    pub(crate) topic: Option<At<String>>,
    /// TLS; absent: none.
    pub(crate) tls: Option<Table<Tls>>,
    /// Who the client is; absent: nobody in particular.
    pub(crate) sasl: Option<At<Table<Sasl>>>,
    /// Further settings of librdkafka, by its own names: `"linger.ms" = 5`. A secret among them is a reference.
    #[serde(default)]
    pub(crate) settings: Settings,
}

/// An exchange of RabbitMQ.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RabbitmqSink {
    /// Which emitted events are published here: any of these, by type, subject and attributes.
    #[schemars(required)]
    pub(crate) on: Option<OneOrMany<Table<Subscription>>>,
    /// How events are written: `binary` (attributes as headers, data as it is) or `structured` (one JSON text). Default: `binary`.
    pub(crate) mode: Option<ContentMode>,
    /// The broker: `amqp://HOST:PORT/VHOST`, or a reference to a URL with a password: `env:NAME`, `file:PATH`. With `tls`: `amqps:`.
    #[schemars(required)]
    pub(crate) url: Option<At<Reference>>,
    /// TLS for `amqps:`; absent: the well-known public authorities.
    pub(crate) tls: Option<Table<Tls>>,
    /// The exchange. Default: the one that has no name, which leads to the queue that `routing-key` names.
    pub(crate) exchange: Option<At<String>>,
    /// The routing key. Default: the type of the event.
    pub(crate) routing_key: Option<At<String>>,
}
