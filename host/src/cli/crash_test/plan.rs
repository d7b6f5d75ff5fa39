//! What is tested: the configuration with observers in it, on a store and addresses of the test's own.

use std::{
    fs::OpenOptions,
    io::Write,
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use koksmat::{
    Config,
    config::{Reply, SourceConfig, SourceKind, StoreConfig},
    source::queue::stand_in::StandIn,
};
use tempfile::TempDir;
use toml::{Table, Value};

use crate::cli::Failure;

/// The handler that observes.
const SCRIPT: &str = include_str!("observer.js");
/// What the handlers of the test are called: this, and the source.
pub(super) const PREFIX: &str = "crash-test-";

/// How events get into a source.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// Through the control socket, each key in order.
    Queue,
    /// By HTTP, to this path.
    Webhook { path: String },
    /// By its broker, where it reads this in place of what is somebody else's.
    Broker(Arc<StandIn>),
}

/// A source that is fed.
#[derive(Debug, Clone)]
pub(super) struct Fed {
    pub(super) source: String,
    pub(super) way: Way,
}

impl Fed {
    /// The handler that observes it.
    pub(super) fn handler(&self) -> String {
        format!("{PREFIX}{}", self.source)
    }

    /// Whether the events of one key are to be handled in their order.
    fn is_ordered(&self) -> bool {
        match &self.way {
            Way::Queue => true,
            Way::Webhook { .. } => false,
            Way::Broker(stand_in) => stand_in.keeps_order(),
        }
    }
}

/// A test that can begin.
pub(super) struct Plan {
    pub(super) fed: Vec<Fed>,
    /// Sources that get no more events than they get anyway, and why.
    pub(super) not_fed: Vec<(String, String)>,
    /// The handlers of the configuration.
    pub(super) handlers: Vec<String>,
    /// The changed configuration. It lies beside the other, whose paths are relative to it, and goes with this.
    pub(super) file: PathBuf,
    pub(super) store: StoreConfig,
    pub(super) listen: SocketAddr,
    pub(super) log: PathBuf,
    pub(super) drain_deadline: Option<Duration>,
    /// Environment variables that the configuration refers to.
    pub(super) references: Vec<String>,
    /// What this run is called, in its keys and ids.
    pub(super) run: String,
    /// What the keys of this run begin with.
    pub(super) keys: String,
    folder: TempDir,
    keep: AtomicBool,
}

impl Drop for Plan {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
        if self.keep.load(Ordering::Relaxed) {
            self.folder.disable_cleanup(true);
        }
    }
}

impl Plan {
    /// Topics and queues that it makes on brokers are [removed](Self::remove_stand_ins) by whoever carries it out.
    pub(super) async fn of(path: &Path, seed: u64, observer: SocketAddr) -> Result<Self, Failure> {
        let config = Config::load(path)?;
        let run = format!("{seed}-{}", std::process::id());
        let (mut fed, mut not_fed) = (Vec::new(), Vec::new());
        for source in &config.sources {
            match way_into(source, &run).await {
                Ok(way) => fed.push(Fed { source: source.name.clone(), way }),
                Err(why) => not_fed.push((source.name.clone(), why)),
            }
        }
        if fed.is_empty() {
            let why = not_fed.iter().map(|(source, why)| format!("\n  {source}: {why}")).collect::<String>();
            return Err(Failure::usage(format!(
                "{}: there is no source that could be fed: an embedded queue, or a webhook that answers when an event is accepted, or a queue of Kafka or \
                 RabbitMQ{why}",
                config.file.display()
            )));
        }
        let made = fed.clone();
        match Self::with(&config, fed, not_fed, run, observer) {
            Ok(plan) => Ok(plan),
            Err(failure) => {
                remove_stand_ins(&made).await;
                Err(failure)
            }
        }
    }

