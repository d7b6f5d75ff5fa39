//! The durable state: tasks, settled calls, key-value, dead letters, what sources remember.
//!
//! [`Store`] is the seam; [`sqlite`] is the embedded default. Everything a call wants to change goes through [`Store::commit`] in one
//! transaction that also checks what the call read, so that effects happen together, once, or not at all.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    future::Future,
    ops::ControlFlow,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{event::Event, outcome::Response, tenant::Tenant};

mod abandoned;
#[cfg(test)]
pub(crate) mod conformance;
mod holds;
mod json;
mod kept;
mod letters;
pub mod postgres;
pub mod sqlite;
mod stop;
mod sum;

pub use kept::{KeptEvent, KeptQuery, Rerun};

/// What a store operation returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// How long a host is in a lane without saying so again.
pub const LANE_LEASE: Duration = Duration::from_secs(10);

/// Milliseconds since the Unix epoch, by the store's clock.
pub type Millis = i64;

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full: nothing was written.
    #[error("the store's disk is full: {0}")]
    Full(String),
    /// The store is closed or its writer ended.
    #[error("the store is closed")]
    Closed,
    /// Another host holds the store.
    #[error("the store {path} is in use by the process {pid}; one SQLite store serves one host")]
    InUse {
        /// The database file.
        path: String,
        /// Who holds it.
        pid: String,
    },
    /// A newer version made this store.
    #[error("the store {path} has schema version {found}, this koksmat knows up to {known}; use a newer koksmat")]
    Newer {
        /// The database file.
        path: String,
        /// Its version.
        found: i64,
        /// The newest this build knows.
        known: i64,
    },
    /// Another host runs the source by now: nothing was written.
    #[error("another host that shares the store runs this source by now")]
    Fenced,
    /// Anything else, in the database's words.
    #[error("{0}")]
    Other(String),
}

/// An event to be accepted durably: one task for each handler, in one transaction.
#[derive(Debug, Clone)]
pub struct Acceptance {
    /// Whose event it is.
    pub tenant: Tenant,
    /// Which source brings it.
    pub source: Arc<str>,
    /// The source's kind.
    pub kind: Arc<str>,
    /// What the event is recognised by; absent: it never is.
    pub key: Option<String>,
    /// What happened.
    pub event: Arc<Event>,
    /// The handlers that want it.
    pub handlers: Vec<Subscriber>,
    /// When no handler wants it: the reason with which it becomes a dead letter; absent: only its key and `state` are written.
    pub unrouted: Option<Cow<'static, str>>,
    /// When its tasks become due; absent: now.
    pub due: Option<Millis>,
    /// How many emits lie between this event and one from outside.
    pub hops: u32,
    /// Refuse with [`Accepted::Full`] when the source has this many unsettled tasks; absent: no bound.
    pub backlog: Option<u64>,
    /// What the source remembers from now on: written with the event or not at all. `None` forgets.
    pub state: Vec<(String, Option<Vec<u8>>)>,
    /// Keep the event for a wanted re-run after its tasks are settled (see [`Store::rerun`]). One without handlers is not kept.
    pub keep: bool,
}

/// A handler that wants an event, as a task needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// The handler's name.
    pub handler: Arc<str>,
    /// Tasks of one handler with the same key run one after the other, in the order of acceptance; absent: side by side.
    pub order: Option<String>,
}

/// What became of an acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It is durable.
    New {
        /// The id of the event.
        id: String,
    },
    /// It was accepted before; nothing changed, its `state` was not written.
    Duplicate {
        /// The id the event had then.
        id: String,
    },
    /// The source's backlog is full; nothing changed.
    Full,
}

/// Tasks that are claimed together: of one source, for one handler.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    /// Whose tasks.
    pub tenant: Tenant,
    /// From which source.
    pub source: Arc<str>,
    /// For which handler.
    pub handler: Arc<str>,
}

