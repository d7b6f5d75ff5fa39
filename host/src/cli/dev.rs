//! `koksmat dev`

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    time::Duration,
};

use koksmat::{
    Config, Host,
    shutdown::signals::{Hangup, Signals},
};
use tokio::sync::mpsc;

use super::{Failure, run, warn};

/// How often it is looked at whether something has changed while nothing runs.
const LOOK: Duration = Duration::from_millis(200);
/// How long sources are given to take events before it is said that the host runs.
const SOON: Duration = Duration::from_secs(1);

/// Run the host for whoever writes its handlers.
#[derive(Debug, clap::Args)]
pub(crate) struct Dev {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
}

impl Dev {
    /// The folder whose files are shown where something is wrong in them.
    pub(crate) fn folder(&self) -> PathBuf {
        let folder = if self.path.is_dir() { Some(self.path.as_path()) } else { self.path.parent() };
        folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
    }

    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let mut signals = Signals::arm().map_err(|error| Failure::start(format!("cannot arm the signals: {error}")))?;
        let mut hangup = Hangup::arm().map_err(|error| Failure::start(format!("cannot arm the signals: {error}")))?;
        let mut lines = lines();
        let host = loop {
            let seen = self.seen();
            let built = async {
                let config = Config::load(&self.path).map_err(|problems| problems.to_string())?;
                warn(&config);
                Host::builder().config(config).for_development().build().await.map_err(|error| error.to_string())
            };
            let built = tokio::select! {
                biased;
                _ = signals.next() => return Ok(0),
                built = built => built,
            };
            match built {
                Ok(host) => break host,
                Err(error) => tracing::error!("{error}\nnothing runs yet: it starts when this is mended"),
            }
            while self.seen() == seen {
                tokio::select! {
                    _ = signals.next() => return Ok(0),
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        };
        // Who is told that it runs sends something. A source whose broker is away keeps nobody.
        let _ = tokio::time::timeout(SOON, host.ready()).await;
        tracing::info!(listen = %host.listen_address(), "koksmat runs; what is saved serves. `r` and Enter: the last event again, `q`: stop");
        loop {
            tokio::select! {
                biased;
                _ = signals.next() => break,
                () = host.failed() => break,
                () = hangup.next() => host.begin_reload("SIGHUP"),
                Some(line) = lines.recv() => match line.trim() {
                    "r" | "" => match host.replay_last().await {
                        Ok(Some(id)) => tracing::info!(event = id, "again"),
                        Ok(None) => tracing::info!("no event has come yet"),
                        Err(error) => tracing::error!(%error, "the event cannot be handled again"),
                    },
                    "q" => break,
                    other => tracing::info!("`{other}` is nothing: `r` is the last event again, `q` stops"),
                },
            }
        }
        run::stop(host, &mut signals).await
    }

    /// What decides whether it is worth another try: the files that a project has, and when they changed.
    fn seen(&self) -> Vec<(PathBuf, Option<std::time::SystemTime>)> {
        let is_made = |entry: &ignore::DirEntry| entry.depth() > 0 && (entry.file_name() == "data" || entry.file_name() == "target");
        let walk = ignore::WalkBuilder::new(self.folder())
            .require_git(false)
            .max_depth(Some(6))
            .filter_entry(move |entry| !is_made(entry))
            .build();
        let files = walk.filter_map(Result::ok);
        files.take(10_000).map(|entry| (entry.path().to_owned(), entry.metadata().ok().and_then(|meta| meta.modified().ok()))).collect()
    }
}

/// The lines that are typed.
fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(8);
    // Nobody waits for it: it ends with the process.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}
