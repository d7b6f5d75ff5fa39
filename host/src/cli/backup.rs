//! `koksmat backup` and `koksmat restore`

use std::path::PathBuf;

use koksmat::{Config, config::StoreConfig, control::ClientError, control::Request, store::sqlite::SqliteStore};

use super::{Failure, say, target};

/// Copy the store to a file.
#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The file
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    replace: bool,
}

/// Put a copy in the place of the store.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The copy
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
}

impl Backup {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let to = std::path::absolute(&self.to).map_err(Failure::usage)?;
        let to = to.to_str().ok_or_else(|| Failure::usage("the name of the file is no text; name another"))?.to_owned();
        let client = target::client_or_store(&self.path).await?;
        let request = Request::post("/api/backup").query([("to", to), ("replace", self.replace.to_string())]);
        client.send(request).await.map_err(|error| match error {
            ClientError::Refused { status: 409, detail } => Failure::start(detail),
            error => target::failed(error),
        })?;
        say(format_args!("the store is in {}", self.to.display()));
        Ok(0)
    }
}

impl Restore {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let config = Config::load(&self.path)?;
        let store = match config.host.store {
            StoreConfig::Sqlite(path) => path,
            StoreConfig::Postgres { .. } => {
                return Err(Failure::usage(
                    "a store in PostgreSQL is restored by the means of the database, such as `pg_restore`; see the README",
                ));
            }
            StoreConfig::Memory => return Err(Failure::usage("a store in memory is gone with its host: there is nothing to restore")),
        };
        let restore = move || (SqliteStore::restore(&store, &self.from), store, self.from);
        let (restored, store, from) = tokio::task::spawn_blocking(restore).await.map_err(Failure::start)?;
        let restored = restored.map_err(Failure::start)?;
        say(format_args!("the store {} is what it was in {}", store.display(), from.display()));
        if let Some(kept) = restored.kept {
            say(format_args!("what it was before is kept in {}", kept.display()));
        }
        Ok(0)
    }
}
