//! Accepting an event: its key, its tasks and what its source remembers, or nothing.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::{PgConnection, Row as _};

use super::{
    dead_letter::NewLetter,
    locks::{self, Locks},
    source_state,
    writer::{Operation, Stop, Tx},
};
use crate::{
    event::Event,
    store::{Acceptance, Accepted, OrderKey, StoreError, Subscriber, json::to_json},
    tenant::Tenant,
};

/// Accept until there is no room for one.
pub(super) struct Accept(pub(super) Vec<Acceptance>);

impl Operation for Accept {
    type Answer = Vec<Accepted>;

    fn lock(&self, locks: &mut Locks) {
        self.0.iter().for_each(|acceptance| lock(acceptance, locks));
    }

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<Vec<Accepted>, Stop<Vec<Accepted>>>> {
        Box::pin(async move {
            let mut all = Vec::with_capacity(self.0.len());
            for acceptance in &self.0 {
                let full = all.last() == Some(&Accepted::Full);
                all.push(if full { Accepted::Full } else { accept(tx, acceptance).await? });
            }
            Ok(all)
        })
    }
}

pub(super) fn lock(acceptance: &Acceptance, locks: &mut Locks) {
    let Acceptance { tenant, source, .. } = acceptance;
    acceptance.handlers.iter().for_each(|subscriber| locks.order(order_lock(tenant, source, subscriber)));
}

fn order_lock(tenant: &Tenant, source: &Arc<str>, subscriber: &Subscriber) -> Option<i32> {
    let key = subscriber.order.as_deref()?.into();
    Some(locks::of_order(&OrderKey { tenant: tenant.clone(), source: source.clone(), handler: subscriber.handler.clone(), key }))
}

/// Accept. [`Accepted::Duplicate`] and [`Accepted::Full`] have written nothing.
pub(super) async fn accept(tx: &mut Tx<'_>, acceptance: &Acceptance) -> Result<Accepted, StoreError> {
    let Acceptance { tenant, source, event, .. } = acceptance;
    if let Some(bound) = acceptance.backlog
        && known_backlog(tx, tenant, source, bound).await? >= bound
    {
        let known = accepted_before(tx.connection, acceptance).await?;
        return Ok(known.map_or(Accepted::Full, |id| Accepted::Duplicate { id }));
    }
    if let Some(key) = &acceptance.key {
        // Of two hosts that accept it at once the second waits for the first.
        let new =
            sqlx::query("INSERT INTO accepted (tenant, source, key, event_id, at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING")
                .bind(tenant.as_str())
                .bind(&**source)
                .bind(key)
                .bind(&event.id)
                .bind(tx.now)
                .execute(&mut *tx.connection)
                .await?;
        if new.rows_affected() == 0 {
            let id = accepted_before(tx.connection, acceptance).await?.unwrap_or_default();
            return Ok(Accepted::Duplicate { id });
        }
    }
    if !acceptance.handlers.is_empty() {
        let tasks = NewTasks {
            event,
            tenant,
            source,
            kind: &acceptance.kind,
            subscribers: &acceptance.handlers,
            key: acceptance.key.as_deref(),
            due: acceptance.due.unwrap_or(tx.now),
            attempts: 0,
            history: "[]",
            hops: acceptance.hops,
        };
        tasks.insert(tx).await?;
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
            event,
        };
        letter.insert(tx).await?;
    }
    source_state::set(tx.connection, tenant, source, &acceptance.state).await?;
    Ok(Accepted::New { id: event.id.clone() })
}

/// The tasks of one event, to be written.
pub(super) struct NewTasks<'a> {
    pub(super) event: &'a Event,
    pub(super) tenant: &'a Tenant,
    pub(super) source: &'a Arc<str>,
    pub(super) kind: &'a str,
    pub(super) subscribers: &'a [Subscriber],
    pub(super) key: Option<&'a str>,
    pub(super) due: i64,
    pub(super) attempts: usize,
    pub(super) history: &'a str,
    pub(super) hops: u32,
}

