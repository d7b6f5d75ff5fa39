//! `[sources.NAME]`, one type for each `kind`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{At, OneOrMany, Reference, Sasl, Settings, Size, Table, Time, Tls};
use crate::config::{ConditionOn, DigestEncoding, Intake, Missed, Overlap, Protocol, QueueType, Reply, Start, Unmatched};

/// What makes events.
#[derive(JsonSchema)]
#[schemars(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Source {
    /// Topics of Apache Kafka.
    Kafka(Kafka),
    /// A queue of RabbitMQ.
    Rabbitmq(Rabbitmq),
    /// A durable queue in the store, published by `POST /queues/NAME`, `koksmat send` and a guest's emit.
    Embedded(Embedded),
    /// A polled database.
    Poller(Box<Poller>),
    /// An HTTP endpoint.
    Webhook(Webhook),
    /// A clock.
    Timer(Timer),
}

/// The keys that every kind has.
pub(crate) struct Common {
    pub(crate) in_flight: Option<At<u64>>,
    pub(crate) unmatched: Option<Unmatched>,
    pub(crate) intake: Option<At<Intake>>,
}

/// Topics of Apache Kafka.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Kafka {
    /// How many of its events may be inside the host at once, 1 to 100000. Default: 256.
    pub(crate) in_flight: Option<At<u64>>,
    /// What becomes of an event nobody wants: `dead-letter` or `ignore`. Default: `dead-letter`.
    pub(crate) unmatched: Option<Unmatched>,
    /// `direct`: an offset is committed when the event is handled. `durable`: when it is in the store, for calls that take long. Default:
    /// `direct`.
    pub(crate) intake: Option<At<Intake>>,
    /// With `intake = "durable"`: the most unsettled tasks it may have; then it waits. Default: 100000.
    pub(crate) backlog: Option<At<u64>>,
    /// Brokers to begin with: `host:port`, several with commas between.
    #[schemars(required)]
    pub(crate) brokers: Option<At<String>>,
    /// The consumer group: its members share the partitions.
    #[schemars(required)]
    pub(crate) group: Option<At<String>>,
    /// The topics. One that begins with `^` is a regular expression.
    #[schemars(required)]
    pub(crate) topics: Option<OneOrMany<String>>,
    /// Where a group without offsets begins: `earliest` or `latest`. Default: `earliest`.
    pub(crate) start: Option<Start>,
    /// How the group shares its partitions: `classic`, or `consumer` (KIP-848, Kafka 4.0 and newer). Default: `classic`.
    pub(crate) protocol: Option<Protocol>,
    /// The most offsets of one partition between the oldest event that is not handled and the newest that was taken: what a crash may
    /// deliver again. Default: 10000.
    pub(crate) span: Option<At<u64>>,
    /// The most handled events that the broker has not confirmed as committed: with those in flight all that a crash repeats. While it
    /// confirms nothing (a rebalance waits for a member that died, and commits with it) nothing more is handled. Default: 10000.
    pub(crate) commit_batch: Option<At<u64>>,
    /// TLS; absent: none.
    pub(crate) tls: Option<Table<Tls>>,
    /// Who the client is; absent: nobody in particular.
    pub(crate) sasl: Option<At<Table<Sasl>>>,
    /// Further settings of librdkafka, by its own names: `"fetch.wait.max.ms" = 100`. A secret among them is a reference.
    #[serde(default)]
    pub(crate) settings: Settings,
}

/// A queue of RabbitMQ.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Rabbitmq {
    /// How many of its events may be inside the host at once, 1 to 2000: the consumer's prefetch. Default: 256.
    pub(crate) in_flight: Option<At<u64>>,
    /// What becomes of an event nobody wants: `dead-letter` or `ignore`. Default: `dead-letter`.
    pub(crate) unmatched: Option<Unmatched>,
    /// `direct`: a message is acknowledged when it is handled. `durable`: when it is in the store, for calls that take long. Default:
    /// `direct`.
    pub(crate) intake: Option<At<Intake>>,
    /// With `intake = "durable"`: the most unsettled tasks it may have; then it waits. Default: 100000.
    pub(crate) backlog: Option<At<u64>>,
    /// The broker: `amqp://HOST:PORT/VHOST`, or a reference to a URL with a password: `env:NAME`, `file:PATH`. With TLS: `amqps:`.
    #[schemars(required)]
    pub(crate) url: Option<At<Reference>>,
    /// TLS for `amqps:`; absent: the well-known public authorities.
    pub(crate) tls: Option<Table<Tls>>,
    /// The queue.
    #[schemars(required)]
    pub(crate) queue: Option<At<String>>,
    /// Declare the queue with these properties; absent: it has to be there.
    pub(crate) declare: Option<At<Table<Declare>>>,
    /// The header that says which message it is, where that is not the `message-id`.
    pub(crate) id_header: Option<At<String>>,
    /// The management interface, `http://HOST:15672` or a reference to a URL with a password: asked whether a quorum queue has a dead-letter
    /// exchange.
    pub(crate) management: Option<At<Reference>>,
}

