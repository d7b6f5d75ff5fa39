//! `koksmat check`

use std::path::Path;

use koksmat::{Config, host::check_handlers};

use super::{Failure, warn};

pub(crate) async fn check(path: &Path) -> Result<u8, Failure> {
    let config = Config::load(path)?;
    warn(&config);
    check_handlers(&config).await.map_err(Failure::usage)?;
    println!("{}: {} sources, {} handlers: all is well", config.file.display(), config.sources.len(), config.handlers.len());
    Ok(0)
}
