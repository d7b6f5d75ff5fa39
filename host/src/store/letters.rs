//! What the dead letters of every store have in common, and how many of anything are walked through.

use super::{DeadLetterQuery, KeptQuery, Millis};
use crate::{event::Event, tenant::Tenant};

/// Dead letters or events of one step: they come with their data.
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
    pub(super) recording: Option<&'a str>,
    pub(super) event: &'a Event,
}

/// What is walked through in steps.
pub(super) trait Walk: Clone {
    /// The part of it behind `after`, at most `limit`.
    fn part(&self, after: i64, limit: usize) -> Self;
}

impl Walk for DeadLetterQuery {
    fn part(&self, after: i64, limit: usize) -> Self {
        Self { after, limit, ..self.clone() }
    }
}

impl Walk for KeptQuery {
    fn part(&self, after: i64, limit: usize) -> Self {
        Self { after, limit, ..self.clone() }
    }
}

/// A walk through dead letters or kept events in steps, each a transaction.
pub(super) struct Steps<Q> {
    query: Q,
    after: i64,
    left: usize,
}

impl<Q: Walk> Steps<Q> {
    pub(super) fn new(query: Q, after: i64, limit: usize) -> Self {
        Self { query, after, left: limit }
    }

    /// The next step; none when as many were looked at as were asked for.
    pub(super) fn next(&mut self) -> Option<Q> {
        let limit = self.left.min(STEP);
        self.left -= limit;
        (limit > 0).then(|| self.query.part(self.after, limit))
    }

    /// Go on behind this one.
    pub(super) fn behind(&mut self, last: i64) {
        self.after = last;
    }
}

/// How far a step came.
pub(super) struct Step {
    /// The last letter looked at; absent: there was none.
    pub(super) last: Option<i64>,
    /// How many letters it did something with.
    pub(super) done: u64,
}
