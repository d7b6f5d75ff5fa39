//! What sources remember.

use futures_util::future::BoxFuture;
use sqlx::{PgConnection, Row as _};

use super::{
    lane,
    rows::{text, unstored},
    writer::{Operation, Tx},
};
use crate::{
    store::{Fence, StoreError, stop::Stop},
    tenant::Tenant,
};

/// Change entries; `None` forgets.
pub(super) struct SetState {
    pub(super) tenant: Tenant,
    pub(super) source: std::sync::Arc<str>,
    pub(super) entries: Vec<(String, Option<Vec<u8>>)>,
    /// The source is one that one host runs.
    pub(super) fence: Option<Fence>,
}

impl Operation for SetState {
    type Answer = ();

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<(), Stop<()>>> {
        Box::pin(async move {
            if let Some(fence) = &self.fence
                && !lane::holds(tx, fence).await?
            {
                return Err(StoreError::Fenced.into());
            }
            // In order of names: hosts that write the same ones wait for each other, and not in a circle.
            let mut entries: Vec<_> = self.entries.iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (name, value) in entries {
                set(tx.connection, self.tenant.as_str(), &self.source, name, value.as_deref()).await?;
            }
            Ok(())
        })
    }
}

/// Remember a value; `None` forgets.
pub(super) async fn set(
    connection: &mut PgConnection,
    tenant: &str,
    source: &str,
    name: &str,
    value: Option<&[u8]>,
) -> Result<(), StoreError> {
    const SET: &str = "INSERT INTO source_state (tenant, source, name, value) VALUES ($1, $2, $3, $4)
        ON CONFLICT (tenant, source, name) DO UPDATE SET value = excluded.value";
    const FORGET: &str = "DELETE FROM source_state WHERE tenant = $1 AND source = $2 AND name = $3";
    let query = sqlx::query(if value.is_some() { SET } else { FORGET }).bind(tenant).bind(source).bind(text(name));
    let query = if let Some(value) = value { query.bind(value) } else { query };
    query.execute(connection).await?;
    Ok(())
}

/// Entries whose names begin with `prefix`, in order.
pub(super) async fn get(
    connection: &mut PgConnection,
    tenant: &Tenant,
    source: &str,
    prefix: &str,
) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let rows = sqlx::query(
        "SELECT name, value FROM source_state
         WHERE tenant = $1 AND source = $2 AND name >= $3 AND starts_with(name, $3) ORDER BY name",
    )
    .bind(tenant.as_str())
    .bind(source)
    .bind(text(prefix))
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((unstored(row.try_get(0)?), row.try_get(1)?))).collect()
}
