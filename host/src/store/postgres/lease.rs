//! Which hosts are alive. Each says so every few seconds; what one that does not was running is ready again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    Clock,
    clock::{NOW, millis},
    connect::Connect,
    writer::{Operation, Tx},
};
use crate::store::{Fleet, HeldLane, Millis, Peer, StoreError, stop::Stop};

/// How long a host is believed to be alive.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// How often it says so.
const RENEW: Duration = Duration::from_secs(2);

/// Say that a host is alive.
pub(super) async fn renew(connection: &mut PgConnection, host: &str) -> sqlx::Result<()> {
    let alive = format!(
        "INSERT INTO host (id, lease_until) VALUES ($1, {NOW} + $2)
         ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until"
    );
    sqlx::query(AssertSqlSafe(alive)).bind(host).bind(millis(LEASE)).execute(connection).await.map(drop)
}

/// The hosts that are believed to be alive, and the lanes they are in.
pub(super) async fn fleet(connection: &mut PgConnection, this: &str) -> Result<Fleet, StoreError> {
    let hosts = format!("SELECT id, lease_until - {NOW} FROM host WHERE lease_until > {NOW} ORDER BY id");
    let hosts: Vec<(String, Millis)> = sqlx::query_as(AssertSqlSafe(hosts)).fetch_all(&mut *connection).await?;
    let lanes =
        format!("SELECT name, host, epoch, lease_until - {NOW} FROM lane WHERE host IS NOT NULL AND lease_until > {NOW} ORDER BY name");
    let lanes: Vec<(String, String, i64, Millis)> = sqlx::query_as(AssertSqlSafe(lanes)).fetch_all(&mut *connection).await?;
    Ok(Fleet {
        hosts: hosts.into_iter().map(|(id, lease_ms)| Peer { this: id == this, id, lease_ms }).collect(),
        lanes: lanes.into_iter().map(|(lane, host, epoch, lease_ms)| HeldLane { lane, host, epoch, lease_ms }).collect(),
    })
}

/// Take over what hosts were running that are not alive any more. How many tasks.
///
/// Any of them may be what ended its host, and one that ran alone was. The epoch moves on: should the host still live, what it completes from
/// now on is void. What a transaction of it still holds is passed by until the server has ended that.
pub(super) async fn take_over(connection: &mut PgConnection) -> sqlx::Result<u64> {
    let dead = format!("DELETE FROM host WHERE id IN (SELECT id FROM host WHERE lease_until <= {NOW} FOR UPDATE SKIP LOCKED)");
    sqlx::query(AssertSqlSafe(dead)).execute(&mut *connection).await?;
    let tasks = format!(
        "UPDATE task SET state = 0, owner = NULL, epoch = epoch + 1, suspect = true, crashes = crashes + alone::int, alone = false
         WHERE id IN (
            SELECT id FROM task AS t
            WHERE t.state = 1 AND NOT EXISTS (SELECT 1 FROM host AS h WHERE h.id = t.owner AND h.lease_until > {NOW})
            FOR UPDATE SKIP LOCKED)"
    );
    Ok(sqlx::query(AssertSqlSafe(tasks)).execute(connection).await?.rows_affected())
}

/// The host ends: what it still holds is ready, and nobody waits for its lease to end.
pub(super) struct Leave {
    pub(super) host: Arc<str>,
}

impl Operation for Leave {
    type Answer = ();

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<(), Stop<()>>> {
        Box::pin(async move {
            sqlx::query("UPDATE task SET state = 0, owner = NULL, epoch = epoch + 1, alone = false WHERE state = 1 AND owner = $1")
                .bind(&*self.host)
                .execute(&mut *tx.connection)
                .await?;
            sqlx::query("DELETE FROM host WHERE id = $1").bind(&*self.host).execute(&mut *tx.connection).await?;
            Ok(())
        })
    }
}

/// Keep the lease of a host until it ends, on a connection of its own: it waits behind nothing that is written.
pub(super) async fn keep(connect: Connect, host: Arc<str>, clock: Arc<Clock>, ended: CancellationToken) {
    let mut open = None;
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = ended.cancelled() => return,
            () = tokio::time::sleep(RENEW) => {}
        }
        let turn = async {
            let mut connection = match open.take() {
                Some(connection) => connection,
                None => connect.writer(&clock).await?,
            };
            renew(&mut connection, &host).await?;
            clock.look(&mut connection).await?;
            // After it could not be reached for so long, the others may not have reached it either: they say so first.
            let tasks = if renewed.elapsed() < LEASE { take_over(&mut connection).await? } else { 0 };
            Ok::<_, StoreError>((connection, tasks))
        };
        tokio::select! {
            biased;
            () = ended.cancelled() => return,
            done = timeout(LEASE, turn) => match done {
                Ok(Ok((connection, tasks))) => {
                    open = Some(connection);
                    renewed = Instant::now();
                    if tasks > 0 {
                        tracing::warn!(tasks, "took over what a host was running whose lease has ended");
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "the lease of this host was not renewed and will be again"),
                Err(_) => tracing::debug!("the lease of this host was not renewed in time and will be again"),
            },
        }
    }
}
