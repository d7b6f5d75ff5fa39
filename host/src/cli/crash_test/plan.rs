//! What is tested: the configuration with observers in it, on a store and addresses of the test's own.

use std::{
    fs::OpenOptions,
    io::Write,
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use koksmat::{
    Config,
    config::{Reply, SourceKind, StoreConfig},
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
}

/// A test that can begin.
pub(super) struct Plan {
    pub(super) fed: Vec<Fed>,
    /// Sources that get no more events than they get anyway, and why.
    pub(super) not_fed: Vec<(String, &'static str)>,
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
    pub(super) fn of(path: &Path, seed: u64, observer: SocketAddr) -> Result<Self, Failure> {
        let config = Config::load(path)?;
        let text = std::fs::read_to_string(&config.file).map_err(|error| Failure::usage(format!("{}: {error}", config.file.display())))?;
        // Loading has seen that it is TOML.
        let mut table: Table = text.parse().map_err(|error| Failure::usage(format!("{}: {error}", config.file.display())))?;
        let folder = tempfile::Builder::new().prefix("koksmat-crash-test-").tempdir().map_err(failed)?;
        let run = format!("{seed}-{}", std::process::id());

        let script = folder.path().join("observer.js");
        std::fs::write(&script, SCRIPT).map_err(failed)?;
        let (mut fed, mut not_fed) = (Vec::new(), Vec::new());
        for source in &config.sources {
            let way = match &source.kind {
                SourceKind::Embedded(_) => Way::Queue,
                SourceKind::Webhook(webhook) if webhook.reply == Reply::Accepted => Way::Webhook { path: webhook.path.clone() },
                SourceKind::Webhook(_) => {
                    not_fed.push((source.name.clone(), "it answers with its handler's response, and can have no second one"));
                    continue;
                }
                SourceKind::Timer(_) => {
                    not_fed.push((source.name.clone(), "it fires by itself"));
                    continue;
                }
                SourceKind::Kafka(_) | SourceKind::Rabbitmq(_) | SourceKind::Poller(_) => {
                    not_fed.push((source.name.clone(), "what it reads is somebody else's"));
                    continue;
                }
            };
            fed.push(Fed { source: source.name.clone(), way });
        }
        if fed.is_empty() {
            return Err(Failure::usage(format!(
                "{}: there is no source that could be fed: an embedded queue, or a webhook that answers when an event is accepted",
                config.file.display()
            )));
        }
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
            if let Way::Webhook { .. } = fed.way
                && let Some(Value::Table(source)) = section(&mut table, "sources").get_mut(&fed.source)
            {
                source.remove("verify");
                source.insert("id-header".into(), "x-crash-test-id".into());
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
    let ordered = matches!(fed.way, Way::Queue);
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
