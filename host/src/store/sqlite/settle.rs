//! Settling a call: everything it writes, guarded by its claim and by what it read.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    accept::{NewTask, accept},
    dead_letter, keyvalue, rows,
};
use crate::{
    outcome::Response,
    store::{
        Accepted, Attempt, CallId, Claim, Commit, Committed, Effects, Millis, Settled, StoreError, Verdict, json, letters::NewLetter,
        stop::Stop,
    },
};

/// What is left of a task that is settled.
#[derive(Default)]
struct Left {
    order: Option<String>,
    accepted_at: Option<Millis>,
}

/// Settle. Whatever is not [`Committed::Yes`] has written nothing.
pub(super) fn settle(connection: &Connection, commit: &Commit, now: Millis) -> Result<Committed, Stop<Committed>> {
    match &commit.verdict {
        Verdict::Done { effects, keep } => done(connection, commit, effects, keep.as_ref(), now)?,
        Verdict::Park { due, failed, order } => park(connection, commit, *due, failed.as_ref(), order.as_deref(), now)?,
        Verdict::Behind { order } => behind(connection, commit, order, now)?,
        Verdict::Dead { reason, failed, plugin, recording } => {
            dead(connection, commit, reason, failed.as_ref(), plugin, recording.as_deref(), now)?
        }
    }
    Ok(Committed::Yes)
}

/// The settled row of a call.
pub(super) fn settled(connection: &Connection, call: &CallId) -> Result<Option<Settled>, StoreError> {
    let Some(key) = &call.key else { return Ok(None) };
    Ok(connection
        .prepare_cached("SELECT outcome, response, plugin FROM settled WHERE tenant = ?1 AND source = ?2 AND key = ?3 AND handler = ?4")?
        .query_row(params![call.tenant.as_str(), call.source, key, call.handler], |row| {
            let kept = row.get_ref(1)?.as_str_or_null()?.is_some();
            Ok(Settled { outcome: row.get(0)?, response: kept.then(|| rows::from_json(row, 1)).transpose()?, plugin: row.get(2)? })
        })
        .optional()?)
}

/// A task that was made a dead letter by itself, not by a commit.
pub(super) fn quarantined(connection: &Connection, task: i64, now: Millis) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO settled (tenant, source, key, handler, outcome, at)
             SELECT tenant, source, key, handler, 'dead', ?2 FROM task WHERE id = ?1 AND key IS NOT NULL",
        )?
        .execute(params![task, now])?;
    connection.prepare_cached("DELETE FROM task WHERE id = ?1")?.execute([task])?;
    Ok(())
}

fn done(connection: &Connection, commit: &Commit, effects: &Effects, keep: Option<&Response>, now: Millis) -> Result<(), Stop<Committed>> {
    let call = &commit.call;
    finish(connection, commit)?;
    if !keyvalue::unchanged(connection, &call.tenant, &effects.reads)? {
        return Err(Stop::Answer(Committed::Overtaken));
    }
    keyvalue::write(connection, &call.tenant, &effects.writes)?;
    for emit in &effects.emits {
        if accept(connection, emit, now)? == Accepted::Full {
            return Err(Stop::Answer(Committed::Full(emit.source.to_string())));
        }
    }
    // A direct call that did nothing may run again: it leaves no row.
    if commit.claim.is_some() || !effects.is_empty() || keep.is_some() {
        remember(connection, commit, "done", keep, now)?;
    }
    Ok(())
}

