//! Publishes what waits for one sink in the store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use super::{PublishError, Publisher, subscriber};
use crate::{
    ambient::now,
    config::SinkConfig,
    controller::{bell::Bell, generation::EMIT, settle::Settler},
    health::Health,
    source::backoff::Backoff,
    store::{Attempt, CallId, Claim, Commit, Effects, Store, StoreError, Task, Verdict, Want},
    telemetry,
};

/// Events that are on their way to the broker at once.
const IN_FLIGHT: usize = 256;
/// How long to wait after the store failed.
const STORE_RETRY: Duration = Duration::from_millis(500);

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
    /// How often the broker was found not to take events. What is on its way then fails together, which is once, and what of it had arrived
    /// before says nothing of the broker now.
    outages: AtomicU64,
}

/// What became of one event, and how many outages there were when it was on its way.
struct Sent {
    ended: Ended,
    outages: u64,
}

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Published,
    Refused,
    /// It waits for the broker.
    Waits,
    /// It waits for the store.
    NotSettled,
}

impl Outbox {
    pub(crate) fn new(sink: SinkConfig, store: Arc<dyn Store>, settler: Arc<Settler>, bell: Bell, health: Health) -> Self {
        let want = Want { tenant: sink.tenant.clone(), source: EMIT.into(), handler: subscriber(&sink.name), limit: 0 };
        let name = format!("{}/{}", sink.tenant, sink.name);
        Self { sink, want, shared: Arc::new(Shared { name, store, settler, bell, health, outages: AtomicU64::new(0) }) }
    }

    /// Publish until told to stop, and then what can be published at once. Dropped, what is on its way goes back to the store: it may be
    /// published twice, with the same id.
    pub(crate) async fn run(self, stopping: CancellationToken) {
        self.shared.health.expect_sink(&self.shared.name);
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
        let publisher = loop {
            match Publisher::new(&self.sink) {
                Ok(publisher) => break Arc::new(publisher),
                // Its settings were checked: this is for what only the library knows.
                Err(error) => {
                    self.shared.health.sink_problem(&self.shared.name, Some(&error.to_string()));
                    tokio::select! {
                        () = stopping.cancelled() => return,
                        () = tokio::time::sleep(backoff.after_failure()) => {}
                    }
                }
            }
        };
        let mut rings = self.shared.bell.sinks();
        let mut publishing = FuturesUnordered::<BoxFuture<'static, Sent>>::new();
        // Nothing is taken before this: the wait for so many outages.
        let (mut not_before, mut waited_for) = (tokio::time::Instant::now(), 0);
        let mut wait = Duration::ZERO;
        loop {
            if wait.is_zero() && tokio::time::Instant::now() >= not_before {
                wait = match self.claim(IN_FLIGHT - publishing.len()).await {
                    Ok((tasks, next)) => {
                        let wait_ms = i64::try_from(backoff.next().as_millis()).unwrap_or(i64::MAX);
                        for task in tasks {
                            publishing.push(Box::pin(self.shared.clone().publish(publisher.clone(), task, wait_ms)));
                        }
                        next
                    }
                    Err(StoreError::Closed) => return,
                    Err(_) => STORE_RETRY,
                };
            }
            let stops = stopping.is_cancelled();
            if stops && publishing.is_empty() && !wait.is_zero() {
                return;
            }
            tokio::select! {
                Some(Sent { ended, outages }) = publishing.next(), if !publishing.is_empty() => match ended {
                    Ended::Published | Ended::Refused => {
                        if ended == Ended::Published && outages == self.shared.outages() {
                            backoff.reset();
                            self.shared.health.sink_problem(&self.shared.name, None);
                        }
                        wait = Duration::ZERO;
                    }
                    Ended::Waits => {
                        let outages = self.shared.outages();
                        if outages > waited_for {
                            waited_for = outages;
                            not_before = tokio::time::Instant::now() + backoff.after_failure();
                        }
                        wait = not_before.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_millis(1));
                    }
                    Ended::NotSettled => wait = STORE_RETRY,
                },
                Ok(()) = rings.changed(), if !stops => wait = Duration::ZERO,
                () = tokio::time::sleep_until((tokio::time::Instant::now() + wait).max(not_before)) => wait = Duration::ZERO,
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

    async fn publish(self: Arc<Self>, publisher: Arc<Publisher>, task: Task, wait_ms: i64) -> Sent {
        let outages = self.outages();
        let unsettled = Unsettled { shared: self.clone(), claim: Some(task.claim) };
        let published = publisher.publish(&task.event).await;
        let (verdict, ended) = match published {
            Ok(()) => (Verdict::Done { effects: Effects::default(), keep: None }, Ended::Published),
            Err(PublishError::Refused(reason)) => {
                tracing::warn!(sink = self.name, event = task.event.id, reason, "the event cannot be published: dead letter");
                let failed = Some(Attempt { at: now(), error: reason.clone(), plugin: None });
                (Verdict::Dead { reason, failed, plugin: String::new(), recording: None }, Ended::Refused)
            }
            Err(PublishError::Unavailable(reason)) => {
                self.health.sink_problem(&self.name, Some(&reason));
                // Whoever fails with it, or later, finds it counted.
                let _ = self.outages.compare_exchange(outages, outages + 1, Ordering::Relaxed, Ordering::Relaxed);
                // That the broker is away is no failure of the event: no attempt is counted.
                (Verdict::Park { due: now().saturating_add(wait_ms), failed: None, order: None }, Ended::Waits)
            }
        };
        let outcome = match ended {
            Ended::Published => "published",
            Ended::Refused => "refused",
            Ended::Waits | Ended::NotSettled => "waits",
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
        let ended = match self.store.commit(commit).await {
            Ok(_) => {
                unsettled.settled();
                self.settler.note_store(None);
                ended
            }
            Err(error) => {
                self.settler.note_store(Some(&error));
                Ended::NotSettled
            }
        };
        Sent { ended, outages }
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
