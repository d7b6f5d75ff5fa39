//! What the dead letters of every store have in common.

use super::{DeadLetterQuery, Millis};
use crate::{event::Event, tenant::Tenant};

/// Dead letters of one step: they come with their data.
const STEP: usize = 64;

/// A dead letter to be written.
pub(super) struct NewLetter<'a> {
    pub(super) tenant: &'a Tenant,
    pub(super) source: &'a str,
    pub(super) kind: &'a str,
    pub(super) handler: Option<&'a str>,
    pub(super) key: Option<&'a str>,
    pub(super) order: Option<&'a str>,
    pub(super) reason: &'a str,
    pub(super) history: &'a str,
    pub(super) plugin: Option<&'a str>,
    pub(super) hops: u32,
    pub(super) accepted_at: Option<Millis>,
    pub(super) event: &'a Event,
}

/// A walk through dead letters in steps, each a transaction.
pub(super) struct Steps(DeadLetterQuery);

impl Steps {
    pub(super) fn new(query: DeadLetterQuery) -> Self {
        Self(query)
    }

    /// The next step; none when as many were looked at as were asked for.
    pub(super) fn next(&mut self) -> Option<DeadLetterQuery> {
        let limit = self.0.limit.min(STEP);
        self.0.limit -= limit;
        (limit > 0).then(|| DeadLetterQuery { limit, ..self.0.clone() })
    }

    /// Go on behind this letter.
    pub(super) fn behind(&mut self, last: i64) {
        self.0.after = last;
    }
}

/// How far a step came.
pub(super) struct Step {
    /// The last letter looked at; absent: there was none.
    pub(super) last: Option<i64>,
    /// How many letters it did something with.
    pub(super) done: u64,
}
