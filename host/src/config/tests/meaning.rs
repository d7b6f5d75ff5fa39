//! What a good configuration means: defaults, units, paths.

use std::time::Duration;

use super::*;
use crate::config::{
    ClaimDone, ConditionOn, DigestEncoding, Missed, Order, Overlap, PluginRef, PollMode, Reply, Scheme, SourceKind, StoreConfig, Unmatched,
    json_schema,
};

const SMALLEST: &str = r#"
[sources.orders]
kind = "embedded"

[handlers.reserve]
plugin = "a.js"
on = { source = "orders" }
"#;

#[test]
fn an_empty_file_is_a_host_with_the_documented_defaults() {
    let folder = Folder::new();
    let config = folder.parse("").unwrap();
    assert_eq!(config.file, folder.path().join("koksmat.toml"));
    assert_eq!(config.host.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.host.admin.to_string(), "127.0.0.1:8081");
    assert_eq!(config.host.store, StoreConfig::Sqlite(folder.path().join("data/koksmat.db")));
    assert_eq!(config.host.concurrency, 64);
    assert_eq!(config.host.drain_deadline, Some(Duration::from_secs(30)));
    assert_eq!(config.host.drain_delay, Duration::ZERO);
    assert!(config.host.watch);
    assert_eq!(config.host.dedup_for, Duration::from_secs(7 * 86_400));
    assert_eq!(config.host.keep_dead_letters, Duration::from_secs(30 * 86_400));
    assert_eq!((config.host.keep_events, config.host.keep_events_size), (Duration::ZERO, 256 << 20));
    assert!(config.sources.is_empty() && config.handlers.is_empty() && config.warnings.is_empty());
}

#[test]
fn sources_and_handlers_have_the_documented_defaults() {
    let config = good(SMALLEST);
    let source = &config.sources[0];
    assert_eq!((source.tenant.as_str(), source.name.as_str(), source.in_flight), ("default", "orders", 256));
    assert_eq!(source.unmatched, Unmatched::DeadLetter);
    let SourceKind::Embedded(queue) = &source.kind else { panic!("{source:?}") };
    assert_eq!((queue.backlog, queue.max_body), (100_000, 1 << 20));

    let handler = &config.handlers[0];
    assert_eq!((handler.tenant.as_str(), handler.name.as_str()), ("default", "reserve"));
    assert_eq!(handler.on.len(), 1);
    assert_eq!(handler.on[0].source.as_deref(), Some("orders"));
    assert!(!handler.atomic && !handler.on[0].atomic);
    assert_eq!((handler.timeout, handler.memory, handler.concurrency), (Duration::from_secs(5), 64 << 20, None));
    assert_eq!(handler.order, None);
    assert_eq!(handler.retry.attempts, 5);
    assert_eq!((handler.retry.min, handler.retry.max), (Duration::from_millis(200), Duration::from_secs(30)));
    assert!(handler.config.is_empty());
    assert_eq!(handler.grants, crate::config::Grants::default());
}

/// The example of the design, without what is not in this version, and what else there is.
pub(super) const FULL: &str = r#"
[host]
listen = "127.0.0.1:8080"
admin  = "127.0.0.1:8081"
store  = "sqlite:data/koksmat.db"
concurrency = 64
drain-deadline = "none"
drain-delay = "2s"
watch = false

[sources.orders]
kind = "embedded"
in-flight = 32
unmatched = "ignore"

[sources.due-invoices]
kind = "poller"
database = "env:BILLING_DATABASE_URL"
every = "2s"
intake = "direct"
claim = { table = "invoice_outbox", key = "id", where = "due_at <= now()", done = "set status = 'sent'" }

[sources.prices]
kind = "poller"
database = "sqlite:prices.db"
every = "1m"
query = "select * from prices"
key = "id"
version = "updated_at"

[sources.crowded]
kind = "poller"
database = "sqlite:///var/lib/jobs.db?mode=ro"
every = "500ms"
condition = "select count(*) > 100 from jobs"
on = "change"

[sources.github]
kind = "webhook"
path = "/github"
verify = { scheme = "github", secret = ["env:SECRET", "env:WHSEC"] }
reply = "accepted"
headers = ["X-GitHub-Event"]
max-body = "25MiB"

