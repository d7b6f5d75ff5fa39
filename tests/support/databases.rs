//! The PostgreSQL and MariaDB that `tests/services/services.sh` starts, with a database of its own for each test.

use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection, PgConnection};

use crate::services;

/// Both.
pub const SERVERS: [Server; 2] = [Server::Postgres, Server::MariaDb];

const PASSWORD: &str = "test-secret";

/// A database server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Postgres,
    MariaDb,
}

/// A database for one test.
#[derive(Clone)]
pub struct Database {
    pub server: Server,
    pub name: String,
}

/// A connection to it.
pub enum Connection {
    Postgres(PgConnection),
    MariaDb(MySqlConnection),
}

impl Server {
    /// Where it listens.
    pub fn address(self) -> &'static str {
        match self {
            Self::Postgres => "127.0.0.1:25432",
            Self::MariaDb => "127.0.0.1:23306",
        }
    }

    /// An empty database of this name, in place of what an earlier run may have left.
    pub async fn database(self, name: &str) -> Database {
        // Says what to do when there are no services.
        services::ca();
        let name = format!("koksmat_test_{name}");
        let mut connection = self.connect("koksmat").await;
        let force = if self == Self::Postgres { " WITH (FORCE)" } else { "" };
        connection.execute(&format!("DROP DATABASE IF EXISTS {name}{force}")).await;
        connection.execute(&format!("CREATE DATABASE {name}")).await;
        Database { server: self, name }
    }

    fn url(self, password: &str, address: &str, database: &str) -> String {
        let scheme = if self == Self::Postgres { "postgres" } else { "mysql" };
        format!("{scheme}://koksmat:{password}@{address}/{database}")
    }

    async fn connect(self, database: &str) -> Connection {
        let url = self.url(PASSWORD, self.address(), database);
        let connected = match self {
            Self::Postgres => PgConnection::connect(&url).await.map(Connection::Postgres),
            Self::MariaDb => MySqlConnection::connect(&url).await.map(Connection::MariaDb),
        };
        let hint = "is it running? `tests/services/services.sh run cargo test …` starts it";
        connected.unwrap_or_else(|error| panic!("{self:?} at {}: {error}; {hint}", self.address()))
    }
}

impl Database {
    /// Its URL, with the password.
    pub fn url(&self) -> String {
        self.url_at(self.server.address())
    }

    /// The same, where a proxy listens.
    pub fn url_at(&self, address: &str) -> String {
        self.server.url(PASSWORD, address, &self.name)
    }

    /// Its URL with another password.
    pub fn url_with(&self, password: &str) -> String {
        self.server.url(password, self.server.address(), &self.name)
    }

    pub async fn connect(&self) -> Connection {
        self.server.connect(&self.name).await
    }

    /// Drop it.
    pub async fn drop(self) {
        let force = if self.server == Server::Postgres { " WITH (FORCE)" } else { "" };
        self.server.connect("koksmat").await.execute(&format!("DROP DATABASE {}{force}", self.name)).await;
    }
}

impl Connection {
    /// Run statements.
    pub async fn execute(&mut self, sql: &str) {
        let executed = match self {
            Self::Postgres(connection) => sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ()),
            Self::MariaDb(connection) => sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ()),
        };
        executed.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The first column of every row, as text.
    pub async fn texts(&mut self, sql: &str) -> Vec<String> {
        let texts = match self {
            Self::Postgres(connection) => {
                let sql = format!("SELECT v::text FROM ({sql}) AS q(v)");
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await
            }
            Self::MariaDb(connection) => {
                let sql = format!("WITH q(v) AS ({sql}) SELECT CAST(v AS CHAR) FROM q");
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await
            }
        };
        texts.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// A count.
    pub async fn count(&mut self, sql: &str) -> usize {
        self.texts(sql).await[0].parse().unwrap()
    }

    /// Wait until a count is this.
    pub async fn until(&mut self, sql: &str, expected: usize) {
        crate::within(&format!("{sql} to be {expected}"), async {
            while self.count(sql).await != expected {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}
