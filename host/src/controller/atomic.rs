//! The lane: atomic calls of one scope run one after the other, in the order in which they entered the channel.
//!
//! `atomic` means serialised by a mutex. It is not a transaction and not a unit of retry. The lane is held until the call's commit has
//! returned, else the next would read what is not yet written. It excludes other atomic calls of its scope, not plain ones; it is a lane of
//! this process, and whose turn it is here enters the lane of all hosts that share its store ([`crate::lane`]). A waiting call holds no permit,
//! and the lane has a slot of its own, so plain and atomic calls never wait for each other.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use serde::Serialize;

use crate::{ambient::now, controller::joint::CallInLine, store::Millis};

/// Whose calls exclude each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scope {
    /// All atomic handlers of the deployment.
    Global,
}

/// Who holds a lane, and who waits.
#[derive(Debug, Clone, Serialize)]
pub struct LaneStatus {
    pub(crate) scope: Scope,
    /// The handler that holds it.
    pub holder: Option<String>,
    /// The event it holds it for.
    pub event: Option<String>,
    /// Since when.
    pub since: Option<Millis>,
    /// For how long, in milliseconds.
    pub held_ms: Option<u64>,
    /// How many calls wait.
    pub waiting: usize,
}

/// The lanes of this host.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: HashMap<Scope, Lane>,
    /// The next fencing token: the number of this start in the upper half, a counter in the lower.
    next_token: u64,
}

#[derive(Debug, Default)]
struct Lane {
    held: Option<Held>,
    waiting: VecDeque<CallInLine>,
}

#[derive(Debug)]
struct Held {
    handler: String,
    event: String,
    since: Instant,
}

impl Lanes {
    pub(crate) fn new(start_number: u64) -> Self {
        Self { lanes: HashMap::new(), next_token: start_number << 32 }
    }

    /// Join the line of a lane.
    pub(crate) fn enqueue(&mut self, scope: Scope, call: CallInLine) {
        self.lanes.entry(scope).or_default().waiting.push_back(call);
    }

    /// A call that may go now, its lane, and its fencing token.
    pub(crate) fn next(&mut self) -> Option<(Scope, CallInLine, u64)> {
        let (scope, lane) = self.lanes.iter_mut().find(|(_, lane)| lane.held.is_none() && !lane.waiting.is_empty())?;
        let call = lane.waiting.pop_front()?;
        lane.held = Some(Held { handler: call.handler_name().to_string(), event: call.event_id().into(), since: Instant::now() });
        let scope = scope.clone();
        Some((scope, call, self.token()))
    }

    /// A fencing token greater than every one before.
    pub(crate) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// The holder of a lane has committed.
    pub(crate) fn release(&mut self, scope: &Scope) {
        if let Some(lane) = self.lanes.get_mut(scope) {
            lane.held = None;
            if lane.waiting.is_empty() {
                self.lanes.remove(scope);
            }
        }
    }

    /// How many calls wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lanes.values().map(|lane| lane.waiting.len()).sum()
    }

    pub(crate) fn take_waiting(&mut self) -> Vec<CallInLine> {
        self.lanes.values_mut().flat_map(|lane| lane.waiting.drain(..)).collect()
    }

    pub(crate) fn status(&self) -> Vec<LaneStatus> {
        let status = |(scope, lane): (&Scope, &Lane)| LaneStatus {
            scope: scope.clone(),
            holder: lane.held.as_ref().map(|held| held.handler.clone()),
            event: lane.held.as_ref().map(|held| held.event.clone()),
            since: lane.held.as_ref().map(|held| now().saturating_sub(held.since.elapsed().as_millis().try_into().unwrap_or(Millis::MAX))),
            held_ms: lane.held.as_ref().map(|held| u64::try_from(held.since.elapsed().as_millis()).unwrap_or(u64::MAX)),
            waiting: lane.waiting.len(),
        };
        self.lanes.iter().map(status).collect()
    }
}
