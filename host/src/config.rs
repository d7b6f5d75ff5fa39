//! Configuration: what was written (`config/raw.rs`) and what was meant (the types here, made by `config/check.rs`).
//!
//! Nothing here is optional that has a default, units are resolved, paths are absolute and every cross-check has passed.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tenant::Tenant;

mod broker;
mod check;
mod document;
mod load;
mod pattern;
mod problem;
mod raw;
mod secret;
mod suggest;
#[cfg(test)]
mod tests;
pub(crate) mod units;

pub use broker::{
    AmqpConfig, ContentMode, Declare, Intake, KafkaCluster, KafkaConfig, Protocol, QueueType, RabbitmqConfig, SinkConfig, SinkKind, Start,
    TlsConfig,
};
pub use pattern::matches;
pub use problem::{Problem, Problems, Severity};
pub use raw::json_schema;
pub use secret::Secret;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from, as an absolute path.
    pub file: PathBuf,
    /// `[host]`.
    pub host: HostConfig,
    /// `[sources.*]`, by tenant and name.
    pub sources: Vec<SourceConfig>,
    /// `[handlers.*]`.
    pub handlers: Vec<HandlerConfig>,
    /// `[sinks.*]`.
    pub sinks: Vec<SinkConfig>,
    /// What looks wrong but does not keep the host from running.
    pub warnings: Vec<Problem>,
    /// When the file began to be read: what was written to it since then is not in here.
    pub read_from: SystemTime,
}

/// `[host]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// Webhooks and `POST /queues/NAME`.
    pub listen: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`.
    pub admin: SocketAddr,
    /// The store.
    pub store: StoreConfig,
    /// Calls side by side.
    pub concurrency: usize,
    /// How long a stop waits for calls in flight; `None`: as long as it takes.
    pub drain_deadline: Option<Duration>,
    /// How long the host still serves after it said that it is not ready.
    pub drain_delay: Duration,
    /// Reload on change.
    pub watch: bool,
    /// How long settled calls and the keys of events are remembered (`dedup-for`).
    pub dedup_for: Duration,
    /// How long dead letters are kept.
    pub keep_dead_letters: Duration,
    /// How long events are kept for a re-run after they were accepted; no time: they are not.
    pub keep_events: Duration,
    /// The most bytes they have together.
    pub keep_events_size: u64,
}

/// Where the durable state is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL database, which several hosts may share.
    Postgres {
        /// Where it is.
        url: Secret,
        /// Where this host keeps what is its own: the token, the socket, the cache.
        folder: PathBuf,
    },
    /// Nothing survives the process: for tests and pure pipelines.
    Memory,
}

impl StoreConfig {
    /// The folder of what a host keeps beside its store; a store in memory has none.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path.parent().unwrap_or(Path::new("."))),
            Self::Postgres { folder, .. } => Some(folder),
            Self::Memory => None,
        }
    }
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceConfig {
    /// Whose.
    pub tenant: Tenant,
    /// `[sources.NAME]`.
    pub name: String,
    /// How many events may be inside the host at once.
    pub in_flight: usize,
    /// What happens to an event nobody wants.
    pub unmatched: Unmatched,
    /// What it is.
    pub kind: SourceKind,
}

impl SourceConfig {
    /// Where it is served, if it is.
    pub(crate) fn path(&self) -> Option<String> {
        match &self.kind {
            SourceKind::Webhook(webhook) => Some(webhook.path.clone()),
            SourceKind::Embedded(_) => Some(format!("/queues/{}", self.name)),
            _ => None,
        }
    }
}

/// What happens to an event nobody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unmatched {
    /// A dead letter "no route".
    DeadLetter,
    /// Counted, nothing else.
    Ignore,
}

/// The kinds of sources and what each needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// Topics of Apache Kafka.
    Kafka(KafkaConfig),
    /// A queue of RabbitMQ.
    Rabbitmq(RabbitmqConfig),
    /// A durable queue in the store.
    Embedded(EmbeddedConfig),
    /// A polled database.
    Poller(PollerConfig),
    /// An HTTP endpoint.
    Webhook(WebhookConfig),
    /// A clock.
    Timer(TimerConfig),
}

/// The most events of a source that may wait in the store, unless it says otherwise.
pub(crate) const BACKLOG: u64 = 100_000;
/// The most firings of a timer.
pub(crate) const TIMER_BACKLOG: u64 = 10_000;

impl SourceKind {
    /// The most of its events that may wait in the store, for their handlers or for their next attempt. Then it takes no more.
    pub fn backlog(&self) -> u64 {
        match self {
            Self::Kafka(kafka) => kafka.backlog,
            Self::Rabbitmq(rabbitmq) => rabbitmq.backlog,
            Self::Embedded(embedded) => embedded.backlog,
            Self::Webhook(webhook) => webhook.backlog,
            Self::Timer(_) => TIMER_BACKLOG,
            Self::Poller(_) => BACKLOG,
        }
    }

    /// The word that configuration, routes and metrics use.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Rabbitmq(_) => "rabbitmq",
            Self::Embedded(_) => "embedded",
            Self::Poller(_) => "poller",
            Self::Webhook(_) => "webhook",
            Self::Timer(_) => "timer",
        }
    }
}

/// `kind = "embedded"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// The most unsettled tasks it may hold.
    pub backlog: u64,
    /// The largest published event, in bytes.
    pub max_body: usize,
}

