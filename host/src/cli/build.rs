//! `koksmat build`

use std::path::Path;

use koksmat::{Config, host::build_handlers};

use super::{Failure, say, warn};

pub(crate) async fn build(path: &Path) -> Result<u8, Failure> {
    let config = Config::load(path)?;
    warn(&config);
    let print = |handler: &str, ready: bool, took: std::time::Duration| {
        let what = if ready { "was built before" } else { "built" };
        say(format_args!("{handler}: {what} ({} ms)", took.as_millis()));
    };
    build_handlers(&config, print).await.map_err(Failure::usage)?;
    Ok(0)
}
