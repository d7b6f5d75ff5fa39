//! Webhooks accepted durably per second, as a ratio to the floor: the same rows, committed in groups with the same settings by nothing but
//! the database's client, in the same run.
//!
//!     tests/services/services.sh run cargo bench -p koksmat-tests --bench intake [-- sqlite postgres]
//!
//! On the host's side 64 connections that are kept alive send bodies of 1 KiB, each when it has the answer to the one before, while the
//! handler is busy with the first; sending is part of the measure. On the floor's side 64 writers each await the commit of an event's rows:
//! in SQLite by one thread that commits whatever waits, in PostgreSQL each on a connection of its own. Rounds alternate; the medians are
//! compared.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, missing_docs, reason = "a benchmark")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use koksmat::Host;
use koksmat_tests::{Folder, Inside, databases::Server};
use rusqlite::{Connection, params};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
};

/// The binary's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WRITERS: usize = 64;
/// Of each writer in a round.
const EVENTS: usize = 200;
const ROUNDS: usize = 7;
/// The most that one group of the floor commits.
const GROUP: usize = 256;
const HEADER: &str = r#"{"id":"018f2b6e-7c1a-7225-82d7-bd4458a13104","source":"/default/orders","type":"koksmat.webhook.request","subject":"/orders","time":"2026-11-23T03:02:49.016672Z","datacontenttype":"application/json"}"#;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("sqlite") {
            let folder = tempfile::tempdir().unwrap();
            compare("SQLite", "", Floor::sqlite(&folder.path().join("floor.db"))).await;
        }
        if wanted("postgres") {
            let (store, floor) = (Server::Postgres.database("intake").await, Server::Postgres.database("intake_floor").await);
            compare("PostgreSQL", &store.url(), Floor::postgres(&floor.url()).await).await;
        }
    });
}

async fn compare(what: &str, store: &str, floor: Floor) {
    let hosted = Hosted::start(store).await;
    floor.round(0).await;
    hosted.round(0).await;
    let (mut floors, mut hosts) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let (bare, host) = (floor.round(round).await, hosted.round(round).await);
        print(&format!("{what}, round {round}"), bare, host);
        floors.push(bare);
        hosts.push(host);
    }
    floors.sort();
    hosts.sort();
    print(&format!("{what}, medians"), floors[ROUNDS / 2], hosts[ROUNDS / 2]);
    hosted.host.shutdown().await;
}

fn print(what: &str, bare: Duration, host: Duration) {
    let rate = |took: Duration| (WRITERS * EVENTS) as f64 / took.as_secs_f64();
    println!("{what}: floor {:>8.0}/s, host {:>8.0}/s, {:.3}×", rate(bare), rate(host), rate(host) / rate(bare));
}

fn body() -> Bytes {
    format!("{{\"note\":\"{}\"}}", "x".repeat(1024 - 11)).into()
}

/// Run a writer as often as there are, side by side.
async fn side_by_side<F, Fut>(writer: F) -> Duration
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let started = Instant::now();
    let writers: Vec<_> = (0..WRITERS).map(|n| tokio::spawn(writer(n))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    started.elapsed()
}

/// The whole host with one webhook, whose handler is busy for ever.
struct Hosted {
    host: Host,
    address: String,
    _inside: Inside,
    _folder: Folder,
}

impl Hosted {
    async fn start(store: &str) -> Self {
        let inside = Inside::start(Duration::from_secs(3600)).await;
        let script = format!(
            "import {{ http }} from \"koksmat\";\nexport function handle(event) {{ http.fetch(\"{}\", {{ method: \"POST\", body: \"x\" }}); }}\n",
            inside.url()
        );
        let settings = format!("on = {{ source = \"orders\" }}\ntimeout = \"1h\"\ngrants = {{ http = [\"{}\"] }}", inside.address());
        let folder = Folder::new()
            .host("concurrency = 1\ndrain-deadline = \"0s\"")
            .toml("[sources.orders]\nkind = \"webhook\"\npath = \"/orders\"\nid-header = \"x-id\"\nbacklog = 100000000\nin-flight = 128\n")
            .script("busy", "busy.js", &script, &settings);
        let folder = if store.is_empty() { folder } else { folder.host("store = \"file:store-url\"").file("store-url", store) };
        let host = Host::builder().config(folder.config()).build().await.unwrap();
        host.ready().await;
        let address = host.listen_address().to_string();
        Self { host, address, _inside: inside, _folder: folder }
    }

