//! The end of the machine: the power is cut at any moment, what was not synced is lost, torn or came in another order. What was acknowledged is
//! there.
//!
//! One run of a real host on a simulated disk gives as many cuts as wanted. `KOKSMAT_TEST_CUTS` raises their number, `KOKSMAT_TEST_SEED`
//! repeats their choice.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
};

use koksmat::store::sqlite::SqliteStore;
use koksmat_tests::{
    Disk, Folder, TestHost,
    disk::{Moment, Recording, Syncs},
    host::request,
    services,
};
use rand::{SeedableRng, rngs::StdRng};
use rusqlite::Connection;
use tokio::task::JoinSet;

const WRITERS: usize = 8;

/// Counts each event under its own key, and lets `echo` know.
const COUNT: &str = r#"
    import { keyvalue, emit } from "koksmat";
    export function handle(event, ctx) {
      const { id } = event.json();
      keyvalue.add(`${ctx.handler}/${id}`, 1);
      if (ctx.handler !== "echo") emit({ type: "counted", data: { id } });
    }
"#;
/// Reads and writes what all events have in common besides.
const TOTAL: &str = r#"
    import { keyvalue } from "koksmat";
    export function handle(event, ctx) {
      keyvalue.set("total", Number(keyvalue.get("total") ?? 0) + 1);
      keyvalue.add(`total/${event.json().id}`, 1);
    }
"#;

/// Events that are accepted (for `count` and `total`), and events that are answered (by `answer`).
fn folder() -> Folder {
    const ACCEPTED: &str = "on = [{ source = \"queue\" }, { source = \"hook\" }]\n";
    Folder::new()
        .queue("queue")
        .toml("[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\nid-header = \"x-id\"")
        .toml("[sources.ask]\nkind = \"webhook\"\npath = \"/ask\"\nreply = \"handler\"")
        .script("count", "count.js", COUNT, &format!("{ACCEPTED}grants = {{ keyvalue = true, emit = [\"counted\"] }}"))
        .script("total", "total.js", TOTAL, &format!("{ACCEPTED}atomic = true\ngrants = {{ keyvalue = true }}"))
        .handler("answer", "count.js", "on = [{ source = \"ask\" }]\ngrants = { keyvalue = true, emit = [\"counted\"] }")
        .handler("echo", "count.js", "on = [{ source = \"emit\" }]\ngrants = { keyvalue = true, emit = [\"counted\"] }")
}

/// What senders were told, and how much had happened on the disk by then.
#[derive(Default)]
struct Promised {
    accepted: Vec<(Moment, String)>,
    answered: Vec<(Moment, String)>,
}

/// A run of a host: two lives, with a stop between them.
struct Run {
    folder: Folder,
    recording: Recording,
    promised: Promised,
}

impl Run {
    async fn of(events: usize, syncs: Syncs) -> Self {
        let mut folder = folder();
        let disk = Disk::watch(&folder.join("data"), syncs);
        let promised = Arc::<Mutex<Promised>>::default();
        for life in 0..2 {
            let host = TestHost::start(folder).await;
            send(&host, &disk, &promised, life, events / 2 / WRITERS).await;
            host.settled().await;
            (folder, _) = host.stop().await;
        }
        let promised = std::mem::take(&mut *promised.lock().unwrap());
        Self { folder, recording: disk.recording(), promised }
    }
}

