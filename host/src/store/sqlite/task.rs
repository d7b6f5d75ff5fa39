//! Tasks between acceptance and settlement: claimed, given back, run alone, counted.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc};

use rusqlite::{Connection, OptionalExtension, params};

use super::{dead_letter, rows, settle};
use crate::{
    event::Event,
    store::{Claim, Depth, Group, Millis, OrderKey, StoreError, Task, Waiting, Want},
};

/// How often the host may end under a call that runs alone.
const CRASHES: i64 = 3;

/// Claim what is due. Tasks of one event share it.
pub(super) fn claim(connection: &Connection, wants: &[Want], now: Millis) -> Result<Vec<Task>, StoreError> {
    let mut events = HashMap::new();
    let mut tasks = Vec::new();
    for want in wants {
        tasks.extend(claim_for(connection, want, now, &mut events)?);
    }
    Ok(tasks)
}

fn claim_for(connection: &Connection, want: &Want, now: Millis, events: &mut HashMap<i64, Arc<Event>>) -> Result<Vec<Task>, StoreError> {
    let mut statement = connection.prepare_cached(
        "UPDATE task SET state = 1, epoch = epoch + 1
         WHERE id IN (SELECT id FROM task WHERE tenant = ?1 AND source = ?2 AND handler = ?3 AND state = 0 AND due <= ?4
                      ORDER BY due, id LIMIT ?5)
         RETURNING id, epoch, kind, key, attempts, history, hops, suspect, event, due",
    )?;
    let wanted = params![want.tenant.as_str(), want.source, want.handler, now, rows::limit(want.limit)];
    let mut claimed = statement
        .query_map(wanted, |row| {
            let task = Task {
                claim: Claim { task: row.get(0)?, epoch: row.get(1)? },
                tenant: want.tenant.clone(),
                source: want.source.clone(),
                handler: want.handler.clone(),
                kind: row.get(2)?,
                key: row.get(3)?,
                attempts: row.get(4)?,
                history: rows::from_json(row, 5)?,
                hops: row.get(6)?,
                suspect: row.get(7)?,
                event: Arc::default(),
            };
            Ok((row.get::<_, Millis>(9)?, row.get::<_, i64>(8)?, task))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    // RETURNING has no order.
    claimed.sort_unstable_by_key(|(due, _, task)| (*due, task.claim.task));
    for (_, event, task) in &mut claimed {
        task.event = match events.get(event) {
            Some(shared) => shared.clone(),
            None => events.entry(*event).or_insert(load(connection, *event)?).clone(),
        };
    }
    Ok(claimed.into_iter().map(|(_, _, task)| task).collect())
}

fn load(connection: &Connection, id: i64) -> Result<Arc<Event>, StoreError> {
    let event = connection.prepare_cached("SELECT header, data FROM event WHERE id = ?1")?.query_row([id], |row| rows::event(row, 0, 1))?;
    Ok(Arc::new(event))
}

/// Make claimed tasks ready again. The epoch moves on, so that a claim given back completes nothing.
pub(super) fn release(connection: &Connection, claims: &[Claim]) -> Result<(), StoreError> {
    for claim in claims {
        connection
            .prepare_cached("UPDATE task SET state = 0, epoch = epoch + 1, alone = 0 WHERE id = ?1 AND epoch = ?2 AND state = 1")?
            .execute(params![claim.task, claim.epoch])?;
    }
    Ok(())
}

/// Note that a task runs alone from now on, or quarantine it.
pub(super) fn alone(connection: &Connection, claim: Claim, now: Millis) -> Result<ControlFlow<()>, StoreError> {
    let crashes: Option<i64> = connection
        .prepare_cached("UPDATE task SET alone = 1 WHERE id = ?1 AND epoch = ?2 AND state = 1 RETURNING crashes")?
        .query_row(params![claim.task, claim.epoch], |row| row.get(0))
        .optional()?;
    match crashes {
        None => Ok(ControlFlow::Break(())),
        Some(crashes) if crashes < CRASHES => Ok(ControlFlow::Continue(())),
        Some(_) => {
            dead_letter::quarantine(connection, claim.task, now)?;
            settle::quarantined(connection, claim.task, now)?;
            Ok(ControlFlow::Break(()))
        }
    }
}

/// The groups that have tasks to claim: from the first task of each group straight to that of the next, along the index. SQLite goes along it for
/// a comparison of one column only, not of a row.
pub(super) fn claimable(connection: &Connection, now: Millis) -> Result<Vec<Group>, StoreError> {
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE first (id) AS (
             SELECT * FROM (SELECT id FROM task WHERE state = 0 ORDER BY tenant, source, handler, due LIMIT 1)
             UNION ALL
             SELECT coalesce(
                 (SELECT id FROM task AS next
                  WHERE state = 0 AND next.tenant = this.tenant AND next.source = this.source AND next.handler > this.handler
                  ORDER BY tenant, source, handler, due LIMIT 1),
                 (SELECT id FROM task AS next WHERE state = 0 AND next.tenant = this.tenant AND next.source > this.source
                  ORDER BY tenant, source, handler, due LIMIT 1),
                 (SELECT id FROM task AS next WHERE state = 0 AND next.tenant > this.tenant
                  ORDER BY tenant, source, handler, due LIMIT 1))
             FROM first JOIN task AS this ON this.id = first.id)
         SELECT tenant, source, handler FROM first JOIN task USING (id) WHERE due <= ?1",
    )?;
    let groups = statement
        .query_map([now], |row| Ok(Group { tenant: row.get::<_, String>(0)?.into(), source: row.get(1)?, handler: row.get(2)? }))?;
    Ok(groups.collect::<Result<_, _>>()?)
}

/// When the first task becomes, or became, due after this time.
pub(super) fn next_due(connection: &Connection, after: Millis) -> Result<Option<Millis>, StoreError> {
    Ok(connection.prepare_cached("SELECT min(due) FROM task WHERE state = 0 AND due > ?1")?.query_row([after], |row| row.get(0))?)
}

/// The order keys that tasks wait under.
pub(super) fn orders(connection: &Connection) -> Result<Vec<OrderKey>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT DISTINCT tenant, source, handler, order_key FROM task WHERE order_key IS NOT NULL")?;
    let orders = statement.query_map([], |row| {
        let tenant = row.get::<_, String>(0)?.into();
        Ok(OrderKey { tenant, source: row.get(1)?, handler: row.get(2)?, key: row.get(3)? })
    })?;
    Ok(orders.collect::<Result<_, _>>()?)
}