    fn with(config: &Config, fed: Vec<Fed>, not_fed: Vec<(String, String)>, run: String, observer: SocketAddr) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(&config.file).map_err(|error| Failure::usage(format!("{}: {error}", config.file.display())))?;
        // Loading has seen that it is TOML.
        let mut table: Table = text.parse().map_err(|error| Failure::usage(format!("{}: {error}", config.file.display())))?;
        let folder = tempfile::Builder::new().prefix("koksmat-crash-test-").tempdir().map_err(failed)?;

        let script = folder.path().join("observer.js");
        std::fs::write(&script, SCRIPT).map_err(failed)?;
        let store = match &config.host.store {
            StoreConfig::Postgres { .. } => None,
            StoreConfig::Sqlite(_) | StoreConfig::Memory => Some(folder.path().join("data").join("koksmat.db")),
        };
        let listen = free_address().map_err(failed)?;
        let host = section(&mut table, "host");
        host.insert("listen".into(), listen.to_string().into());
        host.insert("admin".into(), "127.0.0.1:0".into());
        if let Some(store) = &store {
            host.insert("store".into(), format!("sqlite:{}", store.display()).into());
        }
        for fed in &fed {
            if let Some(Value::Table(source)) = section(&mut table, "sources").get_mut(&fed.source) {
                read_what_is_fed(source, &fed.way);
            }
            section(&mut table, "handlers").insert(fed.handler(), Value::Table(observer_of(fed, &script, observer, &run)));
        }
        let mut references = Vec::new();
        refer(&Value::Table(table.clone()), &mut references);
        let file = config.file.with_file_name(format!(".crash-test-{run}.toml"));
        let text = toml::to_string(&table).map_err(failed)?;
        // It may hold what the other does not show to everybody.
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| {
            Failure::start(format!("cannot write {} beside the configuration, whose paths are relative to it: {error}", file.display()))
        })?;
        let plan = Self {
            handlers: config.handlers.iter().map(|handler| handler.name.clone()).collect(),
            store: store.map_or_else(|| config.host.store.clone(), StoreConfig::Sqlite),
            drain_deadline: config.host.drain_deadline,
            log: folder.path().join("host.log"),
            keys: format!("crash-test/{run}/"),
            run,
            fed,
            not_fed,
            file,
            listen,
            references,
            folder,
            keep: AtomicBool::new(false),
        };
        // What is wrong with it is known before anything starts.
        Config::load(&plan.file)?;
        Ok(plan)
    }

    /// Remove what was made on brokers. What could not be removed, and why.
    pub(super) async fn remove_stand_ins(&self) -> Vec<String> {
        remove_stand_ins(&self.fed).await
    }

    /// Whether any source is fed by a broker.
    pub(super) fn feeds_brokers(&self) -> bool {
        stand_ins(&self.fed).next().is_some()
    }

    /// Whether a broker has something that was not acknowledged, or does not say.
    pub(super) async fn brokers_hold_something(&self) -> bool {
        for stand_in in stand_ins(&self.fed) {
            if !matches!(stand_in.is_consumed().await, Ok(true)) {
                return true;
            }
        }
        false
    }

    /// The sources that are fed.
    pub(super) fn fed_names(&self) -> String {
        self.fed.iter().map(|fed| fed.source.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The store and the log stay, for whoever wants to know more.
    pub(super) fn keep(&self) -> &Path {
        self.keep.store(true, Ordering::Relaxed);
        self.folder.path()
    }

    /// The test could not be carried out.
    pub(super) fn failed(&self, why: String) -> Failure {
        Failure::start(format!("{why}; the host's log: {}", self.keep().join("host.log").display()))
    }
}

fn stand_ins(fed: &[Fed]) -> impl Iterator<Item = &StandIn> {
    fed.iter().filter_map(|fed| match &fed.way {
        Way::Broker(stand_in) => Some(&**stand_in),
        Way::Queue | Way::Webhook { .. } => None,
    })
}

async fn remove_stand_ins(fed: &[Fed]) -> Vec<String> {
    let mut left = Vec::new();
    for stand_in in stand_ins(fed) {
        left.extend(stand_in.remove().await.err());
    }
    left
}

/// How events get into a source, or why none do.
async fn way_into(source: &SourceConfig, run: &str) -> Result<Way, String> {
    match &source.kind {
        SourceKind::Embedded(_) => Ok(Way::Queue),
        SourceKind::Webhook(webhook) if webhook.reply == Reply::Accepted => Ok(Way::Webhook { path: webhook.path.clone() }),
        SourceKind::Webhook(_) => Err("it answers with its handler's response, and can have no second one".into()),
        SourceKind::Timer(_) => Err("it fires by itself".into()),
        SourceKind::Poller(_) => Err("what it reads is somebody else's".into()),
        SourceKind::Kafka(_) | SourceKind::Rabbitmq(_) => {
            let stand_in = StandIn::create(source, &format!("{PREFIX}{run}-{}", source.name)).await?;
            Ok(Way::Broker(Arc::new(stand_in)))
        }
    }
}

/// Have a source read what it is fed with, and nothing else.
fn read_what_is_fed(source: &mut Table, way: &Way) {
    match way {
        Way::Queue => {}
        Way::Webhook { .. } => {
            source.remove("verify");
            source.insert("id-header".into(), "x-crash-test-id".into());
        }
        Way::Broker(stand_in) if source.contains_key("topics") => {
            source.insert("topics".into(), Value::Array(vec![stand_in.name().into()]));
            // A group of its own, from the beginning: what the other has committed is of the other topic.
            source.insert("group".into(), stand_in.name().into());
            source.insert("start".into(), "earliest".into());
            // Who takes the place of a member that was killed need not wait until its session is over.
            if let Value::Table(settings) = source.entry("settings").or_insert_with(|| Value::Table(Table::new())) {
                settings.entry("group.instance.id").or_insert_with(|| stand_in.name().into());
            }
        }
        Way::Broker(stand_in) => drop(source.insert("queue".into(), stand_in.name().into())),
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::start(format!("cannot prepare the test: {error}"))
}

/// Free now: the host that is about to listen there will say if it is not any more.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

fn section<'a>(table: &'a mut Table, name: &str) -> &'a mut Table {
    let section = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
    if !section.is_table() {
        *section = Value::Table(Table::new());
    }
    match section {
        Value::Table(table) => table,
        _ => unreachable!("it is a table by now"),
    }
}

