//! What came of it.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write,
    sync::Arc,
};

use koksmat::{
    config::StoreConfig,
    store::{DeadLetterQuery, Store, StoreError, postgres::PostgresStore, sqlite::SqliteStore},
    tenant::Tenant,
};
use serde::Serialize;

use super::{
    faults::{Done, Faults, Stops},
    feed::Sent,
    observer::Observer,
    plan::{Fed, Plan},
};

/// How many examples of what went wrong are named.
const EXAMPLES: usize = 5;
/// How many keys are read at once.
const PAGE: usize = 1_000;

/// What came of a test.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    /// Every promise was kept.
    pub(super) kept: bool,
    seed: u64,
    accepted: usize,
    #[serde(flatten)]
    done: Done,
    /// Events that were accepted, and neither handled nor kept as dead letters.
    lost: usize,
    lost_examples: Vec<String>,
    /// Events that became dead letters of an observer, which none should.
    given_up: usize,
    /// Sources of which nothing was accepted.
    not_tested: Vec<String>,
    /// Events whose effects through the host happened more than once.
    effects_repeated: usize,
    effects_repeated_examples: Vec<String>,
    /// Events that were handled before one that was accepted before them under the same key.
    order_violations: u64,
    /// Calls that ran again without having failed: outside effects happen again with them.
    calls_repeated: u64,
    /// Events that waited still when nothing had gone wrong for a long time.
    waiting: u64,
    stops: Stops,
    /// Dead letters, by handler.
    dead_letters: BTreeMap<String, usize>,
    not_fed: Vec<(String, String)>,
}

impl Verdict {
    pub(super) async fn of(
        plan: &Plan,
        seed: u64,
        sent: &[Sent],
        observer: &Observer,
        faults: &Faults<'_>,
        waiting: u64,
        stops: u32,
    ) -> Result<Self, String> {
        let store = open(&plan.store).await.map_err(|error| format!("cannot open the store: {error}"))?;
        let found = Found::look(&*store, &plan.keys).await;
        let _ = store.close().await;
        let found = found.map_err(|error| format!("cannot read the store: {error}"))?;
        let (mut lost, mut repeated) = (Vec::new(), Vec::new());
        for event in sent {
            match found.counts.get(&format!("{}/{}", event.handler, event.id)) {
                Some(1) => {}
                Some(_) => repeated.push(event.id.clone()),
                None if found.dead.contains_key(&(event.handler.clone(), event.id.clone())) => {}
                None => lost.push(event.id.clone()),
            }
        }
        let mut dead_letters = BTreeMap::<String, usize>::new();
        for ((handler, _), count) in &found.dead {
            *dead_letters.entry(handler.clone()).or_default() += count;
        }
        // What still waits is not lost, but it should not wait.
        let lost = if waiting > 0 { lost.split_off(lost.len().min(usize::try_from(waiting).unwrap_or(usize::MAX))) } else { lost };
        let observers: Vec<String> = plan.fed.iter().map(Fed::handler).collect();
        let tested = |handler: &String| sent.iter().any(|event| event.handler == *handler);
        let not_tested: Vec<String> = plan.fed.iter().filter(|fed| !tested(&fed.handler())).map(|fed| fed.source.clone()).collect();
        let ids: HashSet<&str> = sent.iter().map(|event| event.id.as_str()).collect();
        let given_up = found.dead.keys().filter(|(handler, id)| observers.contains(handler) && ids.contains(id.as_str())).count();
        let kept = not_tested.is_empty()
            && given_up == 0
            && lost.is_empty()
            && repeated.is_empty()
            && found.disorder == 0
            && waiting == 0
            && faults.stops.wrong.is_empty()
            && faults.stops.balanced == stops;
        Ok(Self {
            kept,
            seed,
            accepted: sent.len(),
            done: faults.done,
            given_up,
            not_tested,
            lost: lost.len(),
            lost_examples: lost.into_iter().take(EXAMPLES).collect(),
            effects_repeated: repeated.len(),
            effects_repeated_examples: repeated.into_iter().take(EXAMPLES).collect(),
            order_violations: found.disorder,
            calls_repeated: observer.repeated(),
            waiting,
            stops: faults.stops.clone(),
            dead_letters: dead_letters.into_iter().filter(|(handler, _)| plan.handlers.contains(handler)).collect(),
            not_fed: plan.not_fed.clone(),
        })
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let Done { kills, stops, cuts } = self.done;
        let _ = writeln!(out, "seed {}: {} events accepted under {kills} kills, {stops} stops, {cuts} cuts", self.seed, self.accepted);
        let examples = |examples: &[String]| if examples.is_empty() { String::new() } else { format!("  ({} …)", examples.join(", ")) };
        let _ = writeln!(out, "  lost              {}{}", self.lost, examples(&self.lost_examples));
        let _ = writeln!(out, "  dead letters      {}", self.given_up);
        for source in &self.not_tested {
            let _ = writeln!(out, "  {source} accepted nothing: is `--type` or `--data` not what it takes?");
        }
        let _ = writeln!(out, "  effects repeated  {}{}", self.effects_repeated, examples(&self.effects_repeated_examples));
        let _ = writeln!(out, "  out of order      {}", self.order_violations);
        let _ = writeln!(out, "  still waiting     {}", self.waiting);
        let _ =
            writeln!(out, "  calls repeated    {}  (what was running when the host was killed or cut may run again)", self.calls_repeated);
        let _ = writeln!(out, "  ledgers           {} balanced, {} not", self.stops.balanced, self.stops.wrong.len());
        for wrong in &self.stops.wrong {
            let _ = writeln!(out, "    {wrong}");
        }
        for (handler, count) in &self.dead_letters {
            let _ = writeln!(out, "  {handler}: {count} dead letters");
        }
        for (source, why) in &self.not_fed {
            let _ = writeln!(out, "  {source} was not fed: {why}");
        }
        let _ = writeln!(out, "{}", if self.kept { "every promise was kept" } else { "a promise was NOT kept" });
        out
    }
}

