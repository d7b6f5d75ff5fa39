//! The statements of claim mode for SQLite.
//!
//! Times are milliseconds since the Unix epoch by the clock of SQLite. Every transaction that writes begins as `IMMEDIATE`, so that it waits
//! for the lock before it has read anything.

use std::collections::HashSet;

use sqlx::{
    AssertSqlSafe, Connection, Row as _, Sqlite as Db, SqliteConnection, Transaction,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{Claim, ClaimDone, Completion, SWEEP, Table, millis};
use crate::source::poller::{
    database::{
        self, DatabaseError,
        sqlite::{Sqlite, decode},
    },
    row::{Row, Value},
};

/// `row_key` has no declared type: it holds the key as it stands in the row, and comparing it with the row's can use an index.
pub(super) const SETUP: &str = "\
    CREATE TABLE IF NOT EXISTS koksmat_claims (
        source TEXT NOT NULL, row_table TEXT NOT NULL, row_key NOT NULL,
        generation TEXT NOT NULL, epoch INTEGER NOT NULL, owner TEXT, lease_until INTEGER NOT NULL, done_at INTEGER,
        PRIMARY KEY (source, row_table, row_key)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS koksmat_claims_owned ON koksmat_claims (owner) WHERE owner IS NOT NULL;";

/// Now, by the database's clock.
const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
/// The claims of one source and table; binds `?1` and `?2`.
const OURS: &str = "source = ?1 AND row_table = ?2";
/// A claim nobody holds and whose row is not done.
const FREE: &str = "done_at IS NULL AND lease_until <= CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// Claim at most `limit` rows, lowest keys first, of those behind `behind`.
pub(super) async fn take(
    db: &mut Sqlite,
    table: &Table,
    owner: &str,
    limit: usize,
    behind: Option<&Value>,
) -> Result<Vec<(Claim, String)>, DatabaseError> {
    let connection = db.connection().await?;
    let taken = try_take(connection, table, owner, limit, behind).await;
    db.check("claiming rows", taken)
}

async fn try_take(
    connection: &mut SqliteConnection,
    table: &Table,
    owner: &str,
    limit: usize,
    behind: Option<&Value>,
) -> sqlx::Result<Vec<(Claim, String)>> {
    // Look without a lock first: most polls find nothing, and an idle poller should be in nobody's way.
    if candidates(connection, table, owner, 1, behind).await?.is_empty() {
        return Ok(Vec::new());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut taken = Vec::new();
    for row in candidates(&mut transaction, table, owner, limit, behind).await? {
        let Row(mut columns) = decode(&row)?;
        let (_, key) = columns.remove(0);
        if let Some(claim) = claim(&mut transaction, table, owner, key).await? {
            taken.push((claim, Row(columns).to_json()));
        }
    }
    transaction.commit().await?;
    Ok(taken)
}

/// Rows behind `behind` that may be claimed: first the key, then all columns.
async fn candidates(
    connection: &mut SqliteConnection,
    table: &Table,
    owner: &str,
    limit: usize,
    behind: Option<&Value>,
) -> sqlx::Result<Vec<SqliteRow>> {
    let (rows, key, filter) = (name(&table.table), name(&table.key), table.condition());
    let from = if behind.is_some() { format!("AND t.{key} > ?5") } else { String::new() };
    // What this owner holds is in flight, however late its lease was extended. The `+` keeps SQLite from converting the key before it is
    // compared, which no index of claims could help with.
    let statement = format!(
        "SELECT t.{key}, t.* FROM {rows} AS t
         WHERE t.{key} IS NOT NULL {from} {filter}
           AND NOT EXISTS (SELECT 1 FROM koksmat_claims AS c
                           WHERE c.source = ?1 AND c.row_table = ?2 AND c.row_key = +t.{key}
                             AND (c.done_at IS NOT NULL OR c.owner = ?3 OR c.lease_until > {NOW}))
         ORDER BY t.{key} LIMIT ?4"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    // Not kept prepared: the table may have got a column since.
    let query = ours(statement, table).bind(owner).bind(limit);
    let query = if let Some(behind) = behind { bind(query, behind) } else { query };
    query.persistent(false).fetch_all(connection).await
}

/// Claim one row; `None`: it is a second row with the same key.
async fn claim(transaction: &mut Transaction<'_, Db>, table: &Table, owner: &str, key: Value) -> sqlx::Result<Option<Claim>> {
    let statement = format!(
        "INSERT INTO koksmat_claims (source, row_table, row_key, generation, epoch, owner, lease_until)
         VALUES (?1, ?2, ?3, lower(hex(randomblob(8))), 1, ?4, {NOW} + ?5)
         ON CONFLICT DO UPDATE SET epoch = epoch + 1, owner = excluded.owner, lease_until = excluded.lease_until WHERE {FREE}
         RETURNING generation, epoch"
    );
    let query = bind(ours(statement, table), &key).bind(owner).bind(millis(table.lease));
    let Some(row) = query.fetch_optional(&mut **transaction).await? else { return Ok(None) };
    Ok(Some(Claim { key, generation: row.try_get(0)?, epoch: row.try_get(1)? }))
}

/// Complete claims, all or none. How many of them had been lost: their lease ended and somebody else claimed the row.
pub(super) async fn complete(db: &mut Sqlite, table: &Table, owner: &str, claims: &[(Claim, Completion)]) -> Result<usize, DatabaseError> {
    let connection = db.connection().await?;
    let completed = try_complete(connection, table, owner, claims).await;
    db.check("marking rows", completed)
}

async fn try_complete(
    connection: &mut SqliteConnection,
    table: &Table,
    owner: &str,
    claims: &[(Claim, Completion)],
) -> sqlx::Result<usize> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut lost = 0;
    for (claim, completion) in claims {
        let held = match completion {
            Completion::Done => finish(&mut transaction, table, owner, claim).await?,
            Completion::Release(after) => {
                let change = format!("UPDATE koksmat_claims SET owner = NULL, lease_until = {NOW} + {}", millis(*after));
                change_claim(&mut transaction, change, table, owner, claim).await?
            }
        };
        lost += usize::from(!held);
    }
    transaction.commit().await?;
    Ok(lost)
}

/// The row was handled. `false`: the claim was lost, nothing changed.
async fn finish(transaction: &mut Transaction<'_, Db>, table: &Table, owner: &str, claim: &Claim) -> sqlx::Result<bool> {
    let (rows, key) = (name(&table.table), name(&table.key));
    let row_change = match &table.done {
        ClaimDone::Mark => {
            let mark = format!("UPDATE koksmat_claims SET done_at = {NOW}, owner = NULL");
            return change_claim(transaction, mark, table, owner, claim).await;
        }
        ClaimDone::Delete => format!("DELETE FROM {rows} AS t WHERE t.{key} = ?1"),
        ClaimDone::Set(change) => format!("UPDATE {rows} AS t SET {change}\nWHERE t.{key} = ?1"),
    };
    let held = change_claim(transaction, "DELETE FROM koksmat_claims".into(), table, owner, claim).await?;
    if held {
        bind(sqlx::query(AssertSqlSafe(row_change)), &claim.key).execute(&mut **transaction).await?;
    }
    Ok(held)
}

/// Change a claim, if it is still held.
async fn change_claim(
    transaction: &mut Transaction<'_, Db>,
    change: String,
    table: &Table,
    owner: &str,
    claim: &Claim,
) -> sqlx::Result<bool> {
    let statement = format!("{change} WHERE {OURS} AND row_key = ?3 AND owner = ?4 AND epoch = ?5 AND done_at IS NULL");
    let query = bind(ours(statement, table), &claim.key).bind(owner).bind(claim.epoch);
    Ok(query.execute(&mut **transaction).await?.rows_affected() == 1)
}

/// Extend every lease of `owner`.
pub(super) async fn renew(db: &mut Sqlite, table: &Table, owner: &str) -> Result<(), DatabaseError> {
    let statement = format!("UPDATE koksmat_claims SET lease_until = {NOW} + ?4 WHERE {OURS} AND owner = ?3");
    let connection = db.connection().await?;
    let renewed = ours(statement, table).bind(owner).bind(millis(table.lease)).execute(connection).await;
    db.check("extending leases", renewed).map(|_| ())
}

/// End every lease of `owner`, but for those of the rows to `keep`, which are named by the text of their keys.
pub(super) async fn free(db: &mut Sqlite, table: &Table, owner: &str, keep: &[String]) -> Result<(), DatabaseError> {
    let connection = db.connection().await?;
    let freed = try_free(connection, table, owner, keep).await;
    db.check("ending leases", freed)
}

async fn try_free(connection: &mut SqliteConnection, table: &Table, owner: &str, keep: &[String]) -> sqlx::Result<()> {
    let statement = format!("SELECT row_key FROM koksmat_claims WHERE {OURS} AND owner = ?3 AND done_at IS NULL");
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let keep: HashSet<&str> = keep.iter().map(String::as_str).collect();
    for row in ours(statement, table).bind(owner).fetch_all(&mut *transaction).await? {
        let Row(mut columns) = decode(&row)?;
        let (_, key) = columns.remove(0);
        if !keep.contains(key.to_text().as_str()) {
            let statement = format!("UPDATE koksmat_claims SET owner = NULL, lease_until = {NOW} WHERE {OURS} AND row_key = ?3");
            bind(ours(statement, table), &key).execute(&mut *transaction).await?;
        }
    }
    transaction.commit().await
}

/// Forget claims that nobody holds and whose row is gone, among the next few behind `from`. Answers where to go on; `None`: this was the end.
pub(super) async fn sweep(db: &mut Sqlite, table: &Table, from: Option<Value>) -> Result<Option<Value>, DatabaseError> {
    let connection = db.connection().await?;
    let swept = try_sweep(connection, table, from.as_ref()).await;
    db.check("comparing claims with rows", swept)
}

async fn try_sweep(connection: &mut SqliteConnection, table: &Table, from: Option<&Value>) -> sqlx::Result<Option<Value>> {
    let gone = format!("NOT EXISTS (SELECT 1 FROM {} AS t WHERE t.{} = c.row_key)", name(&table.table), name(&table.key));
    let behind = if from.is_some() { "AND row_key > ?3" } else { "" };
    let statement = format!("SELECT row_key, {gone} FROM koksmat_claims AS c WHERE {OURS} {behind} ORDER BY row_key LIMIT {SWEEP}");
    let query = ours(statement, table);
    let query = if let Some(from) = from { bind(query, from) } else { query };
    let claims = query.fetch_all(&mut *connection).await?;

    let mut keys = Vec::with_capacity(claims.len());
    for row in &claims {
        let Row(mut columns) = decode(row)?;
        let (_, gone) = columns.remove(1);
        keys.push((columns.remove(0).1, gone.is_true()));
    }
    if keys.iter().any(|(_, gone)| *gone) {
        let statement =
            format!("DELETE FROM koksmat_claims AS c WHERE {OURS} AND row_key = ?3 AND (done_at IS NOT NULL OR {FREE}) AND {gone}");
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        for (key, _) in keys.iter().filter(|(_, gone)| *gone) {
            bind(ours(statement.clone(), table), key).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
    }
    let more = keys.len() as i64 == SWEEP;
    Ok(keys.pop().filter(|_| more).map(|(key, _)| key))
}

/// A statement whose first two parameters are the source and the table.
///
/// The text is made of the constants here, quoted names and SQL of the operator's configuration; whatever comes from rows is bound.
fn ours<'q>(statement: String, table: &Table) -> Query<'q, Db, SqliteArguments> {
    sqlx::query(AssertSqlSafe(statement)).bind(table.source.clone()).bind(table.table.clone())
}

fn bind<'q>(query: Query<'q, Db, SqliteArguments>, value: &Value) -> Query<'q, Db, SqliteArguments> {
    match value {
        Value::Null => query.bind(None::<i64>),
        Value::Integer(n) => query.bind(*n),
        Value::Real(n) => query.bind(*n),
        Value::Text(text) | Value::Json(text) => query.bind(text.clone()),
        Value::Blob(bytes) => query.bind(bytes.clone()),
    }
}

/// A name, quoted.
fn name(name: &str) -> String {
    database::quoted(name, '"')
}
