//! `koksmat check`

use std::path::Path;

use koksmat::{Config, host::check_handlers};

use super::{Failure, say, warn};

pub(crate) async fn check(path: &Path) -> Result<u8, Failure> {
    let config = Config::load(path)?;
    warn(&config);
    check_handlers(&config).await.map_err(Failure::usage)?;
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (sources, handlers) = (count(config.sources.len(), "source"), count(config.handlers.len(), "handler"));
    say(format_args!("{}: {sources}, {handlers}: all is well", config.file.display()));
    Ok(0)
}
