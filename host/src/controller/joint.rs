//! What joins the calls of one event: its receipt is answered when the last of them is settled.

use std::{
    ops::ControlFlow,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::{Either, pending};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::{
    channel::{Credit, Delivery, InOrder, Intake, Origin},
    controller::{
        router::Routed,
        settle::{Settled, Settler},
    },
    event::Event,
    lane::{self, Inside},
    outcome::Response,
    planted::{Mistake, is_planted},
    plugin::Call,
    receipt::{Answer, Cause, Receipt},
    shutdown::ledger::Tally,
    store::{CallId, Holder, OrderKey, Task},
    tenant::Tenant,
};

/// The lane of all atomic handlers of a deployment, where hosts share it.
const GLOBAL: &str = "atomic/global";
/// How often a call may be overtaken before it holds the keys it works on.
const OVERTAKEN_BEFORE_HOLD: u32 = 3;
/// How often in all: a list cannot be held.
const OVERTAKEN_AT_MOST: u32 = 100;

/// One event on its way: shared by its calls.
pub(crate) struct Joint {
    pub(crate) event: Arc<Event>,
    pub(crate) origin: Arc<Origin>,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) task: Option<Box<Task>>,
    /// Emits and requests of handlers between this event and one from outside.
    pub(crate) hops: u32,
    /// Someone waits for the answer: one attempt, nothing is parked.
    pub(crate) reply: bool,
    /// It may have been in flight when the host ended without a stop: its calls become tasks first.
    aside: bool,
    /// Where it stands, from a source that acknowledges in order.
    place: Option<InOrder>,
    left: AtomicUsize,
    state: Mutex<State>,
    settler: Arc<Settler>,
}

struct State {
    receipt: Option<Receipt>,
    credit: Option<Credit>,
    /// The worst that became of a call so far.
    tally: Tally,
    answer: Answer,
}

impl Joint {
    pub(crate) fn new(delivery: Delivery, calls: usize, aside: bool, settler: Arc<Settler>) -> Arc<Self> {
        let Delivery { event, origin, key, receipt, credit, intake } = delivery;
        let (reply, hops, task, place) = match intake {
            Intake::Direct { place } => (false, 0, None, place),
            Intake::Reply { hops } => (true, hops, None, None),
            Intake::Task(task) => (false, task.hops, Some(task), None),
        };
        let answer = Answer::Done { response: None };
        let state = State { receipt: Some(receipt), credit: Some(credit), tally: Tally::Done, answer };
        Arc::new(Self {
            event,
            origin,
            key,
            task,
            hops,
            reply,
            aside,
            place,
            left: AtomicUsize::new(calls),
            state: Mutex::new(state),
            settler,
        })
    }

    /// One of its calls, to be put in line.
    pub(crate) fn call(self: Arc<Self>, routed: Routed) -> CallInLine {
        let handler: Arc<str> = routed.handler.config.name.as_str().into();
        let suspect = match &self.task {
            Some(task) => task.suspect,
            None => self.reply && self.settler.attempts.is_suspect(&self.id(&handler)),
        };
        CallInLine { routed, handler, joint: self, suspect, ended: false, started: false }
    }

    fn id(&self, handler: &Arc<str>) -> CallId {
        let Origin { tenant, source, .. } = &*self.origin;
        CallId { tenant: tenant.clone(), source: source.clone(), key: self.key.clone(), handler: handler.clone() }
    }

    /// Answer before anything is settled: a mistake.
    pub(crate) fn answer_too_early(&self) {
        let receipt = self.state.lock().unwrap_or_else(PoisonError::into_inner).receipt.take();
        if let Some(receipt) = receipt {
            receipt.answer(Answer::Done { response: None });
        }
    }

    /// One call has settled; with the last one the receipt is answered.
    fn end(&self, settled: Settled) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if settled.tally >= state.tally {
            state.tally = settled.tally;
            state.answer = settled.answer;
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let answer = std::mem::replace(&mut state.answer, Answer::Done { response: None });
        // Counted before anybody hears of it.
        self.settler.ledgers.ended(&self.origin, state.tally);
        if let Some(receipt) = state.receipt.take() {
            receipt.answer(answer);
        }
        drop(state.credit.take());
        drop(state);
        if let Some(task) = &self.task {
            self.settler.task_ended(task);
        }
    }
}

/// A call that waits for its turn or runs. Dropped before it has settled, it is returned.
pub(crate) struct CallInLine {
    routed: Routed,
    handler: Arc<str>,
    joint: Arc<Joint>,
    /// It was running when the host ended without a stop.
    suspect: bool,
    started: bool,
    ended: bool,
}

impl CallInLine {
    pub(crate) fn tenant(&self) -> &Tenant {
        &self.joint.origin.tenant
    }

    pub(crate) fn source(&self) -> &Arc<str> {
        &self.joint.origin.source
    }

    pub(crate) fn handler_name(&self) -> &Arc<str> {
        &self.handler
    }

    /// Where its event stands, from a source that acknowledges in order.
    pub(crate) fn place(&self) -> Option<&InOrder> {
        self.joint.place.as_ref()
    }

    pub(crate) fn event_id(&self) -> &str {
        &self.joint.event.id
    }

    pub(crate) fn atomic(&self) -> bool {
        self.routed.atomic
    }

    /// Whose order it keeps. A task keeps the order of the store, where only the first of its key can be claimed.
    pub(crate) fn order(&self) -> Option<OrderKey> {
        if self.joint.task.is_some() {
            return None;
        }
        let key = self.routed.order.clone()?;
        Some(OrderKey { tenant: self.tenant().clone(), source: self.source().clone(), handler: self.handler.clone(), key })
    }

