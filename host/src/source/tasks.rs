//! Feeds the store's tasks into the host: accepted webhooks, queue messages, timers, emits, delayed and parked calls.
//!
//! A task is claimed only with a credit in hand, so that what the host holds stays bounded and one group's flood leaves room for every other.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    ambient::now,
    channel::{ControlSender, Credit, Credits, Delivery, Intake, Origin},
    controller::{
        bell::{Bell, Group, sooner},
        settle::Settler,
    },
    pause::Pauses,
    receipt::Receipt,
    sink::is_sink,
    store::{Millis, Store, StoreError, Task, Want},
};

/// The most tasks of one group in one claim.
const CLAIM: usize = 64;
/// How long to wait after the store failed.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// Claims tasks and sends them.
pub(crate) struct TaskFeeder {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) control: ControlSender,
    pub(crate) settler: Arc<Settler>,
    pub(crate) bell: Bell,
    pub(crate) pauses: Pauses,
    /// Credits of each group.
    pub(crate) in_flight: usize,
    /// After an end nobody asked for, until then: no more are claimed than these, which can run at once, but one of each group. Should the host
    /// end again all that is claimed is suspect.
    pub(crate) careful: Option<(Instant, usize)>,
    pub(crate) stopping: CancellationToken,
}

impl TaskFeeder {
    /// Feed until told to stop.
    pub(crate) async fn run(self, mut state: FeederState) {
        let mut paused = self.pauses.changes();
        loop {
            let wait = match self.feed(&mut state).await {
                Ok(wait) => wait,
                Err(StoreError::Closed) => return,
                Err(error) => {
                    // Which groups were asked for is forgotten.
                    state.due = true;
                    self.settler.note_store(Some(&error));
                    STORE_RETRY
                }
            };
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = self.bell.rung() => {}
                // What was held may go on.
                Ok(()) = paused.changed() => state.due = true,
                () = tokio::time::sleep(wait) => state.due = true,
            }
        }
    }

    /// Claim and send what there is credit for. How long until the next task is due.
    async fn feed(&self, state: &mut FeederState) -> Result<Duration, StoreError> {
        self.settler.release_returned().await?;
        // However often a group rings: what others left behind in the store is looked for.
        let look_again = state.look_again.is_none_or(|at| Instant::now() >= at) || state.next_due.is_some_and(|due| due <= now());
        if std::mem::take(&mut state.due) || look_again {
            state.due = true;
            // What becomes due from here on is the next to wait for, though its time may come while this looks.
            let looked = now();
            state.dirty.extend(self.claimable().await?);
            // As far as it is written by now; what is written later rings.
            state.next_due = self.store.next_due(looked).await?;
            state.look_again = Some(Instant::now() + self.store.idle());
            state.due = false;
        }
        loop {
            self.run_suspects(state).await;
            let rings = self.bell.take();
            if rings.all {
                state.dirty.extend(self.claimable().await?);
            }
            state.dirty.extend(rings.groups);
            state.next_due = sooner(state.next_due, rings.due);
            let mut credits = HashMap::<Group, Vec<Credit>>::new();
            let mut wants = Vec::new();
            for group in std::mem::take(&mut state.dirty) {
                if self.pauses.holds_tasks(&group) || !self.has_handler(&group, state) {
                    continue;
                }
                let held = state.credits_of(&group, self.in_flight, self.at_most());
                // A group without a credit rings again when one of its calls is settled.
                if held.is_empty() {
                    continue;
                }
                let Group { tenant, source, handler } = group.clone();
                wants.push(Want { tenant, source, handler, limit: held.len() });
                credits.insert(group, held);
            }
            if wants.is_empty() || self.stopping.is_cancelled() {
                break;
            }
            let asked = now();
            let tasks = self.store.claim(wants).await?;
            if tasks.is_empty() {
                // What became the first of its key just now may be due later.
                state.next_due = sooner(state.next_due, self.store.next_due(asked).await?);
                break;
            }
            let probation = tasks.iter().any(|task| task.suspect);
            for task in tasks {
                let group = group_of(&task);
                let credit = credits.get_mut(&group).and_then(Vec::pop);
                // It may have more: claimed until a claim comes back short.
                state.dirty.insert(group);
                match credit {
                    Some(credit) if task.suspect => state.suspects.push_back((task, credit)),
                    Some(credit) if !probation => drop(self.deliver(task, credit).await),
                    // No task is started beside a suspect, nor is one that was not started to become a suspect.
                    _ => self.settler.give_back(task.claim),
                }
            }
            if probation {
                self.settler.release_returned().await?;
            }
        }
        let idle = self.store.idle();
        Ok(state.next_due.map_or(idle, |due| Duration::from_millis(u64::try_from(due - now()).unwrap_or(0) + 1)).min(idle))
    }

    /// Whether there is a handler for them. Else they wait for one, which is said once.
    fn has_handler(&self, group: &Group, state: &mut FeederState) -> bool {
        let generation = self.settler.router.generation.load();
        let handler = generation.handler(&group.tenant, &group.handler);
        if let Some(handler) = handler {
            state.without_handler.remove(group);
            // What it needs to run comes when it is compiled.
            return !handler.versions.is_pending();
        }
        if state.without_handler.insert(group.clone()) {
            tracing::warn!(tenant = %group.tenant, source = &*group.source, handler = &*group.handler,
                "tasks wait for a handler that is not configured");
        }
        false
    }

    /// The most tasks to have claimed, if that is bounded.
    fn at_most(&self) -> Option<usize> {
        self.careful.filter(|(until, _)| Instant::now() < *until).map(|(_, claimed)| claimed)
    }

    /// Suspects go in one at a time, so that none is claimed beside another: the controller runs each alone.
    async fn run_suspects(&self, state: &mut FeederState) {
        while let Some((task, credit)) = state.suspects.pop_front() {
            if self.pauses.holds_tasks(&group_of(&task)) {
                self.settler.give_back(task.claim);
                continue;
            }
            let ended = self.deliver(task, credit).await;
            tokio::select! {
                biased;
                _ = ended.answer() => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }

    async fn deliver(&self, task: Task, credit: Credit) -> crate::receipt::Pending {
        let (receipt, pending) = Receipt::new();
        let origin = Arc::new(Origin { tenant: task.tenant.clone(), source: task.source.clone(), kind: task.kind.clone() });
        let (event, key) = (task.event.clone(), task.key.clone());
        self.control.send(Delivery { event, origin, key, receipt, credit, intake: Intake::Task(Box::new(task)) }).await;
        pending
    }

    /// Every group that has tasks to claim. Sinks feed themselves.
    async fn claimable(&self) -> Result<impl Iterator<Item = Group> + use<>, StoreError> {
        Ok(self.store.claimable().await?.into_iter().filter(|group| !is_sink(&group.handler)))
    }
}

fn group_of(task: &Task) -> Group {
    Group { tenant: task.tenant.clone(), source: task.source.clone(), handler: task.handler.clone() }
}

/// What the feeder remembers between rounds.
#[derive(Default)]
pub(crate) struct FeederState {
    /// Every group is to be looked at.
    due: bool,
    /// When every group is looked at, though none rings; absent: nobody has looked yet.
    look_again: Option<Instant>,
    /// When the first task becomes due that is written and was not due yet.
    next_due: Option<Millis>,
    /// Groups that may have tasks to claim.
    dirty: BTreeSet<Group>,
    /// Those whose handler is not configured.
    without_handler: BTreeSet<Group>,
    credits: HashMap<Group, Credits>,
    suspects: VecDeque<(Task, Credit)>,
}

impl FeederState {
    fn credits_of(&mut self, group: &Group, limit: usize, at_most: Option<usize>) -> Vec<Credit> {
        let all: usize = self.credits.values().map(|credits| limit - credits.free()).sum();
        let credits = self.credits.entry(group.clone()).or_insert_with(|| Credits::new(limit));
        let one = usize::from(credits.free() == limit);
        let room = at_most.map_or(CLAIM, |at_most| at_most.saturating_sub(all).max(one));
        std::iter::from_fn(|| credits.try_acquire()).take(room.min(CLAIM)).collect()
    }
}
