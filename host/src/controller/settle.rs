//! Turns what a call came to into what becomes of its event. The only one who decides an answer.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    ambient::{chance, now},
    channel::{Delivery, Intake},
    config,
    controller::{
        accept::{self, Ring},
        attempts::{self, Attempts},
        bell::{Bell, Group},
        joint::{Joint, keeps_response},
        router::Routed,
    },
    health::Health,
    outcome::{Failure, Outcome},
    pause::Pauses,
    planted::{Mistake, TOO_EARLY, is_planted},
    plugin::{Call, Finished, Handler, Recording},
    receipt::{Answer, Cause, RETRY_PAUSED},
    shutdown::ledger::{Ledgers, Tally},
    store::{Attempt, CallId, Claim, Commit, Committed, Effects, Millis, OrderKey, Read, Store, StoreError, Task, Verdict},
};

/// How long after the store failed an event comes again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Why a call is a dead letter under which the host ended.
const QUARANTINED: &str = "quarantined: the host ended three times while this call ran alone";

/// What became of one call.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) tally: Tally,
    pub(crate) answer: Answer,
}

/// A call that did not work out.
struct Failed {
    outcome: Outcome,
    failure: Option<Failure>,
    /// The code that ran: a digest.
    plugin: Arc<str>,
    recording: Option<Box<Recording>>,
}

/// Settles calls.
pub(crate) struct Settler {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) ledgers: Ledgers,
    pub(crate) health: Health,
    pub(crate) bell: Bell,
    pub(crate) router: accept::Router,
    pub(crate) pauses: Pauses,
    pub(crate) attempts: Attempts,
    /// Claims whose calls never started or were cut: the feeder releases them, and goes on trying while the store fails.
    pub(crate) returned: Mutex<Vec<Claim>>,
    /// Order keys that tasks may wait under: a direct call of one of these asks the store whether it has to wait behind them. At most as
    /// many as there are tasks; one whose tasks are gone is forgotten when it is asked about.
    pub(crate) parked: Mutex<HashSet<OrderKey>>,
}

impl Settler {
    /// Settle a call that has run. `None`: it was overtaken and runs again.
    pub(crate) async fn settle(&self, joint: &Joint, routed: &Routed, call: &Call, finished: Finished, last_time: bool) -> Option<Settled> {
        routed.handler.metrics.finished(&finished);
        if finished.overtaken && !last_time {
            return None;
        }
        let plugin = finished.plugin.clone();
        // What a call that was done did not come to anyway has no recording.
        let failed = |outcome| Failed { outcome, failure: None, plugin: plugin.clone(), recording: None };
        let settled = match finished.outcome {
            Outcome::Done(ref response) => {
                let response = response.clone();
                let effects = Effects {
                    emits: self.router.emissions(joint, &routed.handler, finished.emissions),
                    reads: finished.reads,
                    writes: finished.writes,
                };
                let keep = keeps_response(joint, &response);
                let done = Settled { tally: Tally::Done, answer: Answer::Done { response: Some(response) } };
                if joint.task.is_none() && effects.is_empty() && keep.is_none() && call.fence.is_none() {
                    // Nothing to write: a pure pipeline never waits for the store.
                    return Some(done);
                }
                if is_planted(Mistake::AckBeforeCommit) && joint.task.is_none() {
                    joint.answer_too_early();
                    tokio::time::sleep(TOO_EARLY).await;
                }
                let rings: Vec<Ring> = effects.emits.iter().flat_map(accept::rings).collect();
                match self.commit(joint, call, Some(plugin.clone()), Verdict::Done { effects, keep }).await {
                    Ok(Committed::Yes) => {
                        rings.into_iter().for_each(|(group, due)| self.bell.ring_for(group, due));
                        done
                    }
                    Ok(Committed::Settled | Committed::Free) => done,
                    Ok(Committed::Fenced) => self.was_fenced(joint, call),
                    Ok(Committed::Overtaken) if last_time => {
                        let reason = "other calls changed what it read every time it ran".to_owned();
                        self.fail(joint, routed, call, failed(Outcome::Retry { reason, after: None })).await
                    }
                    Ok(Committed::Overtaken) => return None,
                    Ok(Committed::Full(queue)) => {
                        let reason = format!("the backlog of `{queue}`, to which it emits, is full");
                        self.fail(joint, routed, call, failed(Outcome::Retry { reason, after: None })).await
                    }
                    Ok(Committed::Invalid(reason)) => self.fail(joint, routed, call, failed(Outcome::Reject { reason })).await,
                    Err(error) => self.store_failed(joint, call, &error).await,
                }
            }
            outcome => {
                let Finished { failure, recording, .. } = finished;
                self.fail(joint, routed, call, Failed { outcome, failure, plugin, recording }).await
            }
        };
        Some(settled)
    }

