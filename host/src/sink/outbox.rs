//! Publishes what waits for one sink in the store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    PublishError, Publisher,
    pace::{Ended, Pace, STORE_RETRY},
    subscriber,
};
use crate::{
    ambient::now,
    config::SinkConfig,
    controller::{bell::Bell, generation::EMIT, settle::Settler},
    health::Health,
    store::{Attempt, CallId, Claim, Commit, Effects, Store, StoreError, Task, Verdict, Want},
    telemetry,
};

/// Events that are on their way to the broker at once.
const IN_FLIGHT: usize = 256;
/// The outbox of one sink.
pub(crate) struct Outbox {
    sink: SinkConfig,
    want: Want,
    shared: Arc<Shared>,
}

/// What publishing one event needs.
struct Shared {
    name: String,
    store: Arc<dyn Store>,
    settler: Arc<Settler>,
    bell: Bell,
    health: Health,
    /// How often the broker was found to be away.
    outages: AtomicU64,
    /// How long an event waits that is not published now, in milliseconds.
    wait_ms: AtomicI64,
}

/// What became of one event.
struct Sent {
    ended: Ended,
    /// How many outages there were when it was on its way.
    outages: u64,
    /// Why the broker declined it.
    declined: Option<String>,
}

impl Outbox {
    pub(crate) fn new(sink: SinkConfig, store: Arc<dyn Store>, settler: Arc<Settler>, bell: Bell, health: Health) -> Self {
        let want = Want { tenant: sink.tenant.clone(), source: EMIT.into(), handler: subscriber(&sink.name), limit: 0 };
        let name = format!("{}/{}", sink.tenant, sink.name);
        Self {
            sink,
            want,
            shared: Arc::new(Shared { name, store, settler, bell, health, outages: AtomicU64::default(), wait_ms: AtomicI64::default() }),
        }
    }

    /// Publish until told to stop, and then what can be published at once. Dropped, what is on its way goes back to the store: it may be
    /// published twice, with the same id.
    pub(crate) async fn run(self, stopping: CancellationToken) {
        self.shared.health.expect_sink(&self.shared.name);
        let mut pace = Pace::new(Instant::now());
        let publisher = loop {
            match Publisher::new(&self.sink) {
                Ok(publisher) => break Arc::new(publisher),
                // Its settings were checked: this is for what only the library knows.
                Err(error) => {
                    self.shared.health.sink_problem(&self.shared.name, Some(&error.to_string()));
                    tokio::select! {
                        () = stopping.cancelled() => return,
                        () = tokio::time::sleep(pace.failed()) => {}
                    }
                }
            }
        };
        let mut rings = self.shared.bell.sinks();
        let mut publishing = FuturesUnordered::<BoxFuture<'static, Sent>>::new();
        let mut wait = Duration::ZERO;
        loop {
            self.shared.wait_ms.store(pace.wait_ms(), Ordering::Relaxed);
            if wait.is_zero() && Instant::now() >= pace.not_before() {
                wait = match self.claim(IN_FLIGHT - publishing.len()).await {
                    Ok((tasks, next)) => {
                        for task in tasks {
                            publishing.push(Box::pin(self.shared.clone().publish(publisher.clone(), task)));
                        }
                        next
                    }
                    Err(StoreError::Closed) => return,
                    Err(_) => STORE_RETRY,
                };
            }
            let (stops, not_before) = (stopping.is_cancelled(), pace.not_before());
            if stops && publishing.is_empty() && !wait.is_zero() {
                return;
            }
            tokio::select! {
                Some(Sent { ended, outages, declined }) = publishing.next(), if !publishing.is_empty() => {
                    wait = pace.ended(ended, outages, self.shared.outages(), Instant::now());
                    if declined.is_some() || ended == Ended::Published && pace.is_well() {
                        self.shared.health.sink_problem(&self.shared.name, declined.as_deref());
                    }
                }
                () = pace.declines_no_more() => if pace.is_well() {
                    self.shared.health.sink_problem(&self.shared.name, None);
                },
                Ok(()) = rings.changed(), if !stops => wait = Duration::ZERO,
                () = tokio::time::sleep_until((Instant::now() + wait).max(not_before)) => wait = Duration::ZERO,
                () = stopping.cancelled(), if !stops => wait = Duration::ZERO,
            }
        }
    }

