//! The statements of claim mode for MySQL and MariaDB: some statements for all the rows of a poll, in a short transaction.
//!
//! A claim holds the key as text, bytes as hexadecimal digits; bound as a value of the column's own kind it is the key again, so that an
//! index on the column helps. Sessions read what is committed: no transaction locks gaps between rows.
//!
//! Statements stay prepared, so there are few of them: lists are filled up to a power of two by naming the last member again. To prepare
//! one for each call costs 40 ms each: to close a statement is a message without an answer, and the next one waits until TCP has
//! acknowledged it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, Column, Connection, MySql as Db, MySqlConnection, QueryBuilder, Row as _, Transaction, TypeInfo,
    mysql::MySqlDatabaseError,
};

use super::{Claim, ClaimDone, Completion, SWEEP, Table, millis};
use crate::source::poller::{
    database::{
        self, DatabaseError,
        mysql::{KeyKind, MySql, MySqlKind, decode, is_bytes},
        server::{Open, in_time},
    },
    row::{Row, Value},
};

pub(super) const SETUP: &str = "\
    CREATE TABLE IF NOT EXISTS koksmat_claims (
        source VARCHAR(150) NOT NULL, row_table VARCHAR(130) NOT NULL, row_key VARBINARY(1024) NOT NULL,
        generation CHAR(32) NOT NULL, epoch BIGINT NOT NULL, owner CHAR(36), lease_until DATETIME(3) NOT NULL, done_at DATETIME(3),
        PRIMARY KEY (source, row_table, row_key), KEY koksmat_claims_owned (owner)
    ) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

/// Now, by the database's clock.
const NOW: &str = "UTC_TIMESTAMP(3)";
/// A claim nobody holds and whose row is not done.
const FREE: &str = "done_at IS NULL AND lease_until <= UTC_TIMESTAMP(3)";
/// How many claims one statement names at most.
const CHUNK: usize = 1000;

/// Claim at most `limit` rows, lowest keys first, of those behind `behind`.
pub(super) async fn take(
    db: &mut MySql,
    table: &Table,
    owner: &str,
    limit: usize,
    behind: Option<&Value>,
) -> Result<Vec<(Claim, String)>, DatabaseError> {
    let open = db.connection().await?;
    let mut taken = in_time(try_take(open, table, owner, limit, behind)).await;
    if taken.as_ref().is_err_and(is_deadlock) {
        taken = in_time(try_take(open, table, owner, limit, behind)).await;
    }
    db.check("claiming rows", taken)
}

async fn try_take(
    open: &mut Open<MySqlKind>,
    table: &Table,
    owner: &str,
    limit: usize,
    behind: Option<&Value>,
) -> sqlx::Result<Vec<(Claim, String)>> {
    let Some(kind) = key_kind(open, table).await? else { return Ok(Vec::new()) };
    // Look without a lock first: most polls find nothing, and an idle poller should be in nobody's way.
    let behind = behind.map(Value::to_text);
    let look = candidates(table, kind, owner, 1, behind.as_ref().map(Bound::Behind)).build().fetch_optional(&mut open.connection).await?;
    let Some(look) = look else { return Ok(Vec::new()) };
    // What is not free before it needs no lock to be passed by once more.
    let first = String::from_utf8_lossy(look.try_get(0)?).into_owned();
    let mut transaction = open.connection.begin().await?;
    let mut found = Vec::new();
    let rows = candidates(table, kind, owner, limit, Some(Bound::From(&first))).build().fetch_all(&mut *transaction).await?;
    for row in &rows {
        let Row(mut columns) = decode(row)?;
        if let (_, Value::Blob(key)) = columns.remove(0) {
            found.push((String::from_utf8_lossy(&key).into_owned(), Row(columns)));
        }
    }
    let mut claimed = claim(&mut transaction, table, owner, &found).await?;
    transaction.commit().await?;
    // Of two rows with one key one is taken, and none that somebody else claimed between the look and the lock.
    Ok(found.into_iter().filter_map(|(key, row)| Some((claimed.remove(&key)?, row.to_json()))).collect())
}