    /// It was running when the host ended without a stop: nothing runs beside it.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Its handler is paused, or its code is still being compiled: when its turn comes it does not run.
    pub(crate) fn is_paused(&self) -> bool {
        self.routed.handler.versions.is_pending() || self.joint.settler.pauses.holds_handler(self.tenant(), &self.handler)
    }

    /// The handler's own bound of calls side by side.
    pub(crate) fn concurrency(&self) -> Option<usize> {
        self.routed.handler.config.concurrency
    }

    /// Call the handler until it is settled: a call that was overtaken runs again, which is no attempt. Whether it was not, and its event
    /// comes again by itself.
    pub(crate) async fn run(mut self, settler: Arc<Settler>, fencing_token: Option<u64>, cut: CancellationToken) -> bool {
        self.started = true;
        let id = self.joint.id(&self.handler);
        if self.joint.task.is_none() && settler.settled_before(&id, &self.routed.handler).await {
            return self.end(Settled { tally: Tally::Done, answer: Answer::Done { response: None } });
        }
        let attempt = self.joint.task.as_ref().map_or(0, |task| task.attempts) + 1;
        let mut call = Call {
            idempotency_key: idempotency_key(&id, &self.joint.event).into(),
            id,
            holder: Holder::new(),
            event: self.joint.event.clone(),
            attempt,
            fencing_token,
            fence: None,
            hops: self.joint.hops,
            record: false,
        };
        if self.joint.aside || self.is_paused() {
            // A task goes back to the store, where nobody claims it.
            if self.joint.task.is_none() {
                let settled = settler.set_aside(&self.joint, &self.routed, &call).await;
                return self.end(settled);
            }
            return false;
        }
        // Where hosts share the lane, its epoch is the token: it grows whichever host is in it.
        let lane = if self.routed.atomic && settler.store.shared() {
            tokio::select! {
                biased;
                lane = lane::enter(&settler.store, GLOBAL) => Some(lane),
                () = cut.cancelled() => return true,
            }
        } else {
            None
        };
        call.fence = lane.as_ref().map(Inside::fence);
        call.fencing_token = call.fence.as_ref().map_or(fencing_token, |fence| Some(fence.epoch.unsigned_abs()));
        let behind = match &self.routed.order {
            Some(order) => settler.behind(&self.joint, &call, order).await,
            None => None,
        };
        if let Some(settled) = behind {
            return self.end(settled);
        }
        let attempt = match settler.begin(&self.joint, &self.routed, &call, self.suspect).await {
            ControlFlow::Continue(attempt) => attempt,
            ControlFlow::Break(settled) => return self.end(settled),
        };
        let handler = self.routed.handler.clone();
        let mut lost = pin!(match &lane {
            Some(lane) => Either::Left(lane.lost()),
            None => Either::Right(pending()),
        });
        let failed_on = self.joint.task.as_ref().and_then(|task| task.history.last()?.plugin.as_deref());
        let mut chosen = handler.choose(&call, failed_on);
        call.record = chosen.is_shadowed();
        for overtaken in 0..=OVERTAKEN_AT_MOST {
            let finished = tokio::select! {
                biased;
                finished = handler.call_on(chosen.code.clone(), call.clone()) => finished,
                () = cut.cancelled() => {
                    settler.was_cut(&call);
                    return true;
                }
                () = &mut lost => {
                    settler.lane_lost(&call);
                    return true;
                }
            };
            if let Some(old) = handler.ran(&chosen, &finished) {
                settler.failed_on_new_code(&call, &finished);
                chosen = old;
                continue;
            }
            let shadowed = chosen.see(&call, &finished);
            let touched = (overtaken >= OVERTAKEN_BEFORE_HOLD - 1).then(|| settler.touched_keys(&finished));
            let settled = settler.settle(&self.joint, &self.routed, &call, finished, overtaken == OVERTAKEN_AT_MOST).await;
            if let Some(settled) = settled {
                handler.shadow(&chosen, shadowed);
                if settled.tally != Tally::Returned && !self.joint.reply {
                    lane.into_iter().for_each(Inside::left);
                }
                if let Some(attempt) = attempt {
                    settler.attempts.end(attempt).await;
                }
                return self.end(settled);
            }
            if let Some(keys) = touched {
                settler.hold(&call, keys, handler.config.timeout).await;
            }
        }
        true
    }

    fn end(&mut self, settled: Settled) -> bool {
        self.ended = true;
        // Who waits for an answer sends again by himself, or does not.
        let returned = settled.tally == Tally::Returned && !self.joint.reply;
        if is_planted(Mistake::DoubleSettle) {
            self.joint.end(settled.clone());
        }
        self.joint.end(settled);
        returned
    }
}

impl Drop for CallInLine {
    fn drop(&mut self) {
        if !self.ended {
            if let Some(task) = &self.joint.task {
                self.joint.settler.give_back(task.claim);
            }
            let again = Answer::Again { after: None, cause: Cause::Host };
            self.joint.end(Settled { tally: Tally::Returned, answer: again });
        }
    }
}

impl std::fmt::Debug for CallInLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallInLine").field("handler", &self.handler).field("event", &self.joint.event.id).finish_non_exhaustive()
    }
}

/// The same for every attempt of a call, another for every other call.
pub(crate) fn idempotency_key(id: &CallId, event: &Event) -> String {
    let mut hash = Sha256::new();
    let key = id.key.as_deref().unwrap_or(&event.id);
    for part in [id.tenant.as_str(), &*id.source, key, &*id.handler] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(&hash.finalize()[..16])
}

/// A response is kept for a duplicate only where someone waits for one and can be recognised.
pub(crate) fn keeps_response(joint: &Joint, response: &Response) -> Option<Response> {
    (joint.reply && joint.key.is_some()).then(|| response.clone())
}
