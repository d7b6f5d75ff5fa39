//! The embedded store under a simulation: its own transactions on a database in memory, carried out where a simulated disk decides it.
//!
//! What is not here is the writer's thread and the readers' pool: an operation is carried out as soon as it is handed over, before that and
//! before its answer as much time passes as the disk says. Several hosts may share a disk, by the rules of the store in PostgreSQL
//! ([`shared`]).

mod shared;

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rusqlite::Connection;

use super::{
    accept,
    clock::Clock,
    dead_letter,
    expire::{self, Old},
    kept, keyvalue, schema, settle, source_state, task,
};
use crate::{
    store::{
        Acceptance, Accepted, CallId, Claim, Commit, Committed, DeadLetter, DeadLetterQuery, Depth, Fence, Group, Holder, KeptEvent,
        KeptQuery, Millis, OrderKey, Read, Reroute, Rerun, RerunRoute, Retention, Settled, Store, StoreError, StoreFuture, Task, Waiting,
        Want,
        abandoned::{Abandoned, Claimed},
        holds::Holds,
        letters::Steps,
        stop::Stop,
    },
    tenant::Tenant,
};

/// What a simulated disk does.
pub(crate) trait Weather: Send + Sync {
    /// How long the next step of an operation takes.
    fn delay(&self) -> Duration;
    /// Whether the next operation fails.
    fn fails(&self) -> bool;
}

/// What is on the disk: it survives the host.
pub(crate) struct Disk(Mutex<Connection>);

impl Disk {
    /// An empty one.
    pub(crate) fn new() -> Result<Arc<Self>, StoreError> {
        let mut connection = Connection::open_in_memory()?;
        schema::prepare(&mut connection)?;
        Ok(Arc::new(Self(Mutex::new(connection))))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store of one start of a simulated host.
pub(crate) struct SimulatedStore {
    /// What it is called, where others share the disk.
    host: Option<Arc<str>>,
    disk: Arc<Disk>,
    weather: Arc<dyn Weather>,
    holds: Holds,
    clock: Arc<Clock>,
    abandoned: Arc<Abandoned>,
    start_number: u64,
    after_a_bad_end: bool,
    closed: AtomicBool,
}

impl SimulatedStore {
    /// Begin a start of the host on this disk, as if its file was opened.
    pub(crate) fn open(disk: Arc<Disk>, weather: Arc<dyn Weather>) -> Result<Self, StoreError> {
        let start = schema::begin_start(&mut disk.lock())?;
        Ok(Self { after_a_bad_end: start.after_a_bad_end, ..Self::new(None, disk, weather, start.number) })
    }

    fn new(host: Option<Arc<str>>, disk: Arc<Disk>, weather: Arc<dyn Weather>, start_number: u64) -> Self {
        Self {
            host,
            disk,
            weather,
            holds: Holds::default(),
            clock: Arc::default(),
            abandoned: Arc::default(),
            start_number,
            after_a_bad_end: false,
            closed: AtomicBool::new(false),
        }
    }

    async fn pass_time(&self) -> Result<(), StoreError> {
        match self.weather.delay() {
            Duration::ZERO => tokio::task::yield_now().await,
            delay => tokio::time::sleep(delay).await,
        }
        if self.closed.load(Ordering::Relaxed) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// In a transaction that is committed, or is not.
    fn transaction<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Stop<T>>) -> Result<T, StoreError> {
        if self.weather.fails() {
            return Err(StoreError::Other("the disk failed".into()));
        }
        let mut connection = self.disk.lock();
        let transaction = connection.transaction()?;
        match work(&transaction) {
            Ok(answer) => transaction.commit().map(|()| answer).map_err(StoreError::from),
            Err(Stop::Answer(answer)) => Ok(answer),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    async fn write<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Stop<T>> + Send) -> Result<T, StoreError> {
        self.pass_time().await?;
        let answer = self.transaction(work);
        self.pass_time().await?;
        answer
    }

    async fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send) -> Result<T, StoreError> {
        self.write(|c| Ok(work(c)?)).await
    }
}

impl Store for SimulatedStore {
    fn accept(&self, acceptances: Vec<Acceptance>) -> StoreFuture<'_, Vec<Accepted>> {
        Box::pin(self.write(move |c| Ok(accept::accept_in_order(c, &acceptances, self.clock.now())?)))
    }

    fn claim(&self, wants: Vec<Want>) -> StoreFuture<'_, Vec<Task>> {
        Box::pin(async move {
            self.pass_time().await?;
            let returned = self.abandoned.take();
            let claimed = self.transaction(|c| {
                task::release(c, &returned)?;
                let now = self.clock.now();
                let Some(host) = &self.host else { return Ok(task::claim(c, &wants, now)?) };
                shared::claim(c, host, now, || task::claim(c, &wants, now))
            });
            let tasks = claimed.inspect_err(|_| self.abandoned.put_back(&returned))?;
            let claimed = Claimed { tasks, abandoned: self.abandoned.clone() };
            self.pass_time().await?;
            Ok(claimed.keep())
        })
    }