/// Tasks to claim: at most `limit` for this (tenant, source, handler).
#[derive(Debug, Clone)]
pub struct Want {
    /// Whose tasks.
    pub tenant: Tenant,
    /// From which source.
    pub source: Arc<str>,
    /// For which handler.
    pub handler: Arc<str>,
    /// At most so many.
    pub limit: usize,
}

/// The right to complete a task: void as soon as the task's epoch moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The task's row.
    pub task: i64,
    /// The task's epoch when it was claimed.
    pub epoch: i64,
}

/// A claimed unit of work: one event for one handler.
#[derive(Debug, Clone)]
pub struct Task {
    /// What its completion is guarded by.
    pub claim: Claim,
    /// Whose it is.
    pub tenant: Tenant,
    /// The source whose event it is.
    pub source: Arc<str>,
    /// That source's kind.
    pub kind: Arc<str>,
    /// The handler it is for.
    pub handler: Arc<str>,
    /// The key the event is recognised by.
    pub key: Option<Arc<str>>,
    /// The event.
    pub event: Arc<Event>,
    /// Attempts that were made.
    pub attempts: u32,
    /// What they came to, oldest first.
    pub history: Vec<Attempt>,
    /// Emits between this event and one from outside.
    pub hops: u32,
    /// It was running when the host last ended without a stop: run it alone (see [`Store::alone`]).
    pub suspect: bool,
}

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended.
    pub at: Millis,
    /// What it came to.
    pub error: String,
    /// The code that ran: a digest. Absent: no handler's code did, or it was made before digests were kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
}

/// One event for one handler: what attempts, deduplication and effects belong to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallId {
    /// Whose call.
    pub tenant: Tenant,
    /// The source of the event.
    pub source: Arc<str>,
    /// The key the event is recognised by; absent: the call is never recognised again.
    pub key: Option<Arc<str>>,
    /// The handler.
    pub handler: Arc<str>,
}

/// Whose calls keep their order among each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderKey {
    /// Whose calls.
    pub tenant: Tenant,
    /// The source of their events.
    pub source: Arc<str>,
    /// Their handler.
    pub handler: Arc<str>,
    /// What they have in common.
    pub key: Arc<str>,
}

impl OrderKey {
    /// Of a call that is in order under `key`.
    pub(crate) fn of(call: &CallId, key: &Arc<str>) -> Self {
        Self { tenant: call.tenant.clone(), source: call.source.clone(), handler: call.handler.clone(), key: key.clone() }
    }
}

/// One run of a call, as far as holds are concerned: two runs of calls without a key have equal [`CallId`]s, but never the same holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holder(u64);

impl Holder {
    /// One that was never given out before by this process.
    #[expect(clippy::new_without_default, reason = "a default would suggest that two are equal")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The right to be in a lane that several hosts share: void as soon as the lane's epoch moves on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Which lane.
    pub lane: Arc<str>,
    /// Grows with every entry, of whichever host: the fencing token.
    pub epoch: i64,
}

/// The lane of a source that one of the hosts that share a store runs.
pub(crate) fn lane_of(tenant: &Tenant, source: &str) -> Arc<str> {
    ["source/", tenant.as_str(), "/", source].concat().into()
}

