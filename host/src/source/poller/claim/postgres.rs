//! The statements of claim mode for PostgreSQL: each is one round trip and, by itself, one transaction.
//!
//! A claim holds the key as text, which a cast to the column's type makes the key again, so that an index on the column helps. Keys are
//! compared byte by byte (`COLLATE "C"`), whatever the collation of the column. Rows are locked while they are claimed, in a mode that
//! is in the way of no foreign key; those that somebody else has locked are passed by.

use std::collections::HashSet;

use sqlx::{AssertSqlSafe, Postgres as Db, Row as _, postgres::PgArguments, query::Query};

use super::{Claim, ClaimDone, Completion, SWEEP, Table, millis};
use crate::source::poller::{
    database::{
        DatabaseError,
        postgres::{KeyColumn, Postgres, PostgresKind, as_json, key_column, name},
        server::{Open, in_time},
    },
    row::Value,
};

pub(super) const SETUP: &str = "\
    CREATE TABLE IF NOT EXISTS koksmat_claims (
        source text NOT NULL, row_table text NOT NULL, row_key text COLLATE \"C\" NOT NULL,
        generation text NOT NULL, epoch bigint NOT NULL, owner text, lease_until timestamptz NOT NULL, done_at timestamptz,
        PRIMARY KEY (source, row_table, row_key)
    );
    CREATE INDEX IF NOT EXISTS koksmat_claims_owned ON koksmat_claims (owner) WHERE owner IS NOT NULL;";

/// Now, by the database's clock and not when the statement began: it may have waited.
const NOW: &str = "clock_timestamp()";
/// The claims of one source and table; binds `$1` and `$2`.
const OURS: &str = "c.source = $1 AND c.row_table = $2";
/// A claim nobody holds and whose row is not done.
const FREE: &str = "c.done_at IS NULL AND c.lease_until <= clock_timestamp()";

/// Claim at most `limit` rows, lowest keys first, of those behind `behind`.
pub(super) async fn take(
    db: &mut Postgres,
    table: &Table,
    owner: &str,
    limit: usize,
    behind: Option<&Value>,
) -> Result<Vec<(Claim, String)>, DatabaseError> {
    let open = db.connection().await?;
    let taken = in_time(try_take(open, table, owner, limit, behind)).await;
    db.check("claiming rows", taken)
}

async fn try_take(
    open: &mut Open<PostgresKind>,
    table: &Table,
    owner: &str,
    limit: usize,
    behind: Option<&Value>,
) -> sqlx::Result<Vec<(Claim, String)>> {
    let KeyColumn { ty, unique } = key_column(open, &table.table, &table.key).await?;
    let connection = &mut open.connection;
    let (rows, key, filter) = (name(&table.table), name(&table.key), table.condition());
    let from = if behind.is_some() { format!("AND t.{key} > $7::text::{ty}") } else { String::new() };
    // Two rows may have one key: the first is taken.
    let each = if unique { "" } else { "DISTINCT ON (k)" };
    let by_key = if unique { "" } else { "ORDER BY k" };
    let text = format!("(t.{key}::text COLLATE \"C\")");
    // A subquery for each row, in the order of the keys until there are enough, and not a join, for which all would be read. "Is not true"
    // and not "is null", of which the planner believes that it is rare: it would sort all rows instead of following the index. What was
    // claimed between the look and the lock is left to the insert, which sees what is committed.
    let statement = format!(
        "WITH free AS (
            SELECT {text} AS k, row_to_json(t.*)::text AS r FROM {rows} AS t
            WHERE t.{key} IS NOT NULL {from} {filter}
              AND (SELECT true FROM koksmat_claims AS c
                   WHERE {OURS} AND c.row_key = {text}
                     AND (c.done_at IS NOT NULL OR c.owner = $3 OR c.lease_until > {NOW})) IS NOT TRUE
            ORDER BY t.{key} LIMIT $4 FOR NO KEY UPDATE OF t SKIP LOCKED
         ), numbered AS (
            SELECT k, r, row_number() OVER () AS n FROM free
         ), claimed AS (
            INSERT INTO koksmat_claims AS c (source, row_table, row_key, generation, epoch, owner, lease_until)
            SELECT {each} $1, $2, k, $6, 1, $3, {NOW} + $5 * interval '1 millisecond' FROM numbered {by_key}
            ON CONFLICT (source, row_table, row_key) DO UPDATE
               SET epoch = c.epoch + 1, owner = excluded.owner, lease_until = excluded.lease_until WHERE {FREE}
            RETURNING c.row_key, c.generation, c.epoch
         )
         SELECT c.row_key, c.generation, c.epoch, f.r FROM claimed AS c JOIN numbered AS f ON f.k = c.row_key ORDER BY f.n"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    // One for all: a statement claims a row once.
    let generation = uuid::Uuid::new_v4().simple().to_string();
    let query = ours(statement, table).bind(owner).bind(limit).bind(millis(table.lease)).bind(generation);
    let query = if let Some(behind) = behind { query.bind(behind.to_text()) } else { query };
    let (mut keys, mut claims, mut found) = (HashSet::new(), Vec::new(), Vec::new());
    for row in query.fetch_all(&mut *connection).await? {
        let key: String = row.try_get(0)?;
        if keys.insert(key.clone()) {
            claims.push(Claim { key: Value::Text(key), generation: row.try_get(1)?, epoch: row.try_get(2)? });
            found.push(row.try_get(3)?);
        }
    }
    let found = as_json(connection, &format!("SELECT * FROM {rows}"), found).await?;
    Ok(claims.into_iter().zip(found).collect())
}

