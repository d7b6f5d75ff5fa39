//! `koksmat status`

use std::path::PathBuf;

use koksmat::control::Request;

use super::{Failure, say, target};

/// Show what a running host does.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let (_, client) = target::client(&self.path)?;
        let status = client.send(Request::get("/api/status")).await.map_err(target::failed)?;
        if self.json {
            say(format_args!("{status}"));
        } else {
            say(format_args!("{}", text(&status).trim_end()));
        }
        Ok(0)
    }
}

fn text(status: &serde_json::Value) -> String {
    use std::fmt::Write;

    let mut out = String::new();
    let health = &status["health"];
    let ready = if health["ready"] == true { "ready" } else { "not ready" };
    let ledger = &status["ledger"];
    let phase = health["phase"].as_str().unwrap_or_default();
    let _ = writeln!(out, "{ready} ({phase}), up {} s", status["uptime_ms"].as_u64().unwrap_or(0) / 1000);
    if let Some(problem) = health["store"].as_str() {
        let _ = writeln!(out, "store: {problem}");
    }
    let _ = writeln!(
        out,
        "received {}: done {}, dead {}, parked {}, returned {}; running {}, waiting {}",
        ledger["received"], ledger["done"], ledger["dead"], ledger["parked"], ledger["returned"], status["running"], status["waiting"]
    );
    for lane in status["lanes"].as_array().into_iter().flatten() {
        let _ = match lane["holder"].as_str() {
            Some(holder) => {
                let event = lane["event"].as_str().unwrap_or_default();
                writeln!(out, "lane: held by {holder} for event {event} since {} ms, {} wait", lane["held_ms"], lane["waiting"])
            }
            None => writeln!(out, "lane: free, {} wait", lane["waiting"]),
        };
    }
    if let Some(sources) = health["sources"].as_object() {
        let _ = writeln!(out, "\nsources");
        for (name, source) in sources {
            let state = match source["problem"].as_str() {
                _ if source["ready"] == true => match source["held_back"].as_str() {
                    Some(why) => format!("takes nothing now: {why}"),
                    None => "takes events".to_owned(),
                },
                Some(problem) => problem.to_owned(),
                None => "starting".to_owned(),
            };
            let restarts = source["restarts"].as_u64().filter(|n| *n > 0).map(|n| format!(", restarted {n} times")).unwrap_or_default();
            // Nobody who has one tenant has to know the word.
            let name = name.strip_prefix("default/").unwrap_or(name);
            let _ = writeln!(out, "  {name} ({}): {state}{restarts}", source["kind"].as_str().unwrap_or_default());
        }
    }
    if let Some(sinks) = health["sinks"].as_object().filter(|sinks| !sinks.is_empty()) {
        let _ = writeln!(out, "\nsinks");
        for (name, problem) in sinks {
            let name = name.strip_prefix("default/").unwrap_or(name);
            let _ = writeln!(out, "  {name}: {}", problem.as_str().unwrap_or("publishes"));
        }
    }
    let queues = status["queues"].as_array().filter(|queues| !queues.is_empty());
    if let Some(queues) = queues {
        let _ = writeln!(out, "\ntasks in the store");
        for queue in queues {
            let (source, handler) = (queue["source"].as_str().unwrap_or_default(), queue["handler"].as_str().unwrap_or_default());
            let _ =
                writeln!(out, "  {source} → {handler}: {} ready, {} later, {} running", queue["ready"], queue["later"], queue["running"]);
        }
    }
    if let Some(dead) = status["dead_letters"].as_u64().filter(|dead| *dead > 0) {
        let _ = writeln!(out, "\n{dead} dead letters: see `koksmat dead-letters list`");
    }
    out
}
