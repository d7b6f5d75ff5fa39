//! Rings when the store may have tasks to claim, and says which.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, watch};

use crate::{
    planted::{Mistake, is_planted},
    sink::is_sink,
    tenant::Tenant,
};

/// Tasks that are claimed together: of one source, for one handler.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) tenant: Tenant,
    pub(crate) source: Arc<str>,
    pub(crate) handler: Arc<str>,
}

/// Shared by whoever writes tasks and the feeder that claims them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bell(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// At most as many as there are pairs of a source and a handler.
    groups: Mutex<BTreeSet<Group>>,
    rung: Notify,
    /// How often an event was written for a sink.
    sinks: watch::Sender<u64>,
}

impl Bell {
    /// The group may have tasks to claim.
    pub(crate) fn ring(&self, group: Group) {
        if is_sink(&group.handler) {
            self.0.sinks.send_modify(|rings| *rings += 1);
            return;
        }
        self.0.groups.lock().unwrap_or_else(PoisonError::into_inner).insert(group);
        if !is_planted(Mistake::LostWakeUp) {
            self.0.rung.notify_one();
        }
    }

    /// The groups that rang since the last time.
    pub(crate) fn take(&self) -> BTreeSet<Group> {
        std::mem::take(&mut *self.0.groups.lock().unwrap_or_else(PoisonError::into_inner))
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
