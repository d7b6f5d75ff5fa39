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

/// Which letters, as [`DeadLetterQuery`] says. Parameters of [`which`].
const WHICH: &str =
    "id > $1 AND ($2::bigint IS NULL OR id = $2) AND ($3::text IS NULL OR tenant = $3) AND ($4::text IS NULL OR handler = $4)
    AND ($5::text IS NULL OR source = $5) AND ($6::bigint IS NULL OR at >= $6) AND ($7::bigint IS NULL OR at <= $7)";
/// The oldest of them, as many as were asked for.
const OLDEST: &str = "ORDER BY id LIMIT $8";

pub(super) async fn insert(tx: &mut Tx<'_>, letter: &NewLetter<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO dead_letter (tenant, source, kind, handler, key, order_key, reason, history, plugin, hops, header, data, at, accepted_at,
            recording)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
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
    .bind(letter.accepted_at)
    .bind(letter.recording)
    .execute(&mut *tx.connection)
    .await?;
    Ok(())
}

/// A task that is not to run again becomes a dead letter.
pub(super) async fn quarantine(tx: &mut Tx<'_>, task: i64) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO dead_letter (tenant, source, kind, handler, key, order_key, reason, history, hops, header, data, at, accepted_at)
         SELECT tenant, source, kind, handler, key, order_key, 'quarantined: the host ended three times while this call ran alone',
                history, hops, header, data, $2, accepted_at
         FROM task JOIN event ON event.id = task.event WHERE task.id = $1",
    )
    .bind(task)
    .bind(tx.now)
    .execute(&mut *tx.connection)
    .await
    .map(drop)
}

/// Dead letters, oldest first.
pub(super) async fn list(connection: &mut PgConnection, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
    select(connection, query, "").await
}

/// What its host calls gave the last attempt of a letter.
pub(super) async fn recording(connection: &mut PgConnection, letter: i64) -> Result<Option<String>, StoreError> {
    let found: Option<Option<String>> =
        sqlx::query_scalar("SELECT recording FROM dead_letter WHERE id = $1").bind(letter).fetch_optional(connection).await?;
    Ok(found.flatten())
}

/// How many there are.
pub(super) async fn count(connection: &mut PgConnection, query: &DeadLetterQuery) -> Result<u64, StoreError> {
    let all = DeadLetterQuery { limit: usize::MAX, ..query.clone() };
    let statement = format!("SELECT count(*) FROM (SELECT 1 FROM dead_letter WHERE {WHICH} LIMIT $8) AS found");
    Ok(which(statement, &all).fetch_one(connection).await?.try_get::<i64, _>(0)?.unsigned_abs())
}

/// Make tasks of dead letters again. One that nobody is to handle stays.
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
            for letter in select(tx.connection, &self.query, "FOR UPDATE").await? {
                step.last = Some(letter.id);
                let subscribers = (self.route)(&letter);
                if !subscribers.is_empty() {
                    wanted.push((letter, subscribers));
                }
            }
            let mut locks = Locks::default();
            for (letter, subscribers) in &wanted {
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
            for (letter, subscribers) in &wanted {
                revive(tx, letter, subscribers).await?;
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
            let statement = format!("DELETE FROM dead_letter WHERE id IN (SELECT id FROM dead_letter WHERE {WHICH} {OLDEST} FOR UPDATE)");
            Ok(which(statement, &self.0).execute(&mut *tx.connection).await?.rows_affected())
        })
    }
}

async fn select(connection: &mut PgConnection, query: &DeadLetterQuery, locking: &str) -> Result<Vec<DeadLetter>, StoreError> {
    let statement = format!(
        "SELECT id, tenant, source, kind, handler, reason, history, plugin, at, header, data, key, order_key, hops,
            accepted_at, recording IS NOT NULL
         FROM dead_letter WHERE {WHICH} {OLDEST} {locking}"
    );
    which(statement, query).fetch_all(connection).await?.iter().map(letter).collect()
}

fn which(statement: String, query: &DeadLetterQuery) -> Query<'_, Postgres, PgArguments> {
    sqlx::query(AssertSqlSafe(statement))
        .bind(query.after)
        .bind(query.id)
        .bind(query.tenant.as_ref().map(Tenant::as_str))
        .bind(query.handler.as_deref())
        .bind(query.source.as_deref())
        .bind(query.since)
        .bind(query.until)
        .bind(limit(query.limit))
}

fn letter(row: &PgRow) -> Result<DeadLetter, StoreError> {
    let (key, order): (Option<String>, Option<String>) = (row.try_get(11)?, row.try_get(12)?);
    Ok(DeadLetter {
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
        key: key.map(unstored),
        order: order.map(unstored),
        hops: rows::count(row.try_get(13)?),
        accepted_at: row.try_get(14)?,
        recorded: row.try_get(15)?,
    })
}

/// A new generation: the call was never settled, and never tried.
async fn revive(tx: &mut Tx<'_>, letter: &DeadLetter, subscribers: &[Subscriber]) -> Result<(), StoreError> {
    for subscriber in subscribers {
        sqlx::query("DELETE FROM settled WHERE tenant = $1 AND source = $2 AND key = $3 AND handler = $4")
            .bind(letter.tenant.as_str())
            .bind(&letter.source)
            .bind(letter.key.as_deref().map(rows::key))
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
        key: letter.key.as_deref(),
        due: tx.now,
        attempts: 0,
        history: "[]",
        hops: letter.hops,
        keep: false,
    };
    accept::insert(tx, &[tasks]).await?;
    sqlx::query("DELETE FROM dead_letter WHERE id = $1").bind(letter.id).execute(&mut *tx.connection).await?;
    Ok(())
}
