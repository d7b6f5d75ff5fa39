//! A database server: one connection to it, made when it is needed, and again after anything went wrong.
//!
//! Whatever is asked of it has a time-out on both sides, so that a server that is gone without a word is noticed.

use std::time::Duration;

use super::DatabaseError;
use crate::config::Secret;

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long anything else may take. The sessions have a limit of 30 seconds on the server's side; this one is for a server that is gone.
const ANSWER: Duration = Duration::from_secs(35);

/// What is different from one kind of server to the next.
pub(in crate::source::poller) trait Kind: Sized + Send + 'static {
    /// A connection.
    type Connection: Send;
    /// What has to be known of a key column.
    type KeyColumn: Clone + Send;

    /// The server that a URL names; absent: it cannot be used.
    fn parse(url: &str) -> Option<Self>;

    /// Connect, with the session as this host needs it: limits, UTC, and read only unless it is to write.
    fn connect(&self, writes: bool) -> impl Future<Output = sqlx::Result<Self::Connection>> + Send;

    /// Run a statement that gives nothing.
    fn run(connection: &mut Self::Connection, statement: &'static str) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Whether somebody else holds what a statement needs; the connection is as good as before.
    fn is_locked(error: &sqlx::Error) -> bool;
}

/// A database on a server of one kind.
pub(in crate::source::poller) struct Server<K: Kind> {
    kind: K,
    reference: String,
    /// What makes the table of claims; absent: the database is only read.
    setup: Option<&'static str>,
    open: Option<Open<K>>,
}

/// A connection, and what is known as long as it lasts.
pub(in crate::source::poller) struct Open<K: Kind> {
    pub(in crate::source::poller) connection: K::Connection,
    /// The key column, once somebody has asked for it.
    pub(in crate::source::poller) key: Option<K::KeyColumn>,
}

impl<K: Kind> Server<K> {
    /// The database at `url`, if that names one of this kind. Until [`setup`](Self::setup) it is only read.
    pub(super) fn new(url: &Secret) -> Option<Self> {
        Some(Self { kind: K::parse(url.expose())?, reference: url.reference().to_owned(), setup: None, open: None })
    }

    /// What makes the table of claims where it is missing.
    pub(in crate::source::poller) fn setup(&mut self, setup: &'static str) {
        self.setup = Some(setup);
    }

    pub(in crate::source::poller) fn kind(&self) -> &K {
        &self.kind
    }

    /// The connection; a new one when there is none.
    pub(in crate::source::poller) async fn connection(&mut self) -> Result<&mut Open<K>, DatabaseError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        Ok(self.open.insert(open))
    }

    /// Give the connection up.
    pub(super) fn disconnect(&mut self) {
        self.open = None;
    }

    /// Say what went wrong, and make sure that the next try begins with a new connection.
    pub(in crate::source::poller) fn check<T>(&mut self, doing: &'static str, result: sqlx::Result<T>) -> Result<T, DatabaseError> {
        result.map_err(|error| {
            let (reference, reason) = (self.reference.clone(), super::reason(&error));
            if K::is_locked(&error) {
                return DatabaseError::Locked { reference, reason };
            }
            self.open = None;
            match error {
                sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => DatabaseError::Lost { reference, doing, reason },
                _ => DatabaseError::Statement { reference, doing, reason },
            }
        })
    }

    async fn connect(&self) -> Result<Open<K>, DatabaseError> {
        let reference = || self.reference.clone();
        let mut connection = within(CONNECT, self.kind.connect(self.setup.is_some()))
            .await
            .map_err(|error| DatabaseError::Connect { reference: reference(), reason: super::reason(&error) })?;
        if let Some(setup) = self.setup {
            in_time(prepare::<K>(&mut connection, setup)).await.map_err(|error| DatabaseError::Setup {
                reference: reference(),
                reason: super::reason(&error),
                setup,
            })?;
        }
        Ok(Open { connection, key: None })
    }
}

/// Make the table of claims, unless it is there: whoever may not make tables needs no right to.
async fn prepare<K: Kind>(connection: &mut K::Connection, setup: &'static str) -> sqlx::Result<()> {
    const PROBE: &str = "SELECT 1 FROM koksmat_claims LIMIT 0";
    if K::run(connection, PROBE).await.is_ok() {
        return Ok(());
    }
    match K::run(connection, setup).await {
        Ok(()) => Ok(()),
        // Another host may have made it at the same time.
        Err(error) => K::run(connection, PROBE).await.map_err(|_| error),
    }
}

/// What a database was asked; an answer that does not come is an error.
pub(in crate::source::poller) async fn in_time<T>(asked: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    within(ANSWER, asked).await
}

async fn within<T>(limit: Duration, asked: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {limit:?}")))),
    }
}
