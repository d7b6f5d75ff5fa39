//! PostgreSQL, 13 or newer.
//!
//! Rows are made JSON by the database itself, which knows every type there is: numbers keep all their digits, timestamps are ISO 8601 with
//! their offset (UTC), `json` and arrays are what they are, and a type that has no form in JSON is its text.

use std::{collections::HashSet, fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Connection, Executor, PgConnection, SqlSafeStr, Statement, TypeInfo, postgres::PgConnectOptions,
};

use super::{
    DatabaseError,
    server::{Kind, Open, Server, in_time},
};
use crate::{
    nodelay,
    source::poller::row::{Row, Value},
};

/// A PostgreSQL database.
pub(in crate::source::poller) type Postgres = Server<PostgresKind>;

pub(in crate::source::poller) struct PostgresKind {
    options: PgConnectOptions,
}

/// Limits of a session: who has to wait for a lock, or whose statement takes too long, is told so and tries again. Prepared statements are
/// planned each time: a plan that was made for the few claims of the beginning is none for the many of later.
const SESSION: &str = "SET lock_timeout = '2s'; SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '60s';
    SET plan_cache_mode = force_custom_plan";
const READ_ONLY: &str = "SET default_transaction_read_only = on";

impl PostgresKind {
    pub(in crate::source::poller) fn options(&self) -> &PgConnectOptions {
        &self.options
    }
}

impl Kind for PostgresKind {
    type Connection = PgConnection;
    type KeyColumn = KeyColumn;

    fn parse(url: &str) -> Option<Self> {
        let known = url.starts_with("postgres:") || url.starts_with("postgresql:");
        let options = known.then(|| PgConnectOptions::from_str(url).ok())??;
        Some(Self { options: options.application_name("koksmat").disable_statement_logging() })
    }

    async fn connect(&self, writes: bool) -> sqlx::Result<PgConnection> {
        let mut connection = self.options.connect().await?;
        nodelay::on_connections_to(self.options.get_port());
        Self::run(&mut connection, SESSION).await?;
        if !writes {
            Self::run(&mut connection, READ_ONLY).await?;
        }
        Ok(connection)
    }

    async fn run(connection: &mut PgConnection, statement: &'static str) -> sqlx::Result<()> {
        sqlx::raw_sql(statement).execute(connection).await.map(|_| ())
    }

    /// A lock that was not given in time, a deadlock, or a transaction that has to be repeated.
    fn is_locked(error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(|error| error.code());
        matches!(code.as_deref(), Some("55P03" | "40P01" | "40001"))
    }
}

impl Postgres {
    /// All rows of a statement, at most `limit`.
    pub(super) async fn rows(&mut self, statement: &str, limit: usize) -> Result<Vec<Row>, DatabaseError> {
        let open = self.connection().await?;
        let rows = in_time(read(&mut open.connection, statement, limit)).await;
        self.check("reading rows", rows)
    }
}

/// Whole rows as JSON: a statement is a table whose rows are values. On lines of its own: it may end in a comment.
async fn read(connection: &mut PgConnection, statement: &str, limit: usize) -> sqlx::Result<Vec<Row>> {
    let table = format!("(\n{statement}\n) AS q");
    let json = format!("SELECT row_to_json(q.*)::text FROM {table} LIMIT {limit}");
    let json: Vec<String> = sqlx::query_scalar(AssertSqlSafe(json)).persistent(false).fetch_all(&mut *connection).await?;
    let rows = json.iter().map(|row| decode(row)).collect::<sqlx::Result<_>>()?;
    with_bytes(connection, &format!("SELECT * FROM {table}"), rows).await
}

/// A row as the database wrote it, its columns in their order.
pub(in crate::source::poller) fn decode(json: &str) -> sqlx::Result<Row> {
    let Columns(columns) = serde_json::from_str(json).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(Row(columns.into_iter().map(|(name, json)| (name, value(&json))).collect()))
}

fn value(json: &RawValue) -> Value {
    match json.get() {
        "null" => Value::Null,
        text if text.starts_with('"') => serde_json::from_str(text).map_or_else(|_| Value::Json(text.to_owned()), Value::Text),
        text => Value::Json(text.to_owned()),
    }
}

