//! Events that are kept after they were handled: found, and handled again. They are written with their tasks (`accept.rs`).

use std::{collections::HashSet, sync::Arc};

use futures_util::future::BoxFuture;
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::{
    accept::{self, NewTasks},
    limit,
    locks::Locks,
    rows::{self, key, text, unstored},
    writer::{Operation, Tx},
};
use crate::{
    store::{KeptEvent, KeptQuery, Rerun, RerunRoute, StoreError, Subscriber, kept::RerunStep, stop::Stop},
    tenant::Tenant,
};

/// Kept events in the order of their numbers.
pub(super) async fn list(connection: &mut PgConnection, query: &KeptQuery) -> Result<Vec<KeptEvent>, StoreError> {
    const STATEMENT: &str = "
        SELECT kept.event, tenant, source, kind, key, hops, accepted_at, header, data FROM kept JOIN event ON event.id = kept.event
        WHERE kept.event > $1 AND ($2::bigint IS NULL OR kept.event = $2) AND ($3::text IS NULL OR event_id = $3)
            AND ($4::text IS NULL OR tenant = $4) AND ($5::text IS NULL OR source = $5)
            AND ($6::bigint IS NULL OR accepted_at >= $6) AND ($7::bigint IS NULL OR accepted_at <= $7)
        ORDER BY kept.event LIMIT $8";
    let rows = sqlx::query(STATEMENT)
        .bind(query.after)
        .bind(query.number)
        .bind(query.id.as_deref().map(key))
        .bind(query.tenant.as_ref().map(Tenant::as_str))
        .bind(query.source.as_deref())
        .bind(query.since)
        .bind(query.until)
        .bind(limit(query.limit))
        .fetch_all(connection)
        .await?;
    rows.iter().map(event).collect()
}

fn event(row: &PgRow) -> Result<KeptEvent, StoreError> {
    Ok(KeptEvent {
        number: row.try_get(0)?,
        tenant: row.try_get::<String, _>(1)?.into(),
        source: row.try_get(2)?,
        kind: row.try_get(3)?,
        key: row.try_get::<Option<String>, _>(4)?.map(unstored),
        hops: rows::count(row.try_get(5)?),
        accepted_at: row.try_get(6)?,
        event: rows::event(row, 7, 8)?,
    })
}

/// Make tasks of kept events again, under keys of a request.
pub(super) struct Reruns {
    pub(super) query: KeptQuery,
    pub(super) request: Arc<str>,
    pub(super) route: Arc<RerunRoute>,
}

impl Operation for Reruns {
    type Answer = RerunStep;

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<RerunStep, Stop<RerunStep>>> {
        Box::pin(async move {
            let mut step = RerunStep { last: None, done: Rerun::default() };
            let (mut wanted, mut locks) = (Vec::new(), Locks::default());
            for kept in list(tx.connection, &self.query).await? {
                step.last = Some(kept.number);
                let subscribers = (self.route)(&kept);
                if subscribers.is_empty() {
                    step.done.unwanted += 1;
                    continue;
                }
                let source = kept.source.as_str().into();
                subscribers.iter().for_each(|subscriber| locks.order(accept::order_lock(&kept.tenant, &source, subscriber)));
                wanted.push((kept, subscribers));
            }
            locks.take(tx.connection).await?;
            for (kept, subscribers) in wanted {
                rerun(tx, &kept, subscribers, &self.request, &mut step.done).await?;
            }
            Ok(step)
        })
    }
}

async fn rerun(
    tx: &mut Tx<'_>,
    kept: &KeptEvent,
    mut subscribers: Vec<Subscriber>,
    request: &str,
    done: &mut Rerun,
) -> Result<(), StoreError> {
    let unfinished: Vec<String> =
        sqlx::query_scalar("SELECT handler FROM task WHERE event = $1").bind(kept.number).fetch_all(&mut *tx.connection).await?;
    let unfinished: HashSet<&str> = unfinished.iter().map(String::as_str).collect();
    let all = subscribers.len();
    subscribers.retain(|subscriber| !unfinished.contains(&*subscriber.handler));
    done.unfinished += (all - subscribers.len()) as u64;
    if subscribers.is_empty() {
        return Ok(());
    }
    let new_key = kept.key_of_rerun(request);
    let new = sqlx::query("INSERT INTO accepted (tenant, source, key, event_id, at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING")
        .bind(kept.tenant.as_str())
        .bind(&kept.source)
        .bind(key(&new_key))
        .bind(text(&kept.event.id))
        .bind(tx.now)
        .execute(&mut *tx.connection)
        .await?;
    if new.rows_affected() == 0 {
        done.repeated += 1;
        return Ok(());
    }
    // An event of its own: that the first one has tasks means that it is not handled yet.
    let tasks = NewTasks {
        event: &kept.event,
        tenant: &kept.tenant,
        source: &kept.source.as_str().into(),
        kind: &kept.kind,
        subscribers: &subscribers,
        key: Some(&new_key),
        due: tx.now,
        attempts: 0,
        history: "[]",
        hops: kept.hops,
        keep: false,
    };
    accept::insert(tx, &[tasks]).await?;
    done.events += 1;
    done.calls += subscribers.len() as u64;
    Ok(())
}

/// The number of the newest event that is too much: those behind it have at most this many bytes together.
pub(super) async fn beyond(connection: &mut PgConnection, bytes: u64) -> Result<Option<i64>, StoreError> {
    const STATEMENT: &str = "
        SELECT max(event) FROM (
            SELECT event, sum(bytes) OVER (ORDER BY event DESC ROWS UNBOUNDED PRECEDING) AS total FROM kept) AS kept
        WHERE total > $1";
    let bound = i64::try_from(bytes).unwrap_or(i64::MAX);
    Ok(sqlx::query_scalar(STATEMENT).bind(bound).fetch_one(connection).await?)
}
