//! The claims of one owner over one connection, whatever the database.

use std::sync::Arc;

use super::{Claim, Completion, Look, Table, mysql, postgres, sqlite};
use crate::source::poller::{
    database::{Database, DatabaseError},
    row::Value,
};

/// The table of claims, as one owner sees it.
pub(super) struct ClaimStore {
    pub(super) database: Database,
    pub(super) table: Arc<Table>,
    /// New whenever the source is started.
    pub(super) owner: Arc<str>,
}

impl ClaimStore {
    /// Nothing is connected yet; with the first connection the table of claims is made.
    pub(super) fn new(mut database: Database, table: Arc<Table>, owner: Arc<str>) -> Self {
        match &mut database {
            Database::Sqlite(db) => db.setup(sqlite::SETUP),
            Database::Postgres(db) => db.setup(postgres::SETUP),
            Database::MySql(db) => db.setup(mysql::SETUP),
            Database::Unknown(_) => {}
        }
        Self { database, table, owner }
    }

    /// Claim at most `limit` of the rows that are looked at, each with what it holds as a JSON object, lowest keys first.
    pub(super) async fn take(&mut self, limit: usize, look: &Look) -> Result<Vec<(Claim, String)>, DatabaseError> {
        let behind = match look {
            Look::Whole => None,
            Look::Behind(key) => Some(key),
            Look::Rest => return Ok(Vec::new()),
        };
        match &mut self.database {
            Database::Sqlite(db) => sqlite::take(db, &self.table, &self.owner, limit, behind).await,
            Database::Postgres(db) => postgres::take(db, &self.table, &self.owner, limit, behind).await,
            Database::MySql(db) => mysql::take(db, &self.table, &self.owner, limit, behind).await,
            Database::Unknown(unknown) => Err(unknown.error()),
        }
    }

    /// Complete claims, all or none. How many of them had been lost.
    pub(super) async fn complete(&mut self, claims: &[(Claim, Completion)]) -> Result<usize, DatabaseError> {
        match &mut self.database {
            Database::Sqlite(db) => sqlite::complete(db, &self.table, &self.owner, claims).await,
            Database::Postgres(db) => postgres::complete(db, &self.table, &self.owner, claims).await,
            Database::MySql(db) => mysql::complete(db, &self.table, &self.owner, claims).await,
            Database::Unknown(unknown) => Err(unknown.error()),
        }
    }

    /// Extend every lease.
    pub(super) async fn renew(&mut self) -> Result<(), DatabaseError> {
        match &mut self.database {
            Database::Sqlite(db) => sqlite::renew(db, &self.table, &self.owner).await,
            Database::Postgres(db) => postgres::renew(db, &self.table, &self.owner).await,
            Database::MySql(db) => mysql::renew(db, &self.table, &self.owner).await,
            Database::Unknown(unknown) => Err(unknown.error()),
        }
    }

    /// End every lease of an owner, but for those of the rows to `keep`.
    pub(super) async fn free(&mut self, owner: &str, keep: &[String]) -> Result<(), DatabaseError> {
        match &mut self.database {
            Database::Sqlite(db) => sqlite::free(db, &self.table, owner, keep).await,
            Database::Postgres(db) => postgres::free(db, &self.table, owner, keep).await,
            Database::MySql(db) => mysql::free(db, &self.table, owner, keep).await,
            Database::Unknown(unknown) => Err(unknown.error()),
        }
    }

    /// Forget the next few claims behind `from` whose row is gone. Answers where to go on; `None`: this was the end.
    pub(super) async fn sweep(&mut self, from: Option<Value>) -> Result<Option<Value>, DatabaseError> {
        match &mut self.database {
            Database::Sqlite(db) => sqlite::sweep(db, &self.table, from).await,
            Database::Postgres(db) => postgres::sweep(db, &self.table, from).await,
            Database::MySql(db) => mysql::sweep(db, &self.table, from).await,
            Database::Unknown(unknown) => Err(unknown.error()),
        }
    }
}
