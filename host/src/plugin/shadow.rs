//! New code that serves nobody: it runs on what the old code has handled, with its host calls answered as the old code's were, and what it
//! comes to is compared. Nothing of it leaves the machine or is written.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Handler,
    capability::{http::Outside, logging::CallLog},
    instance::{Call, Finished},
    recording::{Playback, Recording},
    version::Code,
};
use crate::{
    outcome::{Outcome, Response},
    store::Write,
    task,
};

/// How many differences are kept to be shown.
const SHOWN: usize = 10;
/// How many calls of it run side by side: they take instances that calls may need.
const AT_ONCE: usize = 1;

/// What the comparison has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Calls that came to the same.
    pub same: u64,
    /// Calls that did not.
    pub different: u64,
    /// Calls that were not compared, because others were at the time.
    pub skipped: u64,
    /// The last differences: what differed, of which event. Values are not shown.
    pub differences: Vec<String>,
}

/// Where new code is compared.
pub(crate) struct Shadow {
    compared: Mutex<Compared>,
    turns: Arc<Semaphore>,
}

/// What a call came to, as far as it is compared.
#[derive(Debug, PartialEq)]
struct Outline {
    outcome: &'static str,
    response: Option<Response>,
    writes: BTreeMap<String, Write>,
    emits: Vec<Emit>,
}

#[derive(Debug, PartialEq)]
struct Emit {
    ty: String,
    queue: Option<String>,
    subject: Option<String>,
    data: Bytes,
    after: Option<Duration>,
}

/// A call of the old code that is to be compared.
pub(crate) struct Shadowed {
    call: Call,
    outline: Outline,
    recording: Box<Recording>,
    _turn: OwnedSemaphorePermit,
}

impl Default for Shadow {
    fn default() -> Self {
        Self { compared: Mutex::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Shadow {
    pub(crate) fn compared(&self) -> Compared {
        self.now().clone()
    }

    /// A call of the old code that has ended, before its effects are taken from it. None: it is not compared.
    pub(crate) fn see(&self, call: &Call, finished: &Finished) -> Option<Shadowed> {
        let Ok(turn) = self.turns.clone().try_acquire_owned() else {
            self.now().skipped += 1;
            return None;
        };
        let recording = finished.recording.clone()?;
        Some(Shadowed { call: call.clone(), outline: Outline::of(finished), recording, _turn: turn })
    }

    fn note(&self, event: &str, differences: &[String]) {
        let mut compared = self.now();
        if differences.is_empty() {
            compared.same += 1;
            return;
        }
        compared.different += 1;
        if compared.differences.len() >= SHOWN {
            compared.differences.remove(0);
        }
        compared.differences.push(format!("event {event}: {}", differences.join(", ")));
    }

    fn now(&self) -> MutexGuard<'_, Compared> {
        self.compared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler {
    /// Run new code on a call that the old code has handled, and compare.
    pub(crate) fn compare(self: &Arc<Self>, code: Arc<Code>, shadow: Arc<Shadow>, shadowed: Shadowed) {
        let handler = self.clone();
        task::spawn("shadow", async move {
            let Shadowed { call, outline, recording, _turn } = shadowed;
            let event = call.event.id.clone();
            let playback = Arc::new(Playback::new(Some(*recording)));
            let (finished, _) = handler.run_aside(code, call, CallLog::kept(), Outside::Recorded(playback.clone())).await;
            let mut differences = outline.differences(&Outline::of(&finished));
            // What it asked for that was never answered decides nothing where it comes to the same.
            if !differences.is_empty() {
                differences.extend(playback.diverged());
            }
            if !differences.is_empty() {
                tracing::warn!(tenant = %handler.config.tenant, handler = handler.config.name, event, plugin = &*finished.plugin,
                    "the new version comes to something else: {}", differences.join(", "));
            }
            shadow.note(&event, &differences);
        });
    }
}

impl Outline {
    fn of(finished: &Finished) -> Self {
        let (outcome, response) = match (&finished.failure, &finished.outcome) {
            (Some(_), _) => ("failure", None),
            (None, Outcome::Done(response)) => ("done", Some(response.clone())),
            (None, Outcome::Retry { .. }) => ("retry", None),
            (None, Outcome::Reject { .. }) => ("reject", None),
        };
        let emits = finished.emissions.iter().map(|emission| Emit {
            ty: emission.event.ty.clone(),
            queue: emission.queue.clone(),
            subject: emission.event.subject.clone(),
            data: emission.event.data.clone(),
            after: emission.after,
        });
        Self { outcome, response, writes: finished.writes.clone(), emits: emits.collect() }
    }

    /// What differs, in words without values.
    fn differences(&self, new: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.outcome != new.outcome {
            differences.push(format!("it came to `{}`, now to `{}`", self.outcome, new.outcome));
            // What it had done until then is of no account.
            return differences;
        }
        if self.response != new.response {
            differences.push("another response".to_owned());
        }
        let keys = self.writes.keys().chain(new.writes.keys().filter(|key| !self.writes.contains_key(*key)));
        let written = keys.filter(|key| self.writes.get(*key) != new.writes.get(*key));
        differences.extend(written.map(|key| format!("another value of the key `{key}`")));
        if self.emits != new.emits {
            let types = |outline: &Self| outline.emits.iter().map(|emit| emit.ty.as_str()).collect::<Vec<_>>().join(" ");
            differences.push(format!("other emits: `{}`, now `{}`", types(self), types(new)));
        }
        differences
    }
}