/// Everything one settled call writes.
#[derive(Debug)]
pub struct Commit {
    /// Which call.
    pub call: CallId,
    /// Who holds keys for it, if it may hold any: what is held is let go of when the commit happens.
    pub holder: Option<Holder>,
    /// That source's kind.
    pub kind: Arc<str>,
    /// The task it was claimed from; absent: a direct call.
    pub claim: Option<Claim>,
    /// The lane it was in, where hosts share lanes. It is left with the commit, and without the right to be in it nothing happens.
    pub fence: Option<Fence>,
    /// The event, for parking and dead letters.
    pub event: Arc<Event>,
    /// Emits between this event and one from outside.
    pub hops: u32,
    /// Earlier attempts that failed.
    pub history: Vec<Attempt>,
    /// The version of the handler that ran: a digest. Absent: none did.
    pub plugin: Option<Arc<str>>,
    /// What becomes of the call.
    pub verdict: Verdict,
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Verdict {
    /// Its effects happen and it is settled.
    Done {
        /// What it did.
        effects: Effects,
        /// The response to keep for a duplicate delivery.
        keep: Option<Response>,
    },
    /// It waits for its next attempt. A direct call becomes a task.
    Park {
        /// Not before.
        due: Millis,
        /// The attempt that failed; absent: it never started, which is no attempt.
        failed: Option<Attempt>,
        /// The order key it is parked under.
        order: Option<String>,
    },
    /// It waits behind the tasks of its handler with the same order key, if there are any: it becomes one itself, which is no attempt.
    Behind {
        /// The order key.
        order: String,
    },
    /// It becomes a dead letter.
    Dead {
        /// Why.
        reason: String,
        /// The attempt that failed last.
        failed: Option<Attempt>,
        /// Which code ran: a digest.
        plugin: String,
        /// What the host calls of the last attempt gave it, as JSON.
        recording: Option<String>,
    },
}

/// What a call did through the host, kept until it is done.
#[derive(Debug, Default)]
pub struct Effects {
    /// What it read, and the version it saw.
    pub reads: Vec<Read>,
    /// What it wrote, by key: the last write of each.
    pub writes: BTreeMap<String, Write>,
    /// What it emitted.
    pub emits: Vec<Acceptance>,
}

impl Effects {
    /// A call without effects writes no row.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.emits.is_empty()
    }
}

/// Something a call read and therefore relies on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Read {
    /// A key, and its version (0: it was absent).
    Key {
        /// Which.
        key: String,
        /// Its version.
        version: i64,
    },
    /// A page of keys.
    List {
        /// Keys that begin with this,
        prefix: String,
        /// behind this one,
        after: Option<String>,
        /// at most so many:
        limit: usize,
        /// these.
        keys: Vec<String>,
    },
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Its value.
    Set(Bytes),
    /// Gone.
    Delete,
    /// Added to the number it holds at commit; never conflicts.
    Add(i64),
}

impl Commit {
    /// A direct call that read and did nothing: there is nothing to check and nothing to write.
    pub(crate) fn needs_store(&self) -> bool {
        !self.writes_nothing() || matches!(&self.verdict, Verdict::Done { effects, .. } if !effects.reads.is_empty())
    }

    /// A direct call without effects leaves no row.
    pub(crate) fn writes_nothing(&self) -> bool {
        self.claim.is_none() && self.fence.is_none() && matches!(&self.verdict, Verdict::Done { effects, keep: None } if effects.is_empty())
    }

    /// The keys it writes.
    pub(crate) fn writes(&self) -> Vec<String> {
        match &self.verdict {
            Verdict::Done { effects, .. } => effects.writes.keys().cloned().collect(),
            Verdict::Park { .. } | Verdict::Behind { .. } | Verdict::Dead { .. } => Vec::new(),
        }
    }
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// It happened.
    Yes,
    /// Something it read has changed: nothing happened, the call runs again.
    Overtaken,
    /// The call was settled before (a redelivery), or its claim is no longer its own: nothing happened and nothing has to.
    Settled,
    /// The effects cannot be written, whatever is tried (an `Add` to a value that is no number): nothing happened.
    Invalid(String),
    /// The backlog of this source, to which it emits, is full ([`Acceptance::backlog`]): nothing happened; later it may.
    Full(String),
    /// The lane it was in is another's by now: nothing happened.
    Fenced,
    /// There is nothing to be [`Verdict::Behind`] of: nothing happened, the call may run.
    Free,
}

/// A settled call, as remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// `done` or `dead`.
    pub outcome: String,
    /// The response that was kept.
    pub response: Option<Response>,
    /// The version of the handler that settled it: a digest.
    pub plugin: Option<String>,
}