/// Several senders, each of which waits for its answer before it sends the next.
async fn send(host: &TestHost, disk: &Arc<Disk>, promised: &Arc<Mutex<Promised>>, life: usize, each: usize) {
    let mut senders = JoinSet::new();
    for writer in 0..WRITERS {
        let (disk, promised) = (disk.clone(), promised.clone());
        let (address, bearer) = (host.host.listen_address(), format!("Bearer {}", host.folder.token()));
        senders.spawn(async move {
            for n in 0..each {
                let id = format!("{life}-{writer}-{n}");
                let path = ["/queues/queue", "/hook", "/ask"][(writer + n) % 3];
                let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), ("x-id", &id)];
                let body = format!("{{\"id\":\"{id}\"}}");
                let reply = request(&format!("http://{address}{path}"), "POST", &headers, body.into()).await;
                let now = disk.now();
                let mut promised = promised.lock().unwrap();
                match reply.status {
                    202 => promised.accepted.push((now, id)),
                    204 => promised.answered.push((now, id)),
                    status => panic!("{path}: {status} {}", reply.text()),
                }
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
}

impl Promised {
    /// What was promised before the power was cut, as (handler, event).
    fn before<'a>(&'a self, cut: Moment) -> BTreeSet<(&'static str, &'a str)> {
        let until = |(at, id): &'a (Moment, String)| (*at <= cut).then_some(id.as_str());
        let accepted = self.accepted.iter().filter_map(until).flat_map(|id| [("count", id), ("total", id)]);
        accepted.chain(self.answered.iter().filter_map(until).map(|id| ("answer", id))).collect()
    }
}

/// What is wrong with a disk after a cut.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Wrong {
    /// It cannot be opened, or SQLite finds it damaged.
    Damaged,
    /// Something that was promised is not there.
    Lost,
    /// A transaction is there by half, or an effect twice.
    Half,
}

/// Open the store as the next host does, and look for what was promised.
fn check(folder: &Path, promised: &BTreeSet<(&str, &str)>) -> Result<(), (Wrong, String)> {
    let damaged = |error: String| (Wrong::Damaged, error);
    let path = folder.join("koksmat.db");
    let _store = SqliteStore::open(&path).map_err(|error| damaged(error.to_string()))?;
    let store = Connection::open(&path).map_err(|error| damaged(error.to_string()))?;
    let state = State::read(&store).map_err(|error| damaged(error.to_string()))?;
    if state.integrity != "ok" {
        return Err(damaged(state.integrity));
    }
    let lost: Vec<_> = promised.iter().filter(|(handler, id)| !state.has(handler, id)).collect();
    if !lost.is_empty() {
        return Err((Wrong::Lost, format!("{} of {}: {lost:?}", lost.len(), promised.len())));
    }
    state.whole().map_err(|error| (Wrong::Half, error))
}

/// What the store holds.
struct State {
    integrity: String,
    /// Calls to come: handler and event.
    tasks: BTreeSet<(String, String)>,
    values: BTreeMap<String, String>,
}

impl State {
    fn read(store: &Connection) -> rusqlite::Result<Self> {
        let integrity = store.query_row("pragma integrity_check", [], |row| row.get(0))?;
        let tasks = "select handler, cast(data as text) ->> 'id' from task join event on event.id = task.event";
        let tasks = store.prepare(tasks)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
        let values = "select key, cast(value as text) from kv";
        let values = store.prepare(values)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
        Ok(Self { integrity, tasks, values })
    }

    /// The call is to come, or its effect is here. (An answered event was never a task.)
    fn has(&self, handler: &str, id: &str) -> bool {
        self.comes(handler, id) || self.did(handler, id)
    }

    fn comes(&self, handler: &str, id: &str) -> bool {
        self.tasks.contains(&(handler.to_owned(), id.to_owned()))
    }

    fn did(&self, handler: &str, id: &str) -> bool {
        self.values.contains_key(&format!("{handler}/{id}"))
    }

    /// Each call is to come or did all it does, once.
    fn whole(&self) -> Result<(), String> {
        let mut totals = 0;
        for (key, value) in &self.values {
            let Some((handler, id)) = key.split_once('/') else { continue };
            totals += usize::from(handler == "total");
            let emits = handler == "count" || handler == "answer";
            if value != "1" || self.comes(handler, id) || (emits && !self.has("echo", id)) {
                return Err(format!("{key} = {value}, is to come: {}, echo: {}", self.comes(handler, id), self.has("echo", id)));
            }
        }
        let total = self.values.get("total").map_or("0", String::as_str);
        if total == totals.to_string() { Ok(()) } else { Err(format!("total = {total}, and {totals} calls took part in it")) }
    }
}

