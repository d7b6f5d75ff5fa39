//! Rings when the store may have tasks to claim, and says which.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};

use crate::{
    planted::{Mistake, is_planted},
    sink::is_sink,
    store::Millis,
};

pub(crate) use crate::store::Group;

/// What rang since the last time.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    /// Every group is to be looked at.
    pub(crate) all: bool,
    /// They may have tasks to claim. At most as many as there are pairs of a source and a handler.
    pub(crate) groups: BTreeSet<Group>,
    /// When the first of the tasks becomes due that were written and were not due.
    pub(crate) due: Option<Millis>,
}

/// Shared by whoever writes tasks and the feeder that claims them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bell(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rings: Mutex<Rings>,
    rung: Notify,
    /// How often an event was written for a sink.
    sinks: watch::Sender<u64>,
}

impl Bell {
    /// The group may have tasks to claim.
    pub(crate) fn ring(&self, group: Group) {
        self.ring_for(group, None);
    }

    /// The group may have tasks to claim, or will have one when it is due.
    pub(crate) fn ring_for(&self, group: Group, due: Option<Millis>) {
        if is_sink(&group.handler) {
            self.0.sinks.send_modify(|rings| *rings += 1);
            return;
        }
        let mut rings = self.rings();
        rings.groups.insert(group);
        rings.due = sooner(rings.due, due);
        drop(rings);
        if !is_planted(Mistake::LostWakeUp) {
            self.0.rung.notify_one();
        }
    }

    /// Any group may have tasks to claim: there are other handlers now.
    pub(crate) fn ring_all(&self) {
        self.rings().all = true;
        self.0.rung.notify_one();
    }

    /// What rang since the last time.
    pub(crate) fn take(&self) -> Rings {
        mem::take(&mut *self.rings())
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.0.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes when there may be events to publish.
    pub(crate) fn sinks(&self) -> watch::Receiver<u64> {
        self.0.sinks.subscribe()
    }

    /// Wait until a group rings. Cancel safe; a ring before the wait counts.
    pub(crate) async fn rung(&self) {
        self.0.rung.notified().await;
    }
}

/// The earlier of two times, if there is one.
pub(crate) fn sooner(one: Option<Millis>, other: Option<Millis>) -> Option<Millis> {
    one.into_iter().chain(other).min()
}
