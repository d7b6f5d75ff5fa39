//! Events from every kind of source at once, and whether each that was accepted was handled exactly once by each of its handlers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Folder, Inside, Process, host::try_request};

/// Counts each event under its own key, and lets `echo` know.
const QUICK: &str = r#"
    import { keyvalue, emit } from "koksmat";
    export function handle(event, ctx) {
      keyvalue.add(`${ctx.handler}/${event.id}`, 1);
      emit({ type: "handled", data: { id: event.id } });
      return { id: event.id };
    }
"#;
/// Does something outside first, which takes its time.
const SLOW: &str = r#"
    import { config, http, keyvalue } from "koksmat";
    export function handle(event, ctx) {
      http.fetch(config.get("url"), { method: "POST", body: event.id });
      keyvalue.add(`${ctx.handler}/${event.id}`, 1);
    }
"#;
const ECHO: &str = r#"
    import { keyvalue } from "koksmat";
    export function handle(event, ctx) {
      keyvalue.add(`${ctx.handler}/${event.json().id}`, 1);
    }
"#;

/// A folder with every kind of source, and what was accepted from them so far.
///
/// Every event has two handlers, one `quick` and one `slow`, and what `quick` emits has one, `echo`; those that wait for their answer have
/// `answer` and `echo`. Every handler counts, so every key in the store must be 1 in the end.
pub struct Traffic {
    pub folder: Folder,
    accepted: Arc<Mutex<Accepted>>,
}

#[derive(Default)]
struct Accepted {
    /// Each has a name of its own, so that nothing is inserted twice.
    next_row: usize,
    /// Events for `quick` and `slow`, by source.
    by_source: BTreeMap<&'static str, BTreeSet<String>>,
}

/// Senders at work.
pub struct Sending {
    senders: JoinSet<()>,
    enough: CancellationToken,
}

const TABLES: [&str; 2] = ["claimed", "queried"];

impl Traffic {
    /// `inside` is what `slow` calls; `host` are lines of `[host]`.
    pub fn new(inside: &Inside, host: &str) -> Self {
        let all = ["queue", "hook", "claimed", "queried", "clock"].map(|source| format!("{{ source = \"{source}\" }}")).join(", ");
        let url = inside.url();
        let folder = Folder::new()
            .host(host)
            .queue("queue")
            .toml(
                r#"
                [sources.hook]
                kind = "webhook"
                path = "/hook"
                id-header = "x-delivery"

                [sources.ask]
                kind = "webhook"
                path = "/ask"
                reply = "handler"

                [sources.claimed]
                kind = "poller"
                database = "sqlite:rows.db"
                every = "20ms"
                claim = { table = "claimed", key = "id" }

                [sources.queried]
                kind = "poller"
                database = "sqlite:rows.db"
                every = "20ms"
                query = "select id from queried"
                key = "id"

                [sources.clock]
                kind = "timer"
                cron = "* * * * * *"
                missed = "all"
                "#,
            )
            .script("quick", "quick.js", QUICK, &format!("on = [{all}]\ngrants = {{ keyvalue = true, emit = [\"handled\"] }}"))
            .script(
                "slow",
                "slow.js",
                SLOW,
                &format!(
                    "on = [{all}]\ngrants = {{ keyvalue = true, http = [\"{}\"] }}\nconfig = {{ url = \"{url}\" }}\n\
                     retry = {{ attempts = 5, backoff = \"50ms..100ms\" }}",
                    inside.address()
                ),
            )
            .handler("answer", "quick.js", "on = [{ source = \"ask\" }]\ngrants = { keyvalue = true, emit = [\"handled\"] }")
            .script("echo", "echo.js", ECHO, "on = [{ source = \"emit\", type = \"handled\" }]\ngrants = { keyvalue = true }");
        let rows = rusqlite::Connection::open(folder.join("rows.db")).unwrap();
        rows.execute_batch(
            "pragma journal_mode = wal; create table claimed (id text primary key); create table queried (id text primary key)",
        )
        .unwrap();
        Self { folder, accepted: Arc::default() }
    }

