//! `koksmat replay`

use std::path::PathBuf;

use koksmat::{
    config::{Intake, PollMode, Reply, SourceConfig, SourceKind},
    control::Request,
    controller::generation::EMIT,
};
use serde_json::Value;

use super::{Failure, say, target, trial};

/// Have events handled again that were handled before, by a running host that keeps them (`keep-events` in [host]). The calls are new ones:
/// their effects happen again.
#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    /// The CloudEvents id of the event
    #[arg(required_unless_present = "source")]
    id: Option<String>,
    /// All of this source
    #[arg(long, requires = "since", conflicts_with = "id")]
    source: Option<String>,
    /// Accepted since then: a time in RFC 3339, or how long ago (`1h`)
    #[arg(long, requires = "source")]
    since: Option<String>,
    /// Accepted until then
    #[arg(long, requires = "source")]
    until: Option<String>,
    /// By this handler only; else by all that want them now
    #[arg(long)]
    handler: Option<String>,
    /// A name for this request: made again under the same name it makes nothing
    #[arg(long, value_name = "NAME")]
    request: Option<String>,
    /// Handle them now and throw the effects away; the exit status is 0 when the handlers are done with each, else 1
    #[arg(long)]
    dry: bool,
    /// JSON, a document a line
    #[arg(long)]
    json: bool,
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(long = "in", value_name = "PATH", default_value = ".")]
    path: PathBuf,
}

impl Replay {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let (config, client) = target::client(&self.path)?;
        if let Some(name) = self.handler.as_ref().filter(|name| config.handlers.iter().all(|handler| handler.name != **name)) {
            return Err(Failure::usage(format!("there is no handler `{name}`")));
        }
        if let Some(name) = &self.source {
            let source = config.sources.iter().find(|source| source.name == *name);
            if source.is_none() && name != EMIT {
                return Err(Failure::usage(format!("there is no source `{name}`")));
            }
            if let Some(instead) = source.and_then(instead) {
                return Err(Failure::usage(instead));
            }
        }
        if config.host.keep_events.is_zero() {
            return Err(Failure::usage(
                "this host keeps no events that were handled: say how long in [host], such as keep-events = \"24h\"; it holds for those that are \
                 accepted from then on",
            ));
        }
        if self.dry { self.dry_run(&client).await } else { self.replay(&client).await }
    }

    fn query(&self) -> Vec<(&'static str, String)> {
        let named =
            [("id", &self.id), ("source", &self.source), ("since", &self.since), ("until", &self.until), ("handler", &self.handler)];
        named.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }

    async fn replay(&self, client: &koksmat::control::Client) -> Result<u8, Failure> {
        let request = self.request.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let query = self.query().into_iter().chain([("request", request)]);
        let done = client.send(Request::post("/api/events/replay").query(query)).await.map_err(target::failed)?;
        if self.json {
            say(format_args!("{done}"));
        } else {
            say(format_args!("{}", text(&done)));
        }
        let found = ["events", "repeated", "unfinished", "unwanted"].iter().any(|count| done[count].as_u64().is_some_and(|n| n > 0));
        if found { Ok(0) } else { Err(self.nothing()) }
    }

    async fn dry_run(&self, client: &koksmat::control::Client) -> Result<u8, Failure> {
        let (mut code, mut after, mut none) = (0, 0, true);
        loop {
            let page = self.query().into_iter().chain([("after", after.to_string())]);
            let page = client.send(Request::get("/api/events").query(page)).await.map_err(target::failed)?;
            let Some(events) = page.as_array().filter(|events| !events.is_empty()) else { break };
            for kept in events {
                after = kept["number"].as_i64().unwrap_or(i64::MAX);
                none = false;
                let handler = self.handler.clone().map(|handler| ("handler", handler));
                let query = [("number", after.to_string())].into_iter().chain(handler);
                let answer = client.send(Request::post("/api/events/dry-run").query(query)).await.map_err(target::failed)?;
                let trials = answer["trials"].as_array().map(Vec::as_slice).unwrap_or_default();
                code = code.max(trial::code(trials));
                if self.json {
                    say(format_args!("{}", serde_json::json!({ "event": kept["event"]["id"], "trials": trials })));
                    continue;
                }
                for trial in trials {
                    say(format_args!("{}  {}", kept["event"]["id"].as_str().unwrap_or_default(), trial::text(trial)));
                }
            }
        }
        if none { Err(self.nothing()) } else { Ok(code) }
    }

    fn nothing(&self) -> Failure {
        let what = match (&self.id, &self.source) {
            (Some(id), _) => format!("no event {id} is kept"),
            (None, source) => format!("no event of `{}` from that time is kept", source.as_deref().unwrap_or_default()),
        };
        Failure::start(format!("{what}: what was accepted before keep-events was set, or longer ago than it says, is gone"))
    }
}

/// What to do about a source whose events are handled directly, so that the host has none to keep.
fn instead(source: &SourceConfig) -> Option<String> {
    let name = &source.name;
    match &source.kind {
        SourceKind::Kafka(kafka) if kafka.intake == Intake::Direct => Some(format!(
            "`{name}` is handled directly from Kafka, which keeps its messages itself: read them again by a source under another name, with a \
             group of its own and start = \"earliest\"; its events are recognised apart from these"
        )),
        SourceKind::Rabbitmq(rabbitmq) if rabbitmq.intake == Intake::Direct => Some(format!(
            "`{name}` is handled directly from RabbitMQ, and a message that was acknowledged is gone; with intake = \"durable\" the host can keep \
             those to come"
        )),
        SourceKind::Poller(poller) => Some(match poller.mode {
            PollMode::Claim { .. } => format!(
                "the rows of `{name}` are in its database: delete their lines in the table koksmat_claims, and set back what `where` looks at; then \
                 they are new ones"
            ),
            _ => format!("the rows of `{name}` are in its database: poll them again by a source under another name"),
        }),
        SourceKind::Webhook(webhook) if webhook.reply == Reply::Handler => Some(format!(
            "the senders of `{name}` wait for what the handler answers, and send again by themselves: nothing of theirs is kept"
        )),
        SourceKind::Kafka(_) | SourceKind::Rabbitmq(_) | SourceKind::Embedded(_) | SourceKind::Webhook(_) | SourceKind::Timer(_) => None,
    }
}

fn text(done: &Value) -> String {
    let mut said = vec![format!("{} events go round again, as {} calls", done["events"], done["calls"])];
    let others = [
        ("repeated", "events: this request has had them handled again before"),
        ("unfinished", "calls left out: the event is not handled yet"),
        ("unwanted", "events that no handler wants"),
    ];
    said.extend(
        others.iter().filter(|(count, _)| done[count].as_u64().is_some_and(|n| n > 0)).map(|(n, what)| format!("{} {what}", done[n])),
    );
    said.join("\n")
}
