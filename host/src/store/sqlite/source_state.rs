//! What sources remember.

use rusqlite::{Connection, params};

use crate::{store::StoreError, tenant::Tenant};

/// Change entries; `None` forgets.
pub(super) fn set(connection: &Connection, tenant: &Tenant, source: &str, entries: &[(String, Option<Vec<u8>>)]) -> Result<(), StoreError> {
    for (name, value) in entries {
        match value {
            Some(value) => connection
                .prepare_cached(
                    "INSERT INTO source_state (tenant, source, name, value) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET value = excluded.value",
                )?
                .execute(params![tenant.as_str(), source, name, value])?,
            None => connection
                .prepare_cached("DELETE FROM source_state WHERE tenant = ?1 AND source = ?2 AND name = ?3")?
                .execute(params![tenant.as_str(), source, name])?,
        };
    }
    Ok(())
}

/// Entries whose names begin with `prefix`, in order.
pub(super) fn get(connection: &Connection, tenant: &Tenant, source: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT name, value FROM source_state WHERE tenant = ?1 AND source = ?2 AND name >= ?3 ORDER BY name")?;
    let mut rows = statement.query(params![tenant.as_str(), source, prefix])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        // In order of names, those with the prefix stand together.
        if !name.starts_with(prefix) {
            break;
        }
        entries.push((name, row.get(1)?));
    }
    Ok(entries)
}
