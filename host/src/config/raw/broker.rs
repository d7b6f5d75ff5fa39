//! How a broker is reached: what Kafka sources and sinks share, and what RabbitMQ ones do.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{At, Reference, Setting, Table};

/// Transport security. `{}` is TLS with the well-known public authorities.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Tls {
    /// A PEM file with the authority that signed the broker's certificate. Default: the well-known public ones.
    pub(crate) ca: Option<At<String>>,
    /// A PEM file with the client's own certificate, where the broker asks for one.
    pub(crate) certificate: Option<At<String>>,
    /// A PEM file with its key.
    pub(crate) key: Option<At<String>>,
}

/// Who the client is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Sasl {
    /// `scram-sha-512`, `scram-sha-256` or `plain`. Default: `scram-sha-512`.
    pub(crate) mechanism: Option<Mechanism>,
    /// The user.
    #[schemars(required)]
    pub(crate) username: Option<At<String>>,
    /// The password, as a reference: `env:NAME` or `file:PATH`.
    #[schemars(required)]
    pub(crate) password: Option<At<Reference>>,
}

/// How a client proves who it is.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mechanism {
    /// SCRAM-SHA-512
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
    /// SCRAM-SHA-256
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// PLAIN: the password itself, so with `tls` only.
    Plain,
}

/// Further settings of the client library, by its own names.
pub(crate) type Settings = BTreeMap<String, At<Setting>>;

/// Where a Kafka cluster is and how it is reached.
pub(crate) struct Cluster {
    pub(crate) brokers: Option<At<String>>,
    pub(crate) tls: Option<Table<Tls>>,
    pub(crate) sasl: Option<At<Table<Sasl>>>,
    pub(crate) settings: Settings,
}

/// Where a RabbitMQ broker is and how it is reached.
pub(crate) struct Amqp {
    pub(crate) url: Option<At<Reference>>,
    pub(crate) tls: Option<Table<Tls>>,
}
