//! The embedded store: one SQLite file, one host.
//!
//! One thread writes, in groups that share a commit (`writer.rs`); a few connections read beside it (`readers.rs`). A lock of the
//! operating system makes the file one process's (`file.rs`), so whatever was running when it is opened runs no more (`schema.rs`).

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;

use self::{
    clock::Clock,
    expire::Old,
    readers::Readers,
    schema::{Start, Who},
    writer::{Survive, Writer},
};
use super::{
    Acceptance, Accepted, CallId, Claim, Commit, Committed, DeadLetter, DeadLetterQuery, Depth, Group, Holder, KeptEvent, KeptQuery,
    Millis, OrderKey, Read, Reroute, Rerun, RerunRoute, Retention, Settled, Store, StoreError, StoreFuture, Task, Waiting, Want,
    abandoned::{Abandoned, Claimed},
    holds::Holds,
    letters::Steps,
};
pub use backup::Restored;

use crate::tenant::Tenant;

mod accept;
mod backup;
mod clock;
mod dead_letter;
mod expire;
mod file;
mod kept;
mod keyvalue;
mod readers;
mod rows;
mod schema;
mod settle;
#[cfg(test)]
pub(crate) mod simulated;
mod source_state;
mod task;
#[cfg(test)]
mod tests;
mod writer;

/// A store in one SQLite file.
///
/// Dropped without [`Store::close`] it carries out what was handed over, which blocks for that long, and counts as an end nobody asked for.
#[derive(Debug)]
pub struct SqliteStore {
    // In the order of dropping: the writer lets go of the file last of all that use it.
    readers: Readers,
    writer: Writer,
    holds: Holds,
    clock: Arc<Clock>,
    abandoned: Arc<Abandoned>,
    start: Start,
    _folder: Option<TempDir>,
}

impl SqliteStore {
    /// Open the store at `path`, and make it and its folder when it is not there. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when a host, also of this process, has it open; [`StoreError::Newer`] when a newer version made it;
    /// [`StoreError::Full`] when there is no room; [`StoreError::Other`] when the file is no store or cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_as(path, Who::Host)
    }

    /// Open a store that no host runs on, to look at it and to change something: it is no start of a host, and what was running when the last
    /// one ended stays for the next one to see. As a host it holds the store until it is dropped.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn visit(path: &Path) -> Result<Self, StoreError> {
        Self::open_as(path, Who::Visitor)
    }

    /// Put a copy that [`Store::backup`] made in the place of the store at `path`, on which no host runs. What was there is kept beside it.
    /// Blocks on the disk.
    ///
    /// What was settled since the copy was made and comes again is handled again; see "Looking after it" in the README.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when a host runs on it, [`StoreError::Newer`] when a newer version made the copy, [`StoreError::Other`] when the
    /// copy is damaged or no store. Then nothing has changed.
    pub fn restore(path: &Path, from: &Path) -> Result<Restored, StoreError> {
        backup::restore(path, from)
    }

    fn open_as(path: &Path, who: Who) -> Result<Self, StoreError> {
        let opened = file::prepare(path).and_then(|path| Self::start(&path, None, who));
        opened.map_err(|error| match error {
            StoreError::Other(why) => StoreError::Other(format!(
                "cannot open the store {}: {why}; does `store` in [host] name the right file, and may this user read and write it?",
                path.display()
            )),
            other => other,
        })
    }

    /// A store of which nothing survives: for tests, and for pipelines that need nothing to.
    ///
    /// # Errors
    /// As [`SqliteStore::open`]: it is a file all the same, in the folder for temporary files, since SQLite's own memory databases
    /// cannot be read beside a writer.
    pub fn in_memory() -> Result<Self, StoreError> {
        let failed = |error| StoreError::Other(format!("cannot make a folder for a store in memory: {error}"));
        let folder = tempfile::Builder::new().prefix("koksmat-").tempdir().map_err(failed)?;
        let path = file::prepare(&folder.path().join("memory.db"))?;
        Self::start(&path, Some(folder), Who::Host)
    }

    fn start(path: &Path, folder: Option<TempDir>, who: Who) -> Result<Self, StoreError> {
        let durable = folder.is_none();
        let lock = file::Lock::take(path)?;
        let (connection, start) = schema::open(path, durable, who)?;
        let readers = Readers::open(path)?;
        let writer = Writer::start(connection, lock, durable, who)
            .map_err(|error| StoreError::Other(format!("cannot start its thread: {error}")))?;
        Ok(Self { readers, writer, holds: Holds::default(), clock: Arc::default(), abandoned: Arc::default(), start, _folder: folder })
    }
}

