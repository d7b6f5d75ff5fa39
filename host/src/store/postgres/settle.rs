//! Settling a call: everything it writes, guarded by its claim and by what it read.

use futures_util::future::BoxFuture;
use sqlx::{PgConnection, Row as _};

use super::{
    accept::{self, NewTasks},
    dead_letter, keyvalue, lane,
    locks::{self, Locks},
    rows::{key, unstored},
    writer::{Operation, Tx},
};
use crate::{
    outcome::Response,
    store::{
        Accepted, Attempt, CallId, Claim, Commit, Committed, Effects, Millis, OrderKey, Settled, StoreError, Subscriber, Verdict,
        json::{from_json, history, to_json},
        letters::NewLetter,
        stop::Stop,
    },
};

impl Operation for Commit {
    type Answer = Committed;

    fn lock(&self, locks: &mut Locks) {
        match self.claim {
            Some(claim) => locks.task(claim),
            None => locks.call(&self.call),
        }
        match &self.verdict {
            Verdict::Done { effects, .. } => {
                locks.keys(&self.call.tenant, &effects.reads, effects.writes.keys());
                accept::lock(&effects.emits, locks);
            }
            Verdict::Park { order: Some(order), .. } | Verdict::Behind { order } => {
                locks.order(Some(locks::of_order(&OrderKey::of(&self.call, &order.as_str().into()))));
            }
            Verdict::Park { order: None, .. } | Verdict::Dead { .. } => {}
        }
    }

    fn lasts(&self) -> bool {
        !self.writes_nothing()
    }

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<Committed, Stop<Committed>>> {
        Box::pin(async move {
            if let Some(fence) = &self.fence
                && !lane::leave(tx, fence).await?
            {
                return Err(Stop::Answer(Committed::Fenced));
            }
            match settle(tx, self).await {
                Ok(()) => Ok(Committed::Yes),
                // Nothing was written but that the lane was left, and nobody is in it any more.
                Err(Stop::Answer(Committed::Settled)) if self.fence.is_some() => Ok(Committed::Settled),
                Err(stop) => Err(stop),
            }
        })
    }
}

async fn settle(tx: &mut Tx<'_>, commit: &Commit) -> Result<(), Stop<Committed>> {
    match &commit.verdict {
        Verdict::Done { effects, keep } => done(tx, commit, effects, keep.as_ref()).await,
        Verdict::Park { due, failed, order } => park(tx, commit, *due, failed.as_ref(), order.as_deref()).await,
        Verdict::Behind { order } => behind(tx, commit, order).await,
        Verdict::Dead { reason, failed, plugin, recording } => {
            dead(tx, commit, reason, failed.as_ref(), plugin, recording.as_deref()).await
        }
    }
}

/// The settled row of a call.
pub(super) async fn settled(connection: &mut PgConnection, call: &CallId) -> Result<Option<Settled>, StoreError> {
    let Some(key) = &call.key else { return Ok(None) };
    let row = sqlx::query("SELECT outcome, response, plugin FROM settled WHERE tenant = $1 AND source = $2 AND key = $3 AND handler = $4")
        .bind(call.tenant.as_str())
        .bind(&*call.source)
        .bind(self::key(key))
        .bind(&*call.handler)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let response: Option<String> = row.try_get(1)?;
    Ok(Some(Settled { outcome: row.try_get(0)?, response: response.map(|kept| from_json(&kept)).transpose()?, plugin: row.try_get(2)? }))
}

/// A task that was made a dead letter by itself, not by a commit.
pub(super) async fn quarantined(tx: &mut Tx<'_>, task: i64) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO settled (tenant, source, key, handler, outcome, at)
         SELECT tenant, source, key, handler, 'dead', $2 FROM task WHERE id = $1 AND key IS NOT NULL
         ON CONFLICT (tenant, source, key, handler) DO UPDATE SET outcome = 'dead', response = NULL, plugin = NULL, at = excluded.at",
    )
    .bind(task)
    .bind(tx.now)
    .execute(&mut *tx.connection)
    .await
    .map(drop)
}