/// The properties of a queue that is declared.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Declare {
    /// `quorum` or `classic`. Default: `quorum`.
    #[serde(rename = "type")]
    pub(crate) ty: Option<QueueType>,
    /// Where messages go that the broker gives up on. A quorum queue needs one: without it such a message is lost.
    pub(crate) dead_letter_exchange: Option<At<String>>,
    /// Their routing key. Default: the one they had.
    pub(crate) dead_letter_routing_key: Option<At<String>>,
    /// How often a quorum queue delivers a message before it gives up on it. Default: the broker's.
    pub(crate) delivery_limit: Option<At<u64>>,
    /// One consumer at a time gets messages: what order needs. Default: false.
    pub(crate) single_active_consumer: Option<bool>,
}

/// A durable queue in the store.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Embedded {
    /// How many of its events may be inside the host at once, 1 to 100000. Default: 256.
    pub(crate) in_flight: Option<At<u64>>,
    /// What becomes of an event nobody wants: `dead-letter` or `ignore`. Default: `dead-letter`.
    pub(crate) unmatched: Option<Unmatched>,
    /// `direct` or `durable`: a choice for brokers only, a queue in the store is durable.
    pub(crate) intake: Option<At<Intake>>,
    /// The most unsettled tasks it may hold; then publishers get 503. Default: 100000.
    pub(crate) backlog: Option<At<u64>>,
    /// The largest event that may be published. Default: `1MiB`.
    pub(crate) max_body: Option<At<Size>>,
}

/// A polled database. Exactly one of `claim`, `cursor`, `query` and `condition` says how rows become events.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Poller {
    /// How many of its events may be inside the host at once, 1 to 100000. Default: 256.
    pub(crate) in_flight: Option<At<u64>>,
    /// What becomes of an event nobody wants: `dead-letter` or `ignore`. Default: `dead-letter`.
    pub(crate) unmatched: Option<Unmatched>,
    /// `direct` (acknowledged when handled) is the only one in this version.
    pub(crate) intake: Option<At<Intake>>,
    /// The database: `sqlite:PATH`, `postgres://USER@HOST/DATABASE` or `mysql://USER@HOST/DATABASE`, or a reference to its URL: `env:NAME`,
    /// `file:PATH`.
    #[schemars(required)]
    pub(crate) database: Option<At<Reference>>,
    /// A file of SQL that makes the database, for a SQLite database of your own: run where it has no tables yet, all of it or nothing.
    pub(crate) setup: Option<At<String>>,
    /// Time between polls, `10ms` to `1d`.
    #[schemars(required)]
    pub(crate) every: Option<At<Time>>,
    /// PostgreSQL: a notification on this channel makes the next poll happen at once.
    pub(crate) wake: Option<At<String>>,
    /// Rows of a table are claimed, handled and marked.
    pub(crate) claim: Option<At<Table<Claim>>>,
    /// PostgreSQL: rows of a table that is only added to, each once, and nothing is written to the database.
    pub(crate) cursor: Option<At<Table<Cursor>>>,
    /// Any `SELECT`: each (`key`, `version`) of its rows once.
    pub(crate) query: Option<At<String>>,
    /// With `query`: the column that says which row it is.
    pub(crate) key: Option<At<String>>,
    /// With `query`: the column that says which state of it.
    pub(crate) version: Option<At<String>>,
    /// A `SELECT` of one value, which fires when it becomes true.
    pub(crate) condition: Option<At<String>>,
    /// With `condition`: `true` (when it becomes true) or `change` (when the value changes). Default: `true`.
    pub(crate) on: Option<At<ConditionOn>>,
}

/// Rows of a table are claimed, handled and marked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Claim {
    /// The table.
    #[schemars(required)]
    pub(crate) table: Option<At<String>>,
    /// Its key column.
    #[schemars(required)]
    pub(crate) key: Option<At<String>>,
    /// An SQL condition. Default: every row.
    #[serde(rename = "where")]
    pub(crate) filter: Option<At<String>>,
    /// What becomes of a row that was handled: `mark`, `delete` or `set column = value`. Default: `mark`.
    pub(crate) done: Option<At<String>>,
    /// How long a claim lasts unless it is extended, `1s` to `1h`. Default: `30s`.
    pub(crate) lease: Option<At<Time>>,
}