/// What was wrong after cuts, how often, and for example.
type Findings = BTreeMap<Wrong, (usize, String)>;

/// Cut the power so often, at random moments, and look for what was promised until then.
fn cut<'a>(
    recording: &Recording,
    cuts: usize,
    random: &mut StdRng,
    promised: impl Fn(Moment) -> BTreeSet<(&'static str, &'a str)> + Sync,
) -> Findings {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (cuts, findings) = (recording.cuts(cuts, random), Mutex::<Findings>::default());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (cuts, findings, promised, mut random) = (&cuts, &findings, &promised, StdRng::from_rng(random));
            scope.spawn(move || {
                let mut replay = recording.replay();
                for cut in cuts.iter().skip(thread).step_by(threads) {
                    let folder = tempfile::tempdir().unwrap();
                    replay.cut(*cut, &mut random).write(folder.path());
                    if let Err((wrong, error)) = check(folder.path(), &promised(*cut)) {
                        findings.lock().unwrap().entry(wrong).or_insert((0, format!("{cut:?}: {error}"))).0 += 1;
                    }
                }
            });
        }
    });
    findings.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_the_power_at_any_moment_takes_nothing_back_that_was_acknowledged_and_leaves_nothing_by_half() {
    let cuts = services::figure("KOKSMAT_TEST_CUTS", 300);
    let mut random = services::random();
    let run = Run::of(480, Syncs::AsTold).await;
    let last = run.recording.replay().cut(run.recording.end(), &mut random);
    assert!(
        last.file("koksmat.db") == Some(&std::fs::read(run.folder.join("data/koksmat.db")).unwrap()),
        "the disk is not as it was recorded"
    );
    let findings = cut(&run.recording, cuts, &mut random, |cut| run.promised.before(cut));
    let count = |wrong| findings.get(&wrong).map_or(0, |(count, _)| *count);
    println!(
        "power loss: {} events acknowledged in {} syncs, {cuts} cuts: damaged after {}, something lost after {}, something by half after {}",
        run.promised.accepted.len() + run.promised.answered.len(),
        run.recording.syncs(),
        count(Wrong::Damaged),
        count(Wrong::Lost),
        count(Wrong::Half)
    );
    assert_eq!(findings, Findings::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_syncs_the_same_cuts_lose_what_was_acknowledged() {
    let mut random = services::random();
    let run = Run::of(200, Syncs::Never).await;
    let findings = cut(&run.recording, 60, &mut random, |cut| run.promised.before(cut));
    assert_eq!(run.recording.syncs(), 0);
    let lost = findings.get(&Wrong::Lost).map_or(0, |(count, _)| *count);
    assert!(lost > 10, "the cuts of this test find nothing: {findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_left_is_handled_once_by_the_next_host_and_survives_another_cut_meanwhile() {
    let mut random = services::random();
    let run = Run::of(200, Syncs::AsTold).await;
    let mut replay = run.recording.replay();
    for first in run.recording.cuts(5, &mut random) {
        let folder = folder();
        replay.cut(first, &mut random).write(&folder.join("data"));
        let disk = Disk::watch(&folder.join("data"), Syncs::AsTold);
        let host = TestHost::start(folder).await;
        host.settled().await;
        let (folder, _) = host.stop().await;
        let state = State::read(&folder.store()).unwrap();
        state.whole().unwrap();
        let promised = run.promised.before(first);
        let lost: Vec<_> = promised.iter().filter(|(handler, id)| !state.did(handler, id)).collect();
        assert!(lost.is_empty(), "{first:?}: {lost:?} of {}", promised.len());
        assert_eq!(cut(&disk.recording(), 20, &mut random, |_| promised.clone()), Findings::new(), "after {first:?}");
    }
}
