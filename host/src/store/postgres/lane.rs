//! Lanes that hosts share: one host is in a lane at a time, for as long as its lease lasts by the server's clock.
//!
//! The epoch moves on with every entry. A commit of a call that was in a lane writes the lane's row, so that of two that believe to be in it
//! one at most commits (DESIGN: leases and fencing tokens; Kleppmann, "How to do distributed locking", 2016).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::AssertSqlSafe;

use super::{
    clock::{NOW, millis},
    writer::{Operation, Tx},
};
use crate::store::{Fence, LANE_LEASE, stop::Stop};

/// Enter a lane, if it is free or the lease of whoever is in it has ended.
pub(super) struct Enter {
    pub(super) lane: Arc<str>,
    pub(super) host: Arc<str>,
}

impl Operation for Enter {
    type Answer = Option<Fence>;

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<Option<Fence>, Stop<Option<Fence>>>> {
        Box::pin(async move {
            // Whoever wants it at the same time is passed by: it looks again.
            let statement = format!(
                "INSERT INTO lane AS l (name, epoch, host, lease_until) VALUES ($1, 1, $2, {NOW} + $3)
                 ON CONFLICT (name) DO UPDATE SET epoch = l.epoch + 1, host = excluded.host, lease_until = excluded.lease_until
                    WHERE l.host IS NULL OR l.lease_until <= {NOW}
                 RETURNING epoch"
            );
            let epoch: Option<i64> = sqlx::query_scalar(AssertSqlSafe(statement))
                .bind(&*self.lane)
                .bind(&*self.host)
                .bind(millis(LANE_LEASE))
                .fetch_optional(&mut *tx.connection)
                .await?;
            Ok(epoch.map(|epoch| Fence { lane: self.lane.clone(), epoch }))
        })
    }
}

/// Stay in a lane.
pub(super) struct Stay(pub(super) Fence);

impl Operation for Stay {
    type Answer = bool;

    fn lasts(&self) -> bool {
        false
    }

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<bool, Stop<bool>>> {
        Box::pin(async move {
            let statement = format!("UPDATE lane SET lease_until = {NOW} + $3 WHERE name = $1 AND epoch = $2 AND host IS NOT NULL");
            let stays = sqlx::query(AssertSqlSafe(statement))
                .bind(&*self.0.lane)
                .bind(self.0.epoch)
                .bind(millis(LANE_LEASE))
                .execute(&mut *tx.connection)
                .await?;
            Ok(stays.rows_affected() > 0)
        })
    }
}

/// Whether a lane is still its own; nobody else enters it before this transaction has ended.
pub(super) async fn holds(tx: &mut Tx<'_>, fence: &Fence) -> sqlx::Result<bool> {
    let holds = sqlx::query("SELECT 1 FROM lane WHERE name = $1 AND epoch = $2 AND host IS NOT NULL FOR SHARE")
        .bind(&*fence.lane)
        .bind(fence.epoch)
        .fetch_optional(&mut *tx.connection)
        .await?;
    Ok(holds.is_some())
}

/// Leave a lane without a commit.
pub(super) struct Leave(pub(super) Fence);

impl Operation for Leave {
    type Answer = ();

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<(), Stop<()>>> {
        Box::pin(async move {
            leave(tx, &self.0).await?;
            Ok(())
        })
    }
}

/// Leave a lane. `false`: it is another's by now.
pub(super) async fn leave(tx: &mut Tx<'_>, fence: &Fence) -> sqlx::Result<bool> {
    let left = sqlx::query("UPDATE lane SET host = NULL WHERE name = $1 AND epoch = $2 AND host IS NOT NULL")
        .bind(&*fence.lane)
        .bind(fence.epoch)
        .execute(&mut *tx.connection)
        .await?;
    Ok(left.rows_affected() > 0)
}
