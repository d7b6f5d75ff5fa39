//! Accepting an event: its key, its tasks and what its source remembers, or nothing.

use rusqlite::{Connection, OptionalExtension, params};

use super::{dead_letter, kept, rows, source_state};
use crate::{
    store::{Acceptance, Accepted, Millis, StoreError, letters::NewLetter},
    tenant::Tenant,
};

/// Accept until there is no room for one.
pub(super) fn accept_in_order(connection: &Connection, acceptances: &[Acceptance], now: Millis) -> Result<Vec<Accepted>, StoreError> {
    let mut full = false;
    let accept = |acceptance: &Acceptance| {
        let accepted = if full { Accepted::Full } else { accept(connection, acceptance, now)? };
        full = accepted == Accepted::Full;
        Ok(accepted)
    };
    acceptances.iter().map(accept).collect()
}

/// Accept. [`Accepted::Duplicate`] and [`Accepted::Full`] have written nothing.
pub(super) fn accept(connection: &Connection, acceptance: &Acceptance, now: Millis) -> Result<Accepted, StoreError> {
    let Acceptance { tenant, source, event, .. } = acceptance;
    if let Some(id) = accepted_before(connection, acceptance)? {
        return Ok(Accepted::Duplicate { id });
    }
    if let Some(bound) = acceptance.backlog
        && backlog(connection, tenant, source)? >= bound
    {
        return Ok(Accepted::Full);
    }
    if let Some(key) = &acceptance.key {
        connection
            .prepare_cached("INSERT INTO accepted (tenant, source, key, event_id, at) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![tenant.as_str(), source, key, event.id, now])?;
    }
    if !acceptance.handlers.is_empty() {
        let row = rows::insert_event(connection, event)?;
        if acceptance.keep {
            kept::insert(connection, row, acceptance, now)?;
        }
        for subscriber in &acceptance.handlers {
            let task = NewTask {
                event: row,
                tenant,
                source,
                kind: &acceptance.kind,
                handler: &subscriber.handler,
                key: acceptance.key.as_deref(),
                order: subscriber.order.as_deref(),
                due: acceptance.due.unwrap_or(now),
                attempts: 0,
                history: "[]",
                hops: acceptance.hops,
            };
            task.insert(connection, now)?;
        }
    } else if let Some(reason) = &acceptance.unrouted {
        let letter = NewLetter {
            tenant,
            source,
            kind: &acceptance.kind,
            handler: None,
            key: acceptance.key.as_deref(),
            order: None,
            reason,
            history: "[]",
            plugin: None,
            hops: acceptance.hops,
            accepted_at: Some(now),
            recording: None,
            event,
        };
        dead_letter::insert(connection, &letter, now)?;
    }
    source_state::set(connection, tenant, source, &acceptance.state)?;
    Ok(Accepted::New { id: event.id.clone() })
}

/// A task to be written.
pub(super) struct NewTask<'a> {
    pub(super) event: i64,
    pub(super) tenant: &'a Tenant,
    pub(super) source: &'a str,
    pub(super) kind: &'a str,
    pub(super) handler: &'a str,
    pub(super) key: Option<&'a str>,
    pub(super) order: Option<&'a str>,
    pub(super) due: Millis,
    pub(super) attempts: usize,
    pub(super) history: &'a str,
    pub(super) hops: u32,
}

impl NewTask<'_> {
    pub(super) fn insert(&self, connection: &Connection, now: Millis) -> Result<(), StoreError> {
        // Behind a task with its order key it is not ready, and comes up when it is its turn (trigger `task_next_in_order`): a claim
        // never has to look past those that wait.
        connection
            .prepare_cached(
                "INSERT INTO task (event, tenant, source, kind, handler, key, order_key, due, attempts, history, hops, accepted_at, state)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, iif(EXISTS (
                    SELECT 1 FROM task WHERE tenant = ?2 AND source = ?3 AND handler = ?5 AND order_key = ?7), 2, 0))",
            )?
            .execute(params![
                self.event,
                self.tenant.as_str(),
                self.source,
                self.kind,
                self.handler,
                self.key,
                self.order,
                self.due,
                rows::limit(self.attempts),
                self.history,
                self.hops,
                now
            ])?;
        Ok(())
    }
}

/// The id of the event that was accepted under this key.
fn accepted_before(connection: &Connection, acceptance: &Acceptance) -> Result<Option<String>, StoreError> {
    let Some(key) = &acceptance.key else { return Ok(None) };
    Ok(connection
        .prepare_cached("SELECT event_id FROM accepted WHERE tenant = ?1 AND source = ?2 AND key = ?3")?
        .query_row(params![acceptance.tenant.as_str(), acceptance.source, key], |row| row.get(0))
        .optional()?)
}

/// How many tasks of a source are not settled.
pub(super) fn backlog(connection: &Connection, tenant: &Tenant, source: &str) -> Result<u64, StoreError> {
    let tasks: Option<i64> = connection
        .prepare_cached("SELECT tasks FROM backlog WHERE tenant = ?1 AND source = ?2")?
        .query_row(params![tenant.as_str(), source], |row| row.get(0))
        .optional()?;
    Ok(tasks.map_or(0, i64::unsigned_abs))
}
