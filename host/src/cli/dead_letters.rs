//! `koksmat dead-letters`

use std::path::PathBuf;

use clap::Subcommand;
use koksmat::control::{Client, ClientError, Request};
use serde_json::Value;

use super::{Failure, say, target, trial};

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
        /// A folder with a koksmat.toml, or a configuration file
        #[arg(default_value = ".")]
        path: PathBuf,
        #[command(flatten)]
        of: Of,
        /// One JSON document a line
        #[arg(long)]
        json: bool,
    },
    /// Everything about one: the event, where it came from, the attempts, the reason
    Show {
        /// Its number
        id: i64,
        #[command(flatten)]
        place: InFolder,
        /// On one line
        #[arg(long)]
        json: bool,
    },
    /// Write one to standard output as a document for `koksmat test`: the event, its call, and what its host calls gave it
    Export {
        /// Its number
        id: i64,
        #[command(flatten)]
        place: InFolder,
    },
    /// Handle again by the code that serves now, with a fresh count of attempts
    Replay {
        #[command(flatten)]
        which: Which,
        /// Handle it now and throw the effects away: the letter stays, nothing is written or emitted, and only GET and HEAD are sent.
        /// The exit status is 0 when the handler is done with each, else 1
        #[arg(long)]
        dry: bool,
        /// The code to run; so far there is only the current one
        #[arg(long, value_name = "DIGEST")]
        version: Option<String>,
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

#[derive(Debug, Clone, clap::Args)]
struct Of {
    /// Only of this handler
    #[arg(long)]
    handler: Option<String>,
    /// Only of this source
    #[arg(long)]
    source: Option<String>,
    /// Only what came here since then: a time in RFC 3339, or how long ago (`1h`)
    #[arg(long)]
    since: Option<String>,
    /// Only what came here until then
    #[arg(long)]
    until: Option<String>,
}

impl Of {
    fn query(&self) -> Vec<(&'static str, String)> {
        let Self { handler, source, since, until } = self.clone();
        let named = [("handler", handler), ("source", source), ("since", since), ("until", until)];
        named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Its number
    #[arg(required_unless_present_any = ["all", "handler", "source", "since", "until"])]
    id: Option<i64>,
    /// All of them
    #[arg(long, conflicts_with = "id")]
    all: bool,
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    place: InFolder,
    /// JSON, a document a line
    #[arg(long)]
    json: bool,
}

impl Which {
    fn query(&self) -> Vec<(&'static str, String)> {
        let id = self.id.map(|id| ("id", id.to_string()));
        let all = self.all.then(|| ("all", "true".to_owned()));
        id.into_iter().chain(all).chain(self.of.query()).collect()
    }
}

impl DeadLetters {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        match self.action {
            Action::List { path, of, json } => {
                let client = target::client_or_store(&path).await?;
                let show = async |letter: Value| {
                    say(format_args!("{}", if json { letter.to_string() } else { line(&letter) }));
                    Ok(())
                };
                each(&client, of.query(), show).await.map(|()| 0)
            }
            Action::Show { id, place, json } => show(id, place, json).await,
            Action::Export { id, place } => export(id, place).await,
            Action::Replay { version: Some(digest), .. } => {
                Err(Failure::usage(format!("the code {digest} is not kept: a replay runs on the current version; leave out --version")))
            }
            Action::Replay { which, dry: true, .. } => dry_run(&which).await,
            Action::Replay { which, .. } => replay(&which).await,
            Action::Purge { which } => purge(&which).await,
        }
    }
}

/// Every dead letter of a query, page by page.
async fn each(
    client: &Client,
    query: Vec<(&'static str, String)>,
    mut f: impl AsyncFnMut(Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut after = 0;
    loop {
        let page = query.iter().cloned().chain([("after", after.to_string())]);
        let page = client.send(Request::get("/api/dead-letters").query(page)).await.map_err(target::failed)?;
        let Value::Array(letters) = page else { return Ok(()) };
        if letters.is_empty() {
            return Ok(());
        }
        for letter in letters {
            after = after.max(letter["id"].as_i64().unwrap_or(i64::MAX));
            f(letter).await?;
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

async fn show(id: i64, place: InFolder, json: bool) -> Result<u8, Failure> {
    let client = target::client_or_store(&place.path).await?;
    let page = client.send(Request::get("/api/dead-letters").query([("id", id.to_string())])).await.map_err(target::failed)?;
    let letter = page.get(0).ok_or_else(|| Failure::usage(format!("there is no dead letter {id}")))?;
    let text = if json { Ok(letter.to_string()) } else { serde_json::to_string_pretty(letter) };
    say(format_args!("{}", text.map_err(Failure::start)?));
    Ok(0)
}

async fn export(id: i64, place: InFolder) -> Result<u8, Failure> {
    let client = target::client_or_store(&place.path).await?;
    let request = Request::get("/api/dead-letters/export").query([("id", id.to_string())]);
    let document = client.send_for_text(request).await.map_err(target::failed)?;
    say(format_args!("{}", String::from_utf8_lossy(&document)));
    Ok(0)
}

async fn replay(which: &Which) -> Result<u8, Failure> {
    let client = target::client_or_store(&which.place.path).await?;
    let answer = client.send(Request::post("/api/dead-letters/replay").query(which.query())).await.map_err(target::failed)?;
    if which.json {
        say(format_args!("{answer}"));
        return Ok(0);
    }
    say(format_args!("{} go round again", answer["replayed"]));
    if answer["left"].as_u64().is_some_and(|left| left > 0) {
        say(format_args!("{} stay: no handler that is configured takes them", answer["left"]));
    }
    Ok(0)
}

async fn purge(which: &Which) -> Result<u8, Failure> {
    let client = target::client_or_store(&which.place.path).await?;
    let answer = client.send(Request::delete("/api/dead-letters").query(which.query())).await.map_err(target::failed)?;
    if which.json {
        say(format_args!("{answer}"));
    } else {
        say(format_args!("{} forgotten", answer["purged"]));
    }
    Ok(0)
}

async fn dry_run(which: &Which) -> Result<u8, Failure> {
    let client = target::client_or_store(&which.place.path).await?;
    let mut code = 0;
    let mut none = true;
    let run = async |letter: Value| {
        none = false;
        let id = letter["id"].to_string();
        let request = Request::post("/api/dead-letters/dry-run").query([("id", id.clone())]);
        let answer = match client.send(request).await {
            Ok(answer) => answer,
            // That one of several cannot be tried is no reason to try no other.
            Err(error @ ClientError::Refused { .. }) if which.id.is_none() => {
                code = 1;
                let _ = target::failed(error).report();
                return Ok(());
            }
            Err(error) => return Err(target::failed(error)),
        };
        let trials = answer["trials"].as_array().map(Vec::as_slice).unwrap_or_default();
        code = code.max(trial::code(trials));
        if which.json {
            say(format_args!("{answer}"));
            return Ok(());
        }
        for trial in trials {
            say(format_args!("{id}  {}", trial::text(trial)));
        }
        Ok(())
    };
    let query = which.query().into_iter().filter(|(name, _)| *name != "all").collect();
    each(&client, query, run).await?;
    match which.id {
        Some(id) if none => Err(Failure::usage(format!("there is no dead letter {id}"))),
        _ => Ok(code),
    }
}