    /// Send from everywhere until [`Sending::stop`]; a host that is not there or refuses is no error.
    pub fn send_to(&self, host: &Process) -> Sending {
        let enough = CancellationToken::new();
        let mut senders = JoinSet::new();
        let bearer = format!("Bearer {}", self.folder.token());
        for (source, path) in [("queue", "/queues/queue"), ("queue", "/queues/queue?type=b"), ("hook", "/hook"), ("answer", "/ask")] {
            let url = format!("http://{}{path}", host.listen);
            let (accepted, bearer, enough) = (self.accepted.clone(), bearer.clone(), enough.clone());
            senders.spawn(async move {
                while !enough.is_cancelled() {
                    let delivery = accepted.lock().unwrap().name("d");
                    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), ("x-delivery", &delivery)];
                    match try_request(&url, "POST", &headers, "{}".into()).await {
                        Ok(reply) if (200..300).contains(&reply.status) => {
                            let id = reply.json()["id"].as_str().unwrap().to_owned();
                            accepted.lock().unwrap().add(source, id);
                        }
                        Ok(reply) => assert!([429, 503].contains(&reply.status), "{path}: {} {}", reply.status, reply.text()),
                        Err(_) => {}
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            });
        }
        let (accepted, rows, until) = (self.accepted.clone(), self.folder.join("rows.db"), enough.clone());
        senders.spawn(async move {
            while !until.is_cancelled() {
                insert_rows(&accepted, &rows);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Sending { senders, enough }
    }

    /// How many events were accepted so far, but for those of the clock.
    pub fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().by_source.values().map(BTreeSet::len).sum()
    }

    /// How many events of this source were accepted so far (`answer` for those that were answered by their handler).
    pub fn accepted_from(&self, source: &str) -> usize {
        self.accepted.lock().unwrap().by_source.get(source).map_or(0, BTreeSet::len)
    }

    /// Wait until so many more were accepted of each source.
    pub async fn flows(&self, more: usize) {
        const SENT: [&str; 5] = ["queue", "hook", "answer", "claimed", "queried"];
        let before = SENT.map(|source| self.accepted_from(source));
        crate::until("events of every source to be accepted", || async {
            SENT.iter().zip(before).all(|(source, before)| self.accepted_from(source) >= before + more).then_some(())
        })
        .await;
    }

    /// Wait until everything that was accepted is handled: no task is due, every row is marked. However much that is, something of it has to be
    /// handled all the while.
    pub async fn handled(&self) {
        let (mut least, mut since) = (usize::MAX, Instant::now());
        loop {
            let left = self.left();
            if left == 0 {
                return;
            }
            if left < least {
                (least, since) = (left, Instant::now());
            }
            assert!(since.elapsed() < crate::PATIENCE, "waited {:?} in vain for any of {left} to be handled", crate::PATIENCE);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How much of what was accepted is not handled yet.
    fn left(&self) -> usize {
        let ids = |source: &str| self.accepted.lock().unwrap().by_source.get(source).cloned().unwrap_or_default();
        let rows = rusqlite::Connection::open(self.folder.join("rows.db")).unwrap();
        rows.busy_timeout(Duration::from_secs(5)).unwrap();
        let marked = "select row_key from koksmat_claims where done_at is not null";
        let marked: BTreeSet<String> = rows.prepare(marked).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let store = self.folder.store();
        let window = "select substr(name, 5) from source_state where source = 'queried' and name like 'row/%'";
        let window: BTreeSet<String> =
            store.prepare(window).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let waiting: i64 = store.query_row("select count(*) from task where source <> 'clock'", [], |row| row.get(0)).unwrap();
        usize::try_from(waiting).unwrap() + ids("claimed").difference(&marked).count() + ids("queried").difference(&window).count()
    }

    /// After [`handled`](Self::handled) and a stop: each of its handlers handled every accepted event exactly once, and nothing was
    /// handled twice.
    pub fn check(&self) {
        let store = self.folder.store();
        let dead = "select handler || ': ' || reason || ' ' || history || ' ' || header from dead_letter";
        let dead: Vec<String> = store.prepare(dead).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert!(dead.is_empty(), "dead letters: {dead:?}");
        let mut statement = store.prepare("select key, cast(value as text) from kv").unwrap();
        let counts: BTreeMap<String, String> =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
        let more_than_once: Vec<_> = counts.iter().filter(|(_, count)| *count != "1").collect();
        assert!(more_than_once.is_empty(), "handled more than once: {more_than_once:?}");

        let mut expected = Vec::new();
        for (source, ids) in &self.accepted.lock().unwrap().by_source {
            let handlers: &[&str] = if *source == "answer" { &["answer", "echo"] } else { &["quick", "slow", "echo"] };
            expected.extend(ids.iter().flat_map(|id| handlers.iter().map(move |handler| (*source, format!("{handler}/{id}")))));
        }
        let lost: Vec<_> = expected.iter().filter(|(_, key)| !counts.contains_key(key)).collect();
        assert!(lost.is_empty(), "{} of {} calls are lost: {:?}", lost.len(), expected.len(), &lost[..lost.len().min(20)]);
        self.check_clock(&counts);
    }

    /// Every second from the first to the last fired, and each was handled by both, but for those that still wait in the store.
    fn check_clock(&self, counts: &BTreeMap<String, String>) {
        let store = self.folder.store();
        let fired = "select event_id from accepted where source = 'clock' order by event_id";
        let fired: Vec<String> = store.prepare(fired).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let second = |id: &String| {
            let clock: Vec<u32> = id[11..19].split(':').map(|part| part.parse().unwrap()).collect();
            clock[0] * 3600 + clock[1] * 60 + clock[2]
        };
        for pair in fired.windows(2) {
            assert_eq!((second(&pair[0]) + 1) % 86_400, second(&pair[1]), "a firing is missing between {} and {}", pair[0], pair[1]);
        }
        let waits = "select count(*) from task join event on event.id = task.event where handler = ?1 and header ->> 'id' = ?2";
        let waits = |handler: &str, id: &String| store.query_row(waits, [handler, id], |row| row.get::<_, i64>(0)).unwrap() > 0;
        for (id, handler) in fired.iter().flat_map(|id| [(id, "quick"), (id, "slow")]) {
            assert!(counts.contains_key(&format!("{handler}/{id}")) || waits(handler, id), "{handler} never saw the firing {id}");
        }
    }
}

impl Accepted {
    fn add(&mut self, source: &'static str, id: String) {
        assert!(self.by_source.entry(source).or_default().insert(id), "an id of {source} was given twice");
    }

    fn name(&mut self, prefix: &str) -> String {
        self.next_row += 1;
        format!("{prefix}{:06}", self.next_row)
    }
}

/// Accepted is what is committed.
fn insert_rows(accepted: &Mutex<Accepted>, rows: &std::path::Path) {
    let connection = rusqlite::Connection::open(rows).unwrap();
    connection.busy_timeout(Duration::from_secs(30)).unwrap();
    for table in TABLES {
        let id = accepted.lock().unwrap().name("r");
        connection.execute(&format!("insert into {table} (id) values (?1)"), [&id]).unwrap();
        accepted.lock().unwrap().add(table, id);
    }
}

impl Sending {
    /// Stop sending; requests that are on their way are waited for.
    pub async fn stop(mut self) {
        self.enough.cancel();
        while let Some(ended) = crate::within("a sender to end", self.senders.join_next()).await {
            ended.unwrap();
        }
    }
}