/// `kind = "poller"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollerConfig {
    /// The database URL; it may hold a password.
    pub database: Secret,
    /// SQL that makes the database where it has no tables yet.
    pub setup: Option<String>,
    /// Time between polls.
    pub every: Duration,
    /// The channel of PostgreSQL on which a notification makes the next poll happen at once.
    pub wake: Option<String>,
    /// How rows become events.
    pub mode: PollMode,
}

/// How a poller finds what is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PollMode {
    /// Rows of a table are claimed, handled and marked.
    Claim {
        /// The table.
        table: String,
        /// Its key column.
        key: String,
        /// An SQL condition; absent: every row.
        filter: Option<String>,
        /// What becomes of a row that was handled.
        done: ClaimDone,
        /// How long a claim lasts unless extended.
        lease: Duration,
    },
    /// Rows of a table that is only added to, in the order of the transactions that wrote them; PostgreSQL alone.
    Cursor {
        /// The table.
        table: String,
        /// The column that says which row, and which of two rows of one transaction comes first.
        key: String,
        /// The column with the transaction that wrote the row: `xid8 DEFAULT pg_current_xact_id()`.
        xid: String,
        /// An SQL condition; absent: every row.
        filter: Option<String>,
    },
    /// Rows of any `SELECT`, each (key, version) once.
    Query {
        /// The statement.
        query: String,
        /// The column that says which row.
        key: String,
        /// The column that says which state of it; absent: the key alone.
        version: Option<String>,
    },
    /// One value.
    Condition {
        /// The statement; its first column of its first row is the value.
        condition: String,
        /// When it fires.
        on: ConditionOn,
    },
}

/// What becomes of a claimed row that was handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimDone {
    /// A mark in `koksmat_claims`; the row itself is not touched.
    Mark,
    /// The row is deleted.
    Delete,
    /// `UPDATE table SET …`: this text.
    Set(String),
}

/// When a condition fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionOn {
    /// When it becomes true.
    True,
    /// When its value changes.
    Change,
}

/// `kind = "webhook"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    /// The path, beginning with `/`.
    pub path: String,
    /// How a request proves where it comes from; absent: anyone may post.
    pub verify: Option<Verify>,
    /// When the sender gets its answer.
    pub reply: Reply,
    /// Request headers the handler sees; lower case.
    pub headers: Vec<String>,
    /// The largest body, in bytes.
    pub max_body: usize,
    /// The most unsettled tasks it may have (with `reply = "accepted"`).
    pub backlog: u64,
    /// The header that names the delivery, where the scheme has none of its own; lower case.
    pub id_header: Option<String>,
}

/// When a webhook's sender gets its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// 202 after the durable write.
    Accepted,
    /// The handler's response.
    Handler,
}

/// A signature scheme and its secrets. Several secrets allow rotation: any one of them may have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// The scheme.
    pub scheme: Scheme,
    /// The secrets.
    pub secrets: Vec<Secret>,
    /// How far a signed timestamp may be from now.
    pub tolerance: Duration,
}

