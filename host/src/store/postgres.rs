//! The store of several hosts: a schema of a PostgreSQL database.
//!
//! Each host has one connection that writes, in groups that share a transaction (`writer.rs`); some connections read beside it. Hosts that
//! change the same thing wait for each other (`locks.rs`). Each says every few seconds that it is alive; what one that does not was
//! running is ready again, and what it may still complete is void, since the task's epoch has moved on (`lease.rs`).

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::sync::CancellationToken;

use self::{
    clock::Clock,
    connect::Connect,
    dead_letter::{Purge, Replay},
    expire::{Forget, Old},
    kept::Reruns,
    keyvalue::Check,
    source_state::SetState,
    task::{Alone, ClaimTasks, Release},
    writer::Writer,
};
use super::{
    Acceptance, Accepted, CallId, Claim, Commit, Committed, DeadLetter, DeadLetterQuery, Depth, Fence, Fleet, Group, Holder, KeptEvent,
    KeptQuery, Millis, OrderKey, Read, Reroute, Rerun, RerunRoute, Retention, Settled, Store, StoreError, StoreFuture, Task, Waiting, Want,
    abandoned::{Abandoned, Claimed},
    holds::Holds,
    lane_of,
    letters::Steps,
};
use crate::{config::Secret, tenant::Tenant};

mod accept;
mod clock;
mod connect;
mod dead_letter;
mod expire;
mod kept;
mod keyvalue;
mod lane;
mod lease;
mod locks;
mod rows;
mod schema;
mod settle;
mod source_state;
mod task;
#[cfg(test)]
mod tests;
mod writer;

/// Where the tables are.
const SCHEMA: &str = "koksmat";
/// Connections that read.
const READERS: u32 = 4;
/// How long a reader is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of a host waits for the server.
const CLOSE: Duration = Duration::from_secs(10);
/// A store in a PostgreSQL database, for one host or for several.
///
/// Dropped without [`Store::close`] it carries out nothing more, and what it was running is taken over when its lease has ended.
#[derive(Debug)]
pub struct PostgresStore {
    writer: Writer,
    readers: PgPool,
    holds: Holds,
    clock: Arc<Clock>,
    abandoned: Arc<Abandoned>,
    /// The lanes this host has entered, each with its right to be in it the last time.
    lanes: Mutex<HashMap<Arc<str>, Fence>>,
    /// New at every start.
    host: Arc<str>,
    start_number: u64,
    ended: CancellationToken,
}

impl PostgresStore {
    /// Open the store at `url`, in a schema of its own, and make it where it is not there.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a newer version made it; [`StoreError::Other`] when the database cannot be reached or its user may not
    /// make the tables. Messages name the database by where its URL came from, never by the URL.
    pub async fn open(url: &Secret) -> Result<Self, StoreError> {
        Self::open_in(url, SCHEMA).await
    }

    /// The same in the schema of this name.
    pub(crate) async fn open_in(url: &Secret, schema: &str) -> Result<Self, StoreError> {
        let connect = Connect::new(url, schema)?;
        let clock = Arc::<Clock>::default();
        let mut connection = connect.writer(&clock).await?;
        let start_number = schema::prepare(&connect, &mut connection).await?;
        let host: Arc<str> = uuid::Uuid::now_v7().to_string().into();
        lease::renew(&mut connection, &host).await?;
        let readers = connect.pool(PgPoolOptions::new().max_connections(READERS).acquire_timeout(PATIENCE));
        let ended = CancellationToken::new();
        drop(crate::task::spawn("store lease", lease::keep(connect.clone(), host.clone(), clock.clone(), ended.clone())));
        let writer = Writer::start(connect, connection, clock.clone());
        Ok(Self {
            writer,
            readers,
            holds: Holds::default(),
            clock,
            abandoned: Arc::default(),
            lanes: Mutex::default(),
            host,
            start_number,
            ended,
        })
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Arc<str>, Fence>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to write what a source remembers, if it is one that one host runs.
    fn fence_of(&self, tenant: &Tenant, source: &str) -> Option<Fence> {
        self.lanes().get(&lane_of(tenant, source)).cloned()
    }

    async fn reader(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>, StoreError> {
        if self.ended.is_cancelled() {
            return Err(StoreError::Closed);
        }
        Ok(self.readers.acquire().await?)
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Store for PostgresStore {
    fn accept(&self, acceptances: Vec<Acceptance>) -> StoreFuture<'_, Vec<Accepted>> {
        let fence = acceptances.iter().find(|one| !one.state.is_empty()).and_then(|one| self.fence_of(&one.tenant, &one.source));
        Box::pin(self.writer.accept(acceptances, fence))
    }

    fn claim(&self, wants: Vec<Want>) -> StoreFuture<'_, Vec<Task>> {
        Box::pin(async move {
            let place = self.writer.place().await?;
            let abandoned = self.abandoned.clone();
            let returned = Arc::new(self.abandoned.take());
            let again = returned.clone();
            let work = ClaimTasks { wants, host: self.host.clone(), returned };
            let claimed = place.hand_over(work, |tasks| Claimed { tasks, abandoned }).wait().await;
            let claimed = claimed.inspect_err(|_| self.abandoned.put_back(&again))?;
            Ok(claimed.keep())
        })
    }

    fn release(&self, claims: Vec<Claim>) -> StoreFuture<'_, ()> {
        Box::pin(self.writer.run(Release(claims)))
    }

    fn claimable(&self) -> StoreFuture<'_, Vec<Group>> {
        Box::pin(async move { task::claimable(&mut *self.reader().await?, self.clock.now()).await })
    }

