//! `[sources.NAME]`, one type for each `kind`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{At, OneOrMany, Reference, Size, Table, Time};
use crate::config::{ConditionOn, DigestEncoding, Missed, Overlap, Reply, Unmatched};

/// What makes events.
#[derive(JsonSchema)]
#[schemars(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Source {
    /// A durable queue in the store, published by `POST /queues/NAME`, `koksmat send` and a guest's emit.
    Embedded(Embedded),
    /// A polled database.
    Poller(Poller),
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

/// When a broker's event is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Intake {
    /// When it is handled.
    Direct,
    /// When it is in the store.
    Durable,
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

/// A polled database. Exactly one of `claim`, `query` and `condition` says how rows become events.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Poller {
    /// How many of its events may be inside the host at once, 1 to 100000. Default: 256.
    pub(crate) in_flight: Option<At<u64>>,
    /// What becomes of an event nobody wants: `dead-letter` or `ignore`. Default: `dead-letter`.
    pub(crate) unmatched: Option<Unmatched>,
    /// `direct` (acknowledged when handled) is the only one in this version.
    pub(crate) intake: Option<At<Intake>>,
    /// The database: `sqlite:PATH`, or a reference to its URL: `env:NAME`, `file:PATH`.
    #[schemars(required)]
    pub(crate) database: Option<At<Reference>>,
    /// A file of SQL that makes the database, for one of your own: run where it has no tables yet, all of it or nothing.
    pub(crate) setup: Option<At<String>>,
    /// Time between polls, `10ms` to `1d`.
    #[schemars(required)]
    pub(crate) every: Option<At<Time>>,
    /// Rows of a table are claimed, handled and marked.
    pub(crate) claim: Option<At<Table<Claim>>>,
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
