//! SQLite: one connection to a file that somebody else owns.

use std::{io, path::Path, str::FromStr, time::Duration};

use futures_util::StreamExt;
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Connection, Decode, Row as _, Sqlite as Db, SqliteConnection, TypeInfo, ValueRef,
    sqlite::{SqliteConnectOptions, SqliteRow},
};

use super::{DatabaseError, reason};
use crate::{
    config::Secret,
    source::poller::row::{Row, Value},
};

/// How long a statement waits for another process that holds the lock.
const BUSY: Duration = Duration::from_secs(2);

/// A SQLite database.
pub(in crate::source::poller) struct Sqlite {
    options: SqliteConnectOptions,
    reference: String,
    /// What makes the database where it has no tables yet.
    make: Option<String>,
    /// What is run on each new connection.
    setup: &'static str,
    open: Option<Open>,
}

struct Open {
    connection: SqliteConnection,
    /// Absent for a database in memory.
    file: Option<FileId>,
}

/// Which file it is, whatever its name: a connection to a file that was replaced would read the old one for ever.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileId {
    #[cfg(unix)]
    device: u64,
    #[cfg(unix)]
    inode: u64,
}

impl Sqlite {
    /// The database at `url`, if that is a SQLite URL. Until [`setup`](Self::setup) says otherwise it is only read.
    pub(super) fn new(url: &Secret, make: Option<String>) -> Option<Self> {
        let url_options = url.expose().starts_with("sqlite:").then(|| SqliteConnectOptions::from_str(url.expose()).ok())??;
        let options = url_options.busy_timeout(BUSY).disable_statement_logging();
        let options = if make.is_some() { options.create_if_missing(true) } else { options };
        Some(Self { options, reference: url.reference().to_owned(), make, setup: "PRAGMA query_only = ON", open: None })
    }

    /// What is run on each new connection.
    pub(in crate::source::poller) fn setup(&mut self, setup: &'static str) {
        self.setup = setup;
    }

    /// All rows of a statement, at most `limit`.
    pub(super) async fn rows(&mut self, statement: &str, limit: usize) -> Result<Vec<Row>, DatabaseError> {
        let connection = self.connection().await?;
        let rows = read(connection, statement, limit).await;
        self.check("reading rows", rows)
    }

    /// The connection; a new one when there is none or the file is not the one it was.
    pub(in crate::source::poller) async fn connection(&mut self) -> Result<&mut SqliteConnection, DatabaseError> {
        let open = match self.open.take() {
            Some(open) if open.file.is_none() || open.file == file_id(self.options.get_filename()).await.ok() => open,
            _ => self.connect().await?,
        };
        Ok(&mut self.open.insert(open).connection)
    }

    /// Say what went wrong, and make sure that the next try begins with a new connection.
    pub(in crate::source::poller) fn check<T>(&mut self, doing: &'static str, result: sqlx::Result<T>) -> Result<T, DatabaseError> {
        result.map_err(|error| {
            self.open = None;
            let (reference, reason) = (self.reference.clone(), reason(&error));
            match is_locked(&error) {
                true => DatabaseError::Locked { reference, reason },
                false => DatabaseError::Statement { reference, doing, reason },
            }
        })
    }

    async fn connect(&self) -> Result<Open, DatabaseError> {
        let reference = || self.reference.clone();
        if let (Some(_), Some(folder)) = (&self.make, self.options.get_filename().parent()) {
            // What is wrong with the folder shows when the file is opened.
            let _ = tokio::fs::create_dir_all(folder).await;
        }
        let mut connection =
            self.options.connect().await.map_err(|e| DatabaseError::Open { reference: reference(), reason: reason(&e) })?;
        if let Some(script) = &self.make {
            make(&mut connection, script).await.map_err(|error| match is_locked(&error) {
                true => DatabaseError::Locked { reference: reference(), reason: reason(&error) },
                false => DatabaseError::Make { reference: reference(), reason: reason(&error) },
            })?;
        }
        let file = file_id(self.options.get_filename()).await.ok();
        match sqlx::raw_sql(self.setup).execute(&mut connection).await {
            Ok(_) => Ok(Open { connection, file }),
            Err(error) if is_locked(&error) => Err(DatabaseError::Locked { reference: reference(), reason: reason(&error) }),
            Err(error) => Err(DatabaseError::Setup { reference: reference(), reason: reason(&error), setup: self.setup }),
        }
    }
}

