//! MySQL, 8.0 or newer, and MariaDB, 10.6 or newer.
//!
//! In a session of this host the time zone is UTC: `now()` is, and so are the values of `TIMESTAMP` columns.

use std::{fmt::Write, str::FromStr};

use futures_util::StreamExt;
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Decode, MySqlConnection, Row as _, Type, TypeInfo, ValueRef,
    error::BoxDynError,
    mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlRow, MySqlTypeInfo, MySqlValueRef},
};

use super::{
    DatabaseError,
    server::{Kind, Server, in_time},
};
use crate::{
    nodelay,
    source::poller::row::{Row, Value},
};

/// A MySQL or MariaDB database.
pub(in crate::source::poller) type MySql = Server<MySqlKind>;

pub(in crate::source::poller) struct MySqlKind {
    options: MySqlConnectOptions,
}

/// Limits of a session, those of statements under the name that each of the two knows. Where a transaction reads what is committed, it
/// locks no gaps between rows: nobody's inserts have to wait. Text that is too long for its column is an error and not cut.
const SESSION: &str = "SET SESSION innodb_lock_wait_timeout = 2 /*M!100102 , max_statement_time = 30 */ /*!50708 , max_execution_time = 30000 */; \
    SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'); \
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
const READ_ONLY: &str = "SET SESSION TRANSACTION READ ONLY";

/// What a key column holds.
#[derive(Clone, Copy)]
pub(in crate::source::poller) enum KeyKind {
    Number,
    Bytes,
    Text,
}

impl Kind for MySqlKind {
    type Connection = MySqlConnection;
    type KeyColumn = KeyKind;

    fn parse(url: &str) -> Option<Self> {
        let known = url.starts_with("mysql:") || url.starts_with("mariadb:");
        let options = known.then(|| MySqlConnectOptions::from_str(url).ok())??;
        // Statements mean what they mean to the database's other clients.
        let options = options.pipes_as_concat(false).no_engine_substitution(false);
        Some(Self { options: options.disable_statement_logging() })
    }

    async fn connect(&self, writes: bool) -> sqlx::Result<MySqlConnection> {
        let mut connection = self.options.connect().await?;
        nodelay::on_connections_to(self.options.get_port());
        Self::run(&mut connection, SESSION).await?;
        if !writes {
            Self::run(&mut connection, READ_ONLY).await?;
        }
        Ok(connection)
    }

    async fn run(connection: &mut MySqlConnection, statement: &'static str) -> sqlx::Result<()> {
        sqlx::raw_sql(statement).execute(connection).await.map(|_| ())
    }

    /// A lock that was not given in time, or a deadlock.
    fn is_locked(error: &sqlx::Error) -> bool {
        let number = error.as_database_error().and_then(|e| e.try_downcast_ref::<MySqlDatabaseError>()).map(MySqlDatabaseError::number);
        matches!(number, Some(1205 | 1213))
    }
}

impl MySql {
    /// All rows of a statement, at most `limit`.
    pub(super) async fn rows(&mut self, statement: &str, limit: usize) -> Result<Vec<Row>, DatabaseError> {
        let open = self.connection().await?;
        let rows = in_time(read(&mut open.connection, statement, limit)).await;
        self.check("reading rows", rows)
    }
}

async fn read(connection: &mut MySqlConnection, statement: &str, limit: usize) -> sqlx::Result<Vec<Row>> {
    let mut rows = sqlx::query(AssertSqlSafe(statement)).fetch(connection).take(limit);
    let mut read = Vec::new();
    while let Some(row) = rows.next().await {
        read.push(decode(&row?)?);
    }
    Ok(read)
}

/// A row in the words of every database.
pub(in crate::source::poller) fn decode(row: &MySqlRow) -> sqlx::Result<Row> {
    let mut values = Vec::with_capacity(row.columns().len());
    for column in row.columns() {
        let raw = row.try_get_raw(column.ordinal())?;
        let ty = raw.type_info().into_owned();
        let value = value(raw, &ty).map_err(|error| {
            let message =
                format!("the column {:?} of type {} cannot be read ({error}); cast it in the statement", column.name(), ty.name());
            sqlx::Error::ColumnDecode { index: column.name().to_owned(), source: message.into() }
        })?;
        values.push((column.name().to_owned(), value));
    }
    Ok(Row(values))
}

/// Whether a column holds bytes and no text: text has a character set, however its letters are compared.
pub(in crate::source::poller) fn is_bytes(ty: &MySqlTypeInfo) -> bool {
    let has_name = ty.name().ends_with("BINARY") || ty.name().ends_with("BLOB");
    has_name && !<str as Type<sqlx::MySql>>::compatible(ty)
}