/// Signature schemes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheme {
    /// <https://www.standardwebhooks.com>
    StandardWebhooks,
    /// `X-Hub-Signature-256`
    Github,
    /// `Stripe-Signature`
    Stripe,
    /// `X-Slack-Signature`
    Slack,
    /// HMAC-SHA256 of the body in a header.
    Hmac {
        /// The header that carries it; lower case.
        header: String,
        /// What stands before the digest in it, `sha256=` for instance.
        prefix: String,
        /// How the digest is written.
        encoding: DigestEncoding,
    },
    /// `Authorization: Bearer SECRET`
    Bearer,
}

/// How a digest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DigestEncoding {
    /// Hexadecimal.
    Hex,
    /// Base64.
    Base64,
}

/// `kind = "timer"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerConfig {
    /// Five or six fields of cron, or `@daily` and the like.
    pub cron: String,
    /// An IANA time zone.
    pub zone: String,
    /// What becomes of firings the host slept through.
    pub missed: Missed,
    /// What becomes of a firing while an earlier one is not settled.
    pub overlap: Overlap,
}

/// What becomes of firings the host slept through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Missed {
    /// Nothing.
    Skip,
    /// The last one fires.
    Once,
    /// Each one fires.
    All,
}

/// What becomes of a firing while an earlier one is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// It fires all the same.
    Allow,
    /// It is skipped.
    Skip,
    /// It waits for the earlier one.
    Queue,
}

/// One handler.
#[derive(Debug, Clone, PartialEq)]
pub struct HandlerConfig {
    /// Whose.
    pub tenant: Tenant,
    /// `[handlers.NAME]`.
    pub name: String,
    /// What is run.
    pub plugin: PluginRef,
    /// Which events it wants: any of these.
    pub on: Vec<Subscription>,
    /// Its calls, and those of every other atomic handler, never overlap.
    pub atomic: bool,
    /// When a call is cut.
    pub timeout: Duration,
    /// The most linear memory a call may have, in bytes.
    pub memory: usize,
    /// The most calls of it side by side; absent: no bound of its own.
    pub concurrency: Option<usize>,
    /// Which of its calls keep their order; absent: those of one key for events from Kafka, none of others.
    pub order: Option<Order>,
    /// When a failed call is tried again.
    pub retry: Retry,
    /// What `wasi:config` shows the guest.
    pub config: BTreeMap<String, String>,
    /// Those of them that hold something from the environment.
    pub from_environment: BTreeSet<String>,
    /// A dead letter keeps what the host calls of the last attempt gave it.
    pub record: bool,
    /// What it may do.
    pub grants: Grants,
    /// Events that new code must handle before it serves: files, whose effects are thrown away.
    pub self_test: Vec<PathBuf>,
    /// How new code comes to serve; absent: at once.
    pub canary: Option<CanaryConfig>,
    /// A failed call is tried again on the code it failed on, not on what serves by then.
    pub pin_retries: bool,
}

/// How new code of a handler comes to serve beside the old.
#[derive(Debug, Clone, PartialEq)]
pub struct CanaryConfig {
    /// The share of the new code, 0 to 1.
    pub share: f64,
    /// Of what.
    pub by: ShareOf,
    /// How long it serves beside the old at least.
    pub time: Duration,
    /// How many calls it must have had.
    pub min_calls: u64,
    /// Which share of its calls may fail beyond those of the old.
    pub max_errors: f64,
    /// How many times as long its calls may take.
    pub max_slowdown: f64,
    /// Its effects are thrown away, and what it comes to is compared: the old code serves alone.
    pub shadow: bool,
}

/// Of what new code has a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ShareOf {
    /// Of the events.
    Events,
    /// Of the keys: all events of a key go one way.
    Keys,
}

impl Default for CanaryConfig {
    fn default() -> Self {
        Self {
            share: 0.1,
            by: ShareOf::Events,
            time: Duration::from_secs(120),
            min_calls: 200,
            max_errors: 0.01,
            max_slowdown: 2.0,
            shadow: false,
        }
    }
}

