//! Key-value: reading, checking at commit what was read, writing.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows;
use crate::{
    store::{Committed, Read, StoreError, Write, stop::Stop, sum},
    tenant::Tenant,
};

/// The value of a key and its version.
pub(super) fn get(connection: &Connection, tenant: &Tenant, key: &str) -> Result<Option<(Bytes, i64)>, StoreError> {
    Ok(connection
        .prepare_cached("SELECT value, version FROM kv WHERE tenant = ?1 AND key = ?2")?
        .query_row(params![tenant.as_str(), key], |row| Ok((row.get::<_, Vec<u8>>(0)?.into(), row.get(1)?)))
        .optional()?)
}

/// Keys that begin with `prefix`, behind `after`, in order, at most `limit`.
pub(super) fn list(
    connection: &Connection,
    tenant: &Tenant,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<String>, StoreError> {
    let from = after.map_or(prefix, |after| prefix.max(after));
    let mut statement = connection
        .prepare_cached("SELECT key FROM kv WHERE tenant = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3) ORDER BY key LIMIT ?4")?;
    let mut rows = statement.query(params![tenant.as_str(), from, after, rows::limit(limit)])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        // In order, those with the prefix stand together.
        if !key.starts_with(prefix) {
            break;
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Whether everything a call read is still as it was.
pub(super) fn unchanged(connection: &Connection, tenant: &Tenant, reads: &[Read]) -> Result<bool, StoreError> {
    for read in reads {
        let same = match read {
            Read::Key { key, version } => self::version(connection, tenant, key)? == *version,
            Read::List { prefix, after, limit, keys } => list(connection, tenant, prefix, after.as_deref(), *limit)? == *keys,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Write what a call wrote.
pub(super) fn write(connection: &Connection, tenant: &Tenant, writes: &BTreeMap<String, Write>) -> Result<(), Stop<Committed>> {
    if writes.is_empty() {
        return Ok(());
    }
    // One version for all of them: it only has to be one that these keys never had.
    let version: i64 = connection
        .prepare_cached("UPDATE meta SET value = value + 1 WHERE name = 'kv_version' RETURNING value")?
        .query_row([], |row| row.get(0))?;
    for (key, write) in writes {
        match write {
            Write::Set(value) => set(connection, tenant, key, value, version)?,
            Write::Add(delta) => {
                let value = get(connection, tenant, key)?.map(|(value, _)| value);
                let sum = sum::add(key, value.as_deref(), *delta).map_err(|why| Stop::Answer(Committed::Invalid(why)))?;
                set(connection, tenant, key, sum.to_string().as_bytes(), version)?;
            }
            Write::Delete => {
                connection.prepare_cached("DELETE FROM kv WHERE tenant = ?1 AND key = ?2")?.execute(params![tenant.as_str(), key])?;
            }
        }
    }
    Ok(())
}

fn set(connection: &Connection, tenant: &Tenant, key: &str, value: &[u8], version: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO kv (tenant, key, value, version) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET value = excluded.value, version = excluded.version",
        )?
        .execute(params![tenant.as_str(), key, value, version])?;
    Ok(())
}

/// 0: it is absent.
fn version(connection: &Connection, tenant: &Tenant, key: &str) -> Result<i64, StoreError> {
    let version: Option<i64> = connection
        .prepare_cached("SELECT version FROM kv WHERE tenant = ?1 AND key = ?2")?
        .query_row(params![tenant.as_str(), key], |row| row.get(0))
        .optional()?;
    Ok(version.unwrap_or(0))
}