fn value(raw: MySqlValueRef<'_>, ty: &MySqlTypeInfo) -> Result<Value, BoxDynError> {
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let name = ty.name();
    Ok(match name {
        // `TINYINT(1)` is what `BOOL` is short for, but it can hold more.
        "BOOLEAN" => match integer::<i64>(raw)? {
            truth @ (0 | 1) => Value::Json((truth == 1).to_string()),
            number => Value::Integer(number),
        },
        "YEAR" | "BIT" => Value::Json(integer::<u64>(raw)?.to_string()),
        _ if name.ends_with("INT UNSIGNED") => Value::Json(integer::<u64>(raw)?.to_string()),
        _ if name.ends_with("INT") => Value::Integer(integer::<i64>(raw)?),
        // The shortest digits that mean this number, and not those of the wider one it fits into.
        "FLOAT" => Value::Json(serde_json::to_string(&<f32 as Decode<sqlx::MySql>>::decode(raw)?)?),
        "DOUBLE" => Value::Real(<f64 as Decode<sqlx::MySql>>::decode(raw)?),
        "DECIMAL" | "JSON" => Value::Json(text(raw)?),
        "DATE" | "DATETIME" | "TIMESTAMP" => Value::Text(date(bytes(raw)?, name).ok_or("not a date")?),
        "TIME" => Value::Text(time(bytes(raw)?).ok_or("not a time")?),
        // The database's own form: the number of the reference system, then well-known binary.
        "GEOMETRY" => Value::Blob(bytes(raw)?.to_vec()),
        _ if is_bytes(ty) => Value::Blob(bytes(raw)?.to_vec()),
        "SET" => Value::Text(text(raw)?),
        _ if <str as Type<sqlx::MySql>>::compatible(ty) => Value::Text(text(raw)?),
        _ => return Err("a type without a form in JSON".into()),
    })
}

fn integer<'r, T: Decode<'r, sqlx::MySql>>(raw: MySqlValueRef<'r>) -> Result<T, BoxDynError> {
    T::decode(raw)
}

fn text(raw: MySqlValueRef<'_>) -> Result<String, BoxDynError> {
    <String as Decode<sqlx::MySql>>::decode(raw)
}

fn bytes(raw: MySqlValueRef<'_>) -> Result<&[u8], BoxDynError> {
    <&[u8] as Decode<sqlx::MySql>>::decode(raw)
}

/// A date, with the time of day where the column has one, as the protocol writes it: its length, then year, month, day, hour, minute,
/// second and microseconds, of which zeros at the end are left out. A `TIMESTAMP` is a moment and ends in `Z`; a `DATETIME` has no zone.
fn date(raw: &[u8], ty: &str) -> Option<String> {
    let (_, raw) = raw.split_first()?;
    let byte = |at: usize| raw.get(at).copied().unwrap_or(0);
    let mut text = format!("{:04}-{:02}-{:02}", u16::from_le_bytes([byte(0), byte(1)]), byte(2), byte(3));
    if ty != "DATE" {
        write!(text, "T{:02}:{:02}:{:02}", byte(4), byte(5), byte(6)).ok()?;
        fraction(&mut text, u32::from_le_bytes([byte(7), byte(8), byte(9), byte(10)]))?;
    }
    if ty == "TIMESTAMP" {
        text.push('Z');
    }
    Some(text)
}

/// A time of day or a span of up to 838 hours: its length, sign, days, hour, minute, second and microseconds.
fn time(raw: &[u8]) -> Option<String> {
    let (_, raw) = raw.split_first()?;
    let byte = |at: usize| raw.get(at).copied().unwrap_or(0);
    let days = u32::from_le_bytes([byte(1), byte(2), byte(3), byte(4)]);
    let hours = days.checked_mul(24)?.checked_add(byte(5).into())?;
    let mut text = format!("{}{hours:02}:{:02}:{:02}", if byte(0) == 1 { "-" } else { "" }, byte(6), byte(7));
    fraction(&mut text, u32::from_le_bytes([byte(8), byte(9), byte(10), byte(11)]))?;
    Some(text)
}

fn fraction(text: &mut String, micros: u32) -> Option<()> {
    if micros == 0 { Some(()) } else { write!(text, ".{micros:06}").ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_iso_8601() {
        let written = [11, 0xea, 0x07, 11, 25, 19, 5, 9, 0x40, 0xe2, 0x01, 0];
        assert_eq!(date(&written, "TIMESTAMP").unwrap(), "2026-11-25T19:05:09.123456Z");
        assert_eq!(date(&written[..8], "DATETIME").unwrap(), "2026-11-25T19:05:09");
        assert_eq!(date(&[4, 0xea, 0x07, 1, 2], "DATE").unwrap(), "2026-01-02");
        assert_eq!(time(&[8, 1, 2, 0, 0, 0, 3, 4, 5]).unwrap(), "-51:04:05");
        assert_eq!(time(&[0]).unwrap(), "00:00:00");
    }
}