/// Rows that may be claimed: first the key as a claim has it, then all columns. From a key on they are locked, and those that somebody else
/// has locked are passed by.
fn candidates(table: &Table, kind: KeyKind, owner: &str, limit: usize, bound: Option<Bound<'_>>) -> QueryBuilder<Db> {
    let (rows, key, filter) = (name(&table.table), name(&table.key), table.condition());
    let text = key_text(kind, &key);
    let mut query = QueryBuilder::new(format!("SELECT {text}, t.* FROM {rows} AS t WHERE t.{key} IS NOT NULL {filter}"));
    let is_locked = matches!(bound, Some(Bound::From(_)));
    if let Some(bound) = bound {
        let (order, from) = match bound {
            Bound::From(from) => (">=", from),
            Bound::Behind(behind) => (">", behind),
        };
        query.push(format!(" AND t.{key} {order} "));
        push_key(&mut query, kind, from);
    }
    query.push(format!(" AND NOT EXISTS (SELECT 1 FROM koksmat_claims AS c WHERE c.row_key = {text} AND "));
    ours(&mut query, "c.", table);
    query.push(" AND (c.done_at IS NOT NULL OR c.owner = ").push_bind(owner.to_owned());
    query.push(format!(" OR c.lease_until > {NOW})) ORDER BY t.{key} LIMIT "));
    query.push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
    query.push(if is_locked { " FOR UPDATE SKIP LOCKED" } else { "" });
    query
}