/// Make an empty database what it is to be, all of it or nothing. Of two who find it empty the second waits and finds it made.
async fn make(connection: &mut SqliteConnection, script: &str) -> sqlx::Result<()> {
    if !is_empty(connection).await? {
        return Ok(());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    if is_empty(&mut transaction).await? {
        sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

async fn is_empty(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)").fetch_one(connection).await
}

/// The rows of a statement, at most `limit`. It is prepared each time: a table may have got a column since.
async fn read(connection: &mut SqliteConnection, statement: &str, limit: usize) -> sqlx::Result<Vec<Row>> {
    let mut rows = sqlx::query(AssertSqlSafe(statement)).persistent(false).fetch(connection).take(limit);
    let mut read = Vec::new();
    while let Some(row) = rows.next().await {
        read.push(decode(&row?)?);
    }
    Ok(read)
}

/// A row in the words of every database.
pub(in crate::source::poller) fn decode(row: &SqliteRow) -> sqlx::Result<Row> {
    let mut values = Vec::with_capacity(row.columns().len());
    for column in row.columns() {
        values.push((column.name().to_owned(), value(row, column.ordinal())?));
    }
    Ok(Row(values))
}

/// The value as it is stored, whatever the column was declared as.
fn value(row: &SqliteRow, column: usize) -> sqlx::Result<Value> {
    let raw = row.try_get_raw(column)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let storage_class = raw.type_info().name().to_owned();
    let decoded = match storage_class.as_str() {
        "INTEGER" => <i64 as Decode<Db>>::decode(raw).map(Value::Integer),
        "REAL" => <f64 as Decode<Db>>::decode(raw).map(Value::Real),
        // SQLite does not check that text is UTF-8.
        "TEXT" => <&[u8] as Decode<Db>>::decode(raw).map(|text| Value::Text(String::from_utf8_lossy(text).into_owned())),
        _ => <&[u8] as Decode<Db>>::decode(raw).map(|bytes| Value::Blob(bytes.to_vec())),
    };
    decoded.map_err(|source| sqlx::Error::ColumnDecode { index: column.to_string(), source })
}

/// `SQLITE_BUSY` and `SQLITE_LOCKED`, with all their extended codes.
fn is_locked(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code()).and_then(|code| code.parse::<u32>().ok());
    matches!(code.map(|code| code & 0xff), Some(5 | 6))
}

#[cfg(unix)]
async fn file_id(path: &Path) -> io::Result<FileId> {
    use std::os::unix::fs::MetadataExt;
    let metadata = tokio::fs::metadata(path).await?;
    Ok(FileId { device: metadata.dev(), inode: metadata.ino() })
}

#[cfg(not(unix))]
async fn file_id(path: &Path) -> io::Result<FileId> {
    tokio::fs::metadata(path).await.map(|_| FileId {})
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "create table invoice (id integer primary key); insert into invoice values (1), (2);";

    fn database(path: &Path, make: &str) -> Sqlite {
        Sqlite::new(&Secret::new(format!("sqlite:{}", path.display()), "sqlite:billing.db"), Some(make.to_owned())).unwrap()
    }

    async fn ids(database: &mut Sqlite) -> Result<usize, String> {
        database.rows("select id from invoice", 10).await.map(|rows| rows.len()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_database_that_is_not_there_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/billing.db");
        assert_eq!(ids(&mut database(&path, SCRIPT)).await, Ok(2));
        assert_eq!(ids(&mut database(&path, SCRIPT)).await, Ok(2), "what is there is left alone");
        let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        sqlx::raw_sql("delete from invoice").execute(&mut connection).await.unwrap();
        assert_eq!(ids(&mut database(&path, SCRIPT)).await, Ok(0), "and so is an empty table");
    }

    #[tokio::test]
    async fn of_a_script_that_fails_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("billing.db");
        let error = ids(&mut database(&path, "create table invoice (id); creaet table x (id);")).await.unwrap_err();
        assert!(error.contains("by the source's `setup`") && error.contains("creaet"), "{error}");
        assert_eq!(ids(&mut database(&path, SCRIPT)).await, Ok(2), "a script that is put right is run");
    }
}