/// What waits or runs, by the type of the event.
pub(super) fn waiting(connection: &Connection) -> Result<Vec<Waiting>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT tenant, source, kind, handler, json_extract(header, '$.type'), count(*) FROM task JOIN event ON event.id = task.event
         GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5",
    )?;
    let waiting = statement.query_map([], |row| {
        Ok(Waiting {
            tenant: row.get::<_, String>(0)?.into(),
            source: row.get(1)?,
            kind: row.get(2)?,
            handler: row.get(3)?,
            ty: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
            count: row.get::<_, i64>(5)?.unsigned_abs(),
        })
    })?;
    Ok(waiting.collect::<Result<_, _>>()?)
}

/// What the queues hold.
pub(super) fn depths(connection: &Connection, now: Millis) -> Result<Vec<Depth>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT tenant, source, handler, sum(state <> 1 AND due <= ?1), sum(state <> 1 AND due > ?1), sum(state <> 1 AND attempts > 0), sum(state = 1),
            min(accepted_at)
         FROM task GROUP BY tenant, source, handler ORDER BY tenant, source, handler",
    )?;
    let depths = statement.query_map([now], |row| {
        let count = |column| Ok::<u64, rusqlite::Error>(row.get::<_, i64>(column)?.unsigned_abs());
        Ok(Depth {
            tenant: row.get::<_, String>(0)?.into(),
            source: row.get(1)?,
            handler: row.get(2)?,
            ready: count(3)?,
            later: count(4)?,
            failed: count(5)?,
            running: count(6)?,
            oldest: row.get(7)?,
        })
    })?;
    Ok(depths.collect::<Result<_, _>>()?)
}
