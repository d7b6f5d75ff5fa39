//! The polled database: connected to when it is needed, and again after anything went wrong.
//!
//! This is the seam for further databases: each is a variant here, a file beside [`sqlite`] that connects and reads rows, and a file
//! beside `claim/sqlite.rs` with its statements for claims. What those on servers have in common is in [`server`].

use self::{mysql::MySql, postgres::Postgres, sqlite::Sqlite};
use super::row::Row;
use crate::config::Secret;

pub(super) mod mysql;
pub(super) mod postgres;
pub(super) mod server;
pub(super) mod sqlite;

/// A database, by its kind.
pub(super) enum Database {
    Sqlite(Box<Sqlite>),
    Postgres(Box<Postgres>),
    MySql(Box<MySql>),
    /// The URL names none of the above.
    Unknown(UnknownDatabase),
}

/// What a URL of no known kind comes to: said on every poll, for the file the URL is in may change.
pub(super) struct UnknownDatabase {
    reference: String,
}

/// Why the database did not do what it was asked to. Messages name the database by where its URL came from, never by the URL.
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    #[error(
        "the database URL of {reference} cannot be used: write sqlite:PATH, postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE"
    )]
    Url { reference: String },
    #[error("cannot open the database of {reference}: {reason}; is the file there, and may this user read and write it?")]
    Open { reference: String, reason: String },
    #[error("cannot connect to the database of {reference}: {reason}")]
    Connect { reference: String, reason: String },
    #[error("the database of {reference} went away while {doing}: {reason}")]
    Lost { reference: String, doing: &'static str, reason: String },
    #[error("cannot make the database of {reference} by the source's `setup`: {reason}")]
    Make { reference: String, reason: String },
    #[error("the database of {reference} is locked by another process: {reason}")]
    Locked { reference: String, reason: String },
    #[error("cannot prepare the database of {reference}: {reason}; have somebody who may run there: {setup}")]
    Setup { reference: String, reason: String, setup: &'static str },
    #[error("{doing} in the database of {reference}: {reason}")]
    Statement { reference: String, doing: &'static str, reason: String },
}

impl Database {
    /// The database at `url`, which `make` makes where it is empty; nothing is connected yet.
    pub(super) fn new(url: &Secret, make: Option<String>) -> Self {
        if let Some(sqlite) = Sqlite::new(url, make) {
            Self::Sqlite(Box::new(sqlite))
        } else if let Some(postgres) = Postgres::new(url) {
            Self::Postgres(Box::new(postgres))
        } else if let Some(mysql) = MySql::new(url) {
            Self::MySql(Box::new(mysql))
        } else {
            Self::Unknown(UnknownDatabase { reference: url.reference().to_owned() })
        }
    }

    /// Give the connection to a server up; what is asked next begins with a new one.
    pub(super) fn disconnect(&mut self) {
        match self {
            Self::Postgres(postgres) => postgres.disconnect(),
            Self::MySql(mysql) => mysql.disconnect(),
            Self::Sqlite(_) | Self::Unknown(_) => {}
        }
    }

    /// All rows of a statement that changes nothing, at most `limit`.
    ///
    /// Cancel safe: nothing is changed.
    pub(super) async fn rows(&mut self, statement: &str, limit: usize) -> Result<Vec<Row>, DatabaseError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.rows(statement, limit).await,
            Self::Postgres(postgres) => postgres.rows(statement, limit).await,
            Self::MySql(mysql) => mysql.rows(statement, limit).await,
            Self::Unknown(unknown) => Err(unknown.error()),
        }
    }
}

impl UnknownDatabase {
    pub(super) fn error(&self) -> DatabaseError {
        DatabaseError::Url { reference: self.reference.clone() }
    }
}

impl DatabaseError {
    /// Whether the next try begins with a new connection.
    pub(super) fn ends_the_connection(&self) -> bool {
        !matches!(self, Self::Locked { .. })
    }

    /// Whether the database was there and refused one statement, so that another statement may do better.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Locked { .. } | Self::Statement { .. })
    }
}

/// The database's own words, in one line; never the URL.
pub(super) fn reason(error: &sqlx::Error) -> String {
    let reason = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::ColumnDecode { source, .. } => source.to_string(),
        error => error.to_string(),
    };
    reason.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A name in quotes of the database; `schema.table` is two.
pub(super) fn quoted(name: &str, quote: char) -> String {
    let doubled = format!("{quote}{quote}");
    let parts: Vec<_> = name.split('.').map(|part| format!("{quote}{}{quote}", part.replace(quote, &doubled))).collect();
    parts.join(".")
}