/// Which keys are looked at.
#[derive(Clone, Copy)]
enum Bound<'a> {
    From(&'a String),
    Behind(&'a String),
}

/// Claim rows, by their keys. A claim that is not free stays as it is.
async fn claim(
    transaction: &mut Transaction<'_, Db>,
    table: &Table,
    owner: &str,
    rows: &[(String, Row)],
) -> sqlx::Result<HashMap<String, Claim>> {
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let mut insert = QueryBuilder::new("INSERT INTO koksmat_claims (source, row_table, row_key, generation, epoch, owner, lease_until) ");
    insert.push_values(filled_up(rows), |mut values, (key, _)| {
        values.push_bind(table.source.clone()).push_bind(table.table.clone()).push_bind(key.clone().into_bytes());
        values.push_bind(uuid::Uuid::new_v4().simple().to_string()).push("1").push_bind(owner.to_owned());
        values.push(format!("{NOW} + INTERVAL {} MICROSECOND", micros(table.lease)));
    });
    // A row that is named twice is claimed by the first.
    // From left to right: whether it was free is asked of the columns that did not change yet.
    insert.push(format!(
        " ON DUPLICATE KEY UPDATE epoch = IF({FREE}, epoch + 1, epoch), owner = IF({FREE}, VALUES(owner), owner),
          lease_until = IF({FREE}, VALUES(lease_until), lease_until)"
    ));
    insert.build().execute(&mut **transaction).await?;

    // Rows that this owner held before were no candidates: what is its own now was claimed just now.
    let mut claimed = QueryBuilder::new("SELECT row_key, generation, epoch FROM koksmat_claims WHERE ");
    ours(&mut claimed, "", table);
    claimed.push(" AND done_at IS NULL AND owner = ").push_bind(owner.to_owned());
    let keys: Vec<String> = rows.iter().map(|(key, _)| key.clone()).collect();
    among(&mut claimed, &keys);
    let mut claims = HashMap::new();
    for row in claimed.build().fetch_all(&mut **transaction).await? {
        let key = String::from_utf8_lossy(row.try_get(0)?).into_owned();
        claims.insert(key.clone(), Claim { key: Value::Text(key), generation: row.try_get(1)?, epoch: row.try_get(2)? });
    }
    Ok(claims)
}

/// Complete claims, all or none. How many of them had been lost: their lease ended and somebody else claimed the row.
pub(super) async fn complete(db: &mut MySql, table: &Table, owner: &str, claims: &[(Claim, Completion)]) -> Result<usize, DatabaseError> {
    let open = db.connection().await?;
    let mut completed = in_time(try_complete(open, table, owner, claims)).await;
    if completed.as_ref().is_err_and(is_deadlock) {
        completed = in_time(try_complete(open, table, owner, claims)).await;
    }
    db.check("marking rows", completed)
}

async fn try_complete(open: &mut Open<MySqlKind>, table: &Table, owner: &str, claims: &[(Claim, Completion)]) -> sqlx::Result<usize> {
    let kind = key_kind(open, table).await?;
    let mut transaction = open.connection.begin().await?;
    let mut lost = 0;
    for claims in claims.chunks(CHUNK) {
        lost += complete_some(&mut transaction, table, kind, owner, claims).await?;
    }
    transaction.commit().await?;
    Ok(lost)
}

async fn complete_some(
    transaction: &mut Transaction<'_, Db>,
    table: &Table,
    kind: Option<KeyKind>,
    owner: &str,
    claims: &[(Claim, Completion)],
) -> sqlx::Result<usize> {
    let mut held = QueryBuilder::new("SELECT row_key, epoch FROM koksmat_claims WHERE ");
    ours(&mut held, "", table);
    held.push(" AND done_at IS NULL AND owner = ").push_bind(owner.to_owned());
    let keys: Vec<String> = claims.iter().map(|(claim, _)| claim.key.to_text()).collect();
    among(&mut held, &keys);
    held.push(" FOR UPDATE");
    let mut epochs: HashMap<String, i64> = HashMap::new();
    for row in held.build().fetch_all(&mut **transaction).await? {
        epochs.insert(String::from_utf8_lossy(row.try_get(0)?).into_owned(), row.try_get(1)?);
    }

    let mut done = Vec::new();
    let mut released: HashMap<Duration, Vec<String>> = HashMap::new();
    let mut lost = 0;
    for (key, (claim, completion)) in keys.into_iter().zip(claims) {
        match completion {
            _ if epochs.get(&key) != Some(&claim.epoch) => lost += 1,
            Completion::Done => done.push(key),
            Completion::Release(after) => released.entry(*after).or_default().push(key),
        }
    }
    for (after, keys) in &released {
        let mut release = QueryBuilder::new(format!("UPDATE koksmat_claims SET owner = NULL, lease_until = {NOW} + INTERVAL "));
        release.push_bind(micros(*after)).push(" MICROSECOND");
        change_claims(transaction, release, table, keys).await?;
    }
    if !done.is_empty() {
        finish(transaction, table, kind, &done).await?;
    }
    Ok(lost)
}

/// These rows were handled.
async fn finish(transaction: &mut Transaction<'_, Db>, table: &Table, kind: Option<KeyKind>, keys: &[String]) -> sqlx::Result<()> {
    let (rows, key) = (name(&table.table), name(&table.key));
    let mut change = match &table.done {
        ClaimDone::Mark => {
            let mark = format!("UPDATE koksmat_claims SET done_at = {NOW}, owner = NULL");
            return change_claims(transaction, QueryBuilder::new(mark), table, keys).await;
        }
        ClaimDone::Delete => QueryBuilder::new(format!("DELETE FROM {rows} WHERE {key} IN (")),
        // On a line of its own: the change may end in a comment.
        ClaimDone::Set(change) => QueryBuilder::new(format!("UPDATE {rows} SET {change}\nWHERE {key} IN (")),
    };
    change_claims(transaction, QueryBuilder::new("DELETE FROM koksmat_claims"), table, keys).await?;
    if let Some(kind) = kind {
        push_keys(&mut change, kind, keys);
        change.push(")").build().execute(&mut **transaction).await?;
    }
    Ok(())
}

async fn change_claims(connection: &mut MySqlConnection, mut change: QueryBuilder<Db>, table: &Table, keys: &[String]) -> sqlx::Result<()> {
    change.push(" WHERE ");
    ours(&mut change, "", table);
    among(&mut change, keys);
    change.build().execute(connection).await.map(|_| ())
}

/// Extend every lease of `owner`.
pub(super) async fn renew(db: &mut MySql, table: &Table, owner: &str) -> Result<(), DatabaseError> {
    let change = format!("UPDATE koksmat_claims SET lease_until = {NOW} + INTERVAL {} MICROSECOND WHERE ", micros(table.lease));
    let mut query = QueryBuilder::new(change);
    ours(&mut query, "", table);
    query.push(" AND owner = ").push_bind(owner.to_owned());
    let open = db.connection().await?;
    let renewed = in_time(query.build().execute(&mut open.connection)).await;
    db.check("extending leases", renewed).map(|_| ())
}

/// End every lease of `owner`, but for those of the rows to `keep`.
pub(super) async fn free(db: &mut MySql, table: &Table, owner: &str, keep: &[String]) -> Result<(), DatabaseError> {
    let open = db.connection().await?;
    let freed = in_time(try_free(&mut open.connection, table, owner, keep)).await;
    db.check("ending leases", freed)
}

async fn try_free(connection: &mut MySqlConnection, table: &Table, owner: &str, keep: &[String]) -> sqlx::Result<()> {
    let mut query = QueryBuilder::new("SELECT row_key FROM koksmat_claims WHERE ");
    ours(&mut query, "", table);
    query.push(" AND done_at IS NULL AND owner = ").push_bind(owner.to_owned());
    let mut keys = Vec::new();
    for row in query.build().fetch_all(&mut *connection).await? {
        keys.push(String::from_utf8_lossy(row.try_get(0)?).into_owned());
    }
    let keep: HashSet<&String> = keep.iter().collect();
    keys.retain(|key| !keep.contains(key));
    for keys in keys.chunks(CHUNK) {
        let change = format!("UPDATE koksmat_claims SET owner = NULL, lease_until = {NOW}");
        change_claims(connection, QueryBuilder::new(change), table, keys).await?;
    }
    Ok(())
}

/// Forget claims that nobody holds and whose row is gone, among the next few behind `from`. Answers where to go on; `None`: this was the end.
pub(super) async fn sweep(db: &mut MySql, table: &Table, from: Option<Value>) -> Result<Option<Value>, DatabaseError> {
    let open = db.connection().await?;
    let swept = in_time(try_sweep(open, table, from.as_ref())).await;
    db.check("comparing claims with rows", swept)
}

async fn try_sweep(open: &mut Open<MySqlKind>, table: &Table, from: Option<&Value>) -> sqlx::Result<Option<Value>> {
    let kind = key_kind(open, table).await?;
    let mut next = QueryBuilder::new("SELECT row_key FROM koksmat_claims WHERE ");
    ours(&mut next, "", table);
    if let Some(from) = from {
        next.push(" AND row_key > ").push_bind(from.to_text().into_bytes());
    }
    next.push(format!(" ORDER BY row_key LIMIT {SWEEP}"));
    let mut keys = Vec::new();
    for row in next.build().fetch_all(&mut open.connection).await? {
        keys.push(String::from_utf8_lossy(row.try_get(0)?).into_owned());
    }
    let Some(last) = keys.last().cloned() else { return Ok(None) };
    let more = keys.len() as i64 == SWEEP;

    let mut found = HashSet::new();
    if let Some(kind) = kind {
        let (rows, key) = (name(&table.table), name(&table.key));
        let mut there = QueryBuilder::new(format!("SELECT {} FROM {rows} AS t WHERE t.{key} IN (", key_text(kind, &key)));
        push_keys(&mut there, kind, &keys);
        for row in there.push(")").build().fetch_all(&mut open.connection).await? {
            found.insert(String::from_utf8_lossy(row.try_get(0)?).into_owned());
        }
    }
    keys.retain(|key| !found.contains(key));
    if !keys.is_empty() {
        let mut forget = QueryBuilder::new(format!("DELETE FROM koksmat_claims WHERE (done_at IS NOT NULL OR ({FREE})) AND "));
        ours(&mut forget, "", table);
        among(&mut forget, &keys);
        forget.build().execute(&mut open.connection).await?;
    }
    Ok(Some(Value::Text(last)).filter(|_| more))
}

/// What the key column holds. The column is asked what it is by way of a row; absent: there is none.
async fn key_kind(open: &mut Open<MySqlKind>, table: &Table) -> sqlx::Result<Option<KeyKind>> {
    if open.key.is_none() {
        let statement = format!("SELECT {} FROM {} LIMIT 1", name(&table.key), name(&table.table));
        let Some(row) = sqlx::query(AssertSqlSafe(statement)).fetch_optional(&mut open.connection).await? else { return Ok(None) };
        open.key = row.columns().first().map(|column| match column.type_info() {
            // Names of types do not tell bytes from text whose letters are compared byte by byte.
            ty if is_bytes(ty) => KeyKind::Bytes,
            ty => match ty.name() {
                "BOOLEAN" | "YEAR" | "DECIMAL" => KeyKind::Number,
                name if name.ends_with("INT") || name.ends_with("UNSIGNED") => KeyKind::Number,
                _ => KeyKind::Text,
            },
        });
    }
    Ok(open.key)
}

/// The key column as a claim has it.
fn key_text(kind: KeyKind, key: &str) -> String {
    match kind {
        KeyKind::Bytes => format!("CAST(LOWER(HEX(t.{key})) AS BINARY)"),
        _ => format!("CAST(CONVERT(t.{key} USING utf8mb4) AS BINARY)"),
    }
}

/// Keys as the column has them.
fn push_keys(query: &mut QueryBuilder<Db>, kind: KeyKind, keys: &[String]) {
    for (n, key) in filled_up(keys).enumerate() {
        if n > 0 {
            query.push(", ");
        }
        push_key(query, kind, key);
    }
}

/// A key as the column has it. A number bound as text would be compared as one with a floating point.
fn push_key(query: &mut QueryBuilder<Db>, kind: KeyKind, key: &String) {
    match kind {
        KeyKind::Number => match (key.parse::<i64>(), key.parse::<u64>()) {
            (Ok(number), _) => query.push_bind(number),
            (_, Ok(number)) => query.push_bind(number),
            _ => query.push("CAST(").push_bind(key.clone()).push(" AS DECIMAL(65, 30))"),
        },
        KeyKind::Bytes => query.push_bind(hex::decode(key).unwrap_or_default()),
        KeyKind::Text => query.push_bind(key.clone()),
    };
}

/// So many that there are few different statements: the last one again and again.
fn filled_up<T>(list: &[T]) -> impl Iterator<Item = &T> {
    list.iter().chain(list.last().into_iter().cycle()).take(if list.is_empty() { 0 } else { list.len().next_power_of_two() })
}

/// The claims of one source and table.
fn ours(query: &mut QueryBuilder<Db>, of: &str, table: &Table) {
    query.push(format!("{of}source = ")).push_bind(table.source.clone());
    query.push(format!(" AND {of}row_table = ")).push_bind(table.table.clone());
}

/// Only the claims of these keys, of which there is at least one.
fn among(query: &mut QueryBuilder<Db>, keys: &[String]) {
    query.push(" AND row_key IN (");
    let mut list = query.separated(", ");
    for key in filled_up(keys) {
        list.push_bind(key.clone().into_bytes());
    }
    query.push(")");
}

/// InnoDB ends one of two transactions that wait for each other; that one only has to begin again.
fn is_deadlock(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|e| e.try_downcast_ref::<MySqlDatabaseError>()).is_some_and(|error| error.number() == 1213)
}

fn micros(duration: Duration) -> i64 {
    millis(duration).saturating_mul(1000)
}

/// A name, quoted.
fn name(name: &str) -> String {
    database::quoted(name, '`')
}
