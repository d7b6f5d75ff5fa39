//! `koksmat run`

use std::{io::Write, path::Path};

use koksmat::{
    BootError, Config, Host,
    shutdown::signals::{Hangup, Signals},
};
use tokio_util::sync::CancellationToken;

use super::{Failure, warn};

/// Exit codes: 0 clean, 1 did not start, 2 wrong configuration, 3 a started call was cut, 4 the ledger does not balance.
pub(crate) async fn run(path: &Path) -> Result<u8, Failure> {
    let mut signals = Signals::arm().map_err(|error| Failure::start(format!("cannot arm the signals: {error}")))?;
    let mut hangup = Hangup::arm().map_err(|error| Failure::start(format!("cannot arm the signals: {error}")))?;
    let config = Config::load(path)?;
    warn(&config);
    let host = tokio::select! {
        biased;
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the boot was over");
            return Ok(0);
        }
        built = Host::builder().config(config).build() => built.map_err(|error| boot_failure(&error))?,
    };
    tracing::info!(listen = %host.listen_address(), admin = %host.admin_address(), "koksmat {} runs", env!("CARGO_PKG_VERSION"));

    let failed = loop {
        tokio::select! {
            biased;
            signal = signals.next() => {
                tracing::info!(signal, "stopping");
                break false;
            }
            () = host.failed() => {
                tracing::error!("a part of the host ended that cannot be started again: stopping");
                break true;
            }
            () = hangup.next() => host.begin_reload("SIGHUP"),
        }
    };
    let code = stop(host, &mut signals).await?;
    Ok(if failed && code == 0 { 1 } else { code })
}

/// Drain, and print the ledger.
pub(super) async fn stop(host: Host, signals: &mut Signals) -> Result<u8, Failure> {
    let hurry = CancellationToken::new();
    let stopping = host.shutdown_with(hurry.clone());
    tokio::pin!(stopping);
    let stopped = loop {
        tokio::select! {
            stopped = &mut stopping => break stopped,
            signal = signals.next() => {
                tracing::warn!(signal, "a second signal");
                hurry.cancel();
            }
        }
    };
    // Who no longer reads it has not asked for it: that is no reason to end badly.
    if let Err(error) = writeln!(std::io::stdout(), "{}", stopped.line()) {
        tracing::warn!(%error, ledger = stopped.line(), "the ledger cannot be written to standard output");
    }
    Ok(stopped.exit_code())
}

fn boot_failure(error: &BootError) -> Failure {
    // A handler that does not build or is not granted what it imports is a matter of configuration.
    if error.phase == "plugins" { Failure::usage(error) } else { Failure::start(error) }
}