    fn release(&self, claims: Vec<Claim>) -> StoreFuture<'_, ()> {
        Box::pin(self.write(move |c| Ok(task::release(c, &claims)?)))
    }

    fn claimable(&self) -> StoreFuture<'_, Vec<Group>> {
        Box::pin(self.read(move |c| task::claimable(c, self.clock.now())))
    }

    fn next_due(&self, after: Millis) -> StoreFuture<'_, Option<Millis>> {
        Box::pin(self.read(move |c| task::next_due(c, after)))
    }

    fn alone(&self, claim: Claim) -> StoreFuture<'_, ControlFlow<()>> {
        Box::pin(self.write(move |c| Ok(task::alone(c, claim, self.clock.now())?)))
    }

    fn commit(&self, commit: Commit) -> StoreFuture<'_, Committed> {
        Box::pin(async move {
            let (holder, tenant, keys) = (commit.holder, commit.call.tenant.clone(), commit.writes());
            if !commit.needs_store() {
                holder.into_iter().for_each(|holder| self.holds.release(holder));
                return Ok(Committed::Yes);
            }
            self.pass_time().await?;
            loop {
                self.holds.wait(holder, &tenant, &keys).await;
                let committed = {
                    let Some(_passage) = self.holds.pass(holder, &tenant, &keys) else { continue };
                    self.transaction(|c| {
                        let settled = || settle::settle(c, &commit, self.clock.now());
                        shared::under(c, commit.fence.as_ref(), settled)
                    })
                };
                self.pass_time().await?;
                return committed;
            }
        })
    }

    fn hold(&self, holder: Holder, tenant: Tenant, reads: Vec<Read>, writes: Vec<String>, until: Duration) -> StoreFuture<'_, bool> {
        Box::pin(async move {
            let request = self.holds.request(holder, tenant.clone(), &reads, writes, until);
            if !request.held().await {
                return Ok(false);
            }
            let valid = self.transaction(|c| Ok(keyvalue::unchanged(c, &tenant, &reads)?))?;
            self.pass_time().await?;
            if valid {
                request.keep();
            }
            Ok(valid)
        })
    }

    fn unhold(&self, holder: Holder) {
        self.holds.release(holder);
    }

    fn settled(&self, call: CallId) -> StoreFuture<'_, Option<Settled>> {
        Box::pin(self.read(move |c| settle::settled(c, &call)))
    }

    fn get(&self, tenant: Tenant, key: String) -> StoreFuture<'_, Option<(Bytes, i64)>> {
        Box::pin(self.read(move |c| keyvalue::get(c, &tenant, &key)))
    }

    fn list(&self, tenant: Tenant, prefix: String, after: Option<String>, limit: usize) -> StoreFuture<'_, Vec<String>> {
        Box::pin(self.read(move |c| keyvalue::list(c, &tenant, &prefix, after.as_deref(), limit)))
    }

    fn state(&self, tenant: Tenant, source: Arc<str>, prefix: String) -> StoreFuture<'_, Vec<(String, Vec<u8>)>> {
        Box::pin(self.read(move |c| source_state::get(c, &tenant, &source, &prefix)))
    }

    fn set_state(&self, tenant: Tenant, source: Arc<str>, entries: Vec<(String, Option<Vec<u8>>)>) -> StoreFuture<'_, ()> {
        Box::pin(self.write(move |c| Ok(source_state::set(c, &tenant, &source, &entries)?)))
    }

    fn orders(&self) -> StoreFuture<'_, Vec<OrderKey>> {
        Box::pin(self.read(task::orders))
    }

    fn backlog(&self, tenant: Tenant, source: Arc<str>) -> StoreFuture<'_, u64> {
        Box::pin(self.read(move |c| accept::backlog(c, &tenant, &source)))
    }

    fn waiting(&self) -> StoreFuture<'_, Vec<Waiting>> {
        Box::pin(self.read(task::waiting))
    }

    fn depths(&self) -> StoreFuture<'_, Vec<Depth>> {
        Box::pin(self.read(move |c| task::depths(c, self.clock.now())))
    }

    fn dead_letters(&self, query: DeadLetterQuery) -> StoreFuture<'_, Vec<DeadLetter>> {
        Box::pin(self.read(move |c| dead_letter::list(c, &query)))
    }

    fn count_dead_letters(&self, query: DeadLetterQuery) -> StoreFuture<'_, u64> {
        Box::pin(self.read(move |c| dead_letter::count(c, &query)))
    }

    fn recording(&self, letter: i64) -> StoreFuture<'_, Option<String>> {
        Box::pin(self.read(move |c| dead_letter::recording(c, letter)))
    }

    fn replay(&self, query: DeadLetterQuery, route: Arc<Reroute>) -> StoreFuture<'_, u64> {
        Box::pin(async move {
            let (mut steps, mut replayed) = (Steps::new(query.clone(), query.after, query.limit), 0);
            while let Some(step) = steps.next() {
                let done = self.write(|c| Ok(dead_letter::replay(c, &step, &*route, self.clock.now())?)).await?;
                replayed += done.done;
                let Some(last) = done.last else { break };
                steps.behind(last);
            }
            Ok(replayed)
        })
    }

    fn purge(&self, query: DeadLetterQuery) -> StoreFuture<'_, u64> {
        Box::pin(async move {
            let (mut steps, mut purged) = (Steps::new(query.clone(), query.after, query.limit), 0);
            while let Some(step) = steps.next() {
                match self.write(|c| Ok(dead_letter::purge(c, &step)?)).await? {
                    0 => break,
                    gone => purged += gone,
                }
            }
            Ok(purged)
        })
    }

    fn kept_events(&self, query: KeptQuery) -> StoreFuture<'_, Vec<KeptEvent>> {
        Box::pin(self.read(move |c| kept::list(c, &query)))
    }

    fn rerun(&self, query: KeptQuery, request: Arc<str>, route: Arc<RerunRoute>) -> StoreFuture<'_, Rerun> {
        Box::pin(async move {
            let (mut steps, mut rerun) = (Steps::new(query.clone(), query.after, query.limit), Rerun::default());
            while let Some(step) = steps.next() {
                let step = self.write(|c| Ok(kept::rerun(c, &step, &request, &*route, self.clock.now())?)).await?;
                rerun.add(&step.done);
                let Some(last) = step.last else { break };
                steps.behind(last);
            }
            Ok(rerun)
        })
    }

    fn expire(&self, retention: Retention) -> StoreFuture<'_, u64> {
        Box::pin(async move {
            let (settled, dead_letters) = (self.clock.before(retention.settled), self.clock.before(retention.dead_letters));
            let too_much = self.read(move |c| kept::beyond(c, retention.kept_bytes)).await?.unwrap_or(0);
            let kept = self.clock.before(retention.kept);
            let mut forgotten = 0;
            for (old, before) in [
                (Old::Accepted, settled),
                (Old::Settled, settled),
                (Old::DeadLetters, dead_letters),
                (Old::Kept, kept),
                (Old::TooMuch, too_much),
            ] {
                forgotten += self.write(|c| Ok(expire::step(c, old, before)?)).await? as u64;
            }
            Ok(forgotten)
        })
    }

    fn enter_lane(&self, lane: Arc<str>) -> StoreFuture<'_, Option<Fence>> {
        Box::pin(self.write(move |c| Ok(shared::enter(c, lane, self.host.as_deref().unwrap_or_default(), self.clock.now())?)))
    }

    fn stay_in_lane(&self, fence: Fence) -> StoreFuture<'_, bool> {
        Box::pin(self.write(move |c| Ok(shared::stay(c, &fence, self.clock.now())?)))
    }

    fn leave_lane(&self, fence: Fence) -> StoreFuture<'_, ()> {
        Box::pin(self.write(move |c| Ok(shared::leave(c, &fence)?)))
    }

    fn ended_badly(&self) -> bool {
        self.after_a_bad_end
    }

    fn shared(&self) -> bool {
        self.host.is_some()
    }

    fn start_number(&self) -> u64 {
        self.start_number
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            if self.closed.swap(true, Ordering::Relaxed) {
                return Ok(());
            }
            match &self.host {
                Some(host) => shared::end(&self.disk.lock(), host),
                None => schema::mark_clean(&self.disk.lock()),
            }
        })
    }

    fn abandon(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// Neither slow nor failing.
struct Calm;

impl Weather for Calm {
    fn delay(&self) -> Duration {
        Duration::ZERO
    }

    fn fails(&self) -> bool {
        false
    }
}

mod tests {
    use super::*;
    use crate::store::conformance::{self, Opened};

    pub(super) async fn open() -> Opened {
        let disk = Disk::new().unwrap();
        Opened { store: Arc::new(SimulatedStore::open(disk, Arc::new(Calm)).unwrap()), _with: Box::new(()) }
    }

    conformance::conformance!(crate::store::sqlite::simulated::tests::open);
}
