//! Dead letters: written, shown, replayed, purged.

use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use super::{accept::NewTask, rows};
use crate::{
    store::{
        DeadLetter, DeadLetterQuery, Millis, Reroute, StoreError, Subscriber, json,
        letters::{NewLetter, Step},
    },
    tenant::Tenant,
};

/// Which letters, as [`DeadLetterQuery`] says. Parameters of [`which`].
const WHICH: &str = "id > ?1 AND (?2 IS NULL OR id = ?2) AND (?3 IS NULL OR tenant = ?3) AND (?4 IS NULL OR handler = ?4)
    AND (?5 IS NULL OR source = ?5) AND (?6 IS NULL OR at >= ?6) AND (?7 IS NULL OR at <= ?7)";
/// The oldest of them, as many as were asked for.
const OLDEST: &str = "ORDER BY id LIMIT ?8";

pub(super) fn insert(connection: &Connection, letter: &NewLetter<'_>, now: Millis) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO dead_letter (tenant, source, kind, handler, key, order_key, reason, history, plugin, hops, header, data, at,
                accepted_at, recording)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
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
            now,
            letter.accepted_at,
            letter.recording
        ])?;
    Ok(())
}

/// A task that is not to run again becomes a dead letter.
pub(super) fn quarantine(connection: &Connection, task: i64, now: Millis) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO dead_letter (tenant, source, kind, handler, key, order_key, reason, history, hops, header, data, at, accepted_at)
             SELECT tenant, source, kind, handler, key, order_key, 'quarantined: the host ended three times while this call ran alone',
                    history, hops, header, data, ?2, accepted_at
             FROM task JOIN event ON event.id = task.event WHERE task.id = ?1",
        )?
        .execute(params![task, now])?;
    Ok(())
}

/// How many there are.
pub(super) fn count(connection: &Connection, query: &DeadLetterQuery) -> Result<u64, StoreError> {
    let mut statement = connection.prepare_cached(&format!("SELECT count(*) FROM (SELECT 1 FROM dead_letter WHERE {WHICH} LIMIT ?8)"))?;
    let all = DeadLetterQuery { limit: usize::MAX, ..query.clone() };
    Ok(statement.query_row(which(&all), |row| row.get::<_, i64>(0))?.unsigned_abs())
}

/// Make tasks of dead letters again. One that nobody is to handle stays.
pub(super) fn replay(connection: &Connection, query: &DeadLetterQuery, route: &Reroute, now: Millis) -> Result<Step, StoreError> {
    let mut step = Step { last: None, done: 0 };
    for letter in list(connection, query)? {
        step.last = Some(letter.id);
        let subscribers = route(&letter);
        if !subscribers.is_empty() {
            revive(connection, &letter, &subscribers, now)?;
            step.done += 1;
        }
    }
    Ok(step)
}

/// Forget dead letters. How many.
pub(super) fn purge(connection: &Connection, query: &DeadLetterQuery) -> Result<u64, StoreError> {
    let gone = connection
        .prepare_cached(&format!("DELETE FROM dead_letter WHERE id IN (SELECT id FROM dead_letter WHERE {WHICH} {OLDEST})"))?
        .execute(which(query))?;
    Ok(gone as u64)
}

/// Dead letters, oldest first.
pub(super) fn list(connection: &Connection, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT id, tenant, source, kind, handler, reason, history, plugin, at, header, data, key, order_key, hops, accepted_at,
            recording IS NOT NULL
         FROM dead_letter WHERE {WHICH} {OLDEST}"
    ))?;
    Ok(statement.query_map(which(query), letter)?.collect::<Result<_, _>>()?)
}

/// What its host calls gave the last attempt of a letter.
pub(super) fn recording(connection: &Connection, letter: i64) -> Result<Option<String>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT recording FROM dead_letter WHERE id = ?1")?;
    Ok(statement.query_row([letter], |row| row.get(0)).optional()?.flatten())
}

fn which(query: &DeadLetterQuery) -> impl Params {
    let DeadLetterQuery { id, tenant, handler, source, since, until, after, limit } = query;
    (*after, *id, tenant.as_ref().map(Tenant::as_str), handler.as_deref(), source.as_deref(), *since, *until, rows::limit(*limit))
}

fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
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
        key: row.get(11)?,
        order: row.get(12)?,
        hops: row.get(13)?,
        accepted_at: row.get(14)?,
        recorded: row.get(15)?,
    })
}

/// A new generation: the call was never settled, and never tried.
fn revive(connection: &Connection, letter: &DeadLetter, subscribers: &[Subscriber], now: Millis) -> Result<(), StoreError> {
    let event = rows::insert_event(connection, &letter.event)?;
    for subscriber in subscribers {
        connection
            .prepare_cached("DELETE FROM settled WHERE tenant = ?1 AND source = ?2 AND key = ?3 AND handler = ?4")?
            .execute(params![letter.tenant.as_str(), letter.source, letter.key, subscriber.handler])?;
        let task = NewTask {
            event,
            tenant: &letter.tenant,
            source: &letter.source,
            kind: &letter.kind,
            handler: &subscriber.handler,
            key: letter.key.as_deref(),
            order: subscriber.order.as_deref(),
            due: now,
            attempts: 0,
            history: "[]",
            hops: letter.hops,
        };
        task.insert(connection, now)?;
    }
    connection.prepare_cached("DELETE FROM dead_letter WHERE id = ?1")?.execute([letter.id])?;
    Ok(())
}