/// Rows that the database wrote as JSON objects, with bytes as everywhere. `statement` gives these rows.
pub(in crate::source::poller) async fn as_json(
    connection: &mut PgConnection,
    statement: &str,
    rows: Vec<String>,
) -> sqlx::Result<Vec<String>> {
    // The usual row is passed on as it is.
    if !rows.iter().any(|row| row.contains(r#""\\x"#)) {
        return Ok(rows);
    }
    let decoded = rows.iter().map(|row| decode(row)).collect::<sqlx::Result<_>>()?;
    Ok(with_bytes(connection, statement, decoded).await?.iter().map(Row::to_json).collect())
}

/// In JSON the database writes bytes as `\x` and digits. Where something looks so, `statement`, which gives these rows, is asked for the
/// types of its columns.
pub(in crate::source::poller) async fn with_bytes(
    connection: &mut PgConnection,
    statement: &str,
    mut rows: Vec<Row>,
) -> sqlx::Result<Vec<Row>> {
    let hex = |value: &Value| matches!(value, Value::Text(text) if text.starts_with("\\x"));
    if !rows.iter().any(|Row(columns)| columns.iter().any(|(_, value)| hex(value))) {
        return Ok(rows);
    }
    // What was asked before is forgotten: a column may be of another type by now.
    connection.clear_cached_statements().await?;
    let statement = connection.prepare(AssertSqlSafe(statement.to_owned()).into_sql_str()).await?;
    let bytes: HashSet<&str> = statement.columns().iter().filter(|c| c.type_info().name() == "BYTEA").map(Column::name).collect();
    for (name, value) in rows.iter_mut().flat_map(|Row(columns)| columns) {
        if let (true, Value::Text(text)) = (bytes.contains(name.as_str()), &*value)
            && let Some(decoded) = text.strip_prefix("\\x").and_then(|digits| hex::decode(digits).ok())
        {
            *value = Value::Blob(decoded);
        }
    }
    Ok(rows)
}

/// What has to be known of a key column.
#[derive(Clone)]
pub(in crate::source::poller) struct KeyColumn {
    /// Its type with its collation, as they stand behind a cast: with another collation no index on the column helps.
    pub(in crate::source::poller) ty: String,
    /// Two rows never have the same key: an index says so.
    pub(in crate::source::poller) unique: bool,
}

/// What the database says of a key column.
pub(in crate::source::poller) async fn key_column(open: &mut Open<PostgresKind>, table: &str, key: &str) -> sqlx::Result<KeyColumn> {
    const STATEMENT: &str = "
        SELECT format_type(a.atttypid, -1) || coalesce(' COLLATE ' || quote_ident(n.nspname) || '.' || quote_ident(c.collname), ''),
            EXISTS (
                SELECT 1 FROM pg_index AS i
                WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
                    AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)
        FROM pg_attribute AS a
            LEFT JOIN pg_collation AS c ON c.oid = a.attcollation
            LEFT JOIN pg_namespace AS n ON n.oid = c.collnamespace
        WHERE a.attrelid = $1::regclass AND a.attname = $2";
    if let Some(known) = &open.key {
        return Ok(known.clone());
    }
    let query = sqlx::query_as(STATEMENT).bind(name(table)).bind(key.to_owned());
    // Where there is no such column, the statement that needs it says so.
    let (ty, unique) = query.fetch_optional(&mut open.connection).await?.unwrap_or_else(|| ("text".to_owned(), false));
    Ok(open.key.insert(KeyColumn { ty, unique }).clone())
}

/// A name, quoted: it is what it is, and not made lower case.
pub(in crate::source::poller) fn name(name: &str) -> String {
    super::quoted(name, '"')
}

/// The members of a JSON object, in their order.
struct Columns(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Columns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Columns, A::Error> {
                let mut columns = Vec::new();
                while let Some(member) = map.next_entry()? {
                    columns.push(member);
                }
                Ok(Columns(columns))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_its_order_and_its_digits() {
        let Row(columns) = decode(r#"{"z":1234567890.123456789012,"a":"é\n","a":null,"list":[1,2],"ok":true}"#).unwrap();
        let json = |text: &str| Value::Json(text.to_owned());
        let expected = [
            ("z", json("1234567890.123456789012")),
            ("a", Value::Text("é\n".into())),
            ("a", Value::Null),
            ("list", json("[1,2]")),
            ("ok", json("true")),
        ];
        assert_eq!(columns, expected.map(|(name, value)| (name.to_owned(), value)));
    }
}