async fn open(store: &StoreConfig) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match store {
        StoreConfig::Sqlite(path) => Arc::new(SqliteStore::open(path)?),
        StoreConfig::Postgres { url, .. } => Arc::new(PostgresStore::open(url).await?),
        StoreConfig::Memory => Arc::new(SqliteStore::in_memory()?),
    })
}

/// What the store holds in the end.
struct Found {
    /// How often each event took effect, by handler/event.
    counts: BTreeMap<String, u64>,
    disorder: u64,
    /// Dead letters, by handler and event.
    dead: BTreeMap<(String, String), usize>,
}

impl Found {
    async fn look(store: &dyn Store, keys: &str) -> Result<Self, StoreError> {
        let counts = numbers(store, &format!("{keys}count/")).await?;
        let disorder = numbers(store, &format!("{keys}disorder/")).await?.values().sum();
        let mut dead = BTreeMap::new();
        let mut query = DeadLetterQuery { limit: PAGE, ..Default::default() };
        loop {
            let letters = store.dead_letters(query.clone()).await?;
            let Some(last) = letters.last() else { break };
            query.after = last.id;
            for letter in letters {
                *dead.entry((letter.handler.unwrap_or_default(), letter.event.id)).or_default() += 1;
            }
        }
        Ok(Self { counts, disorder, dead })
    }
}

async fn numbers(store: &dyn Store, prefix: &str) -> Result<BTreeMap<String, u64>, StoreError> {
    let (mut numbers, mut after) = (BTreeMap::new(), None);
    loop {
        let keys = store.list(Tenant::default(), prefix.to_owned(), after, PAGE).await?;
        for key in &keys {
            let value = store.get(Tenant::default(), key.clone()).await?.map(|(value, _)| value).unwrap_or_default();
            let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
            numbers.insert(key[prefix.len()..].to_owned(), number);
        }
        match keys.last() {
            Some(last) => after = Some(last.clone()),
            None => return Ok(numbers),
        }
    }
}
