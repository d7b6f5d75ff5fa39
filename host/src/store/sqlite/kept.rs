//! Events that are kept after they were handled: written with their acceptance, found, handled again.

use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use super::{accept::NewTask, rows};
use crate::{
    event::Event,
    store::{Acceptance, KeptEvent, KeptQuery, Millis, Rerun, RerunRoute, StoreError, Subscriber, json, kept, kept::RerunStep},
    tenant::Tenant,
};

/// Keep the event of an acceptance, whose row this is.
pub(super) fn insert(connection: &Connection, row: i64, acceptance: &Acceptance, now: Millis) -> Result<(), StoreError> {
    let Acceptance { tenant, source, kind, key, event, hops, .. } = acceptance;
    connection
        .prepare_cached(
            "INSERT INTO kept (event, tenant, source, kind, key, event_id, hops, bytes, accepted_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![row, tenant.as_str(), source, kind, key, event.id, hops, bytes(event)?, now])?;
    Ok(())
}

fn bytes(event: &Event) -> Result<i64, StoreError> {
    Ok(kept::bytes(&json::to_json(event)?, &event.data))
}

/// Kept events in the order of their numbers.
pub(super) fn list(connection: &Connection, query: &KeptQuery) -> Result<Vec<KeptEvent>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT event, tenant, source, kind, key, hops, accepted_at, header, data FROM kept JOIN event ON event.id = kept.event
         WHERE event > ?1 AND (?2 IS NULL OR event = ?2) AND (?3 IS NULL OR event_id = ?3) AND (?4 IS NULL OR tenant = ?4)
            AND (?5 IS NULL OR source = ?5) AND (?6 IS NULL OR accepted_at >= ?6) AND (?7 IS NULL OR accepted_at <= ?7)
         ORDER BY event LIMIT ?8",
    )?;
    Ok(statement.query_map(which(query), event)?.collect::<Result<_, _>>()?)
}

fn which(query: &KeptQuery) -> impl Params {
    let KeptQuery { number, id, tenant, source, since, until, after, limit } = query;
    (*after, *number, id.as_deref(), tenant.as_ref().map(Tenant::as_str), source.as_deref(), *since, *until, rows::limit(*limit))
}

fn event(row: &Row<'_>) -> rusqlite::Result<KeptEvent> {
    Ok(KeptEvent {
        number: row.get(0)?,
        tenant: row.get::<_, String>(1)?.into(),
        source: row.get(2)?,
        kind: row.get(3)?,
        key: row.get(4)?,
        hops: row.get(5)?,
        accepted_at: row.get(6)?,
        event: rows::event(row, 7, 8)?,
    })
}

/// Make tasks of kept events again, under keys of this request.
pub(super) fn rerun(
    connection: &Connection,
    query: &KeptQuery,
    request: &str,
    route: &RerunRoute,
    now: Millis,
) -> Result<RerunStep, StoreError> {
    let mut step = RerunStep { last: None, done: Rerun::default() };
    for kept in list(connection, query)? {
        step.last = Some(kept.number);
        let subscribers = route(&kept);
        if subscribers.is_empty() {
            step.done.unwanted += 1;
            continue;
        }
        rerun_one(connection, &kept, &subscribers, request, now, &mut step.done)?;
    }
    Ok(step)
}

fn rerun_one(
    connection: &Connection,
    kept: &KeptEvent,
    subscribers: &[Subscriber],
    request: &str,
    now: Millis,
    done: &mut Rerun,
) -> Result<(), StoreError> {
    let key = kept.key_of_rerun(request);
    let mut settled = Vec::new();
    for subscriber in subscribers {
        if is_unfinished(connection, kept.number, &subscriber.handler)? {
            done.unfinished += 1;
        } else {
            settled.push(subscriber);
        }
    }
    if settled.is_empty() {
        return Ok(());
    }
    let new = connection
        .prepare_cached("INSERT OR IGNORE INTO accepted (tenant, source, key, event_id, at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![kept.tenant.as_str(), kept.source, key, kept.event.id, now])?;
    if new == 0 {
        done.repeated += 1;
        return Ok(());
    }
    // An event of its own: that the first one has tasks means that it is not handled yet.
    let event = rows::insert_event(connection, &kept.event)?;
    for subscriber in settled {
        let task = NewTask {
            event,
            tenant: &kept.tenant,
            source: &kept.source,
            kind: &kept.kind,
            handler: &subscriber.handler,
            key: Some(&key),
            order: subscriber.order.as_deref(),
            due: now,
            attempts: 0,
            history: "[]",
            hops: kept.hops,
        };
        task.insert(connection, now)?;
        done.calls += 1;
    }
    done.events += 1;
    Ok(())
}

fn is_unfinished(connection: &Connection, event: i64, handler: &str) -> Result<bool, StoreError> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM task WHERE event = ?1 AND handler = ?2)")?
        .query_row(params![event, handler], |row| row.get(0))?)
}

/// The number of the newest event that is too much: those behind it have at most this many bytes together.
pub(super) fn beyond(connection: &Connection, bytes: u64) -> Result<Option<i64>, StoreError> {
    let bound = i64::try_from(bytes).unwrap_or(i64::MAX);
    Ok(connection
        .prepare_cached(
            "SELECT max(event) FROM (
                SELECT event, sum(bytes) OVER (ORDER BY event DESC ROWS UNBOUNDED PRECEDING) AS total FROM kept)
             WHERE total > ?1",
        )?
        .query_row([bound], |row| row.get(0))
        .optional()?
        .flatten())
}