/// Complete claims, all or none. How many of them had been lost: their lease ended and somebody else claimed the row.
pub(super) async fn complete(
    db: &mut Postgres,
    table: &Table,
    owner: &str,
    claims: &[(Claim, Completion)],
) -> Result<usize, DatabaseError> {
    let open = db.connection().await?;
    let completed = in_time(try_complete(open, table, owner, claims)).await;
    db.check("marking rows", completed)
}

async fn try_complete(open: &mut Open<PostgresKind>, table: &Table, owner: &str, claims: &[(Claim, Completion)]) -> sqlx::Result<usize> {
    let KeyColumn { ty, .. } = key_column(open, &table.table, &table.key).await?;
    let (rows, key) = (name(&table.table), name(&table.key));
    let held = format!("{OURS} AND c.owner = $3 AND c.done_at IS NULL");
    // Two lists and no join: for a handful of claims, which the planner always expects, it would compare each with each.
    let handled = format!("{held} AND c.row_key = ANY ($4::text[]) AND c.row_key || '#' || c.epoch = ANY ($5::text[])");
    let delete_claims = format!("DELETE FROM koksmat_claims AS c WHERE {handled} RETURNING c.row_key");
    let these = format!("t.{key} = ANY (ARRAY(SELECT d.row_key::{ty} FROM done AS d))");
    let done = match &table.done {
        ClaimDone::Mark => {
            format!("done AS (UPDATE koksmat_claims AS c SET done_at = {NOW}, owner = NULL WHERE {handled} RETURNING c.row_key)")
        }
        ClaimDone::Delete => format!("done AS ({delete_claims}), changed AS (DELETE FROM {rows} AS t WHERE {these})"),
        // On a line of its own: the change may end in a comment.
        ClaimDone::Set(change) => format!("done AS ({delete_claims}), changed AS (UPDATE {rows} AS t SET {change}\nWHERE {these})"),
    };
    let (mut handled_keys, mut handled_claims) = (Vec::new(), Vec::new());
    let (mut released_keys, mut released_epochs, mut released_after) = (Vec::new(), Vec::new(), Vec::new());
    for (Claim { key, epoch, .. }, completion) in claims {
        let key = key.to_text();
        match completion {
            Completion::Done => {
                handled_claims.push(format!("{key}#{epoch}"));
                handled_keys.push(key);
            }
            Completion::Release(after) => {
                released_keys.push(key);
                released_epochs.push(*epoch);
                released_after.push(millis(*after));
            }
        }
    }
    let released = if released_keys.is_empty() {
        String::new()
    } else {
        format!(
            "released AS (
                UPDATE koksmat_claims AS c SET owner = NULL, lease_until = {NOW} + a.after * interval '1 millisecond'
                FROM (SELECT k COLLATE \"C\" AS k, e, after FROM unnest($6::text[], $7::bigint[], $8::bigint[]) AS a(k, e, after)) AS a
                WHERE {held} AND c.row_key = a.k AND c.epoch = a.e RETURNING c.row_key
             ),"
        )
    };
    let of_released = if released.is_empty() { "" } else { "+ (SELECT count(*) FROM released)" };
    let statement = format!("WITH {released} {done} SELECT (SELECT count(*) FROM done) {of_released}");
    let query = ours(statement, table).bind(owner).bind(handled_keys).bind(handled_claims);
    let query = if released.is_empty() { query } else { query.bind(released_keys).bind(released_epochs).bind(released_after) };
    let completed: i64 = query.fetch_one(&mut open.connection).await?.try_get(0)?;
    Ok(claims.len().saturating_sub(usize::try_from(completed).unwrap_or(0)))
}

