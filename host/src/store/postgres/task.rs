//! Tasks between acceptance and settlement: claimed, given back, run alone, counted.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc};

use futures_util::future::BoxFuture;
use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgRow};

use super::{
    clock::NOW,
    dead_letter, limit,
    locks::Locks,
    rows,
    settle::{leave, quarantined},
    writer::{Operation, Tx},
};
use crate::{
    event::Event,
    store::{Claim, Depth, Group, Millis, OrderKey, StoreError, Task, Waiting, Want, json::from_json, stop::Stop},
};

/// How often a host may end under a call that runs alone.
const CRASHES: i32 = 3;

/// Claim what is due, and give back what nobody took.
pub(super) struct ClaimTasks {
    pub(super) wants: Vec<Want>,
    pub(super) host: Arc<str>,
    pub(super) returned: Arc<Vec<Claim>>,
}

impl Operation for ClaimTasks {
    type Answer = Vec<Task>;

    fn lasts(&self) -> bool {
        false
    }

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<Vec<Task>, Stop<Vec<Task>>>> {
        Box::pin(async move {
            release(tx.connection, &self.returned).await?;
            let mut claimed = Vec::new();
            for want in &self.wants {
                claimed.extend(claim_for(tx, want, &self.host).await?);
            }
            let mut ids: Vec<i64> = claimed.iter().map(|(event, _)| *event).collect();
            ids.sort_unstable();
            ids.dedup();
            let events = if ids.is_empty() { HashMap::new() } else { load(tx.connection, ids).await? };
            let mut tasks = Vec::with_capacity(claimed.len());
            for (event, mut task) in claimed {
                // Tasks of one event share it.
                task.event =
                    events.get(&event).cloned().ok_or_else(|| StoreError::Other(format!("the event {event} of a task is gone")))?;
                tasks.push(task);
            }
            Ok(tasks)
        })
    }
}

async fn claim_for(tx: &mut Tx<'_>, want: &Want, host: &str) -> Result<Vec<(i64, Task)>, StoreError> {
    // Only a host that is believed to be alive: what another one claimed nobody would take over.
    let statement = format!(
        "WITH next AS (
            SELECT id FROM task WHERE tenant = $1 AND source = $2 AND handler = $3 AND state = 0 AND due <= $4
                AND EXISTS (SELECT 1 FROM host AS h WHERE h.id = $6 AND h.lease_until > {NOW})
            ORDER BY due, id LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED
         ), claimed AS (
            UPDATE task AS t SET state = 1, owner = $6, epoch = epoch + 1 FROM next WHERE t.id = next.id
            RETURNING t.id, t.epoch, t.kind, t.key, t.attempts, t.history, t.hops, t.suspect, t.event, t.due
         )
         SELECT * FROM claimed ORDER BY due, id"
    );
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(want.tenant.as_str())
        .bind(&*want.source)
        .bind(&*want.handler)
        .bind(tx.now)
        .bind(limit(want.limit))
        .bind(host)
        .fetch_all(&mut *tx.connection)
        .await?;
    rows.iter().map(|row| claimed(row, want)).collect()
}

fn claimed(row: &PgRow, want: &Want) -> Result<(i64, Task), StoreError> {
    let task = Task {
        claim: Claim { task: row.try_get(0)?, epoch: row.try_get(1)? },
        tenant: want.tenant.clone(),
        source: want.source.clone(),
        handler: want.handler.clone(),
        kind: row.try_get::<&str, _>(2)?.into(),
        key: row.try_get::<Option<String>, _>(3)?.map(|key| rows::unstored(key).into()),
        attempts: row.try_get::<i32, _>(4)?.unsigned_abs(),
        history: from_json(row.try_get(5)?)?,
        hops: rows::count(row.try_get(6)?),
        suspect: row.try_get(7)?,
        event: Arc::default(),
    };
    Ok((row.try_get(8)?, task))
}

async fn load(connection: &mut PgConnection, ids: Vec<i64>) -> Result<HashMap<i64, Arc<Event>>, StoreError> {
    let rows = sqlx::query("SELECT id, header, data FROM event WHERE id = ANY ($1)").bind(ids).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, Arc::new(rows::event(row, 1, 2)?)))).collect()
}

/// Make claimed tasks ready again.
pub(super) struct Release(pub(super) Vec<Claim>);

impl Operation for Release {
    type Answer = ();

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<(), Stop<()>>> {
        Box::pin(async move { Ok(release(tx.connection, &self.0).await?) })
    }
}

/// The epoch moves on, so that a claim given back completes nothing.
async fn release(connection: &mut PgConnection, claims: &[Claim]) -> sqlx::Result<()> {
    if claims.is_empty() {
        return Ok(());
    }
    let (tasks, epochs): (Vec<i64>, Vec<i64>) = claims.iter().map(|claim| (claim.task, claim.epoch)).unzip();
    sqlx::query(
        "UPDATE task AS t SET state = 0, owner = NULL, epoch = t.epoch + 1, alone = false
         FROM unnest($1::bigint[], $2::bigint[]) AS c(id, epoch) WHERE t.id = c.id AND t.epoch = c.epoch AND t.state = 1",
    )
    .bind(tasks)
    .bind(epochs)
    .execute(connection)
    .await
    .map(drop)
}