async fn done(tx: &mut Tx<'_>, commit: &Commit, effects: &Effects, keep: Option<&Response>) -> Result<(), Stop<Committed>> {
    let call = &commit.call;
    finish(tx, commit).await?;
    if !keyvalue::unchanged(tx.connection, &call.tenant, &effects.reads).await? {
        return Err(Stop::Answer(Committed::Overtaken));
    }
    keyvalue::write(tx, &call.tenant, &effects.writes).await?;
    if !effects.emits.is_empty() {
        let accepted = accept::accept(tx, &[&effects.emits]).await?.concat();
        if let Some((full, _)) = effects.emits.iter().zip(accepted).find(|(_, accepted)| *accepted == Accepted::Full) {
            return Err(Stop::Answer(Committed::Full(full.source.to_string())));
        }
    }
    // A direct call that did nothing may run again: it leaves no row.
    if commit.claim.is_some() || !effects.is_empty() || keep.is_some() {
        remember(tx, commit, "done", keep).await?;
    }
    Ok(())
}

async fn park(tx: &mut Tx<'_>, commit: &Commit, due: Millis, failed: Option<&Attempt>, order: Option<&str>) -> Result<(), Stop<Committed>> {
    let Commit { call, history: earlier, .. } = commit;
    let all = history(earlier, failed)?;
    let Some(claim) = commit.claim else {
        unsettled(tx, call).await?;
        let subscriber = Subscriber { handler: call.handler.clone(), order: order.map(str::to_owned) };
        let task = NewTasks {
            event: &commit.event,
            tenant: &call.tenant,
            source: &call.source,
            kind: &commit.kind,
            subscribers: &[subscriber],
            key: call.key.as_deref(),
            due: due.saturating_add(tx.ahead),
            attempts: earlier.len() + usize::from(failed.is_some()),
            history: &all,
            hops: commit.hops,
            keep: false,
        };
        return Ok(accept::insert(tx, &[task]).await?);
    };
    // It ended by itself, so it did not end the host: no suspect any more.
    let parked = sqlx::query(
        "UPDATE task SET state = 0, owner = NULL, due = $3, attempts = attempts + $4, history = $5, epoch = epoch + 1,
            suspect = false, alone = false, crashes = 0
         WHERE id = $1 AND epoch = $2 AND state = 1",
    )
    .bind(claim.task)
    .bind(claim.epoch)
    .bind(due.saturating_add(tx.ahead))
    .bind(i32::from(failed.is_some()))
    .bind(all)
    .execute(&mut *tx.connection)
    .await?;
    if parked.rows_affected() == 0 { Err(Stop::Answer(Committed::Settled)) } else { Ok(()) }
}

async fn behind(tx: &mut Tx<'_>, commit: &Commit, order: &str) -> Result<(), Stop<Committed>> {
    let call = &commit.call;
    let waits: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM task WHERE tenant = $1 AND source = $2 AND handler = $3 AND order_key = $4)")
            .bind(call.tenant.as_str())
            .bind(&*call.source)
            .bind(&*call.handler)
            .bind(key(order))
            .fetch_one(&mut *tx.connection)
            .await?;
    if !waits {
        return Err(Stop::Answer(Committed::Free));
    }
    let now = tx.now.saturating_sub(tx.ahead);
    park(tx, commit, now, None, Some(order)).await
}

async fn dead(
    tx: &mut Tx<'_>,
    commit: &Commit,
    reason: &str,
    failed: Option<&Attempt>,
    plugin: &str,
    recording: Option<&str>,
) -> Result<(), Stop<Committed>> {
    let call = &commit.call;
    let Left { order, accepted_at } = finish(tx, commit).await?;
    let letter = NewLetter {
        tenant: &call.tenant,
        source: &call.source,
        kind: &commit.kind,
        handler: Some(&call.handler),
        key: call.key.as_deref(),
        order: order.as_deref(),
        reason,
        history: &history(&commit.history, failed)?,
        plugin: Some(plugin),
        hops: commit.hops,
        accepted_at,
        recording,
        event: &commit.event,
    };
    dead_letter::insert(tx, &letter).await?;
    remember(tx, commit, "dead", None).await?;
    Ok(())
}