/// Extend every lease of `owner`.
pub(super) async fn renew(db: &mut Postgres, table: &Table, owner: &str) -> Result<(), DatabaseError> {
    let statement =
        format!("UPDATE koksmat_claims AS c SET lease_until = {NOW} + $4 * interval '1 millisecond' WHERE {OURS} AND c.owner = $3");
    let open = db.connection().await?;
    let renewed = in_time(ours(statement, table).bind(owner).bind(millis(table.lease)).execute(&mut open.connection)).await;
    db.check("extending leases", renewed).map(|_| ())
}

/// End every lease of `owner`, but for those of the rows to `keep`.
pub(super) async fn free(db: &mut Postgres, table: &Table, owner: &str, keep: &[String]) -> Result<(), DatabaseError> {
    let statement = format!(
        "UPDATE koksmat_claims AS c SET owner = NULL, lease_until = {NOW}
         WHERE {OURS} AND c.owner = $3 AND c.done_at IS NULL AND c.row_key NOT IN (SELECT k COLLATE \"C\" FROM unnest($4::text[]) AS k)"
    );
    let open = db.connection().await?;
    let freed = in_time(ours(statement, table).bind(owner).bind(keep).execute(&mut open.connection)).await;
    db.check("ending leases", freed).map(|_| ())
}

/// Forget claims that nobody holds and whose row is gone, among the next few behind `from`. Answers where to go on; `None`: this was the end.
pub(super) async fn sweep(db: &mut Postgres, table: &Table, from: Option<Value>) -> Result<Option<Value>, DatabaseError> {
    let open = db.connection().await?;
    let swept = in_time(try_sweep(open, table, from.as_ref())).await;
    db.check("comparing claims with rows", swept)
}

async fn try_sweep(open: &mut Open<PostgresKind>, table: &Table, from: Option<&Value>) -> sqlx::Result<Option<Value>> {
    let KeyColumn { ty, .. } = key_column(open, &table.table, &table.key).await?;
    let (rows, key) = (name(&table.table), name(&table.key));
    let behind = if from.is_some() { "AND c.row_key > $3 COLLATE \"C\"" } else { "" };
    let statement = format!(
        "WITH next AS (
            SELECT c.row_key FROM koksmat_claims AS c WHERE {OURS} {behind} ORDER BY c.row_key LIMIT {SWEEP}
         ), gone AS (
            DELETE FROM koksmat_claims AS c USING next AS n
            WHERE {OURS} AND c.row_key = n.row_key AND (c.done_at IS NOT NULL OR {FREE})
              AND NOT EXISTS (SELECT 1 FROM {rows} AS t WHERE t.{key} = c.row_key::{ty})
         )
         SELECT max(row_key), count(*) FROM next"
    );
    let query = ours(statement, table);
    let query = if let Some(from) = from { query.bind(from.to_text()) } else { query };
    let row = query.fetch_one(&mut open.connection).await?;
    let more = row.try_get::<i64, _>(1)? == SWEEP;
    Ok(row.try_get::<Option<String>, _>(0)?.filter(|_| more).map(Value::Text))
}

/// A statement whose first two parameters are the source and the table.
///
/// The text is made of the constants here, quoted names and SQL of the operator's configuration; whatever comes from rows is bound. It stays
/// prepared: there are few of them.
fn ours<'q>(statement: String, table: &Table) -> Query<'q, Db, PgArguments> {
    sqlx::query(AssertSqlSafe(statement)).bind(table.source.clone()).bind(table.table.clone())
}
