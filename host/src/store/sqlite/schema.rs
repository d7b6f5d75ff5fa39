//! The tables and how a connection is set up; what happens to a store when it is opened.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, config::DbConfig};

use crate::store::StoreError;

/// Each takes the schema from the version that is its index to the next. Never edited once released.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/sqlite/0001_store.sql"),
    include_str!("../../../migrations/sqlite/0002_letters.sql"),
    include_str!("../../../migrations/sqlite/0003_kept_events.sql"),
    include_str!("../../../migrations/sqlite/0004_version.sql"),
];

/// Older ones can damage a store in WAL mode (fixed in [3.51.3](https://www.sqlite.org/releaselog/3_51_3.html), "WAL-reset bug").
const OLDEST_SQLITE: i32 = 3_051_003;

/// Statements a connection keeps prepared: all there are.
const STATEMENTS: usize = 128;

/// Who opens a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// A host: whatever ran when the last one ended is ready again.
    Host,
    /// Somebody who looks and changes something while no host runs: how the last host ended is for the next one to see.
    Visitor,
}

/// A start of a host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) number: u64,
    /// The host before ended without a stop.
    pub(super) after_a_bad_end: bool,
}

/// A connection that writes, to a store of the newest schema, and the start that begins with it if a host opens it.
pub(super) fn open(path: &Path, durable: bool, who: Who) -> Result<(Connection, Start), StoreError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        let found = rusqlite::version();
        return Err(StoreError::Other(format!("the SQLite linked in is {found}; it must be 3.51.3 or newer, build with the bundled one")));
    }
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    check(path, &connection, version)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA foreign_keys = ON;
         PRAGMA busy_timeout = 5000;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -16000;
         PRAGMA journal_size_limit = 67108864;",
    )?;
    connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "OFF" })?;
    keep_statements(&connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    migrate(&transaction, version)?;
    let start = match who {
        Who::Host => begin(&transaction)?,
        Who::Visitor => Start { number: start_number(&transaction)?, after_a_bad_end: !is_clean(&transaction)? },
    };
    transaction.commit()?;
    Ok((connection, start))
}

/// The newest schema in an empty database.
#[cfg(test)]
pub(super) fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    keep_statements(connection)?;
    let transaction = connection.transaction()?;
    migrate(&transaction, 0)?;
    transaction.commit()?;
    Ok(())
}

/// A new start on a store that is open already.
#[cfg(test)]
pub(super) fn begin_start(connection: &mut Connection) -> Result<Start, StoreError> {
    let transaction = connection.transaction()?;
    let start = begin(&transaction)?;
    transaction.commit()?;
    Ok(start)
}

/// A connection that reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.execute_batch("PRAGMA busy_timeout = 5000; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4000;")?;
    keep_statements(&connection)?;
    Ok(connection)
}

/// Prepare a statement once. Without the query planner's [stability guarantee](https://www.sqlite.org/queryplanner-ng.html#qpstab) SQLite
/// plans it anew whenever a bound value changes that it could plan with, such as a limit; none here gains from that.
fn keep_statements(connection: &Connection) -> Result<(), StoreError> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}

/// The end is a stop: nothing was running.
pub(super) fn mark_clean(connection: &Connection) -> Result<(), StoreError> {
    connection.execute("UPDATE meta SET value = 1 WHERE name = 'clean'", [])?;
    Ok(())
}

/// Before anything is changed: is this a store, and one that this build understands?
fn check(path: &Path, connection: &Connection, version: i64) -> Result<(), StoreError> {
    let known = MIGRATIONS.len() as i64;
    if version > known {
        return Err(StoreError::Newer { path: path.display().to_string(), found: version, known });
    }
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if version <= 0 && tables > 0 {
        return Err(StoreError::Other("it is a database of something else; name another file as the store".into()));
    }
    Ok(())
}

/// Whether a file is a store of a version that this build understands, and undamaged. Its version.
pub(super) fn whole(path: &Path, connection: &Connection) -> Result<i64, StoreError> {
    let none = |why: &str| StoreError::Other(format!("{} is no store of koksmat: {why}", path.display()));
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(|error| none(&error.to_string()))?;
    check(path, connection, version).map_err(|error| match error {
        StoreError::Other(_) => none("it is a database of something else"),
        other => other,
    })?;
    if version <= 0 {
        return Err(none("it is empty"));
    }
    let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(StoreError::Other(format!("{} is damaged: {found}", path.display())));
    }
    Ok(version)
}

/// From now on hosts are counted from there.
pub(super) fn set_start_number(connection: &Connection, number: u64) -> Result<(), StoreError> {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    connection.execute("UPDATE meta SET value = ?1 WHERE name = 'start_number'", [number])?;
    Ok(())
}

fn migrate(transaction: &Transaction<'_>, version: i64) -> Result<(), StoreError> {
    for (migration, from) in MIGRATIONS.iter().zip(0i64..).filter(|(_, from)| *from >= version) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", from + 1)?;
    }
    Ok(())
}

/// Whoever ran tasks is dead, or we would not have the lock: they are ready again. If nobody stopped that host, any of them may be what
/// ended it, and one that ran alone was.
fn recover(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    transaction.execute(
        "UPDATE task SET state = 0, suspect = max(suspect, NOT clean.value), crashes = crashes + (alone AND NOT clean.value), alone = 0
         FROM (SELECT value FROM meta WHERE name = 'clean') AS clean
         WHERE state = 1",
        [],
    )?;
    Ok(())
}

/// The last end was a stop.
fn is_clean(connection: &Connection) -> Result<bool, StoreError> {
    Ok(connection.query_row("SELECT value FROM meta WHERE name = 'clean'", [], |row| row.get(0))?)
}

/// How often a host was started.
pub(super) fn start_number(connection: &Connection) -> Result<u64, StoreError> {
    let number: i64 = connection.query_row("SELECT value FROM meta WHERE name = 'start_number'", [], |row| row.get(0))?;
    Ok(number.unsigned_abs())
}

/// Begin a new start.
fn begin(transaction: &Transaction<'_>) -> Result<Start, StoreError> {
    let after_a_bad_end = !is_clean(transaction)?;
    recover(transaction)?;
    transaction.execute("UPDATE meta SET value = 0 WHERE name = 'clean'", [])?;
    let number: i64 =
        transaction.query_row("UPDATE meta SET value = value + 1 WHERE name = 'start_number' RETURNING value", [], |row| row.get(0))?;
    Ok(Start { number: number.unsigned_abs(), after_a_bad_end })
}
