//! What commands beside a running host talk to: its control socket, or, when none runs, the store itself.

use std::path::Path;

use koksmat::{
    Config,
    config::StoreConfig,
    control::{Client, ClientError},
};

use super::Failure;

/// A client of the host that runs this configuration.
pub(crate) fn client(path: &Path) -> Result<(Config, Client), Failure> {
    // What the secrets of the sources are does not matter here, but where the store is does: the whole file has to be right.
    let config = Config::load(path)?;
    let client = Client::of(&config.host.store).map_err(Failure::start)?;
    Ok((config, client))
}

/// The same for what the host alone decides. One that runs goes on with what it had when its file was right, and is asked though that is wrong
/// now, or refers to secrets that are not known here.
pub(crate) async fn running(path: &Path) -> Result<Client, Failure> {
    match Config::load(path) {
        Ok(config) => Client::of(&config.host.store).map_err(Failure::start),
        Err(problems) => match Client::of(&StoreConfig::beside(path)) {
            Ok(client) if client.runs().await => Ok(client),
            _ => Err(problems.into()),
        },
    }
}

/// A client of the host that runs this configuration; where none runs, of its store.
pub(crate) async fn client_or_store(path: &Path) -> Result<Client, Failure> {
    let config = Config::load(path)?;
    Client::or_offline(&config).await.map_err(Failure::start)
}

/// What a failed request means to who typed the command.
pub(crate) fn failed(error: ClientError) -> Failure {
    Failure::start(error)
}
