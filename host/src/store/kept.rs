//! Events that are kept after they were handled, and what their re-runs in every store have in common.

use super::Millis;
use crate::{event::Event, tenant::Tenant};

/// What a kept event costs besides its text, so that many small ones are bounded too.
const OVERHEAD: usize = 512;

/// An event that is kept for a wanted re-run.
#[derive(Debug, Clone)]
pub struct KeptEvent {
    /// Its number in the store: grows with the order of acceptance on one host.
    pub number: i64,
    /// Whose.
    pub tenant: Tenant,
    /// Its source.
    pub source: String,
    /// That source's kind.
    pub kind: String,
    /// What it is recognised by when it comes again; absent: it never is.
    pub key: Option<String>,
    /// Emits between it and one from outside.
    pub hops: u32,
    /// When it was accepted.
    pub accepted_at: Millis,
    /// The event.
    pub event: Event,
}

/// Which kept events.
#[derive(Debug, Clone, Default)]
pub struct KeptQuery {
    /// Only the one with this number.
    pub number: Option<i64>,
    /// Only those whose event has this id.
    pub id: Option<String>,
    /// Only of this tenant.
    pub tenant: Option<Tenant>,
    /// Only of this source.
    pub source: Option<String>,
    /// Only what was accepted at this time or later.
    pub since: Option<Millis>,
    /// Only what was accepted at this time or earlier.
    pub until: Option<Millis>,
    /// Behind this number.
    pub after: i64,
    /// At most so many.
    pub limit: usize,
}

/// What a re-run has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rerun {
    /// Events that are handled again.
    pub events: u64,
    /// Their calls.
    pub calls: u64,
    /// Events that this request has had handled again before.
    pub repeated: u64,
    /// Calls that were left out because the event's own call is not settled yet.
    pub unfinished: u64,
    /// Events that no handler wants now.
    pub unwanted: u64,
}

impl Rerun {
    pub(super) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.calls += other.calls;
        self.repeated += other.repeated;
        self.unfinished += other.unfinished;
        self.unwanted += other.unwanted;
    }
}

/// How far a step of a re-run came.
pub(super) struct RerunStep {
    /// The last event looked at; absent: there was none.
    pub(super) last: Option<i64>,
    pub(super) done: Rerun,
}

impl KeptEvent {
    /// The key under which a request has it handled again: another than its own, which stays settled, and the same for the same request.
    pub(super) fn key_of_rerun(&self, request: &str) -> String {
        let key = self.key.as_deref().unwrap_or(&self.event.id);
        format!("{key}~{request}")
    }
}

/// What a kept event counts as.
pub(super) fn bytes(header: &str, data: &[u8]) -> i64 {
    i64::try_from(header.len() + data.len() + OVERHEAD).unwrap_or(i64::MAX)
}