/// Where a handler's code is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginRef {
    /// A component or a core module.
    Wasm(PathBuf),
    /// A `.js` or `.ts` file.
    Script(PathBuf),
    /// A folder with a `Cargo.toml`.
    Cargo(PathBuf),
    /// A folder with a build command that writes `output`.
    Command {
        /// Where it runs.
        folder: PathBuf,
        /// Program and arguments.
        command: Vec<String>,
        /// The component it makes.
        output: PathBuf,
    },
}

impl Config {
    /// The embedded queues, which guests may emit to.
    pub(crate) fn queues(&self) -> Arc<HashSet<String>> {
        let embedded = self.sources.iter().filter(|source| matches!(source.kind, SourceKind::Embedded(_)));
        Arc::new(embedded.map(|source| source.name.clone()).collect())
    }

    /// The one handler that answers the requests of a webhook with `reply = "handler"`.
    pub(crate) fn reply_handler(&self, source: &SourceConfig) -> Option<String> {
        let event_of = |entry: &Subscription| {
            let fits = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| matches(wanted, found));
            fits(&entry.source, &source.name) && fits(&entry.kind, source.kind.word())
        };
        let mut wanting = self.handlers.iter().filter(|h| h.tenant == source.tenant && h.on.iter().any(event_of));
        wanting.next().map(|handler| handler.name.clone())
    }
}

impl HandlerConfig {
    /// The values of `config` that came from the environment.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.from_environment.iter().filter_map(|key| self.config.get(key)).map(String::as_str)
    }
}

impl PluginRef {
    /// What a path names: a file by its extension, or the folder of a Rust crate.
    ///
    /// # Errors
    /// When there is nothing, or nothing that is known as code.
    pub fn of(path: &Path) -> Result<Self, String> {
        if path.join("Cargo.toml").is_file() {
            return Ok(Self::Cargo(path.to_owned()));
        }
        if !path.is_file() {
            return Err(format!("there is no {}, or it is a folder without a Cargo.toml", path.display()));
        }
        Self::by_name(path).ok_or_else(|| format!("{} is no plugin; {}", path.display(), Self::EXPECTED))
    }

    /// What is expected where a file with code is named.
    pub(crate) const EXPECTED: &str = "expected a `.wasm`, `.js`, `.mjs`, `.ts` or `.mts` file, or a folder";

    /// What a file is by its name.
    pub(crate) fn by_name(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "wasm" => Some(Self::Wasm(path.to_owned())),
            "js" | "mjs" | "ts" | "mts" => Some(Self::Script(path.to_owned())),
            _ => None,
        }
    }

    /// The file or folder.
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Wasm(path) | Self::Script(path) | Self::Cargo(path) | Self::Command { folder: path, .. } => path,
        }
    }
}

/// Which events a handler wants: all that is set must match; `*` matches any run of characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    /// The source's name.
    pub source: Option<String>,
    /// The source's kind.
    pub kind: Option<String>,
    /// The event's type.
    pub ty: Option<String>,
    /// The event's subject.
    pub subject: Option<String>,
    /// Extension attributes.
    pub attributes: BTreeMap<String, String>,
    /// Events that come by this entry are atomic, whatever the handler says.
    pub atomic: bool,
}

/// Which calls of a handler keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// None.
    None,
    /// Those with the same key: the `partitionkey` attribute, else the subject.
    Key,
    /// Those of one source.
    Source,
}

/// When a failed call is tried again: exponential with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often in all, 1 or more.
    pub attempts: u32,
    /// The first wait.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 5, min: Duration::from_millis(200), max: Duration::from_secs(30) }
    }
}

/// What a handler may do beyond logging, configuration, clocks and random numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grants {
    /// Hosts it may send requests to: `api.example.com`, `*.example.com`, `127.0.0.1:9000`.
    pub http: Vec<String>,
    /// Key-value: absent: none; `""`: all of the tenant's keys; else those that begin with it.
    pub keyvalue: Option<String>,
    /// Types of events it may emit, `*` matches.
    pub emit: Vec<String>,
}

impl Config {
    /// Where built components, compiled code and the admin token live: beside the store, or in the system's cache folder without one.
    pub fn cache_dir(&self) -> PathBuf {
        self.host.store.folder().map_or_else(|| std::env::temp_dir().join("koksmat-cache"), |folder| folder.join("cache"))
    }
}
