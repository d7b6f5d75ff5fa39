//! Which hosts are alive. Each says so every few seconds; what one that does not was running is ready again.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio_util::sync::CancellationToken;

use super::{
    Clock,
    clock::{NOW, millis},
    writer::{Operation, Stop, Tx, Writer},
};
use crate::store::StoreError;

/// How long a host is believed to be alive.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// How often it says so.
const RENEW: Duration = Duration::from_secs(2);

/// Say that a host is alive, and take over what hosts were running that are not.
pub(super) async fn renew(connection: &mut PgConnection, host: &str) -> sqlx::Result<u64> {
    let alive = format!(
        "INSERT INTO host (id, lease_until) VALUES ($1, {NOW} + $2)
         ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until"
    );
    sqlx::query(AssertSqlSafe(alive)).bind(host).bind(millis(LEASE)).execute(&mut *connection).await?;
    // Any of what it was running may be what ended it, and one that ran alone was. The epoch moves on: should it still live, what it
    // completes from now on is void.
    let take_over = format!(
        "WITH dead AS (DELETE FROM host WHERE lease_until <= {NOW})
         UPDATE task SET state = 0, owner = NULL, epoch = epoch + 1, suspect = true, crashes = crashes + alone::int, alone = false
         WHERE state = 1 AND NOT EXISTS (SELECT 1 FROM host AS h WHERE h.id = task.owner AND h.lease_until > {NOW})"
    );
    Ok(sqlx::query(AssertSqlSafe(take_over)).execute(connection).await?.rows_affected())
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

struct Renew {
    host: Arc<str>,
    clock: Arc<Clock>,
}

impl Operation for Renew {
    type Answer = u64;

    fn lasts(&self) -> bool {
        false
    }

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<u64, Stop<u64>>> {
        Box::pin(async move {
            self.clock.look(tx.connection).await?;
            Ok(renew(tx.connection, &self.host).await?)
        })
    }
}

/// Keep the lease of a host until it ends.
pub(super) async fn keep(writer: Arc<Writer>, host: Arc<str>, clock: Arc<Clock>, ended: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = ended.cancelled() => return,
            () = tokio::time::sleep(RENEW) => {}
        }
        match writer.run(Renew { host: host.clone(), clock: clock.clone() }).await {
            Ok(0) => {}
            Ok(tasks) => tracing::warn!(tasks, "took over what a host was running whose lease has ended"),
            Err(StoreError::Closed) => return,
            Err(error) => tracing::debug!(%error, "the lease of this host was not renewed and will be again"),
        }
    }
}
