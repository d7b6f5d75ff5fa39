//! What several hosts must not change at once: the order of a key, the keys of a tenant.
//!
//! Locks are [advisory locks](https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS) of the transaction. There is a
//! bounded number of them, so that no group fills the server's table of locks; two things may share one, which costs time and nothing else.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::rows;
use crate::{
    store::{CallId, Claim, OrderKey, Read},
    tenant::Tenant,
};

/// So many different locks of a kind there are.
const BUCKETS: u32 = 1024;
/// The first half of the names of our locks; the second is the bucket.
const TENANTS: i32 = 0x6b6f_6b00;
const ORDERS: i32 = TENANTS + 1;
const KEYS: i32 = TENANTS + 2;
const CALLS: i32 = TENANTS + 3;

/// The locks a group needs: `true` where nobody else may have it, `false` where others may share it.
#[derive(Debug, Default)]
pub(super) struct Locks {
    by_name: BTreeMap<(i32, i32), bool>,
    /// Tasks whose order keys are locked.
    tasks: Vec<i64>,
}

impl Locks {
    /// The order of a key changes.
    pub(super) fn order(&mut self, bucket: Option<i32>) {
        if let Some(bucket) = bucket {
            self.by_name.insert((ORDERS, bucket), true);
        }
    }

    /// A claimed task is settled: if it has an order key, its order changes.
    pub(super) fn task(&mut self, claim: Claim) {
        self.tasks.push(claim.task);
    }

    /// A direct call is settled or parked: two hosts may have been given its event.
    pub(super) fn call(&mut self, call: &CallId) {
        if let Some(key) = &call.key {
            self.by_name.insert((CALLS, bucket(&[call.tenant.as_str(), &call.source, &rows::key(key), &call.handler])), true);
        }
    }

    /// What was read must stay as it is, and what is written is nobody else's.
    pub(super) fn keys<'a>(&mut self, tenant: &Tenant, reads: &'a [Read], writes: impl Iterator<Item = &'a String>) {
        let tenants = (TENANTS, bucket(&[tenant.as_str()]));
        let mut keys = Vec::new();
        for read in reads {
            match read {
                Read::Key { key, .. } => keys.push(key),
                // No key may come or go below a prefix that was listed.
                Read::List { .. } => {
                    self.by_name.insert(tenants, true);
                }
            }
        }
        let mut writes = writes.peekable();
        if writes.peek().is_some() {
            self.by_name.entry(tenants).or_insert(false);
        }
        for key in keys.into_iter().chain(writes) {
            self.by_name.insert((KEYS, bucket(&[tenant.as_str(), key])), true);
        }
    }

    /// Take them, in one order.
    pub(super) async fn take(self, connection: &mut PgConnection) -> sqlx::Result<()> {
        const STATEMENT: &str = "
            SELECT CASE WHEN whole THEN pg_advisory_xact_lock(kind, bucket) ELSE pg_advisory_xact_lock_shared(kind, bucket) END
            FROM (
                SELECT kind, bucket, whole FROM unnest($1::int[], $2::int[], $3::boolean[]) AS l(kind, bucket, whole)
                UNION
                SELECT $4, order_lock, true FROM task WHERE id = ANY ($5) AND order_lock IS NOT NULL
                ORDER BY kind, bucket
            ) AS l";
        if self.by_name.is_empty() && self.tasks.is_empty() {
            return Ok(());
        }
        let (mut kinds, mut buckets, mut whole) = (Vec::new(), Vec::new(), Vec::new());
        for ((kind, bucket), alone) in self.by_name {
            kinds.push(kind);
            buckets.push(bucket);
            whole.push(alone);
        }
        sqlx::query(STATEMENT).bind(kinds).bind(buckets).bind(whole).bind(ORDERS).bind(self.tasks).execute(connection).await.map(drop)
    }
}

/// The lock of an order key: the same on every host, whatever its version.
pub(super) fn of_order(key: &OrderKey) -> i32 {
    bucket(&[key.tenant.as_str(), &key.source, &key.handler, &rows::key(&key.key)])
}

fn bucket(parts: &[&str]) -> i32 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let hash = hash.finalize();
    let number = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    i32::try_from(number % BUCKETS).unwrap_or_default()
}
