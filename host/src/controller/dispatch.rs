//! Who may run now. Owned by the controller's loop: no locks, no waiting; what cannot run yet stands in line.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{
        Status,
        atomic::{Lanes, Scope},
        fair::FairQueue,
        joint::CallInLine,
        settle::Settler,
    },
    tenant::Tenant,
};

/// What takes turns within a tenant. With one permit everybody is in one line: each event is finished before the next begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Line {
    Only,
    Of { source: Arc<str>, handler: Arc<str> },
}

/// A running call's place, given back when it has settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    tenant: Tenant,
    handler: Arc<str>,
    lane: Option<Scope>,
}

/// A call that was given a slot.
pub(crate) struct Started {
    call: CallInLine,
    fencing_token: Option<u64>,
    slot: SlotGuard,
}

impl Started {
    /// Run the call to its end; the slot is free when this returns, is dropped, or panics.
    pub(crate) async fn run(self, settler: Arc<Settler>, cut: CancellationToken) {
        let _slot = self.slot;
        self.call.run(settler, self.fencing_token, cut).await;
    }
}

/// Tells the loop that a slot is free, whatever became of the call.
struct SlotGuard {
    slot: Slot,
    finished: mpsc::Sender<Slot>,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        // There is room for every call that can run at once.
        let _ = self.finished.try_send(self.slot.clone());
    }
}

/// The lines and the permits.
pub(crate) struct Dispatcher {
    concurrency: usize,
    plain_running: usize,
    lanes_running: usize,
    /// Running calls of handlers that have a bound of their own.
    running_of: HashMap<(Tenant, Arc<str>), usize>,
    plain: FairQueue<Tenant, Line, CallInLine>,
    lanes: Lanes,
    finished: mpsc::Sender<Slot>,
}

impl Dispatcher {
    pub(crate) fn new(concurrency: usize, start_number: u64, finished: mpsc::Sender<Slot>) -> Self {
        Self {
            concurrency,
            plain_running: 0,
            lanes_running: 0,
            running_of: HashMap::new(),
            plain: FairQueue::new(),
            lanes: Lanes::new(start_number),
            finished,
        }
    }

    /// Put a call in line.
    pub(crate) fn enqueue(&mut self, call: CallInLine) {
        if self.concurrency == 1 {
            // The lane shares the one slot.
            self.plain.push(call.tenant().clone(), Line::Only, call);
        } else if call.atomic() {
            self.lanes.enqueue(Scope::Global, call);
        } else {
            let line = Line::Of { source: call.source().clone(), handler: call.handler_name().clone() };
            self.plain.push(call.tenant().clone(), line, call);
        }
    }

    /// The next call that may run, with its slot.
    pub(crate) fn next(&mut self) -> Option<Started> {
        if let Some((scope, call, token)) = self.lanes.next() {
            self.lanes_running += 1;
            return Some(self.start(call, Some(scope), Some(token)));
        }
        if self.plain_running >= self.concurrency {
            return None;
        }
        let running_of = &self.running_of;
        let call = self.plain.pop(|call| {
            let Some(limit) = call.concurrency() else { return true };
            running_of.get(&(call.tenant().clone(), call.handler_name().clone())).is_none_or(|running| *running < limit)
        })?;
        self.plain_running += 1;
        let token = call.atomic().then(|| self.lanes.token());
        Some(self.start(call, None, token))
    }

    fn start(&mut self, call: CallInLine, lane: Option<Scope>, fencing_token: Option<u64>) -> Started {
        let slot = Slot { tenant: call.tenant().clone(), handler: call.handler_name().clone(), lane };
        if call.concurrency().is_some() {
            *self.running_of.entry((slot.tenant.clone(), slot.handler.clone())).or_default() += 1;
        }
        Started { call, fencing_token, slot: SlotGuard { slot, finished: self.finished.clone() } }
    }

    /// A call has settled.
    pub(crate) fn finished(&mut self, slot: &Slot) {
        match &slot.lane {
            Some(scope) => {
                self.lanes_running -= 1;
                self.lanes.release(scope);
            }
            None => self.plain_running -= 1,
        }
        let key = (slot.tenant.clone(), slot.handler.clone());
        if let Some(running) = self.running_of.get_mut(&key) {
            *running -= 1;
            if *running == 0 {
                self.running_of.remove(&key);
            }
        }
    }

    /// Nothing runs and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.plain_running == 0 && self.lanes_running == 0 && self.plain.len() == 0
    }

    /// Everything that waits.
    pub(crate) fn take_waiting(&mut self) -> Vec<CallInLine> {
        let mut waiting = self.plain.take_all();
        waiting.extend(self.lanes.take_waiting());
        waiting
    }

    pub(crate) fn status(&self) -> Status {
        Status { running: self.plain_running + self.lanes_running, waiting: self.plain.len(), lanes: self.lanes.status() }
    }
}
