//! `koksmat reload`

use std::path::PathBuf;

use koksmat::{
    control::{Client, Request},
    reload::Reloaded,
};

use super::{Failure, say, target};

/// Have the configuration and the code that are there now serve.
#[derive(Debug, clap::Args)]
pub(crate) struct Reload {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Though events wait that nobody would take any more
    #[arg(long)]
    force: bool,
}

impl Reload {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let client = target::running(&self.path).await?;
        let request = Request::post("/api/reload").query([("force", self.force.to_string())]);
        told(&outcome(&client, request).await?)
    }
}

/// Ask for a change of what serves.
pub(super) async fn outcome(client: &Client, request: Request) -> Result<Reloaded, Failure> {
    let (_, answer) = client.ask(request).await.map_err(target::failed)?;
    serde_json::from_slice(&answer).map_err(|_| Failure::start(String::from_utf8_lossy(&answer)))
}

/// Say what came of it: 0 where it serves, 2 where the old one does.
pub(super) fn told(reloaded: &Reloaded) -> Result<u8, Failure> {
    match reloaded {
        Reloaded::Applied { generation, changes, warnings, took_ms } => {
            changes.iter().for_each(|change| say(format_args!("{change}")));
            warnings.iter().for_each(|warning| say(format_args!("{warning}")));
            say(format_args!("applied as generation {generation} in {took_ms} ms"));
            Ok(0)
        }
        Reloaded::Unchanged { generation } => {
            say(format_args!("nothing has changed: generation {generation} serves"));
            Ok(0)
        }
        Reloaded::KeptOld { reasons } => Err(Failure::usage(format!("{}\nkept old", reasons.join("\n")))),
    }
}