    /// Claim what is due. How long until there may be more: no time when this was as much as there was room for.
    async fn claim(&self, room: usize) -> Result<(Vec<Task>, Duration), StoreError> {
        let idle = self.shared.store.idle();
        if room == 0 {
            return Ok((Vec::new(), idle));
        }
        // What becomes due meanwhile is the next to wait for, not one that was missed.
        let looked = now();
        let tasks = self.shared.store.claim(vec![Want { limit: room, ..self.want.clone() }]).await?;
        if !tasks.is_empty() {
            return Ok((tasks, Duration::ZERO));
        }
        let next = self.shared.store.next_due(looked).await?;
        let next = next.map_or(idle, |due| Duration::from_millis(u64::try_from(due - now()).unwrap_or(0) + 1));
        Ok((tasks, next.min(idle)))
    }
}

impl Shared {
    fn outages(&self) -> u64 {
        self.outages.load(Ordering::Relaxed)
    }

    async fn publish(self: Arc<Self>, publisher: Arc<Publisher>, task: Task) -> Sent {
        let outages = self.outages();
        let unsettled = Unsettled { shared: self.clone(), claim: Some(task.claim) };
        let published = publisher.publish(&task.event).await;
        let mut declined = None;
        let (verdict, ended) = match published {
            Ok(()) => (Verdict::Done { effects: Effects::default(), keep: None }, Ended::Published),
            Err(PublishError::Refused(reason)) => {
                tracing::warn!(sink = self.name, event = task.event.id, reason, "the event cannot be published: dead letter");
                let failed = Some(Attempt { at: now(), error: reason.clone(), plugin: None });
                (Verdict::Dead { reason, failed, plugin: String::new(), recording: None }, Ended::Refused)
            }
            Err(PublishError::Unavailable(reason)) => {
                // Whoever fails with it, or later, finds it counted, and says nothing new.
                if self.outages.compare_exchange(outages, outages + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    self.health.sink_problem(&self.name, Some(&reason));
                }
                (self.park(), Ended::Waits)
            }
            Err(PublishError::Declined(reason)) => {
                declined = Some(reason);
                (self.park(), Ended::Declined)
            }
        };
        let outcome = match ended {
            Ended::Published => "published",
            Ended::Refused => "refused",
            Ended::Waits | Ended::Declined | Ended::NotSettled => "waits",
        };
        metrics::counter!(telemetry::PUBLISHED, "tenant" => task.tenant.to_string(), "sink" => self.name.clone(), "outcome" => outcome)
            .increment(1);
        let commit = Commit {
            call: CallId { tenant: task.tenant, source: task.source, key: task.key, handler: task.handler },
            holder: None,
            kind: task.kind,
            claim: Some(task.claim),
            fence: None,
            event: task.event,
            hops: task.hops,
            history: task.history,
            plugin: None,
            verdict,
        };
        match self.store.commit(commit).await {
            Ok(_) => {
                unsettled.settled();
                self.settler.note_store(None);
                Sent { ended, outages, declined }
            }
            Err(error) => {
                self.settler.note_store(Some(&error));
                Sent { ended: Ended::NotSettled, outages, declined: None }
            }
        }
    }

    /// That the broker does not take it is no failure of the event: no attempt is counted.
    fn park(&self) -> Verdict {
        Verdict::Park { due: now().saturating_add(self.wait_ms.load(Ordering::Relaxed)), failed: None, order: None }
    }
}

/// Gives the claim of an event back that was not settled, whatever became of it.
struct Unsettled {
    shared: Arc<Shared>,
    claim: Option<Claim>,
}

impl Unsettled {
    fn settled(mut self) {
        self.claim = None;
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.shared.settler.give_back(claim);
        }
    }
}
