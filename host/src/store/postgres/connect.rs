//! Connections to the server, each set up as the store needs it.

use std::{str::FromStr, time::Duration};

use sqlx::{
    AssertSqlSafe, ConnectOptions, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

use super::Clock;
use crate::{config::Secret, nodelay, store::StoreError};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Where the server is, and which schema is the store.
#[derive(Clone)]
pub(super) struct Connect {
    options: PgConnectOptions,
    reference: String,
    schema: String,
}

impl std::fmt::Debug for Connect {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect").field("reference", &self.reference).field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Connect {
    pub(super) fn new(url: &Secret, schema: &str) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url.expose()).map_err(|_| {
            StoreError::Other(format!("the URL of {} cannot be used: write postgres://USER@HOST/DATABASE", url.reference()))
        })?;
        let options = options.application_name(&format!("koksmat/{schema}")).disable_statement_logging();
        Ok(Self { options, reference: url.reference().to_owned(), schema: schema.to_owned() })
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    pub(super) fn reference(&self) -> &str {
        &self.reference
    }

    /// What each session begins with: the tables are those of the store, and who has to wait for a lock, or whose statement takes too long,
    /// is told so. A host that stops inside a transaction is in nobody's way for longer than half a lease. Every statement has its index: one
    /// that is planned while a table is empty would go on reading all of it, however long it becomes.
    fn session(&self) -> String {
        let quoted = self.schema.replace('"', "\"\"");
        format!(
            "SET search_path = \"{quoted}\"; SET lock_timeout = '7s'; SET statement_timeout = '30s'; SET synchronous_commit = on;
             SET idle_in_transaction_session_timeout = '5s'; SET client_min_messages = warning;
             SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
        )
    }

    /// Connections that are made when they are needed.
    pub(super) fn pool(&self, options: PgPoolOptions) -> PgPool {
        let (session, port) = (self.session(), self.options.get_port());
        options
            .after_connect(move |connection, _| {
                let session = session.clone();
                nodelay::on_connections_to(port);
                Box::pin(async move { sqlx::raw_sql(AssertSqlSafe(session)).execute(connection).await.map(drop) })
            })
            .connect_lazy_with(self.options.clone())
    }

    async fn connect(&self) -> Result<PgConnection, StoreError> {
        let connecting = async {
            let mut connection = self.options.connect().await?;
            nodelay::on_connections_to(self.options.get_port());
            sqlx::raw_sql(AssertSqlSafe(self.session())).execute(&mut connection).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        match timeout(CONNECT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(StoreError::Other(format!("cannot connect to the store of {}: {}", self.reference, reason(&error)))),
            Err(_) => Err(StoreError::Other(format!("cannot connect to the store of {}: no answer within {CONNECT:?}", self.reference))),
        }
    }

    /// A connection, with a look at the server's clock.
    pub(super) async fn writer(&self, clock: &Clock) -> Result<PgConnection, StoreError> {
        let mut connection = self.connect().await?;
        let looked = timeout(CONNECT, clock.look(&mut connection)).await;
        looked.map_err(|_| StoreError::Other(format!("the store of {} did not answer within {CONNECT:?}", self.reference)))??;
        Ok(connection)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        match code.as_deref() {
            // disk_full
            Some("53100") => Self::Full(reason(&error)),
            _ => Self::Other(format!("the database: {}", reason(&error))),
        }
    }
}

/// The database's own words, in one line; never the URL.
fn reason(error: &sqlx::Error) -> String {
    let reason = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    };
    reason.split_whitespace().collect::<Vec<_>>().join(" ")
}