    async fn round(&self, round: usize) -> Duration {
        let address = self.address.clone();
        side_by_side(|writer| {
            let address = address.clone();
            async move {
                let stream = TcpStream::connect(&address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                for n in 0..EVENTS {
                    let request = http::Request::post("/orders")
                        .header("host", &address)
                        .header("content-type", "application/json")
                        .header("x-id", format!("{round}-{writer}-{n}"));
                    let response = sender.send_request(request.body(Full::new(body())).unwrap()).await.unwrap();
                    assert_eq!(response.status(), 202);
                    response.into_body().collect().await.unwrap();
                }
            }
        })
        .await
    }
}

/// The database and nothing else.
enum Floor {
    Sqlite(mpsc::Sender<(String, oneshot::Sender<()>)>),
    Postgres(String),
}

impl Floor {
    fn sqlite(path: &Path) -> Self {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -16000; PRAGMA synchronous = FULL;")
            .unwrap();
        connection.execute_batch(include_str!("../../host/migrations/sqlite/0001_store.sql")).unwrap();
        let (queue, waiting) = mpsc::channel(1024);
        std::thread::spawn(move || group_commit(&connection, waiting));
        Self::Sqlite(queue)
    }

    async fn postgres(url: &str) -> Self {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(include_str!("../../host/migrations/postgres/0001_store.sql")).execute(&mut connection).await.unwrap();
        Self::Postgres(url.to_owned())
    }

    async fn round(&self, round: usize) -> Duration {
        match self {
            Self::Sqlite(queue) => {
                side_by_side(|writer| {
                    let queue = queue.clone();
                    async move {
                        for n in 0..EVENTS {
                            let (answer, committed) = oneshot::channel();
                            queue.send((format!("{round}-{writer}-{n}"), answer)).await.unwrap();
                            committed.await.unwrap();
                        }
                    }
                })
                .await
            }
            Self::Postgres(url) => {
                let mut connections = Vec::new();
                for _ in 0..WRITERS {
                    connections.push(Some(PgConnection::connect(url).await.unwrap()));
                }
                let connections = Arc::new(std::sync::Mutex::new(connections));
                side_by_side(|writer| {
                    let mut connection = connections.lock().unwrap()[writer].take().unwrap();
                    async move {
                        for n in 0..EVENTS {
                            write(&mut connection, format!("{round}-{writer}-{n}")).await;
                        }
                    }
                })
                .await
            }
        }
    }
}

/// Commit whatever waits.
fn group_commit(connection: &Connection, mut waiting: mpsc::Receiver<(String, oneshot::Sender<()>)>) {
    let body = body();
    while let Some(first) = waiting.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = waiting.try_recv()
        {
            group.push(next);
        }
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for (key, _) in &group {
            let mut accepted = connection
                .prepare_cached("INSERT INTO accepted (tenant, source, key, event_id, at) VALUES ('default', 'orders', ?1, ?1, 1)")
                .unwrap();
            accepted.execute([key]).unwrap();
            let mut event = connection.prepare_cached("INSERT INTO event (header, data) VALUES (?1, ?2)").unwrap();
            event.execute(params![HEADER, &*body]).unwrap();
            let mut task = connection
                .prepare_cached(
                    "INSERT INTO task (event, tenant, source, kind, handler, key, state, due, attempts, history, hops, accepted_at)
                     VALUES (?1, 'default', 'orders', 'webhook', 'busy', ?2, 0, 1, 0, '[]', 0, 1)",
                )
                .unwrap();
            task.execute(params![connection.last_insert_rowid(), key]).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        for (_, answer) in group {
            answer.send(()).unwrap();
        }
    }
}

async fn write(connection: &mut PgConnection, key: String) {
    const STATEMENT: &str = "
        WITH a AS (INSERT INTO accepted (tenant, source, key, event_id, at) VALUES ('default', 'orders', $1, $1, 1)),
            e AS (INSERT INTO event (id, header, data) VALUES (nextval('event_id'), $2, $3) RETURNING id)
        INSERT INTO task (event, tenant, source, kind, handler, key, state, due, attempts, history, hops, accepted_at)
        SELECT e.id, 'default', 'orders', 'webhook', 'busy', $1, 0, 1, 0, '[]', 0, 1 FROM e";
    sqlx::query(AssertSqlSafe(STATEMENT)).bind(key).bind(HEADER).bind(&*body()).execute(connection).await.unwrap();
}