impl NewTasks<'_> {
    /// Write the event and its tasks. Their order keys are locked.
    pub(super) async fn insert(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        // Behind a task with its order key it is not ready, and comes up when it is its turn: a claim never has to look past those that wait.
        const STATEMENT: &str = "
            WITH new_event AS (INSERT INTO event (header, data) VALUES ($1, $2) RETURNING id)
            INSERT INTO task (event, tenant, source, kind, handler, key, order_key, order_lock, due, attempts, history, hops, accepted_at, state)
            SELECT e.id, $3, $4, $5, s.handler, $6, s.order_key, s.order_lock, $7, $8, $9, $10, $11, CASE WHEN EXISTS (
                SELECT 1 FROM task AS t WHERE t.tenant = $3 AND t.source = $4 AND t.handler = s.handler AND t.order_key = s.order_key
            ) THEN 2 ELSE 0 END
            FROM new_event AS e, unnest($12::text[], $13::text[], $14::int[]) WITH ORDINALITY AS s(handler, order_key, order_lock, n)
            ORDER BY s.n";
        let handlers: Vec<&str> = self.subscribers.iter().map(|subscriber| &*subscriber.handler).collect();
        let orders: Vec<Option<&str>> = self.subscribers.iter().map(|subscriber| subscriber.order.as_deref()).collect();
        let order_locks: Vec<Option<i32>> =
            self.subscribers.iter().map(|subscriber| order_lock(self.tenant, self.source, subscriber)).collect();
        sqlx::query(STATEMENT)
            .bind(to_json(self.event)?)
            .bind(&*self.event.data)
            .bind(self.tenant.as_str())
            .bind(&**self.source)
            .bind(self.kind)
            .bind(self.key)
            .bind(self.due)
            .bind(i32::try_from(self.attempts).unwrap_or(i32::MAX))
            .bind(self.history)
            .bind(i64::from(self.hops))
            .bind(tx.now)
            .bind(handlers)
            .bind(orders)
            .bind(order_locks)
            .execute(&mut *tx.connection)
            .await?;
        if let Some((tasks, _)) = tx.backlogs.get_mut(&(self.tenant.clone(), self.source.clone())) {
            *tasks += self.subscribers.len() as u64;
        }
        Ok(())
    }
}

/// The id of the event that was accepted under this key.
async fn accepted_before(connection: &mut PgConnection, acceptance: &Acceptance) -> sqlx::Result<Option<String>> {
    let Some(key) = &acceptance.key else { return Ok(None) };
    sqlx::query_scalar("SELECT event_id FROM accepted WHERE tenant = $1 AND source = $2 AND key = $3")
        .bind(acceptance.tenant.as_str())
        .bind(&*acceptance.source)
        .bind(key)
        .fetch_optional(connection)
        .await
}

/// How many tasks a source has, counted once in a transaction: what other hosts add meanwhile goes beyond the bound.
async fn known_backlog(tx: &mut Tx<'_>, tenant: &Tenant, source: &Arc<str>, bound: u64) -> sqlx::Result<u64> {
    let of = (tenant.clone(), source.clone());
    if let Some((tasks, up_to)) = tx.backlogs.get(&of)
        && bound <= *up_to
    {
        return Ok(*tasks);
    }
    let tasks = backlog(tx.connection, tenant, source, Some(bound)).await?;
    tx.backlogs.insert(of, (tasks, bound));
    Ok(tasks)
}

/// How many tasks of a source are not settled; more than `bound` are not counted.
pub(super) async fn backlog(connection: &mut PgConnection, tenant: &Tenant, source: &str, bound: Option<u64>) -> sqlx::Result<u64> {
    let bound = bound.map(|bound| i64::try_from(bound).unwrap_or(i64::MAX));
    let row = sqlx::query("SELECT count(*) FROM (SELECT 1 FROM task WHERE tenant = $1 AND source = $2 LIMIT $3) AS t")
        .bind(tenant.as_str())
        .bind(source)
        .bind(bound)
        .fetch_one(connection)
        .await?;
    Ok(row.try_get::<i64, _>(0)?.unsigned_abs())
}