fn park(
    connection: &Connection,
    commit: &Commit,
    due: Millis,
    failed: Option<&Attempt>,
    order: Option<&str>,
    now: Millis,
) -> Result<(), Stop<Committed>> {
    let Commit { call, history, .. } = commit;
    let all = json::history(history, failed)?;
    let Some(claim) = commit.claim else {
        unsettled(connection, call)?;
        let task = NewTask {
            event: rows::insert_event(connection, &commit.event)?,
            tenant: &call.tenant,
            source: &call.source,
            kind: &commit.kind,
            handler: &call.handler,
            key: call.key.as_deref(),
            order,
            due,
            attempts: history.len() + usize::from(failed.is_some()),
            history: &all,
            hops: commit.hops,
        };
        return Ok(task.insert(connection, now)?);
    };
    // It ended by itself, so it did not end the host: no suspect any more.
    let parked = connection
        .prepare_cached(
            "UPDATE task SET state = 0, due = ?3, attempts = attempts + ?4, history = ?5, epoch = epoch + 1, suspect = 0, alone = 0, crashes = 0
             WHERE id = ?1 AND epoch = ?2 AND state = 1",
        )?
        .execute(params![claim.task, claim.epoch, due, failed.is_some(), all])?;
    if parked == 0 { Err(Stop::Answer(Committed::Settled)) } else { Ok(()) }
}

fn behind(connection: &Connection, commit: &Commit, order: &str, now: Millis) -> Result<(), Stop<Committed>> {
    let call = &commit.call;
    let waits: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM task WHERE tenant = ?1 AND source = ?2 AND handler = ?3 AND order_key = ?4)")?
        .query_row(params![call.tenant.as_str(), call.source, call.handler, order], |row| row.get(0))?;
    if !waits {
        return Err(Stop::Answer(Committed::Free));
    }
    park(connection, commit, now, None, Some(order), now)
}

fn dead(
    connection: &Connection,
    commit: &Commit,
    reason: &str,
    failed: Option<&Attempt>,
    plugin: &str,
    recording: Option<&str>,
    now: Millis,
) -> Result<(), Stop<Committed>> {
    let call = &commit.call;
    let Left { order, accepted_at } = finish(connection, commit)?;
    let letter = NewLetter {
        tenant: &call.tenant,
        source: &call.source,
        kind: &commit.kind,
        handler: Some(&call.handler),
        key: call.key.as_deref(),
        order: order.as_deref(),
        reason,
        history: &json::history(&commit.history, failed)?,
        plugin: Some(plugin),
        hops: commit.hops,
        accepted_at,
        recording,
        event: &commit.event,
    };
    dead_letter::insert(connection, &letter, now)?;
    remember(connection, commit, "dead", None, now)?;
    Ok(())
}

/// The call leaves the tasks, if it still is this commit's to settle.
fn finish(connection: &Connection, commit: &Commit) -> Result<Left, Stop<Committed>> {
    let Some(Claim { task, epoch }) = commit.claim else {
        unsettled(connection, &commit.call)?;
        return Ok(Left::default());
    };
    connection
        .prepare_cached("DELETE FROM task WHERE id = ?1 AND epoch = ?2 AND state = 1 RETURNING order_key, accepted_at")?
        .query_row([task, epoch], |row| Ok(Left { order: row.get(0)?, accepted_at: row.get(1)? }))
        .optional()?
        .ok_or(Stop::Answer(Committed::Settled))
}

/// A direct call may come again while or after an earlier delivery of it was parked or settled: then it is not this one's any more.
fn unsettled(connection: &Connection, call: &CallId) -> Result<(), Stop<Committed>> {
    let Some(key) = &call.key else { return Ok(()) };
    let taken: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM settled WHERE tenant = ?1 AND source = ?2 AND key = ?3 AND handler = ?4)
                 OR EXISTS (SELECT 1 FROM task WHERE tenant = ?1 AND source = ?2 AND key = ?3 AND handler = ?4)",
        )?
        .query_row(params![call.tenant.as_str(), call.source, key, call.handler], |row| row.get(0))?;
    if taken { Err(Stop::Answer(Committed::Settled)) } else { Ok(()) }
}

fn remember(connection: &Connection, commit: &Commit, outcome: &str, keep: Option<&Response>, now: Millis) -> Result<(), StoreError> {
    let call = &commit.call;
    let Some(key) = &call.key else { return Ok(()) };
    let response = keep.map(json::to_json).transpose()?;
    // A row of an earlier generation may still be there, when the key was forgotten before the call.
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO settled (tenant, source, key, handler, outcome, response, at, plugin)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![call.tenant.as_str(), call.source, key, call.handler, outcome, response, now, commit.plugin])?;
    Ok(())
}
