//! A call that changes nothing: what it came to, and what it would have done.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    event::cloudevents,
    outcome::{Outcome, Response},
    plugin::{
        Call, Handler,
        capability::{
            http::Outside,
            logging::{CallLog, LogLine},
        },
        data::Data,
        guest::Emission,
        instance::Finished,
        recording::Playback,
        version::Code,
    },
    store::Write,
};

/// What a call came to whose effects were thrown away.
#[derive(Debug, Serialize)]
pub struct Trial {
    /// The handler.
    pub handler: String,
    /// The code that ran: a digest.
    pub plugin: String,
    /// What it came to.
    pub outcome: Ended,
    /// Why it is not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Reply>,
    /// What it would have written, by key.
    pub writes: BTreeMap<String, Written>,
    /// What it would have emitted, in the JSON format of CloudEvents; `queue` and `after_ms` are said beside the event.
    pub emits: Vec<Emitted>,
    /// The requests it made, and what became of them.
    pub requests: Vec<Asked>,
    /// What it logged.
    pub log: Vec<LogLine>,
    /// Where it went another way than a recorded call, if it was played one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub diverged: Vec<String>,
    /// How long it took.
    pub took_ms: u64,
}

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// Its effects would be committed.
    Done,
    /// The handler asks for another attempt.
    Retry,
    /// It would be a dead letter at once.
    Reject,
    /// The handler gave no answer: a trap, its deadline, its memory, or the host failed.
    Failure,
}

/// What a handler answered.
#[derive(Debug, Serialize)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Header fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Data,
}

/// A change of a key that did not happen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Written {
    /// Its value.
    Set(Data),
    /// Added to its number.
    Add(i64),
    /// Gone.
    Delete(bool),
}

/// An event that was not emitted.
#[derive(Debug, Serialize)]
pub struct Emitted {
    /// The event.
    pub event: serde_json::Value,
    /// The embedded queue it was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Held back so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
}

/// A request that a call made, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Where to; what looks like a secret in its query is left out.
    pub url: String,
    /// The status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Handler {
    /// Run the handler on one event and throw its effects away. What it reads is what is there now; of its requests only GET and HEAD are
    /// sent, and what it logs goes nowhere but into the result. It stands in no line and takes no permit.
    pub async fn dry_run(self: &Arc<Self>, call: Call) -> Trial {
        self.dry_run_on(self.versions.serving(), call).await
    }

    /// The same on one version of it.
    pub(crate) async fn dry_run_on(self: &Arc<Self>, code: Arc<Code>, call: Call) -> Trial {
        let log = CallLog::kept();
        let (finished, asked) = self.run_aside(code, call, log.clone(), Outside::Safe).await;
        Trial::of(self, finished, asked, &log)
    }

    /// Run the handler on one event with its host calls answered from a recording: nothing leaves the machine.
    pub(crate) async fn play_back(self: &Arc<Self>, call: Call, playback: Arc<Playback>) -> Trial {
        let log = CallLog::kept();
        let (finished, asked) = self.run_aside(self.versions.serving(), call, log.clone(), Outside::Recorded(playback.clone())).await;
        Trial { diverged: playback.diverged(), ..Trial::of(self, finished, asked, &log) }
    }
}

impl Trial {
    pub(crate) fn of(handler: &Handler, finished: Finished, requests: Vec<Asked>, log: &CallLog) -> Self {
        let (outcome, reason, response) = match finished.outcome {
            Outcome::Done(response) => (Ended::Done, None, Some(Reply::of(response))),
            Outcome::Retry { reason, .. } => (Ended::Retry, Some(reason), None),
            Outcome::Reject { reason } => (Ended::Reject, Some(reason), None),
        };
        Self {
            handler: handler.config.name.clone(),
            plugin: finished.plugin.to_string(),
            outcome: if finished.failure.is_some() { Ended::Failure } else { outcome },
            reason,
            response,
            writes: finished.writes.into_iter().map(|(key, write)| (key, Written::of(write))).collect(),
            emits: finished.emissions.iter().map(Emitted::of).collect(),
            requests,
            log: log.lines(),
            diverged: Vec::new(),
            took_ms: millis(finished.took),
        }
    }
}

impl Reply {
    fn of(response: Response) -> Self {
        Self { status: response.status, headers: response.headers, body: Data(response.body) }
    }
}

impl Written {
    fn of(write: Write) -> Self {
        match write {
            Write::Set(value) => Self::Set(Data(value)),
            Write::Add(delta) => Self::Add(delta),
            Write::Delete => Self::Delete(true),
        }
    }
}

impl Emitted {
    fn of(emission: &Emission) -> Self {
        Self {
            event: serde_json::from_str(&cloudevents::to_structured(&emission.event)).unwrap_or_default(),
            queue: emission.queue.clone(),
            after_ms: emission.after.map(millis),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