    fn next_due(&self, after: Millis) -> StoreFuture<'_, Option<Millis>> {
        Box::pin(async move {
            let ahead = self.clock.ahead();
            let due = task::next_due(&mut *self.reader().await?, after.saturating_add(ahead)).await?;
            Ok(due.map(|due| due.saturating_sub(ahead)))
        })
    }

    fn alone(&self, claim: Claim) -> StoreFuture<'_, ControlFlow<()>> {
        Box::pin(self.writer.run(Alone(claim)))
    }

    fn commit(&self, commit: Commit) -> StoreFuture<'_, Committed> {
        Box::pin(async move {
            let (holder, tenant, keys) = (commit.holder, commit.call.tenant.clone(), commit.writes());
            let fence = commit.fence.clone();
            if !commit.needs_store() {
                holder.into_iter().for_each(|holder| self.holds.release(holder));
                return Ok(Committed::Yes);
            }
            loop {
                // Not with a place in the queue in hand: the holder may need it.
                self.holds.wait(holder, &tenant, &keys).await;
                let place = self.writer.place().await?;
                let answer = {
                    let Some(_passage) = self.holds.pass(holder, &tenant, &keys) else { continue };
                    place.hand_over(commit, |committed| committed)
                };
                let committed = answer.wait().await;
                if let (Ok(Committed::Settled), Some(fence)) = (&committed, fence) {
                    // Its commit was rolled back, and with it that it left the lane.
                    self.writer.run(lane::Leave(fence)).await?;
                }
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
            // Commits of this host that passed before are ahead in the writer's queue, so this check sees what they did; later ones wait.
            // Those of other hosts are kept back by nothing but the check of the reads at commit.
            let valid = self.writer.run(Check { tenant, reads }).await?;
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
        Box::pin(async move { settle::settled(&mut *self.reader().await?, &call).await })
    }

    fn get(&self, tenant: Tenant, key: String) -> StoreFuture<'_, Option<(Bytes, i64)>> {
        Box::pin(async move { keyvalue::get(&mut *self.reader().await?, &tenant, &key).await })
    }

    fn list(&self, tenant: Tenant, prefix: String, after: Option<String>, limit: usize) -> StoreFuture<'_, Vec<String>> {
        Box::pin(async move { keyvalue::list(&mut *self.reader().await?, &tenant, &prefix, after.as_deref(), limit).await })
    }

    fn state(&self, tenant: Tenant, source: Arc<str>, prefix: String) -> StoreFuture<'_, Vec<(String, Vec<u8>)>> {
        Box::pin(async move { source_state::get(&mut *self.reader().await?, &tenant, &source, &prefix).await })
    }

    fn set_state(&self, tenant: Tenant, source: Arc<str>, entries: Vec<(String, Option<Vec<u8>>)>) -> StoreFuture<'_, ()> {
        let fence = self.fence_of(&tenant, &source);
        Box::pin(self.writer.run(SetState { tenant, source, entries, fence }))
    }

    fn orders(&self) -> StoreFuture<'_, Vec<OrderKey>> {
        Box::pin(async move { task::orders(&mut *self.reader().await?).await })
    }

    fn backlog(&self, tenant: Tenant, source: Arc<str>) -> StoreFuture<'_, u64> {
        Box::pin(async move { Ok(accept::backlog(&mut *self.reader().await?, &tenant, &source, None).await?) })
    }

    fn waiting(&self) -> StoreFuture<'_, Vec<Waiting>> {
        Box::pin(async move { task::waiting(&mut *self.reader().await?).await })
    }

    fn depths(&self) -> StoreFuture<'_, Vec<Depth>> {
        Box::pin(async move { task::depths(&mut *self.reader().await?, self.clock.now()).await })
    }

    fn dead_letters(&self, query: DeadLetterQuery) -> StoreFuture<'_, Vec<DeadLetter>> {
        Box::pin(async move { dead_letter::list(&mut *self.reader().await?, &query).await })
    }

    fn count_dead_letters(&self, query: DeadLetterQuery) -> StoreFuture<'_, u64> {
        Box::pin(async move { dead_letter::count(&mut *self.reader().await?, &query).await })
    }

    fn recording(&self, letter: i64) -> StoreFuture<'_, Option<String>> {
        Box::pin(async move { dead_letter::recording(&mut *self.reader().await?, letter).await })
    }

    fn replay(&self, query: DeadLetterQuery, route: Arc<Reroute>) -> StoreFuture<'_, u64> {
        Box::pin(async move {
            let (mut steps, mut replayed) = (Steps::new(query.clone(), query.after, query.limit), 0);
            while let Some(step) = steps.next() {
                let step = self.writer.run(Replay { query: step, route: route.clone() }).await?;
                replayed += step.done;
                let Some(last) = step.last else { break };
                steps.behind(last);
            }
            Ok(replayed)
        })
    }

    fn purge(&self, query: DeadLetterQuery) -> StoreFuture<'_, u64> {
        Box::pin(async move {
            let (mut steps, mut purged) = (Steps::new(query.clone(), query.after, query.limit), 0);
            while let Some(step) = steps.next() {
                let gone = self.writer.run(Purge(step)).await?;
                purged += gone;
                if gone == 0 {
                    break;
                }
            }
            Ok(purged)
        })
    }

    fn kept_events(&self, query: KeptQuery) -> StoreFuture<'_, Vec<KeptEvent>> {
        Box::pin(async move { kept::list(&mut *self.reader().await?, &query).await })
    }

    fn rerun(&self, query: KeptQuery, request: Arc<str>, route: Arc<RerunRoute>) -> StoreFuture<'_, Rerun> {
        Box::pin(async move {
            let (mut steps, mut rerun) = (Steps::new(query.clone(), query.after, query.limit), Rerun::default());
            while let Some(step) = steps.next() {
                let step = self.writer.run(Reruns { query: step, request: request.clone(), route: route.clone() }).await?;
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
            let too_much = kept::beyond(&mut *self.reader().await?, retention.kept_bytes).await?.unwrap_or(0);
            let kept = self.clock.before(retention.kept);
            let mut forgotten = 0;
            for (old, before) in [
                (Old::Accepted, settled),
                (Old::Settled, settled),
                (Old::DeadLetters, dead_letters),
                (Old::Kept, kept),
                (Old::TooMuch, too_much),
                (Old::Events, self.clock.now()),
            ] {
                loop {
                    let gone = self.writer.run(Forget { old, before }).await?;
                    if !matches!(old, Old::Events) {
                        forgotten += gone;
                    }
                    if gone < expire::STEP {
                        break;
                    }
                }
            }
            Ok(forgotten)
        })
    }

    fn enter_lane(&self, lane: Arc<str>) -> StoreFuture<'_, Option<Fence>> {
        Box::pin(async move {
            let fence = self.writer.run(lane::Enter { lane, host: self.host.clone() }).await?;
            if let Some(fence) = &fence {
                self.lanes().insert(fence.lane.clone(), fence.clone());
            }
            Ok(fence)
        })
    }

    fn stay_in_lane(&self, fence: Fence) -> StoreFuture<'_, bool> {
        Box::pin(self.writer.run(lane::Stay(fence)))
    }

    fn leave_lane(&self, fence: Fence) -> StoreFuture<'_, ()> {
        Box::pin(self.writer.run(lane::Leave(fence)))
    }

    fn fleet(&self) -> StoreFuture<'_, Fleet> {
        Box::pin(async move { lease::fleet(&mut *self.reader().await?, &self.host).await })
    }

    fn shared(&self) -> bool {
        true
    }

    fn start_number(&self) -> u64 {
        self.start_number
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.ended.cancel();
            let leaving = async {
                let left = self.writer.run(lease::Leave { host: self.host.clone() }).await;
                self.writer.close().await;
                self.readers.close().await;
                left
            };
            match tokio::time::timeout(CLOSE, leaving).await {
                Ok(Err(StoreError::Closed)) => Ok(()),
                Ok(left) => left,
                Err(_) => {
                    self.writer.abandon();
                    let why =
                        format!("it did not answer within {CLOSE:?}; what this host was running is taken over when its lease has ended");
                    Err(StoreError::Other(why))
                }
            }
        })
    }

    fn abandon(&self) {
        self.ended.cancel();
        self.writer.abandon();
    }
}

/// At most so many, as the server counts.
fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