    /// Park a direct call behind the tasks of its order key, so that it keeps its order. None: nothing is before it, it may run.
    pub(crate) async fn behind(&self, joint: &Joint, call: &Call, order: &Arc<str>) -> Option<Settled> {
        let key = OrderKey::of(&call.id, order);
        // What other hosts have parked is known to the store alone.
        let may_wait = self.store.shared() || self.parked.lock().unwrap_or_else(PoisonError::into_inner).contains(&key);
        if joint.task.is_some() || joint.reply || !may_wait {
            return None;
        }
        match self.commit(joint, call, None, Verdict::Behind { order: order.to_string() }).await {
            Ok(Committed::Fenced) => Some(self.was_fenced(joint, call)),
            Ok(Committed::Free) => {
                self.parked.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                None
            }
            Ok(_) => {
                self.bell.ring(group_of(&call.id));
                Some(Settled { tally: Tally::Parked, answer: Answer::Done { response: None } })
            }
            Err(error) => Some(self.store_failed(joint, call, &error).await),
        }
    }

    /// Write down that a call is about to run, where that has to be known should the host end under it. `Break`: it does not run, because it
    /// is quarantined or the store fails.
    pub(crate) async fn begin(
        &self,
        joint: &Joint,
        routed: &Routed,
        call: &Call,
        suspect: bool,
    ) -> ControlFlow<Settled, Option<attempts::Attempt>> {
        let begun = match &joint.task {
            Some(task) if suspect => self.store.alone(task.claim).await.map(|may| may.map_continue(|()| None)),
            None if joint.reply => self.attempts.begin(&call.id).await,
            _ => return ControlFlow::Continue(None),
        };
        match begun {
            Ok(ControlFlow::Continue(attempt)) => ControlFlow::Continue(attempt),
            Ok(ControlFlow::Break(())) => ControlFlow::Break(self.quarantined(joint, routed, call).await),
            Err(error) => ControlFlow::Break(self.store_failed(joint, call, &error).await),
        }
    }

    /// The host ended three times while this call ran alone. A task is a dead letter by now.
    async fn quarantined(&self, joint: &Joint, routed: &Routed, call: &Call) -> Settled {
        tracing::error!(tenant = %call.id.tenant, source = &*call.id.source, handler = &*call.id.handler, event = call.event.id,
            "the host ended again and again while this call ran alone: quarantined as a dead letter");
        if joint.task.is_none() {
            let verdict = Verdict::Dead { reason: QUARANTINED.into(), failed: None, plugin: routed.handler.digest(), recording: None };
            if let Err(error) = self.commit(joint, call, None, verdict).await {
                return self.store_failed(joint, call, &error).await;
            }
            self.attempts.quarantined(&call.id).await;
        }
        Settled { tally: Tally::Dead, answer: Answer::Dead { reason: QUARANTINED.into() } }
    }

    /// A direct call that waits in the store from now on, which is no attempt: its handler is paused, or it has to be known there before it
    /// runs. Its source goes on.
    pub(crate) async fn set_aside(&self, joint: &Joint, routed: &Routed, call: &Call) -> Settled {
        if joint.reply {
            return Settled { tally: Tally::Returned, answer: Answer::Again { after: Some(RETRY_PAUSED), cause: Cause::Paused } };
        }
        let verdict = self.park(joint, routed, call, now(), None);
        match self.commit(joint, call, None, verdict).await {
            Ok(Committed::Yes) => {
                self.bell.ring(group_of(&call.id));
                Settled { tally: Tally::Parked, answer: Answer::Done { response: None } }
            }
            // It came before, and waits there already or is settled.
            Ok(_) => Settled { tally: Tally::Done, answer: Answer::Done { response: None } },
            Err(error) => self.store_failed(joint, call, &error).await,
        }
    }

