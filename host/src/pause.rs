//! What an operator holds still: a paused source takes nothing new, a paused handler starts no more calls.
//!
//! What is paused stands in the store, so that it survives a restart and every host that shares the store heeds it; here is what this host
//! knows of it. A source is paused by closing the [`Gate`] before its credits; one whose events wait in the store anyway (`embedded`) goes on
//! accepting them, and its tasks are not handed out. A paused handler's calls become tasks that wait, which is no attempt.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    ambient::now,
    channel::{Closed, Gate, Origin},
    config::{self, Config, SourceKind},
    controller::{
        bell::Group,
        generation::{EMIT, EMITTED},
    },
    health::Health,
    store::{Millis, Store, StoreError},
    telemetry,
    tenant::Tenant,
};

/// Where it stands in the store: no source of the configuration can be called so.
const PAUSED: &str = "(paused)";
/// How often the store is asked what other hosts paused.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked at whether what waits of a source is as much as may.
const WEIGH: Duration = Duration::from_secs(1);

/// What can be paused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "part", content = "name", rename_all = "kebab-case")]
pub enum Part {
    /// `[sources.NAME]`
    Source(String),
    /// `[handlers.NAME]`
    Handler(String),
}

impl Part {
    /// `source` or `handler`, and the name.
    fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Source(name) => ("source", name),
            Self::Handler(name) => ("handler", name),
        }
    }

    fn stored(&self) -> String {
        let (word, name) = self.words();
        format!("{word}/{name}")
    }

    fn from_stored(stored: &str) -> Option<Self> {
        match stored.split_once('/')? {
            ("source", name) => Some(Self::Source(name.to_owned())),
            ("handler", name) => Some(Self::Handler(name.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, name) = self.words();
        write!(f, "the {word} `{name}`")
    }
}

/// Why something was not paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// There is nothing of this name.
    #[error("there is no {word} `{name}`; there {are}")]
    Unknown {
        /// `source` or `handler`.
        word: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        are: String,
    },
    /// It could not be written down: nothing has changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is paused, and since when.
pub(crate) type Paused = BTreeMap<(Tenant, Part), Millis>;

/// The sources and handlers there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    sources: BTreeMap<(Tenant, String), Way>,
    handlers: BTreeSet<(Tenant, String)>,
}

/// How the events of a source come in, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// The store is the queue: it takes events while it is paused, and hands none out.
    stored: bool,
    /// The most of its events that may wait in the store.
    bound: u64,
    /// Nobody else sees to that bound: what it brings is not written to the store when it comes, but may have to wait there.
    weighed: bool,
}

impl Way {
    fn of(kind: &SourceKind) -> Self {
        Self {
            stored: matches!(kind, SourceKind::Embedded(_)),
            bound: kind.backlog(),
            weighed: matches!(kind, SourceKind::Rabbitmq(_) | SourceKind::Poller(_)),
        }
    }
}

impl Parts {
    /// Those of a configuration.
    pub(crate) fn of(config: &Config) -> Self {
        let sources = config.sources.iter().map(|source| ((source.tenant.clone(), source.name.clone()), Way::of(&source.kind)));
        let handlers = config.handlers.iter().map(|handler| (handler.tenant.clone(), handler.name.clone()));
        Self { sources: sources.collect(), handlers: handlers.collect() }
    }

    /// A source of the embedder's own besides.
    pub(crate) fn own(mut self, name: &str) -> Self {
        self.sources.insert((Tenant::default(), name.to_owned()), Way { stored: false, bound: config::BACKLOG, weighed: true });
        self
    }

    /// The most events of a source that may wait in the store.
    pub(crate) fn bound(&self, tenant: &Tenant, source: &str) -> Option<u64> {
        let named = self.sources.get(&(tenant.clone(), source.to_owned())).map(|way| way.bound);
        named.or((source == EMIT).then_some(EMITTED))
    }

    fn has(&self, tenant: &Tenant, part: &Part) -> bool {
        let key = |name: &String| (tenant.clone(), name.clone());
        match part {
            Part::Source(name) => self.sources.contains_key(&key(name)),
            Part::Handler(name) => self.handlers.contains(&key(name)),
        }
    }