/// A dead letter.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// Whose.
    pub tenant: Tenant,
    /// The source of the event.
    pub source: String,
    /// That source's kind.
    pub kind: String,
    /// The handler; absent: no handler wanted the event.
    pub handler: Option<String>,
    /// Why it is here.
    pub reason: String,
    /// The newest of what was tried, oldest first.
    pub attempts: Vec<Attempt>,
    /// Which code ran last: a digest.
    pub plugin: Option<String>,
    /// What the event is recognised by when it comes again; absent: it never is.
    pub key: Option<String>,
    /// What its call was in order with.
    pub order: Option<String>,
    /// Emits between the event and one from outside.
    pub hops: u32,
    /// When the store took the event in; absent: it came directly from its source and was never parked.
    pub accepted_at: Option<Millis>,
    /// There is a recording of the last attempt ([`Store::recording`]).
    pub recorded: bool,
    /// When it came here.
    pub at: Millis,
    /// The event, its data as text or base64 in JSON.
    pub event: Event,
}

/// Which dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterQuery {
    /// Only this one.
    pub id: Option<i64>,
    /// Only of this tenant.
    pub tenant: Option<Tenant>,
    /// Only for this handler.
    pub handler: Option<String>,
    /// Only of this source.
    pub source: Option<String>,
    /// Only what came here at this time or later.
    pub since: Option<Millis>,
    /// Only what came here at this time or earlier.
    pub until: Option<Millis>,
    /// Behind this number.
    pub after: i64,
    /// At most so many.
    pub limit: usize,
}

/// Who is to handle the event of a dead letter again; nobody: it stays. It may be asked more than once about the same one.
pub type Reroute = dyn Fn(&DeadLetter) -> Vec<Subscriber> + Send + Sync;

/// Which handlers are to have a kept event again. It may be asked more than once about the same one.
pub type RerunRoute = dyn Fn(&KeptEvent) -> Vec<Subscriber> + Send + Sync;

/// What a queue holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Depth {
    /// Whose.
    pub tenant: Tenant,
    /// The source.
    pub source: String,
    /// The handler.
    pub handler: String,
    /// Due and waiting.
    pub ready: u64,
    /// Waiting for their time: parked or delayed.
    pub later: u64,
    /// Of those two, the ones that failed before.
    pub failed: u64,
    /// Claimed.
    pub running: u64,
    /// When the oldest was accepted.
    pub oldest: Option<Millis>,
}

/// Events of one type that wait in the store for one handler or sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Whose.
    pub tenant: Tenant,
    /// Their source.
    pub source: String,
    /// That source's kind.
    pub kind: String,
    /// The handler, or the sink as a subscriber.
    pub handler: String,
    /// Their type.
    pub ty: String,
    /// How many.
    pub count: u64,
}

/// The hosts that share a store, and what one of them does at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Fleet {
    /// The hosts that are believed to be alive.
    pub hosts: Vec<Peer>,
    /// The lanes that one of them is in.
    pub lanes: Vec<HeldLane>,
}

/// A host that shares the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// New at every start.
    pub id: String,
    /// It is the one that was asked.
    pub this: bool,
    /// How long it is believed to be alive without saying so again, in milliseconds.
    pub lease_ms: Millis,
}

/// A lane that a host is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldLane {
    /// Its name.
    pub lane: String,
    /// The host.
    pub host: String,
    /// The fencing token.
    pub epoch: i64,
    /// For how long it may be in it without saying so again, in milliseconds.
    pub lease_ms: Millis,
}

/// How long settled things are remembered.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Settled calls and the keys of accepted events.
    pub settled: Duration,
    /// Dead letters.
    pub dead_letters: Duration,
    /// Events that are kept for a re-run.
    pub kept: Duration,
    /// The most bytes they have together: the oldest are forgotten first.
    pub kept_bytes: u64,
}

