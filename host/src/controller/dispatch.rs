//! Who may run now. Owned by the controller's loop: no locks, no waiting; what cannot run yet stands in line.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    channel::InOrder,
    controller::{
        Status,
        atomic::{Lanes, Scope},
        fair::FairQueue,
        joint::CallInLine,
        order::Orders,
        settle::Settler,
    },
    planted::{Mistake, is_planted},
    store::OrderKey,
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
    order: Option<OrderKey>,
    place: Option<InOrder>,
    /// The call was not settled, and its event comes again.
    returned: bool,
    alone: bool,
    /// It counts for the handler's own bound. A reload may have set or lifted one since it was started.
    counted: bool,
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
        let mut slot = self.slot;
        if is_planted(Mistake::EarlyLaneRelease) {
            slot.give_back(false);
        }
        let returned = self.call.run(settler, self.fencing_token, cut).await;
        slot.give_back(returned);
    }
}

/// Tells the loop that a slot is free, whatever became of the call.
struct SlotGuard {
    slot: Option<Slot>,
    finished: mpsc::Sender<Slot>,
}

impl SlotGuard {
    fn give_back(&mut self, returned: bool) {
        if let Some(slot) = self.slot.take() {
            // There is room for every call that can run at once.
            let _ = self.finished.try_send(Slot { returned, ..slot });
        }
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.give_back(true);
    }
}

/// The lines and the permits.
pub(crate) struct Dispatcher {
    concurrency: usize,
    plain_running: usize,
    lanes_running: usize,
    /// Running calls of handlers that have a bound of their own.
    running_of: HashMap<(Tenant, Arc<str>), usize>,
    /// Calls of which any may have ended the host. While there are some nothing else is started, and each runs alone: should the host end
    /// again it is known by which.
    suspects: VecDeque<CallInLine>,
    /// One of them runs.
    alone: bool,
    orders: Orders,
    plain: FairQueue<Tenant, Line, CallInLine>,
    lanes: Lanes,
    /// Of sources that acknowledge in order: the furthest event of each line that was started.
    started: HashMap<Arc<str>, i64>,
    finished: mpsc::Sender<Slot>,
}

impl Dispatcher {
    pub(crate) fn new(concurrency: usize, start_number: u64, finished: mpsc::Sender<Slot>) -> Self {
        Self {
            concurrency,
            plain_running: 0,
            lanes_running: 0,
            running_of: HashMap::new(),
            suspects: VecDeque::new(),
            alone: false,
            orders: Orders::default(),
            plain: FairQueue::new(),
            lanes: Lanes::new(start_number),
            started: HashMap::new(),
            finished,
        }
    }

    /// Put a call in line, or behind the one whose order it keeps.
    pub(crate) fn enqueue(&mut self, call: CallInLine) {
        if let Some(call) = self.orders.enter(call) {
            self.stand_in_line(call);
        }
    }

    /// An event has come, and only these handlers want it.
    pub(crate) fn has_come(&mut self, place: &InOrder, wanted_by: impl Fn(&str) -> bool) {
        self.orders.has_come(place, wanted_by);
    }

    fn stand_in_line(&mut self, call: CallInLine) {
        if call.is_suspect() {
            self.suspects.push_back(call);
        } else if self.concurrency == 1 {
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
        if self.alone || !self.suspects.is_empty() {
            return self.next_suspect();
        }
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
            let may = running_of.get(&(call.tenant().clone(), call.handler_name().clone())).is_none_or(|running| *running < limit);
            // What does not run holds up nobody for longer than it takes to say so.
            may || call.is_paused()
        })?;
        self.plain_running += 1;
        let token = call.atomic().then(|| self.lanes.token());
        Some(self.start(call, None, token))
    }

    /// The next call that runs alone, when nothing runs any more.
    fn next_suspect(&mut self) -> Option<Started> {
        if self.running() > 0 {
            return None;
        }
        let call = self.suspects.pop_front()?;
        self.alone = true;
        let token = call.atomic().then(|| self.lanes.token());
        Some(self.start(call, None, token))
    }

    fn running(&self) -> usize {
        self.plain_running + self.lanes_running + usize::from(self.alone)
    }

    /// Whether an event at or behind the place of this call's was started already: its source cannot acknowledge that one without this.
    pub(crate) fn is_behind_started(&self, call: &CallInLine) -> bool {
        call.place().is_some_and(|place| self.started.get(&place.line).is_some_and(|started| place.at <= *started))
    }

    fn start(&mut self, call: CallInLine, lane: Option<Scope>, fencing_token: Option<u64>) -> Started {
        if let Some(place) = call.place() {
            match self.started.get_mut(&place.line) {
                Some(started) => *started = place.at.max(*started),
                None => self.line(&place.line.clone(), place.at),
            }
        }
        let (order, place) = (call.order(), call.place().cloned());
        let (tenant, handler, alone) = (call.tenant().clone(), call.handler_name().clone(), self.alone);
        let counted = call.concurrency().is_some();
        let slot = Slot { tenant, handler, lane, order, place, alone, counted, returned: true };
        if counted {
            *self.running_of.entry((slot.tenant.clone(), slot.handler.clone())).or_default() += 1;
        }
        Started { call, fencing_token, slot: SlotGuard { slot: Some(slot), finished: self.finished.clone() } }
    }

    /// A new line. Those of assignments that have ended are forgotten now and then: the bound is far above what one host is assigned.
    fn line(&mut self, line: &Arc<str>, at: i64) {
        const LINES: usize = 100_000;
        if self.started.len() >= LINES {
            self.started.clear();
        }
        self.started.insert(line.clone(), at);
    }

    /// A call has settled.
    pub(crate) fn finished(&mut self, slot: Slot) {
        match &slot.order {
            Some(order) if slot.returned => self.orders.come_again(order, slot.place),
            Some(order) => {
                if let Some(next) = self.orders.leave(order) {
                    self.stand_in_line(next);
                }
            }
            None => {}
        }
        match &slot.lane {
            _ if slot.alone => self.alone = false,
            Some(scope) => {
                self.lanes_running -= 1;
                self.lanes.release(scope);
            }
            None => self.plain_running -= 1,
        }
        if !slot.counted {
            return;
        }
        let key = (slot.tenant, slot.handler);
        if let Some(running) = self.running_of.get_mut(&key) {
            *running -= 1;
            if *running == 0 {
                self.running_of.remove(&key);
            }
        }
    }

    /// Nothing runs and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        let waiting = self.suspects.len() + self.plain.len() + self.lanes.waiting() + self.orders.len();
        self.running() == 0 && waiting == 0
    }

    /// Everything that waits; of one order key in its order.
    pub(crate) fn take_waiting(&mut self) -> Vec<CallInLine> {
        let mut waiting = self.plain.take_all();
        waiting.extend(self.lanes.take_waiting());
        waiting.extend(self.suspects.drain(..));
        let behind = self.orders.take_waiting();
        // Who stands in line has its order's turn and gives it up.
        waiting.iter().filter_map(CallInLine::order).for_each(|order| self.orders.forget(&order));
        waiting.extend(behind);
        waiting
    }

    pub(crate) fn status(&self) -> Status {
        Status { running: self.running(), waiting: self.suspects.len() + self.plain.len() + self.orders.len(), lanes: self.lanes.status() }
    }
}