    fn unknown(&self, tenant: &Tenant, part: &Part) -> PauseError {
        fn of<'a>(all: impl Iterator<Item = &'a (Tenant, String)>, tenant: &Tenant) -> Vec<&'a str> {
            all.filter(|(of, _)| of == tenant).map(|(_, name)| name.as_str()).collect()
        }
        let names = match part {
            Part::Source(_) => of(self.sources.keys(), tenant),
            Part::Handler(_) => of(self.handlers.iter(), tenant),
        };
        let are = match names.as_slice() {
            [] => "is none at all".to_owned(),
            [one] => format!("is `{one}`"),
            many => format!("are {}", many.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        let (word, name) = part.words();
        PauseError::Unknown { word, name: name.to_owned(), are }
    }
}

/// What is paused, as it stands in a store.
#[derive(Clone)]
pub(crate) struct Records {
    pub(crate) store: Arc<dyn Store>,
    parts: Arc<ArcSwap<Parts>>,
}

impl Records {
    pub(crate) fn new(store: Arc<dyn Store>, parts: Parts) -> Self {
        Self { store, parts: Arc::new(ArcSwap::from_pointee(parts)) }
    }

    /// The sources and handlers there are now.
    pub(crate) fn parts(&self) -> Arc<Parts> {
        self.parts.load_full()
    }

    /// Write down that something is paused; since when it is. Pausing twice is no error.
    ///
    /// # Errors
    /// When there is nothing of this name, or the store fails.
    pub(crate) async fn pause(&self, tenant: &Tenant, part: &Part) -> Result<Millis, PauseError> {
        let parts = self.parts();
        if !parts.has(tenant, part) {
            return Err(parts.unknown(tenant, part));
        }
        if let Some(since) = self.read().await?.get(&(tenant.clone(), part.clone())) {
            return Ok(*since);
        }
        let since = now();
        self.write(tenant, part, Some(since)).await?;
        Ok(since)
    }

    /// Write down that it goes on. `false`: it was not paused. What is paused can be resumed though it is not there any more.
    ///
    /// # Errors
    /// When there is nothing of this name, or the store fails.
    pub(crate) async fn resume(&self, tenant: &Tenant, part: &Part) -> Result<bool, PauseError> {
        let paused = self.read().await?.contains_key(&(tenant.clone(), part.clone()));
        let parts = self.parts();
        if !paused && !parts.has(tenant, part) {
            return Err(parts.unknown(tenant, part));
        }
        self.write(tenant, part, None).await?;
        Ok(paused)
    }

    async fn write(&self, tenant: &Tenant, part: &Part, since: Option<Millis>) -> Result<(), StoreError> {
        let value = since.map(|since| since.to_string().into_bytes());
        self.store.set_state(tenant.clone(), PAUSED.into(), vec![(part.stored(), value)]).await
    }

    /// What is paused.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn read(&self) -> Result<Paused, StoreError> {
        // There is one tenant yet.
        let tenant = Tenant::default();
        let stored = self.store.state(tenant.clone(), PAUSED.into(), String::new()).await?;
        let part = |(name, value): (String, Vec<u8>)| {
            let since = std::str::from_utf8(&value).ok()?.parse().ok()?;
            Some(((tenant.clone(), Part::from_stored(&name)?), since))
        };
        Ok(stored.into_iter().filter_map(part).collect())
    }
}

/// What is paused, for all who have to heed it.
#[derive(Clone)]
pub(crate) struct Pauses(Arc<Inner>);

/// The gate of each source, and what closes it.
type Gates = BTreeMap<(Tenant, String), (watch::Sender<Closed>, Gate)>;

struct Inner {
    records: Records,
    health: Health,
    paused: watch::Sender<Paused>,
    /// Whose turn it is to change that: what is read must not be older than what was written meanwhile.
    turn: tokio::sync::Mutex<()>,
    gates: Mutex<Gates>,
    /// The host stops.
    open_for_good: AtomicBool,
}

