//! Key-value: reading, checking at commit what was read, writing.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sqlx::{PgConnection, Row as _};

use super::{
    limit,
    locks::Locks,
    writer::{Operation, Tx},
};
use crate::{
    store::{Committed, Read, StoreError, Write, stop::Stop, sum},
    tenant::Tenant,
};

/// Whether everything a call read is still as it was.
pub(super) struct Check {
    pub(super) tenant: Tenant,
    pub(super) reads: Vec<Read>,
}

impl Operation for Check {
    type Answer = bool;

    fn lock(&self, locks: &mut Locks) {
        locks.keys(&self.tenant, &self.reads, std::iter::empty());
    }

    fn lasts(&self) -> bool {
        false
    }

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<bool, Stop<bool>>> {
        Box::pin(async move { Ok(unchanged(tx.connection, &self.tenant, &self.reads).await?) })
    }
}

/// The value of a key and its version.
pub(super) async fn get(connection: &mut PgConnection, tenant: &Tenant, key: &str) -> Result<Option<(Bytes, i64)>, StoreError> {
    let row = sqlx::query("SELECT value, version FROM kv WHERE tenant = $1 AND key = $2")
        .bind(tenant.as_str())
        .bind(key)
        .fetch_optional(connection)
        .await?;
    row.map(|row| Ok((row.try_get::<Vec<u8>, _>(0)?.into(), row.try_get(1)?))).transpose()
}

/// Keys that begin with `prefix`, behind `after`, in order, at most `limit`.
pub(super) async fn list(
    connection: &mut PgConnection,
    tenant: &Tenant,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<String>, StoreError> {
    let from = after.map_or(prefix, |after| prefix.max(after));
    let keys = sqlx::query_scalar(
        "SELECT key FROM kv WHERE tenant = $1 AND key >= $2 AND starts_with(key, $3) AND ($4::text IS NULL OR key > $4 COLLATE \"C\")
         ORDER BY key LIMIT $5",
    )
    .bind(tenant.as_str())
    .bind(from)
    .bind(prefix)
    .bind(after)
    .bind(self::limit(limit))
    .fetch_all(connection)
    .await?;
    Ok(keys)
}

/// Whether everything a call read is still as it was.
pub(super) async fn unchanged(connection: &mut PgConnection, tenant: &Tenant, reads: &[Read]) -> Result<bool, StoreError> {
    const STATEMENT: &str = "SELECT NOT EXISTS (
        SELECT 1 FROM unnest($2::text[], $3::bigint[]) AS r(key, version)
        WHERE r.version <> coalesce((SELECT k.version FROM kv AS k WHERE k.tenant = $1 AND k.key = r.key COLLATE \"C\"), 0))";
    let (mut keys, mut versions) = (Vec::new(), Vec::new());
    for read in reads {
        match read {
            Read::Key { key, version } => {
                keys.push(key.as_str());
                versions.push(*version);
            }
            Read::List { prefix, after, limit, keys } => {
                if list(connection, tenant, prefix, after.as_deref(), *limit).await? != *keys {
                    return Ok(false);
                }
            }
        }
    }
    if keys.is_empty() {
        return Ok(true);
    }
    Ok(sqlx::query_scalar(STATEMENT).bind(tenant.as_str()).bind(keys).bind(versions).fetch_one(connection).await?)
}

/// Write what a call wrote. Its keys are locked.
pub(super) async fn write(tx: &mut Tx<'_>, tenant: &Tenant, writes: &BTreeMap<String, Write>) -> Result<(), Stop<Committed>> {
    const SET: &str = "INSERT INTO kv (tenant, key, value, version) SELECT $1, w.key, w.value, v.version
        FROM unnest($2::text[], $3::bytea[]) AS w(key, value), (SELECT nextval('kv_version') AS version) AS v
        ON CONFLICT (tenant, key) DO UPDATE SET value = excluded.value, version = excluded.version";
    const DELETE: &str = "DELETE FROM kv WHERE tenant = $1 AND key = ANY ($2)";
    let (mut keys, mut values, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for (key, write) in writes {
        match write {
            Write::Set(value) => {
                keys.push(key.as_str());
                values.push(value.to_vec());
            }
            Write::Add(delta) => {
                let value = get(tx.connection, tenant, key).await?.map(|(value, _)| value);
                let sum = sum::add(key, value.as_deref(), *delta).map_err(|why| Stop::Answer(Committed::Invalid(why)))?;
                keys.push(key.as_str());
                values.push(sum.to_string().into_bytes());
            }
            Write::Delete => gone.push(key.as_str()),
        }
    }
    if !keys.is_empty() {
        sqlx::query(SET).bind(tenant.as_str()).bind(keys).bind(values).execute(&mut *tx.connection).await?;
    }
    if !gone.is_empty() {
        sqlx::query(DELETE).bind(tenant.as_str()).bind(gone).execute(&mut *tx.connection).await?;
    }
    Ok(())
}