/// Note that a task runs alone from now on, or quarantine it.
pub(super) struct Alone(pub(super) Claim);

impl Operation for Alone {
    type Answer = ControlFlow<()>;

    fn lock(&self, locks: &mut Locks) {
        locks.task(self.0);
    }

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<ControlFlow<()>, Stop<ControlFlow<()>>>> {
        Box::pin(async move {
            let Claim { task, epoch } = self.0;
            let crashes: Option<i32> =
                sqlx::query_scalar("UPDATE task SET alone = true WHERE id = $1 AND epoch = $2 AND state = 1 RETURNING crashes")
                    .bind(task)
                    .bind(epoch)
                    .fetch_optional(&mut *tx.connection)
                    .await?;
            match crashes {
                None => Ok(ControlFlow::Break(())),
                Some(crashes) if crashes < CRASHES => Ok(ControlFlow::Continue(())),
                Some(_) => {
                    dead_letter::quarantine(tx, task).await?;
                    quarantined(tx, task).await?;
                    leave(tx, self.0).await?;
                    Ok(ControlFlow::Break(()))
                }
            }
        })
    }
}

/// When the first task becomes, or became, due after this time.
pub(super) async fn next_due(connection: &mut PgConnection, after: Millis) -> Result<Option<Millis>, StoreError> {
    Ok(sqlx::query_scalar("SELECT min(due) FROM task WHERE state = 0 AND due > $1").bind(after).fetch_one(connection).await?)
}

/// The order keys that tasks wait under.
pub(super) async fn orders(connection: &mut PgConnection) -> Result<Vec<OrderKey>, StoreError> {
    let rows = sqlx::query("SELECT DISTINCT tenant, source, handler, order_key FROM task WHERE order_key IS NOT NULL")
        .fetch_all(connection)
        .await?;
    let order = |row: &PgRow| {
        Ok(OrderKey {
            tenant: row.try_get::<String, _>(0)?.into(),
            source: row.try_get::<&str, _>(1)?.into(),
            handler: row.try_get::<&str, _>(2)?.into(),
            key: rows::unstored(row.try_get(3)?).into(),
        })
    };
    rows.iter().map(order).collect()
}

/// The groups that have tasks to claim: from the first task of each group straight to that of the next, along the index.
pub(super) async fn claimable(connection: &mut PgConnection, now: Millis) -> Result<Vec<Group>, StoreError> {
    let rows = sqlx::query(
        "WITH RECURSIVE first AS (
             (SELECT tenant, source, handler, due FROM task WHERE state = 0 ORDER BY tenant, source, handler, due LIMIT 1)
             UNION ALL
             SELECT next.* FROM first CROSS JOIN LATERAL (
                 SELECT tenant, source, handler, due FROM task
                 WHERE state = 0 AND (task.tenant, task.source, task.handler) > (first.tenant, first.source, first.handler)
                 ORDER BY tenant, source, handler, due LIMIT 1) AS next)
         SELECT tenant, source, handler FROM first WHERE due <= $1",
    )
    .bind(now)
    .fetch_all(connection)
    .await?;
    let group = |row: &PgRow| Ok(Group { tenant: row.try_get::<String, _>(0)?.into(), source: row.try_get(1)?, handler: row.try_get(2)? });
    rows.iter().map(group).collect()
}

/// What waits or runs, by the type of the event.
pub(super) async fn waiting(connection: &mut PgConnection) -> Result<Vec<Waiting>, StoreError> {
    let rows = sqlx::query(
        "SELECT tenant, source, kind, handler, coalesce(header::json ->> 'type', ''), count(*) FROM task JOIN event ON event.id = task.event
         GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5",
    )
    .fetch_all(connection)
    .await?;
    let waiting = |row: &PgRow| {
        Ok(Waiting {
            tenant: row.try_get::<String, _>(0)?.into(),
            source: row.try_get(1)?,
            kind: row.try_get(2)?,
            handler: row.try_get(3)?,
            ty: row.try_get(4)?,
            count: row.try_get::<i64, _>(5)?.unsigned_abs(),
        })
    };
    rows.iter().map(waiting).collect()
}

/// What the queues hold.
pub(super) async fn depths(connection: &mut PgConnection, now: Millis) -> Result<Vec<Depth>, StoreError> {
    let rows = sqlx::query(
        "SELECT tenant, source, handler, count(*) FILTER (WHERE state <> 1 AND due <= $1), count(*) FILTER (WHERE state <> 1 AND due > $1),
            count(*) FILTER (WHERE state <> 1 AND attempts > 0), count(*) FILTER (WHERE state = 1), min(accepted_at)
         FROM task GROUP BY tenant, source, handler ORDER BY tenant, source, handler",
    )
    .bind(now)
    .fetch_all(connection)
    .await?;
    let depth = |row: &PgRow| {
        let count = |column| Ok::<u64, StoreError>(row.try_get::<i64, _>(column)?.unsigned_abs());
        Ok(Depth {
            tenant: row.try_get::<String, _>(0)?.into(),
            source: row.try_get(1)?,
            handler: row.try_get(2)?,
            ready: count(3)?,
            later: count(4)?,
            failed: count(5)?,
            running: count(6)?,
            oldest: row.try_get(7)?,
        })
    };
    rows.iter().map(depth).collect()
}