    /// A task waits under this key from now on, or will: direct calls of it ask the store whether they have to wait behind it.
    pub(crate) fn waits(&self, key: OrderKey) {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    fn park(&self, joint: &Joint, routed: &Routed, call: &Call, due: Millis, failed: Option<Attempt>) -> Verdict {
        if let (None, Some(order)) = (&joint.task, &routed.order) {
            // Before the commit: the next call of the key looks as soon as this one has settled.
            self.waits(OrderKey::of(&call.id, order));
        }
        Verdict::Park { due, failed, order: routed.order.as_deref().map(str::to_owned) }
    }

    /// A call that did not work out: parked, dead, or told to who waits. Its effects are discarded.
    async fn fail(&self, joint: &Joint, routed: &Routed, call: &Call, failed: Failed) -> Settled {
        let Failed { outcome, failure, plugin, recording } = failed;
        let (reason, after, rejected) = match outcome {
            Outcome::Retry { reason, after } => (reason, after, false),
            Outcome::Reject { reason } => (reason, None, true),
            Outcome::Done(_) => (String::new(), None, false),
        };
        let config = &routed.handler.config;
        let attempt = call.attempt;
        let (tenant, handler, event) = (&call.id.tenant, &*call.id.handler, joint.event.id.as_str());
        if joint.reply {
            // One attempt; the sender tries again by himself.
            tracing::warn!(%tenant, handler, event, attempt, plugin = &*plugin, reason, "the call failed and its sender is told");
            let answer = if rejected { Answer::Dead { reason } } else { Answer::Again { after, cause: cause_of(failure.as_ref()) } };
            let tally = if rejected { Tally::Dead } else { Tally::Returned };
            return Settled { tally, answer };
        }
        let failed = Some(Attempt { at: now(), error: reason.clone(), plugin: Some(plugin.to_string()) });
        let (verdict, settled) = if rejected || attempt >= config.retry.attempts {
            let why = if rejected { reason.clone() } else { format!("failed {attempt} times; last: {reason}") };
            tracing::warn!(%tenant, handler, event, attempt, plugin = &*plugin, reason = why, "the call failed for good: dead letter");
            let answer = Answer::Dead { reason: why.clone() };
            let recording = recording.and_then(|recording| recording.encode(config.secrets()));
            let verdict = Verdict::Dead { reason: why, failed, plugin: plugin.to_string(), recording };
            (verdict, Settled { tally: Tally::Dead, answer })
        } else {
            let wait = after.unwrap_or_else(|| backoff(&config.retry, attempt));
            tracing::warn!(%tenant, handler, event, attempt, plugin = &*plugin, reason, ?wait, "the call failed and waits for its next attempt");
            let due = now().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
            let answer = Answer::Done { response: None };
            (self.park(joint, routed, call, due, failed), Settled { tally: Tally::Parked, answer })
        };
        let (verdict, settled) = if is_planted(Mistake::CommitPastFailure) {
            let answer = Answer::Done { response: None };
            (Verdict::Done { effects: Effects::default(), keep: None }, Settled { tally: Tally::Done, answer })
        } else {
            (verdict, settled)
        };
        let due = match &verdict {
            Verdict::Park { due, .. } => Some(*due),
            Verdict::Done { .. } | Verdict::Behind { .. } | Verdict::Dead { .. } => None,
        };
        match self.commit(joint, call, Some(plugin), verdict).await {
            Ok(Committed::Fenced) => self.was_fenced(joint, call),
            Ok(_) => {
                self.store.unhold(call.holder);
                self.bell.ring_for(group_of(&call.id), due);
                settled
            }
            Err(error) => self.store_failed(joint, call, &error).await,
        }
    }

    async fn commit(&self, joint: &Joint, call: &Call, plugin: Option<Arc<str>>, verdict: Verdict) -> Result<Committed, StoreError> {
        let task = joint.task.as_deref();
        let commit = Commit {
            call: call.id.clone(),
            holder: Some(call.holder),
            kind: joint.origin.kind.clone(),
            claim: task.map(|task| task.claim),
            fence: call.fence.clone(),
            event: joint.event.clone(),
            hops: call.hops,
            history: task.map(|task| task.history.clone()).unwrap_or_default(),
            plugin,
            verdict,
        };
        let committed = self.store.commit(commit).await;
        self.note_store(committed.as_ref().err());
        committed
    }

    /// The store did not take it: the event is delivered again, in a moment.
    async fn store_failed(&self, joint: &Joint, call: &Call, error: &StoreError) -> Settled {
        tracing::error!(tenant = %call.id.tenant, handler = &*call.id.handler, event = call.event.id, %error, "cannot settle a call: its event comes again");
        self.store.unhold(call.holder);
        if let Some(task) = &joint.task {
            // Nobody else waits before a task comes again.
            tokio::time::sleep(STORE_RETRY).await;
            self.give_back(task.claim);
        }
        Settled { tally: Tally::Returned, answer: Answer::Again { after: Some(STORE_RETRY), cause: Cause::Host } }
    }

    /// Another host is in the lane by now, and nothing of this call happened: its event comes again.
    fn was_fenced(&self, joint: &Joint, call: &Call) -> Settled {
        tracing::warn!(tenant = %call.id.tenant, handler = &*call.id.handler, event = call.event.id,
            "the call was in the lane for longer than its lease, and another host is in it now: its event comes again");
        self.store.unhold(call.holder);
        if let Some(task) = &joint.task {
            self.give_back(task.claim);
        }
        Settled { tally: Tally::Returned, answer: Answer::Again { after: None, cause: Cause::Host } }
    }

    pub(crate) fn note_store(&self, error: Option<&StoreError>) {
        match error {
            None => self.health.store_problem(None),
            Some(StoreError::Closed) => {}
            Some(error) => self.health.store_problem(Some(error.to_string())),
        }
    }

    /// Whether a direct call that may have effects was settled before: a redelivery.
    pub(crate) async fn settled_before(&self, id: &CallId, handler: &Handler) -> bool {
        if id.key.is_none() || !handler.can_have_effects() {
            return false;
        }
        matches!(self.store.settled(id.clone()).await, Ok(Some(_)))
    }

    /// The keys a call has read or wants to write.
    pub(crate) fn touched_keys(&self, finished: &Finished) -> Vec<String> {
        let read = finished.reads.iter().filter_map(|read| match read {
            Read::Key { key, .. } => Some(key.clone()),
            Read::List { .. } => None,
        });
        let mut keys: Vec<String> = read.chain(finished.writes.keys().cloned()).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Keep others from writing these keys until the call has committed. Failing to is no error: the call may just be overtaken again.
    pub(crate) async fn hold(&self, call: &Call, keys: Vec<String>, until: Duration) {
        if let Err(error) = self.store.hold(call.holder, call.id.tenant.clone(), Vec::new(), keys, until).await {
            self.note_store(Some(&error));
        }
    }

    /// A call failed on new code and runs again on the old: nothing of it counts.
    pub(crate) fn failed_on_new_code(&self, call: &Call, finished: &Finished) {
        self.store.unhold(call.holder);
        let reason = match &finished.outcome {
            Outcome::Retry { reason, .. } | Outcome::Reject { reason } => reason.as_str(),
            Outcome::Done(_) => "",
        };
        tracing::warn!(tenant = %call.id.tenant, handler = &*call.id.handler, event = call.event.id, plugin = &*finished.plugin, reason,
            "the call failed on the new version and runs again on the old one");
    }

    /// A started call was cut at the end of a stop.
    pub(crate) fn was_cut(&self, call: &Call) {
        self.store.unhold(call.holder);
        self.ledgers.cut();
        tracing::warn!(tenant = %call.id.tenant, handler = &*call.id.handler, event = call.event.id, "the call was cut; its event goes back");
    }

    /// A started call may not be in its lane any more, and was cut.
    pub(crate) fn lane_lost(&self, call: &Call) {
        self.store.unhold(call.holder);
        tracing::warn!(tenant = %call.id.tenant, handler = &*call.id.handler, event = call.event.id,
            "the store did not confirm in time that the call is in the lane: it was cut, and its event comes again");
    }

    /// A claim that goes back to the store unsettled.
    pub(crate) fn give_back(&self, claim: Claim) {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
    }

    /// Release what was given back. What the store does not take now is tried again the next time.
    pub(crate) async fn release_returned(&self) -> Result<usize, StoreError> {
        let claims = std::mem::take(&mut *self.returned.lock().unwrap_or_else(PoisonError::into_inner));
        let count = claims.len();
        if count > 0
            && let Err(error) = self.store.release(claims.clone()).await
        {
            self.returned.lock().unwrap_or_else(PoisonError::into_inner).extend(claims);
            return Err(error);
        }
        Ok(count)
    }

    /// A task is off our hands: its group may have another one to claim.
    pub(crate) fn task_ended(&self, task: &Task) {
        self.bell.ring(Group { tenant: task.tenant.clone(), source: task.source.clone(), handler: task.handler.clone() });
    }
}

/// An event that no handler wants, of a source that may have such.
pub(crate) fn ignored(ledgers: &Ledgers, delivery: Delivery) {
    ledgers.ended(&delivery.origin, Tally::Done);
    delivery.receipt.answer(Answer::Done { response: None });
}

/// An event that no handler wants.
pub(crate) async fn unmatched(settler: Arc<Settler>, delivery: Delivery) {
    let Delivery { event, origin, key, receipt, credit, intake } = delivery;
    let (tenant, source, id, ty) = (&origin.tenant, &*origin.source, event.id.as_str(), event.ty.as_str());
    let (tally, answer) = match intake {
        Intake::Task(task) => {
            tracing::warn!(%tenant, source, event = id, handler = &*task.handler, "a task waits for a handler that is not configured");
            settler.give_back(task.claim);
            (Tally::Returned, Answer::Again { after: None, cause: Cause::Host })
        }
        Intake::Reply { .. } => (Tally::Dead, Answer::Dead { reason: "no handler wants this event".into() }),
        Intake::Direct { .. } => {
            tracing::warn!(%tenant, source, event = id, r#type = ty, "no handler wants the event: dead letter");
            let key = key.map(|key| key.to_string());
            let acceptance = settler.router.no_route(&origin, event.clone(), key);
            match settler.store.accept(vec![acceptance]).await {
                Ok(_) => (Tally::Dead, Answer::Dead { reason: "no handler wants this event".into() }),
                Err(error) => {
                    settler.note_store(Some(&error));
                    (Tally::Returned, Answer::Again { after: Some(STORE_RETRY), cause: Cause::Host })
                }
            }
        }
    };
    settler.ledgers.ended(&origin, tally);
    receipt.answer(answer);
    drop(credit);
}

fn cause_of(failure: Option<&Failure>) -> Cause {
    match failure {
        Some(Failure::Timeout(_)) => Cause::Timeout,
        Some(Failure::Trap(_) | Failure::OutOfMemory { .. } | Failure::BadResponse(_)) => Cause::Crash,
        Some(Failure::Host(_)) => Cause::Host,
        None => Cause::Retry,
    }
}

fn group_of(id: &CallId) -> Group {
    Group { tenant: id.tenant.clone(), source: id.source.clone(), handler: id.handler.clone() }
}

/// Exponential, from the shortest to the longest wait, less up to half of it by chance: those who failed together do not come again together.
fn backoff(retry: &config::Retry, attempt: u32) -> Duration {
    let wait = retry.min.saturating_mul(2u32.saturating_pow(attempt.saturating_sub(1))).min(retry.max);
    wait.mul_f64(0.5 + chance() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_their_bounds() {
        let retry = config::Retry { attempts: 9, min: Duration::from_millis(200), max: Duration::from_secs(30) };
        for (attempt, longest) in [(1, 200), (2, 400), (5, 3_200), (20, 30_000)] {
            let wait = backoff(&retry, attempt).as_millis();
            assert!((longest / 2..=longest).contains(&wait), "attempt {attempt}: {wait} ms");
        }
    }
}