/// The durable state of one host, or of several.
///
/// Every future is cancel safe in the sense that an operation handed over is carried out whether or not somebody still waits for it.
pub trait Store: Send + Sync + 'static {
    /// Accept events of one source: their tasks, their keys, the source's state, in one transaction that is durable when this returns.
    ///
    /// They are accepted in this order: once there is no room for one there is none for those behind it.
    fn accept(&self, acceptances: Vec<Acceptance>) -> StoreFuture<'_, Vec<Accepted>>;

    /// Claim tasks that are due, oldest first within each want. Tasks behind an unsettled one with the same order key are left.
    ///
    /// What was claimed for a future that is dropped comes back with the next claim.
    fn claim(&self, wants: Vec<Want>) -> StoreFuture<'_, Vec<Task>>;

    /// Give claims back that were never started: due again at once, no attempt counted. A suspect stays one.
    fn release(&self, claims: Vec<Claim>) -> StoreFuture<'_, ()>;

    /// The groups that have tasks to claim. However many tasks there are, it costs something for each group only.
    fn claimable(&self) -> StoreFuture<'_, Vec<Group>>;

    /// When the first task becomes, or became, due after this time.
    fn next_due(&self, after: Millis) -> StoreFuture<'_, Option<Millis>>;

    /// A suspect task is about to run alone: written durably before the call, and counted when the host ends under it. After the third
    /// time `Break`: it was quarantined as a dead letter instead. `Break` too when the claim is void.
    fn alone(&self, claim: Claim) -> StoreFuture<'_, ControlFlow<()>>;

    /// Settle a call. As long as another call holds a key it writes, it waits and is not handed over.
    fn commit(&self, commit: Commit) -> StoreFuture<'_, Committed>;

    /// Check what a call has read so far and hold the keys it read or wrote: until [`Store::unhold`], the same call's commit or `until`
    /// has passed (whichever is first), every other commit that writes them waits. `false`: it was overtaken, or others held the keys
    /// all that time; it holds nothing.
    ///
    /// A holder that asks again asks for everything it needs: what it held before is let go of first.
    fn hold(&self, holder: Holder, tenant: Tenant, reads: Vec<Read>, writes: Vec<String>, until: Duration) -> StoreFuture<'_, bool>;

    /// Let go of what a call holds. Nothing held is no error.
    fn unhold(&self, holder: Holder);

    /// The settled row of a call, if it has one.
    fn settled(&self, call: CallId) -> StoreFuture<'_, Option<Settled>>;

    /// The value of a key and its version.
    fn get(&self, tenant: Tenant, key: String) -> StoreFuture<'_, Option<(Bytes, i64)>>;

    /// Keys that begin with `prefix`, behind `after`, in order, at most `limit`.
    fn list(&self, tenant: Tenant, prefix: String, after: Option<String>, limit: usize) -> StoreFuture<'_, Vec<String>>;

    /// What a source remembers under names that begin with `prefix`.
    fn state(&self, tenant: Tenant, source: Arc<str>, prefix: String) -> StoreFuture<'_, Vec<(String, Vec<u8>)>>;

    /// Change what a source remembers; `None` forgets.
    fn set_state(&self, tenant: Tenant, source: Arc<str>, entries: Vec<(String, Option<Vec<u8>>)>) -> StoreFuture<'_, ()>;

    /// The order keys that tasks wait under.
    fn orders(&self) -> StoreFuture<'_, Vec<OrderKey>>;

    /// How many tasks of a source are not settled: waiting, running or parked.
    fn backlog(&self, tenant: Tenant, source: Arc<str>) -> StoreFuture<'_, u64>;

    /// What waits or runs, by the type of the event. It looks at every task.
    fn waiting(&self) -> StoreFuture<'_, Vec<Waiting>>;

    /// What the queues hold.
    fn depths(&self) -> StoreFuture<'_, Vec<Depth>>;

    /// Dead letters, oldest first.
    fn dead_letters(&self, query: DeadLetterQuery) -> StoreFuture<'_, Vec<DeadLetter>>;

    /// How many dead letters there are, whatever the query's `limit`.
    fn count_dead_letters(&self, query: DeadLetterQuery) -> StoreFuture<'_, u64>;

    /// The recording of a dead letter, if it has one.
    fn recording(&self, letter: i64) -> StoreFuture<'_, Option<String>>;

    /// Make tasks of dead letters again, with a fresh count of attempts, for those that `route` names. How many.
    fn replay(&self, query: DeadLetterQuery, route: Arc<Reroute>) -> StoreFuture<'_, u64>;

    /// Forget dead letters. How many.
    fn purge(&self, query: DeadLetterQuery) -> StoreFuture<'_, u64>;

    /// Events that are kept, in the order of their numbers.
    fn kept_events(&self, query: KeptQuery) -> StoreFuture<'_, Vec<KeptEvent>>;

    /// Make tasks of kept events again, for the handlers that `route` names, as calls of their own: their keys are new, one generation of
    /// them for each `request`, and a request that is made again makes nothing. What the events themselves are recognised by stays as it
    /// is.
    fn rerun(&self, query: KeptQuery, request: Arc<str>, route: Arc<RerunRoute>) -> StoreFuture<'_, Rerun>;

    /// Forget what is older, or more, than it has to be remembered. How many rows.
    fn expire(&self, retention: Retention) -> StoreFuture<'_, u64>;

    /// Enter a lane, if nobody of another host is in it. Who is in that of a source ([`lane_of`]) writes what the source remembers only as
    /// long as the lane is its own. For stores that are [shared](Self::shared); with others there is but one host.
    fn enter_lane(&self, lane: Arc<str>) -> StoreFuture<'_, Option<Fence>> {
        Box::pin(async move { Ok(Some(Fence { lane, epoch: 0 })) })
    }

    /// Stay in a lane for [`LANE_LEASE`] from now on. `false`: it is another's by now.
    fn stay_in_lane(&self, _fence: Fence) -> StoreFuture<'_, bool> {
        Box::pin(async { Ok(true) })
    }

    /// Leave a lane without a commit. One that is another's by now is no error.
    fn leave_lane(&self, _fence: Fence) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// The hosts that share it; of a store that is one host's, nobody.
    fn fleet(&self) -> StoreFuture<'_, Fleet> {
        Box::pin(async { Ok(Fleet::default()) })
    }

    /// Whether the host before this one ended without a stop, as far as the store knows.
    fn ended_badly(&self) -> bool {
        false
    }

    /// Whether other hosts write to it too: then what they wrote is looked for.
    fn shared(&self) -> bool {
        false
    }

    /// However quiet it is, the store is asked after this whether there are tasks.
    fn idle(&self) -> Duration {
        if self.shared() { Duration::from_secs(1) } else { Duration::from_secs(30) }
    }

    /// Copy all of it to a file, while it is used: what was committed when this began. It is on disk when this returns, or nothing of it
    /// is. A file that is there is replaced only if that is wanted.
    fn backup(&self, _to: PathBuf, _replace: bool) -> StoreFuture<'_, ()> {
        Box::pin(async {
            Err(StoreError::Other("this store is backed up by the means of its database, such as `pg_dump -n koksmat`".into()))
        })
    }

    /// The number of this start of the host on this store: grows with every start. Makes fencing tokens that never repeat.
    fn start_number(&self) -> u64;

    /// Finish what was handed over, mark the end as clean and let go of the store.
    fn close(&self) -> StoreFuture<'_, ()>;

    /// Let go of the store at once, as the end of the process would: nothing more is written, the end is no clean one. Blocks until it is
    /// free. Closed already is no error.
    fn abandon(&self);
}
