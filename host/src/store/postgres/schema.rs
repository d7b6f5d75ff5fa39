//! The tables, and what happens to a store when it is opened.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::connect::Connect;
use crate::store::StoreError;

/// Each takes the schema from the version that is its index to the next. Never edited once released.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/postgres/0001_store.sql"),
    include_str!("../../../migrations/postgres/0002_letters.sql"),
    include_str!("../../../migrations/postgres/0003_kept_events.sql"),
    include_str!("../../../migrations/postgres/0004_version.sql"),
];

/// One host makes or changes the tables at a time.
const MIGRATING: i64 = 0x6b6f_6b73_6d61_7400;

/// Make the tables, or bring them to the newest version. And the number of this start.
pub(super) async fn prepare(connect: &Connect, connection: &mut PgConnection) -> Result<u64, StoreError> {
    let known = MIGRATIONS.len() as i64;
    let failed = |error: StoreError| match error {
        StoreError::Other(why) => StoreError::Other(format!(
            "cannot prepare the store of {} in the schema {:?}: {why}; may this user make a schema and tables there?",
            connect.reference(),
            connect.schema()
        )),
        error => error,
    };
    migrate(connect, connection, known).await.map_err(failed)?;
    let number: i64 = sqlx::query_scalar("SELECT nextval('start_number')").fetch_one(connection).await?;
    Ok(number.unsigned_abs())
}

async fn migrate(connect: &Connect, connection: &mut PgConnection, known: i64) -> Result<(), StoreError> {
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATING).execute(&mut *transaction).await?;
    let there: bool = sqlx::query_scalar("SELECT to_regclass(quote_ident($1) || '.meta') IS NOT NULL")
        .bind(connect.schema())
        .fetch_one(&mut *transaction)
        .await?;
    let version: i64 = if there {
        let version = sqlx::query_scalar("SELECT value FROM meta WHERE name = 'schema'").fetch_optional(&mut *transaction).await?;
        version.ok_or_else(|| StoreError::Other("it holds tables of something else; name another schema or database".into()))?
    } else {
        let schema = connect.schema().replace('"', "\"\"");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS \"{schema}\""))).execute(&mut *transaction).await?;
        0
    };
    if version > known {
        return Err(StoreError::Newer { path: connect.reference().to_owned(), found: version, known });
    }
    for (migration, _) in MIGRATIONS.iter().zip(0..).filter(|(_, from)| *from >= version) {
        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
    }
    if version < known {
        const NOTE: &str = "INSERT INTO meta (name, value) VALUES ('schema', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(NOTE).bind(known).execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}