/// PostgreSQL: rows of a table that is only added to, each once.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Cursor {
    /// The table.
    #[schemars(required)]
    pub(crate) table: Option<At<String>>,
    /// Its key column.
    #[schemars(required)]
    pub(crate) key: Option<At<String>>,
    /// The column that says which transaction wrote the row: `xid8 NOT NULL DEFAULT pg_current_xact_id()`. Default: `xid`.
    pub(crate) xid: Option<At<String>>,
    /// An SQL condition on what never changes in a row. Default: every row.
    #[serde(rename = "where")]
    pub(crate) filter: Option<At<String>>,
}

/// An HTTP endpoint.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Webhook {
    /// How many of its events may be inside the host at once, 1 to 100000. Default: 256.
    pub(crate) in_flight: Option<At<u64>>,
    /// What becomes of an event nobody wants: `dead-letter` or `ignore`. Default: `dead-letter`.
    pub(crate) unmatched: Option<Unmatched>,
    /// `direct` or `durable`: a choice for brokers only, a webhook says it by `reply`.
    pub(crate) intake: Option<At<Intake>>,
    /// The path, beginning with `/`.
    #[schemars(required)]
    pub(crate) path: Option<At<String>>,
    /// How a request proves where it comes from. Without it anyone may post.
    pub(crate) verify: Option<At<Table<Verify>>>,
    /// `accepted`: 202 after the durable write. `handler`: the handler's response. Default: `accepted`.
    pub(crate) reply: Option<At<Reply>>,
    /// Request headers the handler sees; never signatures, cookies or credentials. Default: none.
    #[serde(default)]
    pub(crate) headers: Vec<At<String>>,
    /// The largest body. Default: `1MiB`.
    pub(crate) max_body: Option<At<Size>>,
    /// The most unsettled tasks it may have; then senders get 503. Default: 100000.
    pub(crate) backlog: Option<At<u64>>,
    /// The header that names the delivery, where the scheme has none of its own.
    pub(crate) id_header: Option<At<String>>,
}

/// How a request proves where it comes from.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Verify {
    /// The signature scheme.
    #[schemars(required)]
    pub(crate) scheme: Option<At<SchemeWord>>,
    /// The secret, as a reference: `env:NAME` or `file:PATH`. Several allow rotation: any one may have signed.
    #[schemars(required)]
    pub(crate) secret: Option<At<OneOrMany<Reference>>>,
    /// How far a signed timestamp may be from now, `1s` to `1d`. Default: `5m`.
    pub(crate) tolerance: Option<At<Time>>,
    /// With `hmac`: the header that carries the digest.
    pub(crate) header: Option<At<String>>,
    /// With `hmac`: what stands before the digest, `sha256=` for instance. Default: nothing.
    pub(crate) prefix: Option<At<String>>,
    /// With `hmac`: how the digest is written, `hex` or `base64`. Default: `hex`.
    pub(crate) encoding: Option<At<DigestEncoding>>,
}

/// A signature scheme.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SchemeWord {
    /// <https://www.standardwebhooks.com>
    StandardWebhooks,
    /// `X-Hub-Signature-256`
    Github,
    /// `Stripe-Signature`
    Stripe,
    /// `X-Slack-Signature`
    Slack,
    /// HMAC-SHA256 of the body in a header of one's own.
    Hmac,
    /// `Authorization: Bearer SECRET`
    Bearer,
}

/// A clock.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Timer {
    /// How many of its events may be inside the host at once, 1 to 100000. Default: 256.
    pub(crate) in_flight: Option<At<u64>>,
    /// What becomes of an event nobody wants: `dead-letter` or `ignore`. Default: `dead-letter`.
    pub(crate) unmatched: Option<Unmatched>,
    /// `direct` or `durable`: a choice for brokers only, a firing is durable.
    pub(crate) intake: Option<At<Intake>>,
    /// Five fields of cron, six with seconds, or `@daily` and the like.
    #[schemars(required)]
    pub(crate) cron: Option<At<String>>,
    /// An IANA time zone. Default: `UTC`.
    pub(crate) zone: Option<At<String>>,
    /// What becomes of firings the host slept through: `skip`, `once` (the last one fires) or `all`. Default: `once`.
    pub(crate) missed: Option<Missed>,
    /// What becomes of a firing while an earlier one is not settled: `allow`, `skip` or `queue`. Default: `allow`.
    pub(crate) overlap: Option<Overlap>,
}