fn observer_of(fed: &Fed, script: &Path, observer: SocketAddr, run: &str) -> Table {
    let ordered = fed.is_ordered();
    let table = |pairs: Vec<(&str, Value)>| Value::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
    let text = |text: &str| Value::String(text.to_owned());
    let on = table(vec![("source", text(&fed.source))]);
    let config =
        vec![("observer", text(&format!("http://{observer}/"))), ("run", text(run)), ("ordered", text(if ordered { "yes" } else { "no" }))];
    let grants = vec![("keyvalue", text("crash-test/")), ("http", Value::Array(vec![text(&observer.to_string())]))];
    let retry = vec![("attempts", Value::Integer(20)), ("backoff", text("100ms..2s"))];
    [
        ("plugin", text(&script.display().to_string())),
        ("on", Value::Array(vec![on])),
        ("order", text(if ordered { "key" } else { "none" })),
        ("timeout", text("30s")),
        ("retry", table(retry)),
        ("config", table(config)),
        ("grants", table(grants)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// The environment variables that a configuration refers to.
fn refer(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::String(text) => references.extend(text.strip_prefix("env:").map(str::to_owned)),
        Value::Array(values) => values.iter().for_each(|value| refer(value, references)),
        Value::Table(table) => table.iter().for_each(|(_, value)| refer(value, references)),
        _ => {}
    }
}