impl Store for SqliteStore {
    fn accept(&self, acceptances: Vec<Acceptance>) -> StoreFuture<'_, Vec<Accepted>> {
        let clock = self.clock.clone();
        Box::pin(self.writer.run(Survive::PowerLoss, move |c| Ok(accept::accept_in_order(c, &acceptances, clock.now())?)))
    }

    fn claim(&self, wants: Vec<Want>) -> StoreFuture<'_, Vec<Task>> {
        Box::pin(async move {
            let place = self.writer.place().await?;
            let (clock, abandoned) = (self.clock.clone(), self.abandoned.clone());
            let returned = Arc::new(self.abandoned.take());
            let again = returned.clone();
            let work = move |c: &Connection| {
                task::release(c, &returned)?;
                Ok(task::claim(c, &wants, clock.now())?)
            };
            let claimed = place.hand_over_and(Survive::Crash, work, |tasks| Claimed { tasks, abandoned }).wait().await;
            let claimed = claimed.inspect_err(|_| self.abandoned.put_back(&again))?;
            Ok(claimed.keep())
        })
    }

    fn release(&self, claims: Vec<Claim>) -> StoreFuture<'_, ()> {
        Box::pin(self.writer.run(Survive::Crash, move |c| Ok(task::release(c, &claims)?)))
    }

    fn claimable(&self) -> StoreFuture<'_, Vec<Group>> {
        let clock = self.clock.clone();
        Box::pin(self.readers.run(move |c| task::claimable(c, clock.now())))
    }

    fn next_due(&self, after: Millis) -> StoreFuture<'_, Option<Millis>> {
        Box::pin(self.readers.run(move |c| task::next_due(c, after)))
    }

    fn alone(&self, claim: Claim) -> StoreFuture<'_, ControlFlow<()>> {
        let clock = self.clock.clone();
        Box::pin(self.writer.run(Survive::PowerLoss, move |c| Ok(task::alone(c, claim, clock.now())?)))
    }

    fn commit(&self, commit: Commit) -> StoreFuture<'_, Committed> {
        Box::pin(async move {
            let (holder, tenant, keys) = (commit.holder, commit.call.tenant.clone(), commit.writes());
            if !commit.needs_store() {
                holder.into_iter().for_each(|holder| self.holds.release(holder));
                return Ok(Committed::Yes);
            }
            let survive = if commit.writes_nothing() { Survive::Crash } else { Survive::PowerLoss };
            let clock = self.clock.clone();
            loop {
                // Not with a place in the queue in hand: the holder may need it.
                self.holds.wait(holder, &tenant, &keys).await;
                let place = self.writer.place().await?;
                let answer = {
                    let Some(_passage) = self.holds.pass(holder, &tenant, &keys) else { continue };
                    place.hand_over(survive, move |c| settle::settle(c, &commit, clock.now()))
                };
                return answer.wait().await;
            }
        })
    }

    fn hold(&self, holder: Holder, tenant: Tenant, reads: Vec<Read>, writes: Vec<String>, until: Duration) -> StoreFuture<'_, bool> {
        Box::pin(async move {
            let request = self.holds.request(holder, tenant.clone(), &reads, writes, until);
            if !request.held().await {
                return Ok(false);
            }
            // Commits that passed before are ahead in the writer's queue, so this check sees what they did; later ones wait.
            let valid = self.writer.run(Survive::Crash, move |c| Ok(keyvalue::unchanged(c, &tenant, &reads)?)).await?;
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
        Box::pin(self.readers.run(move |c| settle::settled(c, &call)))
    }

    fn get(&self, tenant: Tenant, key: String) -> StoreFuture<'_, Option<(Bytes, i64)>> {
        Box::pin(self.readers.run(move |c| keyvalue::get(c, &tenant, &key)))
    }

    fn list(&self, tenant: Tenant, prefix: String, after: Option<String>, limit: usize) -> StoreFuture<'_, Vec<String>> {
        Box::pin(self.readers.run(move |c| keyvalue::list(c, &tenant, &prefix, after.as_deref(), limit)))
    }

    fn state(&self, tenant: Tenant, source: Arc<str>, prefix: String) -> StoreFuture<'_, Vec<(String, Vec<u8>)>> {
        Box::pin(self.readers.run(move |c| source_state::get(c, &tenant, &source, &prefix)))
    }

    fn set_state(&self, tenant: Tenant, source: Arc<str>, entries: Vec<(String, Option<Vec<u8>>)>) -> StoreFuture<'_, ()> {
        Box::pin(self.writer.run(Survive::PowerLoss, move |c| Ok(source_state::set(c, &tenant, &source, &entries)?)))
    }

    fn orders(&self) -> StoreFuture<'_, Vec<OrderKey>> {
        Box::pin(self.readers.run(task::orders))
    }

    fn backlog(&self, tenant: Tenant, source: Arc<str>) -> StoreFuture<'_, u64> {
        Box::pin(self.readers.run(move |c| accept::backlog(c, &tenant, &source)))
    }

    fn waiting(&self) -> StoreFuture<'_, Vec<Waiting>> {
        Box::pin(self.readers.run(task::waiting))
    }

    fn depths(&self) -> StoreFuture<'_, Vec<Depth>> {
        let clock = self.clock.clone();
        Box::pin(self.readers.run(move |c| task::depths(c, clock.now())))
    }

    fn dead_letters(&self, query: DeadLetterQuery) -> StoreFuture<'_, Vec<DeadLetter>> {
        Box::pin(self.readers.run(move |c| dead_letter::list(c, &query)))
    }

    fn count_dead_letters(&self, query: DeadLetterQuery) -> StoreFuture<'_, u64> {
        Box::pin(self.readers.run(move |c| dead_letter::count(c, &query)))
    }

    fn recording(&self, letter: i64) -> StoreFuture<'_, Option<String>> {
        Box::pin(self.readers.run(move |c| dead_letter::recording(c, letter)))
    }

    fn replay(&self, query: DeadLetterQuery, route: Arc<Reroute>) -> StoreFuture<'_, u64> {
        Box::pin(async move {
            let (mut steps, mut replayed) = (Steps::new(query.clone(), query.after, query.limit), 0);
            while let Some(step) = steps.next() {
                let (clock, route) = (self.clock.clone(), route.clone());
                let step = self.writer.run(Survive::PowerLoss, move |c| Ok(dead_letter::replay(c, &step, &*route, clock.now())?)).await?;
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
                let gone = self.writer.run(Survive::PowerLoss, move |c| Ok(dead_letter::purge(c, &step)?)).await?;
                purged += gone;
                if gone == 0 {
                    break;
                }
            }
            Ok(purged)
        })
    }

    fn kept_events(&self, query: KeptQuery) -> StoreFuture<'_, Vec<KeptEvent>> {
        Box::pin(self.readers.run(move |c| kept::list(c, &query)))
    }

    fn rerun(&self, query: KeptQuery, request: Arc<str>, route: Arc<RerunRoute>) -> StoreFuture<'_, Rerun> {
        Box::pin(async move {
            let (mut steps, mut rerun) = (Steps::new(query.clone(), query.after, query.limit), Rerun::default());
            while let Some(step) = steps.next() {
                let (clock, route, request) = (self.clock.clone(), route.clone(), request.clone());
                let step = self.writer.run(Survive::PowerLoss, move |c| Ok(kept::rerun(c, &step, &request, &*route, clock.now())?)).await?;
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
            let too_much = self.readers.run(move |c| kept::beyond(c, retention.kept_bytes)).await?.unwrap_or(0);
            let kept = self.clock.before(retention.kept);
            let mut forgotten = 0;
            for (old, before) in [
                (Old::Accepted, settled),
                (Old::Settled, settled),
                (Old::DeadLetters, dead_letters),
                (Old::Kept, kept),
                (Old::TooMuch, too_much),
            ] {
                loop {
                    let gone = self.writer.run(Survive::PowerLoss, move |c| Ok(expire::step(c, old, before)?)).await?;
                    forgotten += gone as u64;
                    if gone < expire::STEP {
                        break;
                    }
                }
            }
            Ok(forgotten)
        })
    }

    fn backup(&self, to: PathBuf, replace: bool) -> StoreFuture<'_, ()> {
        Box::pin(self.readers.run_long(move |c| backup::write(c, &to, replace)))
    }

    fn ended_badly(&self) -> bool {
        self.start.after_a_bad_end
    }

    fn start_number(&self) -> u64 {
        self.start.number
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.readers.close().await;
            self.writer.close().await
        })
    }

    fn abandon(&self) {
        self.readers.abandon();
        self.writer.abandon();
    }
}
