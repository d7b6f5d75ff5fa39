//! A real database file for the tests of the poller, and somebody else who works in it.

use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::{
    config::{PollMode, PollerConfig, Secret},
    source::poller::PollerSource,
};

pub(super) struct TestDatabase {
    dir: TempDir,
    connection: Option<SqliteConnection>,
}

impl TestDatabase {
    /// A database made by these statements.
    pub(super) async fn new(schema: &str) -> Self {
        let mut database = Self::missing();
        database.create(schema).await;
        database
    }

    /// A database that is not there yet.
    pub(super) fn missing() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), connection: None }
    }

    /// Put a new database in its place.
    pub(super) async fn create(&mut self, schema: &str) {
        self.connection = None;
        let new = self.dir.path().join("new.db");
        let mut connection = SqliteConnectOptions::new().filename(&new).create_if_missing(true).connect().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(schema)).execute(&mut connection).await.unwrap();
        sqlx::Connection::close(connection).await.unwrap();
        std::fs::rename(new, self.path()).unwrap();
        self.connection = Some(self.connect().await);
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("polled.db")
    }

    /// One more connection to it.
    pub(super) async fn connect(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(self.path()).busy_timeout(Duration::from_secs(30)).connect().await.unwrap()
    }

    pub(super) async fn execute(&mut self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(self.connection.as_mut().unwrap()).await.unwrap();
    }

    /// What a statement that gives one value gives.
    pub(super) async fn value(&mut self, statement: &str) -> String {
        let statement = format!("SELECT CAST(({statement}) AS TEXT)");
        let value: Option<String> =
            sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(self.connection.as_mut().unwrap()).await.unwrap();
        value.unwrap_or_default()
    }

    /// Wait until a statement gives this value: a database has no other way to say so.
    pub(super) async fn until(&mut self, statement: &str, expected: &str) {
        let mut tries = 0;
        loop {
            let value = self.value(statement).await;
            if value == expected {
                return;
            }
            tries += 1;
            assert!(tries < 3000, "{statement} gives {value:?}, expected {expected:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A source that polls it every few milliseconds.
    pub(super) fn source(&self, mode: PollMode) -> PollerSource {
        self.source_at(&format!("sqlite:{}", self.path().display()), mode)
    }

    pub(super) fn source_at(&self, url: &str, mode: PollMode) -> PollerSource {
        let database = Secret::new(url, "env:POLLED_URL");
        PollerSource::new(PollerConfig { database, setup: None, every: Duration::from_millis(5), wake: None, mode })
    }
}
