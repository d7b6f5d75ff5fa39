//! Several simulated hosts on one disk, by the rules of the store in PostgreSQL: a lease for each host, what a dead one was running is taken
//! over with an epoch that has moved on, a lane has a lease and an epoch, and a commit that was in a lane is void when that is another's.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::time::Instant;

use super::{Disk, SimulatedStore, Weather};
use crate::store::{Committed, Fence, LANE_LEASE, Millis, StoreError, Task, stop::Stop};

/// How long a host is believed to be alive, and how often it says so.
const LEASE: Duration = Duration::from_secs(10);
const RENEW: Duration = Duration::from_secs(2);

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

impl Disk {
    /// Prepare it for several hosts.
    pub(crate) fn share(&self) -> Result<(), StoreError> {
        self.lock().execute_batch(
            "CREATE TABLE host (id TEXT PRIMARY KEY, lease_until INTEGER NOT NULL);
             CREATE TABLE owner (task INTEGER PRIMARY KEY, host TEXT NOT NULL);
             CREATE TABLE lane (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, host TEXT, lease_until INTEGER NOT NULL);",
        )?;
        Ok(())
    }
}

impl SimulatedStore {
    /// Begin a start of one of the hosts that share this disk.
    pub(crate) fn open_shared(host: Arc<str>, disk: Arc<Disk>, weather: Arc<dyn Weather>) -> Result<Self, StoreError> {
        let number: i64 =
            disk.lock().query_row("UPDATE meta SET value = value + 1 WHERE name = 'start_number' RETURNING value", [], |row| row.get(0))?;
        let store = Self::new(Some(host), disk, weather, number.unsigned_abs());
        store.renew()?;
        Ok(store)
    }

    fn renew(&self) -> Result<(), StoreError> {
        let until = self.clock.now() + millis(LEASE);
        self.disk.lock().execute("INSERT OR REPLACE INTO host (id, lease_until) VALUES (?1, ?2)", params![self.host, until])?;
        Ok(())
    }

    /// Keep the lease of the host until its store is closed.
    pub(crate) async fn keep_lease(self: Arc<Self>) {
        let mut renewed = Instant::now();
        while !self.closed.load(Ordering::Relaxed) {
            tokio::time::sleep(RENEW).await;
            let turn = async {
                self.pass_time().await?;
                self.renew()?;
                // After it could not say so for so long, the others may not have been able to either: they say so first.
                if renewed.elapsed() < LEASE { take_over(&self.disk.lock(), self.clock.now()) } else { Ok(()) }
            };
            if turn.await.is_ok() {
                renewed = Instant::now();
            }
        }
    }
}

/// What hosts were running that are not alive is ready again.
fn take_over(connection: &Connection, now: Millis) -> Result<(), StoreError> {
    connection.execute("DELETE FROM host WHERE lease_until <= ?1", [now])?;
    connection.execute(
        "UPDATE task SET state = 0, epoch = epoch + 1, suspect = 1, crashes = crashes + alone, alone = 0
         WHERE state = 1 AND id NOT IN (SELECT task FROM owner JOIN host ON host.id = owner.host)",
        [],
    )?;
    Ok(())
}

/// Claim for a host, if it is believed to be alive.
pub(super) fn claim(
    connection: &Connection,
    host: &str,
    now: Millis,
    claim: impl FnOnce() -> Result<Vec<Task>, StoreError>,
) -> Result<Vec<Task>, Stop<Vec<Task>>> {
    let alive: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM host WHERE id = ?1 AND lease_until > ?2)")?
        .query_row(params![host, now], |row| row.get(0))?;
    if !alive {
        return Ok(Vec::new());
    }
    let tasks = claim()?;
    for task in &tasks {
        connection.prepare_cached("INSERT OR REPLACE INTO owner (task, host) VALUES (?1, ?2)")?.execute(params![task.claim.task, host])?;
    }
    Ok(tasks)
}

/// The host ends: what it still holds is ready.
pub(super) fn end(connection: &Connection, host: &str) -> Result<(), StoreError> {
    connection.execute(
        "UPDATE task SET state = 0, epoch = epoch + 1, alone = 0 WHERE state = 1 AND id IN (SELECT task FROM owner WHERE host = ?1)",
        [host],
    )?;
    connection.execute("DELETE FROM host WHERE id = ?1", [host])?;
    Ok(())
}

pub(super) fn enter(connection: &Connection, lane: Arc<str>, host: &str, now: Millis) -> Result<Option<Fence>, StoreError> {
    let epoch = connection
        .prepare_cached(
            "INSERT INTO lane (name, epoch, host, lease_until) VALUES (?1, 1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET epoch = epoch + 1, host = excluded.host, lease_until = excluded.lease_until
                 WHERE host IS NULL OR lease_until <= ?4
             RETURNING epoch",
        )?
        .query_row(params![lane, host, now + millis(LANE_LEASE), now], |row| row.get(0))
        .optional()?;
    Ok(epoch.map(|epoch| Fence { lane, epoch }))
}

pub(super) fn stay(connection: &Connection, fence: &Fence, now: Millis) -> Result<bool, StoreError> {
    let stays = connection
        .prepare_cached("UPDATE lane SET lease_until = ?3 WHERE name = ?1 AND epoch = ?2 AND host IS NOT NULL")?
        .execute(params![fence.lane, fence.epoch, now + millis(LANE_LEASE)])?;
    Ok(stays > 0)
}

pub(super) fn leave(connection: &Connection, fence: &Fence) -> Result<(), StoreError> {
    leave_own(connection, fence).map(drop)
}

fn leave_own(connection: &Connection, fence: &Fence) -> Result<bool, StoreError> {
    let left = connection
        .prepare_cached("UPDATE lane SET host = NULL WHERE name = ?1 AND epoch = ?2 AND host IS NOT NULL")?
        .execute(params![fence.lane, fence.epoch])?;
    Ok(left > 0)
}

/// Settle a call that was in a lane, and leave that with it.
pub(super) fn under(
    connection: &Connection,
    fence: Option<&Fence>,
    settle: impl FnOnce() -> Result<Committed, Stop<Committed>>,
) -> Result<Committed, Stop<Committed>> {
    let Some(fence) = fence else { return settle() };
    if !leave_own(connection, fence)? {
        return Err(Stop::Answer(Committed::Fenced));
    }
    match settle() {
        // Nothing else was written.
        Err(Stop::Answer(Committed::Settled)) => Ok(Committed::Settled),
        settled => settled,
    }
}
