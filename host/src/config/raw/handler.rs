//! `[handlers.NAME]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{At, Backoff, ConfigValue, Keyvalue, OneOrMany, Percent, Size, Table, Time};
use crate::config::{Order, ShareOf};

/// A named use of a plugin: which code, for which events, with which limits and grants.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Handler {
    /// The code: a `.wasm` component, a `.js` or `.ts` file, a folder with a `Cargo.toml`, or a folder with a `build` command.
    #[schemars(required)]
    pub(crate) plugin: Option<At<String>>,
    /// How the plugin's folder is built, where it is not a Cargo package.
    pub(crate) build: Option<At<Table<Build>>>,
    /// Which events it wants: any of these.
    #[schemars(required)]
    pub(crate) on: Option<OneOrMany<Table<Subscription>>>,
    /// Its calls, and those of every other atomic handler, never overlap: they are serialised by a mutex (it is no transaction).
    /// Default: false.
    pub(crate) atomic: Option<bool>,
    /// When a call is cut, `1ms` to `1h`. Default: `5s`.
    pub(crate) timeout: Option<At<Time>>,
    /// The most memory a call may have, `1MiB` to `1GiB`. Default: `64MiB`.
    pub(crate) memory: Option<At<Size>>,
    /// The most calls of it side by side. Default: as many as the host's.
    pub(crate) concurrency: Option<At<u64>>,
    /// Which of its calls keep their order: `none`, `key` (the `partitionkey` attribute, else the subject) or `source`. Default: `none`.
    pub(crate) order: Option<At<Order>>,
    /// When a failed call is tried again.
    pub(crate) retry: Option<Table<Retry>>,
    /// What `wasi:config` shows the guest. `${NAME}` is replaced by the environment variable, `$${` is `${`.
    #[serde(default)]
    pub(crate) config: BTreeMap<String, At<ConfigValue>>,
    /// A dead letter keeps what the host calls of the last attempt gave it (values of keys, answers to requests; at most about a MiB), for
    /// `koksmat test`. Default: true.
    pub(crate) record: Option<bool>,
    /// What it may do beyond logging, configuration, clocks and random numbers.
    pub(crate) grants: Option<Table<Grants>>,
    /// Events that new code must handle before it serves: files in the JSON format of CloudEvents. Their effects are thrown away, and of
    /// its requests only GET and HEAD are sent.
    pub(crate) self_test: Option<OneOrMany<String>>,
    /// How new code comes to serve: beside the old, until it is known to be as good. Default: at once.
    pub(crate) canary: Option<Table<Canary>>,
    /// On which code a failed call is tried again: `current`, or `same` as it failed on, for as long as that is there. Default: `current`.
    pub(crate) retry_on: Option<RetryOn>,
}

/// On which code a failed call is tried again.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RetryOn {
    /// On what serves by then.
    Current,
    /// On what it failed on.
    Same,
}

/// How new code comes to serve beside the old.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Canary {
    /// The share of the new code, `1%` to `100%`. Default: `10%`.
    pub(crate) share: Option<At<Percent>>,
    /// Of what: `events`, or `keys` (the `partitionkey` attribute, else the subject). Default: `events`.
    pub(crate) by: Option<ShareOf>,
    /// How long it serves beside the old at least. Default: `2m`.
    #[serde(rename = "for")]
    pub(crate) time: Option<At<Time>>,
    /// How many calls it must have had. Default: 200.
    pub(crate) min_calls: Option<At<u64>>,
    /// Which share of its calls may fail beyond those of the old. Default: `1%`.
    pub(crate) max_errors: Option<At<Percent>>,
    /// How many percent of the time that calls of the old take its calls may take. Default: `200%`.
    pub(crate) max_slowdown: Option<At<Percent>>,
    /// Throw its effects away and compare what it comes to with what the old comes to, which serves alone. Default: false.
    pub(crate) shadow: Option<bool>,
}

/// How a plugin's folder is built.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Build {
    /// Program and arguments; it runs in the plugin's folder.
    #[schemars(required)]
    pub(crate) command: Option<At<Vec<String>>>,
    /// The component it makes. Like every path, relative to this file.
    #[schemars(required)]
    pub(crate) output: Option<At<String>>,
}

/// Which events a handler wants: all that is set must match, `*` matches any run of characters.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Subscription {
    /// The name of a source, or `emit`.
    pub(crate) source: Option<At<String>>,
    /// A kind of source: `embedded`, `poller`, `webhook`, `timer`.
    pub(crate) kind: Option<At<String>>,
    /// The event's CloudEvents type.
    #[serde(rename = "type")]
    pub(crate) ty: Option<At<String>>,
    /// The event's CloudEvents subject.
    pub(crate) subject: Option<At<String>>,
    /// CloudEvents extension attributes.
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, At<String>>,
    /// Calls that come by this entry are atomic, whatever the handler says. Default: false.
    pub(crate) atomic: Option<bool>,
}

/// When a failed call is tried again: exponential with jitter.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Retry {
    /// How often in all, 1 to 100. Default: 5.
    pub(crate) attempts: Option<At<u64>>,
    /// The first and the longest wait. Default: `200ms..30s`.
    pub(crate) backoff: Option<At<Backoff>>,
}

/// What a handler may do beyond logging, configuration, clocks and random numbers. Nothing unless it is granted.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Grants {
    /// Hosts it may send requests to: `api.example.com`, `*.example.com`, `api.example.com:8443`. A private address needs its port:
    /// `127.0.0.1:9000`.
    pub(crate) http: Vec<At<String>>,
    /// Key-value: true for all of the tenant's keys, or a prefix: `stock/`. Default: false.
    pub(crate) keyvalue: Option<At<Keyvalue>>,
    /// Types of events it may emit, `*` matches: `orders.*`.
    pub(crate) emit: Vec<At<String>>,
}
