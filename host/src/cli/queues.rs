//! `koksmat queues`

use std::path::PathBuf;

use koksmat::control::Request;
use serde_json::Value;

use super::{Failure, age, say, target};

/// What waits in the store.
#[derive(Debug, clap::Args)]
pub(crate) struct Queues {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// One JSON document a line
    #[arg(long)]
    json: bool,
}

impl Queues {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let client = target::client_or_store(&self.path).await?;
        let queues = client.send(Request::get("/api/queues")).await.map_err(target::failed)?;
        let queues = queues.as_array().map(Vec::as_slice).unwrap_or_default();
        for queue in queues {
            if self.json {
                say(format_args!("{queue}"));
            } else {
                say(format_args!("{}", line(queue)));
            }
        }
        if queues.is_empty() && !self.json {
            say(format_args!("nothing waits in the store"));
        }
        Ok(0)
    }
}

/// One queue, as people read it.
pub(super) fn line(queue: &Value) -> String {
    let (source, handler) = (queue["source"].as_str().unwrap_or_default(), queue["handler"].as_str().unwrap_or_default());
    let failed =
        queue["failed"].as_u64().filter(|failed| *failed > 0).map(|failed| format!(" ({failed} failed before)")).unwrap_or_default();
    let oldest = queue["oldest_ms"].as_u64().map(|ms| format!("; oldest {}", age(ms))).unwrap_or_default();
    let bound = queue["bound"].as_u64().map(|bound| format!("; {} of {bound} in all", queue["backlog"])).unwrap_or_default();
    let paused = if queue["paused"] == true { "; paused" } else { "" };
    format!(
        "{source} → {handler}: {} ready, {} later{failed}, {} running{oldest}{bound}{paused}",
        queue["ready"], queue["later"], queue["running"]
    )
}
