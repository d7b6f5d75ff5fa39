//! SIGTERM and SIGINT, which stop the host, and SIGHUP, which reloads it: armed before anything else happens.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that stop the host.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// The signal that reloads it.
#[derive(Debug)]
pub struct Hangup(Signal);

impl Hangup {
    /// Arm it: from now on it does not end the process.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn arm() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Wait for the next one. Cancel safe.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

impl Signals {
    /// Arm them: from now on neither ends the process by itself.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn arm() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Wait for the next one; its name. Cancel safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