[sources.shop]
kind = "webhook"
path = "/shop"
verify = { scheme = "hmac", secret = "env:SECRET", header = "X-Shop-Digest", prefix = "sha256=", encoding = "base64" }
id-header = "X-Shop-Delivery"

[sources.nightly]
kind = "timer"
cron = "0 3 * * *"
zone = "Europe/Copenhagen"
missed = "all"
overlap = "queue"

[handlers.invoice]
plugin = "plugins/invoice.wasm"
on = [{ source = "orders", type = "order.created", atomic = true }, { kind = "timer", subject = "night*", attributes = { region = "eu" } }]
atomic = true
timeout = "5s"
memory = "64MiB"
concurrency = 16
order = "key"
retry = { attempts = 5, backoff = "200ms..30s" }
config = { currency = "EUR", region = "${REGION}!", price = 2.5, limit = 10, dry = false, text = "$${REGION}" }
grants = { http = ["api.example.com"], keyvalue = true, emit = ["orders.*"] }

[handlers.audit]
plugin = "rust"
on = { type = "*" }
grants = { keyvalue = "audit/" }

[handlers.made]
plugin = "made"
on = { source = "emit" }
build = { command = ["make", "plugin.wasm"], output = "made/plugin.wasm" }
"#;

#[test]
fn a_full_configuration_is_understood() {
    let folder = Folder::new();
    folder.write("plugins/invoice.wasm", "");
    let config = folder.parse(FULL).unwrap_or_else(|problems| panic!("{problems}"));
    let path = |name: &str| folder.path().join(name);
    assert_eq!(config.warnings, []);
    assert_eq!(config.host.drain_deadline, None);
    assert!(!config.host.watch);

    let names: Vec<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["orders", "due-invoices", "prices", "crowded", "github", "shop", "nightly"]);
    let [orders, due, prices, crowded, github, shop, nightly] = &config.sources[..] else { panic!() };
    assert_eq!((orders.in_flight, orders.unmatched), (32, Unmatched::Ignore));

    let SourceKind::Poller(due) = &due.kind else { panic!() };
    assert_eq!(due.database.expose(), format!("sqlite:{}", path("billing.db").display()));
    assert_eq!(due.every, Duration::from_secs(2));
    let PollMode::Claim { table, key, filter, done, lease } = &due.mode else { panic!() };
    assert_eq!((table.as_str(), key.as_str(), filter.as_deref()), ("invoice_outbox", "id", Some("due_at <= now()")));
    assert_eq!((done, *lease), (&ClaimDone::Set("status = 'sent'".into()), Duration::from_secs(30)));

    let SourceKind::Poller(prices) = &prices.kind else { panic!() };
    let PollMode::Query { key, version, .. } = &prices.mode else { panic!() };
    assert_eq!((key.as_str(), version.as_deref()), ("id", Some("updated_at")));

    let SourceKind::Poller(crowded) = &crowded.kind else { panic!() };
    assert_eq!(crowded.database.expose(), "sqlite:/var/lib/jobs.db?mode=ro");
    assert!(matches!(crowded.mode, PollMode::Condition { on: ConditionOn::Change, .. }));

    let SourceKind::Webhook(github) = &github.kind else { panic!() };
    let verify = github.verify.as_ref().unwrap();
    assert_eq!((&verify.scheme, verify.secrets.len(), verify.tolerance), (&Scheme::Github, 2, Duration::from_secs(300)));
    assert_eq!(verify.secrets[0].expose(), "hunter2");
    assert_eq!((github.reply, github.max_body, github.backlog), (Reply::Accepted, 25 << 20, 100_000));
    assert_eq!(github.headers, ["x-github-event"]);

    let SourceKind::Webhook(shop) = &shop.kind else { panic!() };
    let scheme = Scheme::Hmac { header: "x-shop-digest".into(), prefix: "sha256=".into(), encoding: DigestEncoding::Base64 };
    assert_eq!(shop.verify.as_ref().unwrap().scheme, scheme);
    assert_eq!((shop.max_body, shop.id_header.as_deref()), (1 << 20, Some("x-shop-delivery")));

    let SourceKind::Timer(nightly) = &nightly.kind else { panic!() };
    assert_eq!((nightly.zone.as_str(), nightly.missed, nightly.overlap), ("Europe/Copenhagen", Missed::All, Overlap::Queue));

    let [invoice, audit, made] = &config.handlers[..] else { panic!() };
    assert_eq!(invoice.plugin, PluginRef::Wasm(path("plugins/invoice.wasm")));
    assert_eq!(invoice.on.len(), 2);
    assert!(invoice.on[0].atomic);
    assert_eq!(invoice.on[1].attributes["region"], "eu");
    assert_eq!((invoice.concurrency, invoice.order), (Some(16), Some(Order::Key)));
    let shown: Vec<String> = invoice.config.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(invoice.from_environment, ["region".to_owned()].into(), "what must not go into a recording");
    assert!(invoice.record);
    assert_eq!(shown, ["currency=EUR", "dry=false", "limit=10", "price=2.5", "region=eu-west-1!", "text=${REGION}"]);
    assert_eq!((invoice.grants.keyvalue.as_deref(), &invoice.grants.emit[..]), (Some(""), &["orders.*".to_owned()][..]));
    assert_eq!(audit.plugin, PluginRef::Cargo(path("rust")));
    assert_eq!(audit.grants.keyvalue.as_deref(), Some("audit/"));
    let command = vec!["make".to_owned(), "plugin.wasm".to_owned()];
    assert_eq!(made.plugin, PluginRef::Command { folder: path("made"), command, output: path("made/plugin.wasm") });
}

