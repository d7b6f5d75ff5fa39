//! What one of the hosts that share a store does at a time: the atomic calls of all of them, or polling a source that has one position.
//!
//! Whoever is in a lane has a lease of it in the store, says every few seconds that it is still there, and is cut before the lease could
//! end, by this host's own monotonic clock: whatever the clocks say, it is not in the lane when another is. What it writes under its
//! [`Fence`] happens only while the lane is its own.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::store::{Fence, LANE_LEASE, Store};

/// How long to wait before a lane that another host is in is looked at again.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// How often who is in a lane says so.
const STAY: Duration = Duration::from_secs(3);
/// Whoever is in a lane is cut so long before its lease could end.
const MARGIN: Duration = Duration::from_secs(2);

/// A place in a lane. Dropped, it is left.
pub(crate) struct Inside {
    store: Arc<dyn Store>,
    fence: Fence,
    until: Instant,
    committed: bool,
}

/// Wait for a lane. Cancel safe but for what was entered when it was dropped, which lasts as long as its lease.
pub(crate) async fn enter(store: &Arc<dyn Store>, lane: &str) -> Inside {
    let lane: Arc<str> = lane.into();
    let mut wait = LOOK.0;
    loop {
        let asked = Instant::now();
        match store.enter_lane(lane.clone()).await {
            Ok(Some(fence)) => return Inside { store: store.clone(), fence, until: asked + LANE_LEASE - MARGIN, committed: false },
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the lane cannot be entered now and will be tried again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LOOK.1);
    }
}

impl Inside {
    pub(crate) fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// The commit has left the lane, whatever became of it.
    pub(crate) fn left(mut self) {
        self.committed = true;
    }

    /// Stay in the lane. Returns when that is not sure any more.
    pub(crate) fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let (store, fence, mut until) = (self.store.clone(), self.fence.clone(), self.until);
        async move {
            loop {
                tokio::time::sleep(STAY).await;
                let asked = Instant::now();
                match tokio::time::timeout_at(until, store.stay_in_lane(fence.clone())).await {
                    Ok(Ok(true)) => until = asked + LANE_LEASE - MARGIN,
                    Ok(Ok(false)) | Err(_) => return,
                    Ok(Err(_)) if Instant::now() >= until => return,
                    Ok(Err(_)) => {}
                }
            }
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // With the runtime everything has ended; the lane is left when the lease ends.
        if !self.committed && tokio::runtime::Handle::try_current().is_ok() {
            let (store, fence) = (self.store.clone(), self.fence.clone());
            drop(crate::task::spawn("leave lane", async move {
                let _ = store.leave_lane(fence).await;
            }));
        }
    }
}
