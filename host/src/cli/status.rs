//! `koksmat status`

use std::{fmt::Write as _, path::PathBuf};

use koksmat::control::Request;
use serde_json::Value;

use super::{Failure, age, queues, say, target};

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
        let client = target::running(&self.path).await?;
        let status = client.send(Request::get("/api/status")).await.map_err(target::failed)?;
        if self.json {
            say(format_args!("{status}"));
        } else {
            say(format_args!("{}", text(&status).trim_end()));
        }
        Ok(0)
    }
}

fn text(status: &Value) -> String {
    let mut out = String::new();
    summary(&mut out, status);
    lanes(&mut out, status);
    sources(&mut out, &status["health"]);
    paused_handlers(&mut out, &status["health"]);
    late_handlers(&mut out, &status["health"]);
    sinks(&mut out, &status["health"]);
    if let Some(queues) = some(&status["queues"]) {
        let _ = writeln!(out, "\ntasks in the store");
        for queue in queues {
            let _ = writeln!(out, "  {}", queues::line(queue));
        }
    }
    fleet(&mut out, &status["fleet"]);
    if let Some(dead) = status["dead_letters"].as_u64().filter(|dead| *dead > 0) {
        let _ = writeln!(out, "\n{dead} dead letters: see `koksmat dead-letters list`");
    }
    out
}

fn summary(out: &mut String, status: &Value) {
    let (health, ledger) = (&status["health"], &status["ledger"]);
    let ready = if health["ready"] == true { "ready" } else { "not ready" };
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
}

fn lanes(out: &mut String, status: &Value) {
    for lane in some(&status["lanes"]).into_iter().flatten() {
        let _ = match lane["holder"].as_str() {
            Some(holder) => {
                let event = lane["event"].as_str().unwrap_or_default();
                let (since, held) = (time_of(&lane["since"]), age(lane["held_ms"].as_u64().unwrap_or(0)));
                writeln!(out, "lane: held by {holder} for event {event} since {since} ({held}), {} wait", lane["waiting"])
            }
            None => writeln!(out, "lane: free, {} wait", lane["waiting"]),
        };
    }
}

fn sources(out: &mut String, health: &Value) {
    let Some(sources) = health["sources"].as_object() else { return };
    let _ = writeln!(out, "\nsources");
    for (name, source) in sources {
        let state = match (source["problem"].as_str(), source["held_back"].as_str()) {
            _ if source["paused"].is_i64() => format!("paused since {}", time_of(&source["paused"])),
            (_, Some(why)) if source["ready"] == true => format!("takes nothing now: {why}"),
            _ if source["ready"] == true => "takes events".to_owned(),
            (Some(problem), _) => problem.to_owned(),
            (None, _) => "starting".to_owned(),
        };
        let restarts = source["restarts"].as_u64().filter(|n| *n > 0).map(|n| format!(", restarted {n} times")).unwrap_or_default();
        let _ = writeln!(out, "  {} ({}): {state}{restarts}", own(name), source["kind"].as_str().unwrap_or_default());
        let last = &source["last_error"];
        // One that is not over stands there already.
        if let Some(error) = last["error"].as_str().filter(|error| Some(*error) != source["problem"].as_str()) {
            let _ = writeln!(out, "    last error at {}: {error}", time_of(&last["at"]));
        }
    }
}

fn paused_handlers(out: &mut String, health: &Value) {
    let Some(paused) = health["paused_handlers"].as_object() else { return };
    let _ = writeln!(out, "\npaused handlers");
    for (name, since) in paused {
        let _ = writeln!(out, "  {}: since {}", own(name), time_of(since));
    }
}

fn late_handlers(out: &mut String, health: &Value) {
    let Some(late) = health["late_handlers"].as_object() else { return };
    let _ = writeln!(out, "\nhandlers that do not serve yet");
    for (name, problem) in late {
        let _ = writeln!(out, "  {}: {}", own(name), problem.as_str().unwrap_or("being compiled; what it is to handle waits"));
    }
}

fn sinks(out: &mut String, health: &Value) {
    let Some(sinks) = health["sinks"].as_object().filter(|sinks| !sinks.is_empty()) else { return };
    let _ = writeln!(out, "\nsinks");
    for (name, problem) in sinks {
        let _ = writeln!(out, "  {}: {}", own(name), problem.as_str().unwrap_or("publishes"));
    }
}

fn fleet(out: &mut String, fleet: &Value) {
    let Some(hosts) = some(&fleet["hosts"]) else { return };
    let _ = writeln!(out, "\nhosts that share the store");
    for host in hosts {
        let id = host["id"].as_str().unwrap_or_default();
        let this = if host["this"] == true { " (this one)" } else { "" };
        let lanes: Vec<_> =
            some(&fleet["lanes"]).into_iter().flatten().filter(|lane| lane["host"] == id).filter_map(|l| l["lane"].as_str()).collect();
        let lanes = if lanes.is_empty() { String::new() } else { format!(", is in {}", lanes.join(", ")) };
        let _ = writeln!(out, "  {id}{this}{lanes}");
    }
}

/// The items of a list, if there are any.
fn some(list: &Value) -> Option<&Vec<Value>> {
    list.as_array().filter(|items| !items.is_empty())
}

/// Nobody who has one tenant has to know the word.
fn own(name: &str) -> &str {
    name.strip_prefix("default/").unwrap_or(name)
}

fn time_of(millis: &Value) -> String {
    millis.as_i64().map(time).unwrap_or_default()
}

/// A time as people read it.
pub(super) fn time(millis: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(millis).ok();
    at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}
