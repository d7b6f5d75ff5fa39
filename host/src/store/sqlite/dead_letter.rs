//! Dead letters: written, shown, replayed, purged.

use rusqlite::{Connection, Row, params};

use super::{accept::NewTask, rows};
use crate::{
    store::{
        DeadLetter, DeadLetterQuery, Millis, Reroute, StoreError, Subscriber, json,
        letters::{NewLetter, Step},
    },
    tenant::Tenant,
};

/// Which letters, as [`DeadLetterQuery`] says, oldest first. Parameters of [`select`].
const WHICH: &str = "id > ?1 AND (?2 IS NULL OR id = ?2) AND (?3 IS NULL OR tenant = ?3) AND (?4 IS NULL OR handler = ?4)
    AND (?5 IS NULL OR source = ?5) ORDER BY id LIMIT ?6";

pub(super) fn insert(connection: &Connection, letter: &NewLetter<'_>, now: Millis) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO dead_letter (tenant, source, kind, handler, key, order_key, reason, history, plugin, hops, header, data, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            letter.tenant.as_str(),
            letter.source,
            letter.kind,
            letter.handler,
            letter.key,
            letter.order,
            letter.reason,
            letter.history,
            letter.plugin,
            letter.hops,
            json::to_json(letter.event)?,
            letter.event.data.as_ref(),
            now
        ])?;
    Ok(())
}

/// A task that is not to run again becomes a dead letter.
pub(super) fn quarantine(connection: &Connection, task: i64, now: Millis) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO dead_letter (tenant, source, kind, handler, key, order_key, reason, history, hops, header, data, at)
             SELECT tenant, source, kind, handler, key, order_key, 'quarantined: the host ended three times while this call ran alone',
                    history, hops, header, data, ?2
             FROM task JOIN event ON event.id = task.event WHERE task.id = ?1",
        )?
        .execute(params![task, now])?;
    Ok(())
}

/// A dead letter, and what a replay of it needs besides.
struct Stored {
    letter: DeadLetter,
    key: Option<String>,
    order: Option<String>,
    hops: u32,
}

/// Dead letters, oldest first.
pub(super) fn list(connection: &Connection, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
    Ok(select(connection, query)?.into_iter().map(|stored| stored.letter).collect())
}

/// Make tasks of dead letters again. One that no handler wants stays.
pub(super) fn replay(connection: &Connection, query: &DeadLetterQuery, route: &Reroute, now: Millis) -> Result<Step, StoreError> {
    let mut step = Step { last: None, done: 0 };
    for stored in select(connection, query)? {
        step.last = Some(stored.letter.id);
        let subscribers = match &stored.letter.handler {
            Some(handler) => vec![Subscriber { handler: handler.as_str().into(), order: stored.order.clone() }],
            None => route(&stored.letter),
        };
        if !subscribers.is_empty() {
            revive(connection, &stored, &subscribers, now)?;
            step.done += 1;
        }
    }
    Ok(step)
}

/// Forget dead letters. How many.
pub(super) fn purge(connection: &Connection, query: &DeadLetterQuery) -> Result<u64, StoreError> {
    let gone = connection
        .prepare_cached(&format!("DELETE FROM dead_letter WHERE id IN (SELECT id FROM dead_letter WHERE {WHICH})"))?
        .execute(params![
            query.after,
            query.id,
            query.tenant.as_ref().map(Tenant::as_str),
            query.handler,
            query.source,
            rows::limit(query.limit)
        ])?;
    Ok(gone as u64)
}

fn select(connection: &Connection, query: &DeadLetterQuery) -> Result<Vec<Stored>, StoreError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT id, tenant, source, kind, handler, reason, history, plugin, at, header, data, key, order_key, hops
         FROM dead_letter WHERE {WHICH}"
    ))?;
    let which =
        params![query.after, query.id, query.tenant.as_ref().map(Tenant::as_str), query.handler, query.source, rows::limit(query.limit)];
    Ok(statement.query_map(which, stored)?.collect::<Result<_, _>>()?)
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let letter = DeadLetter {
        id: row.get(0)?,
        tenant: row.get::<_, String>(1)?.into(),
        source: row.get(2)?,
        kind: row.get(3)?,
        handler: row.get(4)?,
        reason: row.get(5)?,
        attempts: rows::from_json(row, 6)?,
        plugin: row.get(7)?,
        at: row.get(8)?,
        event: rows::event(row, 9, 10)?,
    };
    Ok(Stored { letter, key: row.get(11)?, order: row.get(12)?, hops: row.get(13)? })
}

/// A new generation: the call was never settled, and never tried.
fn revive(connection: &Connection, stored: &Stored, subscribers: &[Subscriber], now: Millis) -> Result<(), StoreError> {
    let Stored { letter, key, hops, .. } = stored;
    let event = rows::insert_event(connection, &letter.event)?;
    for subscriber in subscribers {
        connection
            .prepare_cached("DELETE FROM settled WHERE tenant = ?1 AND source = ?2 AND key = ?3 AND handler = ?4")?
            .execute(params![letter.tenant.as_str(), letter.source, key, subscriber.handler])?;
        let task = NewTask {
            event,
            tenant: &letter.tenant,
            source: &letter.source,
            kind: &letter.kind,
            handler: &subscriber.handler,
            key: key.as_deref(),
            order: subscriber.order.as_deref(),
            due: now,
            attempts: 0,
            history: "[]",
            hops: *hops,
        };
        task.insert(connection, now)?;
    }
    connection.prepare_cached("DELETE FROM dead_letter WHERE id = ?1")?.execute([letter.id])?;
    Ok(())
}