impl Pauses {
    /// What is paused by what the store knows.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn load(records: Records, health: Health) -> Result<Self, StoreError> {
        let gates = records.parts().sources.keys().map(|key| (key.clone(), Gate::new())).collect();
        let pauses = Self(Arc::new(Inner {
            records,
            health,
            paused: watch::Sender::default(),
            turn: Default::default(),
            gates: Mutex::new(gates),
            open_for_good: AtomicBool::new(false),
        }));
        pauses.look().await?;
        Ok(pauses)
    }

    /// Pause something, here at once; see [`Records::pause`].
    pub(crate) async fn pause(&self, tenant: &Tenant, part: &Part) -> Result<Millis, PauseError> {
        let _turn = self.0.turn.lock().await;
        let since = self.0.records.pause(tenant, part).await?;
        self.heed(self.0.records.read().await?);
        Ok(since)
    }

    /// Have it go on, here at once; see [`Records::resume`].
    pub(crate) async fn resume(&self, tenant: &Tenant, part: &Part) -> Result<bool, PauseError> {
        let _turn = self.0.turn.lock().await;
        let was_paused = self.0.records.resume(tenant, part).await?;
        self.heed(self.0.records.read().await?);
        Ok(was_paused)
    }

    /// There are other sources and handlers from now on. The gate of one that stays is the same; who comes new is paused if it was when it
    /// was there before.
    pub(crate) async fn change_parts(&self, parts: Parts) {
        let _turn = self.0.turn.lock().await;
        let paused = self.paused();
        let gate = |key: &(Tenant, String)| {
            let (closed, gate) = Gate::new();
            let paused = paused.contains_key(&(key.0.clone(), Part::Source(key.1.clone())));
            closed.send_modify(|closed| closed.paused = paused && self.may_close());
            (closed, gate)
        };
        let mut gates = self.gates();
        gates.retain(|key, _| parts.sources.contains_key(key));
        for (key, way) in &parts.sources {
            let (closed, _) = gates.entry(key.clone()).or_insert_with_key(gate);
            if !way.weighed {
                closed.send_if_modified(|closed| std::mem::take(&mut closed.full));
            }
        }
        drop(gates);
        self.0.records.parts.store(Arc::new(parts));
    }

    fn gates(&self) -> MutexGuard<'_, Gates> {
        self.0.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands in the store.
    pub(crate) fn records(&self) -> &Records {
        &self.0.records
    }

    async fn look(&self) -> Result<(), StoreError> {
        let _turn = self.0.turn.lock().await;
        self.heed(self.0.records.read().await?);
        Ok(())
    }

    /// What is paused now.
    pub(crate) fn paused(&self) -> Paused {
        self.0.paused.borrow().clone()
    }

    /// Changes when something is paused or resumed.
    pub(crate) fn changes(&self) -> watch::Receiver<Paused> {
        self.0.paused.subscribe()
    }

    /// Whether the handler starts no calls.
    pub(crate) fn holds_handler(&self, tenant: &Tenant, handler: &str) -> bool {
        self.holds(tenant, || Part::Handler(handler.to_owned()))
    }

    /// Whether tasks are not handed out: their handler is paused, or the queue they wait in.
    pub(crate) fn holds_tasks(&self, Group { tenant, source, handler }: &Group) -> bool {
        let stored = || self.0.records.parts.load().sources.get(&(tenant.clone(), source.to_string())).is_some_and(|way| way.stored);
        self.holds_handler(tenant, handler) || self.holds(tenant, || Part::Source(source.to_string())) && stored()
    }

    /// Asked for every call: nothing is looked for while nothing is paused.
    fn holds(&self, tenant: &Tenant, part: impl FnOnce() -> Part) -> bool {
        let paused = self.0.paused.borrow();
        !paused.is_empty() && paused.contains_key(&(tenant.clone(), part()))
    }

    /// The gate before the credits of a source.
    pub(crate) fn gate(&self, origin: &Origin) -> Gate {
        self.gates().get(&(origin.tenant.clone(), origin.source.to_string())).map_or_else(|| Gate::new().1, |(_, gate)| gate.clone())
    }

    /// Asked while a gate is being changed: once they are open for good none closes.
    fn may_close(&self) -> bool {
        !self.0.open_for_good.load(Ordering::SeqCst)
    }

    /// Open all gates for good: the host stops, and its sources take nothing new for that reason.
    pub(crate) fn open_gates(&self) {
        self.0.open_for_good.store(true, Ordering::SeqCst);
        self.gates().values().for_each(|(closed, _)| closed.send_modify(|closed| *closed = Closed::default()));
    }

    /// Heed what other hosts pause, and what waits in the store, until told to stop.
    pub(crate) async fn keep(self, stopping: CancellationToken) {
        let follow = async {
            if !self.0.records.store.shared() {
                return std::future::pending().await;
            }
            loop {
                tokio::time::sleep(LOOK).await;
                // The store's trouble is shown by those who write; what was paused stays so.
                let _ = self.look().await;
            }
        };
        let weigh = async {
            loop {
                tokio::time::sleep(WEIGH).await;
                self.weigh().await;
            }
        };
        tokio::select! {
            () = stopping.cancelled() => {}
            () = follow => {}
            () = weigh => {}
        }
    }

    /// Close the gate of every source of which as much waits in the store as may.
    async fn weigh(&self) {
        for (key @ (tenant, source), way) in self.0.records.parts().sources.iter().filter(|(_, way)| way.weighed) {
            let Ok(unsettled) = self.0.records.store.backlog(tenant.clone(), source.as_str().into()).await else { continue };
            let full = unsettled >= way.bound;
            let gates = self.gates();
            let Some((closed, _)) = gates.get(key) else { continue };
            let changed = closed.send_if_modified(|closed| self.may_close() && std::mem::replace(&mut closed.full, full) != full);
            if changed {
                let why = format!("{unsettled} of its events wait in the store");
                self.0.health.source_held_back(tenant, source, full.then_some(why.as_str()));
            }
        }
    }

    /// What is paused from now on, told to everybody: the log, the metrics, readiness, the gates.
    fn heed(&self, now: Paused) {
        let before = self.paused();
        if before == now {
            return;
        }
        self.0.health.paused(&now);
        now.keys().filter(|key| !before.contains_key(key)).for_each(|(tenant, part)| self.tell(tenant, part, true));
        before.keys().filter(|key| !now.contains_key(key)).for_each(|(tenant, part)| self.tell(tenant, part, false));
        self.0.paused.send_replace(now);
    }

    fn tell(&self, tenant: &Tenant, part: &Part, paused: bool) {
        let (word, name) = part.words();
        match paused {
            true => tracing::warn!(%tenant, "{part} is paused"),
            false => tracing::info!(%tenant, "{part} goes on"),
        }
        metrics::gauge!(telemetry::PAUSED, "tenant" => tenant.to_string(), "part" => word, "name" => name.to_owned())
            .set(f64::from(u8::from(paused)));
        if let Part::Source(name) = part
            && let Some((closed, _)) = self.gates().get(&(tenant.clone(), name.clone()))
        {
            closed.send_if_modified(|closed| self.may_close() && std::mem::replace(&mut closed.paused, paused) != paused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        conformance::{accept, claim, done, order, settling},
        sqlite::SqliteStore,
    };

    fn parts(bound: u64) -> Parts {
        let way = Way { stored: false, bound, weighed: true };
        let key = |name: &str| (Tenant::default(), name.to_owned());
        Parts { sources: [(key("orders"), way)].into(), handlers: [key("invoice")].into() }
    }

    async fn load(store: &Arc<dyn Store>) -> (Pauses, Gate) {
        let pauses = Pauses::load(Records::new(store.clone(), parts(2)), Health::default()).await.unwrap();
        let gate = pauses.gate(&Origin { tenant: Tenant::default(), source: "orders".into(), kind: "memory".into() });
        (pauses, gate)
    }

    #[tokio::test]
    async fn what_is_paused_stays_so_for_the_next_host_and_is_since_the_first_time() {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let (tenant, source) = (Tenant::default(), Part::Source("orders".into()));
        let (pauses, gate) = load(&store).await;
        let since = pauses.pause(&tenant, &source).await.unwrap();
        assert!(gate.closed().paused);
        assert_eq!(pauses.pause(&tenant, &source).await.unwrap(), since);
        let (next, gate) = load(&store).await;
        assert_eq!((next.paused().values().copied().collect::<Vec<_>>(), gate.closed().paused), (vec![since], true));
        assert!(next.resume(&tenant, &source).await.unwrap() && !next.resume(&tenant, &source).await.unwrap());
        assert!(!gate.closed().paused);
        pauses.look().await.unwrap();
        assert!(pauses.paused().is_empty(), "the other host's doing is seen");
    }

    #[tokio::test]
    async fn a_name_of_the_other_kind_is_none() {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let (pauses, _) = load(&store).await;
        let refused = pauses.pause(&Tenant::default(), &Part::Handler("orders".into())).await.unwrap_err();
        assert_eq!(refused.to_string(), "there is no handler `orders`; there is `invoice`");
        assert!(store.state(Tenant::default(), PAUSED.into(), String::new()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_source_of_which_as_much_waits_as_may_takes_nothing_new_until_there_is_room() {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let (pauses, gate) = load(&store).await;
        for (id, full) in [("1", false), ("2", true)] {
            accept(&*store, order(id)).await;
            pauses.weigh().await;
            assert_eq!(gate.closed(), Closed { paused: false, full });
        }
        let task = claim(&*store).await.remove(0);
        store.commit(settling(&task, done())).await.unwrap();
        pauses.weigh().await;
        assert_eq!(gate.closed(), Closed::default());
    }
}
