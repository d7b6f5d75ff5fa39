//! Dead letters: written, shown, replayed, purged.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::{
    AssertSqlSafe, PgConnection, Postgres, Row as _,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::{
    accept::{self, NewTasks},
    limit,
    locks::{self, Locks},
    rows::{self, key, text, unstored},
    writer::{Operation, Tx},
};
use crate::{
    store::{
        DeadLetter, DeadLetterQuery, OrderKey, Reroute, StoreError, Subscriber,
        json::{from_json, to_json},
        letters::{NewLetter, Step},
        stop::Stop,
    },
    tenant::Tenant,
};

/// Which letters, as [`DeadLetterQuery`] says, oldest first. Parameters of [`which`].
const WHICH: &str =
    "id > $1 AND ($2::bigint IS NULL OR id = $2) AND ($3::text IS NULL OR tenant = $3) AND ($4::text IS NULL OR handler = $4)
    AND ($5::text IS NULL OR source = $5) ORDER BY id LIMIT $6";

pub(super) async fn insert(tx: &mut Tx<'_>, letter: &NewLetter<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO dead_letter (tenant, source, kind, handler, key, order_key, reason, history, plugin, hops, header, data, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(letter.tenant.as_str())
    .bind(letter.source)
    .bind(letter.kind)
    .bind(letter.handler)
    .bind(letter.key.map(key))
    .bind(letter.order.map(key))
    .bind(text(letter.reason))
    .bind(letter.history)
    .bind(letter.plugin)
    .bind(i64::from(letter.hops))
    .bind(to_json(letter.event)?)
    .bind(&*letter.event.data)
    .bind(tx.now)
    .execute(&mut *tx.connection)
    .await?;
    Ok(())
}

/// A task that is not to run again becomes a dead letter.
pub(super) async fn quarantine(tx: &mut Tx<'_>, task: i64) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO dead_letter (tenant, source, kind, handler, key, order_key, reason, history, hops, header, data, at)
         SELECT tenant, source, kind, handler, key, order_key, 'quarantined: the host ended three times while this call ran alone',
                history, hops, header, data, $2
         FROM task JOIN event ON event.id = task.event WHERE task.id = $1",
    )
    .bind(task)
    .bind(tx.now)
    .execute(&mut *tx.connection)
    .await
    .map(drop)
}

/// A dead letter, and what a replay of it needs besides.
struct Stored {
    letter: DeadLetter,
    key: Option<String>,
    order: Option<String>,
    hops: u32,
}

/// Dead letters, oldest first.
pub(super) async fn list(connection: &mut PgConnection, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
    Ok(select(connection, query, "").await?.into_iter().map(|stored| stored.letter).collect())
}

/// Make tasks of dead letters again. One that no handler wants stays.
pub(super) struct Replay {
    pub(super) query: DeadLetterQuery,
    pub(super) route: Arc<Reroute>,
}

impl Operation for Replay {
    type Answer = Step;

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<Step, Stop<Step>>> {
        Box::pin(async move {
            let mut step = Step { last: None, done: 0 };
            let mut wanted = Vec::new();
            // Nobody else replays or purges them meanwhile.
            for stored in select(tx.connection, &self.query, "FOR UPDATE").await? {
                step.last = Some(stored.letter.id);
                let subscribers = match &stored.letter.handler {
                    Some(handler) => vec![Subscriber { handler: handler.as_str().into(), order: stored.order.clone() }],
                    None => (self.route)(&stored.letter),
                };
                if !subscribers.is_empty() {
                    wanted.push((stored, subscribers));
                }
            }
            let mut locks = Locks::default();
            for (Stored { letter, .. }, subscribers) in &wanted {
                for Subscriber { handler, order } in subscribers {
                    let key = order.as_deref().map(|order| OrderKey {
                        tenant: letter.tenant.clone(),
                        source: letter.source.as_str().into(),
                        handler: handler.clone(),
                        key: order.into(),
                    });
                    locks.order(key.as_ref().map(locks::of_order));
                }
            }
            locks.take(tx.connection).await?;
            for (stored, subscribers) in &wanted {
                revive(tx, stored, subscribers).await?;
                step.done += 1;
            }
            Ok(step)
        })
    }
}

/// Forget dead letters. How many.
pub(super) struct Purge(pub(super) DeadLetterQuery);

impl Operation for Purge {
    type Answer = u64;

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<u64, Stop<u64>>> {
        Box::pin(async move {
            let statement = format!("DELETE FROM dead_letter WHERE id IN (SELECT id FROM dead_letter WHERE {WHICH} FOR UPDATE)");
            Ok(which(statement, &self.0).execute(&mut *tx.connection).await?.rows_affected())
        })
    }
}

async fn select(connection: &mut PgConnection, query: &DeadLetterQuery, locking: &str) -> Result<Vec<Stored>, StoreError> {
    let statement = format!(
        "SELECT id, tenant, source, kind, handler, reason, history, plugin, at, header, data, key, order_key, hops
         FROM dead_letter WHERE {WHICH} {locking}"
    );
    which(statement, query).fetch_all(connection).await?.iter().map(stored).collect()
}

fn which(statement: String, query: &DeadLetterQuery) -> Query<'_, Postgres, PgArguments> {
    sqlx::query(AssertSqlSafe(statement))
        .bind(query.after)
        .bind(query.id)
        .bind(query.tenant.as_ref().map(Tenant::as_str))
        .bind(query.handler.as_deref())
        .bind(query.source.as_deref())
        .bind(limit(query.limit))
}

fn stored(row: &PgRow) -> Result<Stored, StoreError> {
    let letter = DeadLetter {
        id: row.try_get(0)?,
        tenant: row.try_get::<String, _>(1)?.into(),
        source: row.try_get(2)?,
        kind: row.try_get(3)?,
        handler: row.try_get(4)?,
        reason: unstored(row.try_get(5)?),
        attempts: from_json(row.try_get(6)?)?,
        plugin: row.try_get(7)?,
        at: row.try_get(8)?,
        event: rows::event(row, 9, 10)?,
    };
    let (key, order): (Option<String>, Option<String>) = (row.try_get(11)?, row.try_get(12)?);
    Ok(Stored { letter, key: key.map(unstored), order: order.map(unstored), hops: rows::count(row.try_get(13)?) })
}

/// A new generation: the call was never settled, and never tried.
async fn revive(tx: &mut Tx<'_>, stored: &Stored, subscribers: &[Subscriber]) -> Result<(), StoreError> {
    let Stored { letter, key, hops, .. } = stored;
    for subscriber in subscribers {
        sqlx::query("DELETE FROM settled WHERE tenant = $1 AND source = $2 AND key = $3 AND handler = $4")
            .bind(letter.tenant.as_str())
            .bind(&letter.source)
            .bind(key.as_deref().map(rows::key))
            .bind(&*subscriber.handler)
            .execute(&mut *tx.connection)
            .await?;
    }
    let tasks = NewTasks {
        event: &letter.event,
        tenant: &letter.tenant,
        source: &letter.source.as_str().into(),
        kind: &letter.kind,
        subscribers,
        key: key.as_deref(),
        due: tx.now,
        attempts: 0,
        history: "[]",
        hops: *hops,
    };
    accept::insert(tx, &[tasks]).await?;
    sqlx::query("DELETE FROM dead_letter WHERE id = $1").bind(letter.id).execute(&mut *tx.connection).await?;
    Ok(())
}