#[test]
fn timers_and_webhooks_have_the_documented_defaults() {
    let config = good("[sources.t]\nkind = \"timer\"\ncron = \"@daily\"\n[sources.w]\nkind = \"webhook\"\npath = \"/w\"\n");
    let [timer, webhook] = &config.sources[..] else { panic!() };
    let SourceKind::Timer(timer) = &timer.kind else { panic!() };
    assert_eq!((timer.zone.as_str(), timer.missed, timer.overlap), ("UTC", Missed::Once, Overlap::Allow));
    let SourceKind::Webhook(webhook) = &webhook.kind else { panic!() };
    assert_eq!((webhook.reply, webhook.max_body, webhook.backlog), (Reply::Accepted, 1 << 20, 100_000));
    assert!(webhook.verify.is_none() && webhook.headers.is_empty() && webhook.id_header.is_none());
}

#[test]
fn a_folder_or_a_file_is_loaded_and_paths_are_relative_to_the_file() {
    let folder = Folder::new();
    folder.write("koksmat.toml", SMALLEST);
    let script = PluginRef::Script(folder.path().join("a.js"));
    assert_eq!(Config::load(folder.path()).unwrap().handlers[0].plugin, script);
    assert_eq!(Config::load(&folder.path().join("koksmat.toml")).unwrap().handlers[0].plugin, script);
}

#[test]
fn an_embedding_program_may_bring_sources_of_its_own() {
    let folder = Folder::new();
    folder.write("koksmat.toml", "[handlers.h]\nplugin = \"a.js\"\non = { source = \"sensors\" }\n");
    assert!(Config::load(folder.path()).is_err());
    let config = Config::load_with_sources(folder.path(), &["sensors"]).unwrap();
    assert_eq!(config.warnings, []);
}

#[test]
fn the_schema_knows_every_key_and_its_form() {
    let schema = json_schema();
    let text = schema.to_string();
    for key in ["drain-deadline", "dedup-for", "in-flight", "max-body", "id-header", "keyvalue", "backoff", "lease", "output"] {
        assert!(text.contains(&format!("\"{key}\":")), "{key}");
    }
    assert!(!text.contains("null"), "TOML has no null");
    assert_eq!(schema["additionalProperties"], false);
    let handler = &schema["$defs"]["Handler"];
    assert_eq!(handler["required"], serde_json::json!(["plugin", "on"]));
    assert_eq!(handler["additionalProperties"], false);
    let kinds: Vec<&str> = schema["$defs"]["Source"]["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| kind["properties"]["kind"]["const"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["kafka", "rabbitmq", "embedded", "poller", "webhook", "timer"]);
}
