//! `koksmat dead-letters`

use std::path::PathBuf;

use clap::Subcommand;
use koksmat::control::Request;
use serde_json::Value;

use super::{Failure, say, target};

/// Look at, replay or purge dead letters.
#[derive(Debug, clap::Args)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// One line for each
    List {
        #[command(flatten)]
        of: Of,
        /// One JSON document a line
        #[arg(long)]
        json: bool,
    },
    /// Everything about one: the event, the attempts, the reason
    Show {
        /// Its number
        id: i64,
        #[command(flatten)]
        place: InFolder,
    },
    /// Handle again, with a fresh count of attempts
    Replay {
        #[command(flatten)]
        which: Which,
    },
    /// Forget
    Purge {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
struct InFolder {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(long = "in", value_name = "PATH", default_value = ".")]
    path: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Of {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Only of this handler
    #[arg(long)]
    handler: Option<String>,
    /// Only of this source
    #[arg(long)]
    source: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Its number
    #[arg(required_unless_present_any = ["all", "handler", "source"])]
    id: Option<i64>,
    /// All of them
    #[arg(long, conflicts_with = "id")]
    all: bool,
    /// Those of this handler
    #[arg(long, conflicts_with = "id")]
    handler: Option<String>,
    /// Those of this source
    #[arg(long, conflicts_with = "id")]
    source: Option<String>,
    #[command(flatten)]
    place: InFolder,
}

impl Which {
    fn query(&self) -> Vec<(&'static str, String)> {
        let id = self.id.map(|id| ("id", id.to_string()));
        let handler = self.handler.clone().map(|handler| ("handler", handler));
        let source = self.source.clone().map(|source| ("source", source));
        let all = self.all.then(|| ("all", "true".to_owned()));
        [id, handler, source, all].into_iter().flatten().collect()
    }
}

impl DeadLetters {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        match self.action {
            Action::List { of, json } => list(of, json).await,
            Action::Show { id, place } => show(id, place).await,
            Action::Replay { which } => {
                let client = target::client_or_store(&which.place.path).await?;
                let answer = client.send(Request::post("/api/dead-letters/replay").query(which.query())).await.map_err(target::failed)?;
                say(format_args!("{} go round again", answer["replayed"]));
                Ok(0)
            }
            Action::Purge { which } => {
                let client = target::client_or_store(&which.place.path).await?;
                let answer = client.send(Request::delete("/api/dead-letters").query(which.query())).await.map_err(target::failed)?;
                say(format_args!("{} forgotten", answer["purged"]));
                Ok(0)
            }
        }
    }
}

async fn list(of: Of, json: bool) -> Result<u8, Failure> {
    let client = target::client_or_store(&of.path).await?;
    let mut after = 0;
    loop {
        let handler = of.handler.clone().map(|handler| ("handler", handler));
        let source = of.source.clone().map(|source| ("source", source));
        let query = [handler, source, Some(("after", after.to_string()))].into_iter().flatten();
        let page = client.send(Request::get("/api/dead-letters").query(query)).await.map_err(target::failed)?;
        let Some(letters) = page.as_array().filter(|letters| !letters.is_empty()) else { return Ok(0) };
        for letter in letters {
            if json {
                say(format_args!("{letter}"));
            } else {
                say(format_args!("{}", line(letter)));
            }
            after = after.max(letter["id"].as_i64().unwrap_or(i64::MAX));
        }
    }
}

fn line(letter: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let at = letter["at"].as_i64().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    let at = at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default();
    let reason = text(&letter["reason"]);
    let reason = reason.lines().next().unwrap_or_default();
    let (source, handler, ty) = (text(&letter["source"]), text(&letter["handler"]), text(&letter["event"]["type"]));
    format!("{}  {at}  {source} → {handler}  {ty}  {reason}", letter["id"])
}

async fn show(id: i64, place: InFolder) -> Result<u8, Failure> {
    let client = target::client_or_store(&place.path).await?;
    let page = client.send(Request::get("/api/dead-letters").query([("id", id.to_string())])).await.map_err(target::failed)?;
    let letter = page.get(0).ok_or_else(|| Failure::usage(format!("there is no dead letter {id}")))?;
    say(format_args!("{}", serde_json::to_string_pretty(letter).map_err(Failure::start)?));
    Ok(0)
}