/// What is left of a task that is settled.
#[derive(Default)]
pub(super) struct Left {
    order: Option<String>,
    accepted_at: Option<i64>,
}

/// The call leaves the tasks, if it still is this commit's to settle.
async fn finish(tx: &mut Tx<'_>, commit: &Commit) -> Result<Left, Stop<Committed>> {
    let Some(claim) = commit.claim else {
        unsettled(tx, &commit.call).await?;
        return Ok(Left::default());
    };
    leave(tx, claim).await?.ok_or(Stop::Answer(Committed::Settled))
}

/// A claimed task is gone, with its event if it was the last of it, and the next of its order key is ready. `None`: the claim is void.
pub(super) async fn leave(tx: &mut Tx<'_>, claim: Claim) -> sqlx::Result<Option<Left>> {
    const LEAVE: &str = "
        WITH gone AS (
            DELETE FROM task WHERE id = $1 AND epoch = $2 AND state = 1 RETURNING id, event, tenant, source, handler, order_key, accepted_at
         ), last AS (
            DELETE FROM event AS e USING gone
            WHERE e.id = gone.event AND NOT EXISTS (SELECT 1 FROM task AS t WHERE t.event = gone.event AND t.id <> gone.id)
                AND NOT EXISTS (SELECT 1 FROM kept AS k WHERE k.event = gone.event)
         )
         SELECT order_key, accepted_at, tenant, source, handler FROM gone";
    const NEXT: &str = "UPDATE task SET state = 0 WHERE state = 2 AND id = (
        SELECT min(id) FROM task WHERE tenant = $1 AND source = $2 AND handler = $3 AND order_key = $4)";
    let gone = sqlx::query(LEAVE).bind(claim.task).bind(claim.epoch).fetch_optional(&mut *tx.connection).await?;
    let Some(gone) = gone else { return Ok(None) };
    let order: Option<String> = gone.try_get(0)?;
    if let Some(order) = &order {
        let (tenant, source, handler): (String, String, String) = (gone.try_get(2)?, gone.try_get(3)?, gone.try_get(4)?);
        sqlx::query(NEXT).bind(tenant).bind(source).bind(handler).bind(order).execute(&mut *tx.connection).await?;
    }
    Ok(Some(Left { order: order.map(unstored), accepted_at: gone.try_get(1)? }))
}

/// A direct call may come again while or after an earlier delivery of it was parked or settled: then it is not this one's any more. It is
/// locked.
async fn unsettled(tx: &mut Tx<'_>, call: &CallId) -> Result<(), Stop<Committed>> {
    let Some(key) = &call.key else { return Ok(()) };
    let taken: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM settled WHERE tenant = $1 AND source = $2 AND key = $3 AND handler = $4)
             OR EXISTS (SELECT 1 FROM task WHERE tenant = $1 AND source = $2 AND key = $3 AND handler = $4)",
    )
    .bind(call.tenant.as_str())
    .bind(&*call.source)
    .bind(self::key(key))
    .bind(&*call.handler)
    .fetch_one(&mut *tx.connection)
    .await?;
    if taken { Err(Stop::Answer(Committed::Settled)) } else { Ok(()) }
}

async fn remember(tx: &mut Tx<'_>, commit: &Commit, outcome: &str, keep: Option<&Response>) -> Result<(), Stop<Committed>> {
    // A row of an earlier generation may still be there, when the key was forgotten before the call.
    const STATEMENT: &str = "INSERT INTO settled (tenant, source, key, handler, outcome, response, at, plugin)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (tenant, source, key, handler) DO UPDATE
        SET outcome = excluded.outcome, response = excluded.response, at = excluded.at, plugin = excluded.plugin";
    let call = &commit.call;
    let Some(key) = &call.key else { return Ok(()) };
    let response = keep.map(to_json).transpose()?;
    sqlx::query(STATEMENT)
        .bind(call.tenant.as_str())
        .bind(&*call.source)
        .bind(self::key(key))
        .bind(&*call.handler)
        .bind(outcome)
        .bind(response)
        .bind(tx.now)
        .bind(commit.plugin.as_deref())
        .execute(&mut *tx.connection)
        .await?;
    Ok(())
}
