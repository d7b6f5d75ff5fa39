//! The configuration as it is written: one type for each table, one field for each key. The comments are the reference: the JSON Schema
//! shows them in editors. Nothing is checked here beyond what a single value looks like.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::transform_subschemas};
use serde::Deserialize;

mod broker;
mod handler;
mod sink;
mod source;
mod value;

pub(crate) use broker::{Amqp, Cluster, Mechanism, Sasl, Settings, Tls};
pub(crate) use handler::{Build, Canary, Grants, Handler, Retry, RetryOn, Subscription};
pub(crate) use sink::Sink;
pub(crate) use source::{Claim, Common, Cursor, Declare, Embedded, Kafka, Poller, Rabbitmq, SchemeWord, Source, Timer, Verify, Webhook};
pub(crate) use value::{At, Backoff, ConfigValue, Keyvalue, OneOrMany, Percent, Reference, Setting, Size, Table, Time, TimeOrNone};

/// koksmat.toml: one event host. Durations and sizes are written with units (`5s`, `64MiB`), relative paths are relative to the file, and
/// secrets are references: `env:NAME` or `file:PATH`.
#[derive(JsonSchema)]
#[schemars(title = "koksmat.toml", deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used: tables are read one by one, so that each is read whatever is wrong with the others")]
struct File {
    /// The host itself.
    host: Option<Host>,
    /// What makes events, by name.
    sources: Option<BTreeMap<String, Source>>,
    /// What is done with them, by name.
    handlers: Option<BTreeMap<String, Handler>>,
    /// Where emitted events are published, by name.
    sinks: Option<BTreeMap<String, Sink>>,
}

/// The host itself.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Host {
    /// Address and port for webhooks and `POST /queues/NAME`. Default: `127.0.0.1:8080`. Port 0 takes a free one.
    pub(crate) listen: Option<At<String>>,
    /// Address and port for `/livez`, `/readyz` and `/metrics`. Default: `127.0.0.1:8081`.
    pub(crate) admin: Option<At<String>>,
    /// Where the durable state is: `sqlite:PATH` (its folder is made), `postgres://USER@HOST/DATABASE`, which several hosts may share, or
    /// `memory`. `env:NAME` or `file:PATH` for a URL that holds a password. Default: `sqlite:data/koksmat.db`.
    pub(crate) store: Option<At<Reference>>,
    /// Calls side by side, 1 to 10000. Default: 64.
    pub(crate) concurrency: Option<At<u64>>,
    /// How long a stop waits for calls in flight, or `none`: as long as it takes. Default: `30s`.
    pub(crate) drain_deadline: Option<At<TimeOrNone>>,
    /// Not ready, still serving, for this long before a stop begins (for load balancers). Default: `0s`.
    pub(crate) drain_delay: Option<At<Time>>,
    /// Reload on change. Default: true.
    pub(crate) watch: Option<bool>,
    /// How long settled calls and the keys of events are remembered. Default: `7d`.
    pub(crate) dedup_for: Option<At<Time>>,
    /// How long dead letters are kept. Default: `30d`.
    pub(crate) keep_dead_letters: Option<At<Time>>,
    /// How long accepted events are kept in the store so that `koksmat replay` can have them handled again, up to `30d`. Events that are
    /// handled directly from a broker or a database are not. Default: `0s`, not at all.
    pub(crate) keep_events: Option<At<Time>>,
    /// The most that kept events have together, `1MiB` or more; the oldest are forgotten first, every ten seconds. Default: `256MiB`.
    pub(crate) keep_events_size: Option<At<Size>>,
}

/// The JSON Schema of `koksmat.toml`, for editors.
pub fn json_schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().with_transform(without_null);
    settings.into_generator().into_root_schema_for::<File>().into()
}

/// TOML has no null: a key that need not be there is left out.
fn without_null(schema: &mut Schema) {
    transform_subschemas(&mut without_null, schema);
    let Some(object) = schema.as_object_mut() else { return };
    if object.get("default").is_some_and(serde_json::Value::is_null) {
        object.remove("default");
    }
    if let Some(types) = object.get_mut("type").and_then(|types| types.as_array_mut()) {
        types.retain(|ty| ty != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".into(), only);
        }
    }
    if let Some(choices) = object.get_mut("anyOf").and_then(|choices| choices.as_array_mut()) {
        choices.retain(|choice| choice.get("type").is_none_or(|ty| ty != "null"));
        if let [serde_json::Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
}
