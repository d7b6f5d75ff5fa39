//! Events from within the process: for tests and embedders.
//!
//! There is no queue in it: a sender takes a credit, puts its event into the control channel itself and gets the answer of settle. Without
//! a free credit it waits.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::sync::watch;

use super::{Source, SourceContext, SourceError};
use crate::{event::Event, receipt::Pending};

/// A source whose events come from its [`MemorySender`]s.
pub struct MemorySource {
    /// The context while the source runs.
    running: watch::Sender<Running>,
}

/// Sends events into the host. Clones send through the same source.
#[derive(Clone)]
pub struct MemorySender {
    running: watch::Receiver<Running>,
}

/// The source takes no more events: the host stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory source takes no more events: the host stops")]
pub struct Stopped;

#[derive(Clone)]
enum Running {
    NotYet,
    Yes(Arc<SourceContext>),
    Stopped,
}

impl MemorySource {
    /// A source and what sends through it.
    #[expect(clippy::new_ret_no_self, reason = "the two halves are made together, like those of a channel")]
    pub fn new() -> (Self, MemorySender) {
        let (running, watching) = watch::channel(Running::NotYet);
        (Self { running }, MemorySender { running: watching })
    }
}

impl Source for MemorySource {
    fn kind(&self) -> &str {
        "memory"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        Box::pin(async move {
            let (stopping, credits) = (ctx.stopping().clone(), ctx.credits().clone());
            ctx.ready();
            self.running.send_replace(Running::Yes(Arc::new(ctx)));
            stopping.cancelled().await;
            self.running.send_replace(Running::Stopped);
            // Whoever holds every credit knows that nothing is inside.
            let mut all = Vec::with_capacity(credits.limit());
            while all.len() < credits.limit() {
                all.push(credits.acquire().await);
            }
            Ok(())
        })
    }
}

impl MemorySender {
    /// Send an event that is never recognised again. Waits until the source runs and has a credit; then the answer is
    /// [`Pending::answer`], and whoever does not want it drops it.
    ///
    /// Nobody delivers the event again: [`Answer::Again`](crate::receipt::Answer::Again) tells the sender that it may.
    ///
    /// Cancel safe: an event of a dropped future was sent or not, and what was sent is handled.
    ///
    /// # Errors
    /// When the host stops: the event was not taken.
    pub async fn send(&self, event: Event) -> Result<Pending, Stopped> {
        self.deliver(event, None).await
    }

    /// Like [`send`](Self::send), for an event that is recognised by `key`: sent again it runs only the calls that did not settle.
    ///
    /// # Errors
    /// When the host stops: the event was not taken.
    pub async fn send_with_key(&self, event: Event, key: impl Into<String>) -> Result<Pending, Stopped> {
        self.deliver(event, Some(key.into())).await
    }

    async fn deliver(&self, event: Event, key: Option<String>) -> Result<Pending, Stopped> {
        let ctx = self.context().await?;
        let credit = ctx.credits().acquire().await;
        // The stop may have come while this waited.
        if ctx.stopping().is_cancelled() {
            return Err(Stopped);
        }
        Ok(ctx.send(event, key, credit).await)
    }

    async fn context(&self) -> Result<Arc<SourceContext>, Stopped> {
        if let Running::Yes(ctx) = &*self.running.borrow() {
            return Ok(ctx.clone());
        }
        let mut running = self.running.clone();
        match running.wait_for(|running| !matches!(running, Running::NotYet)).await.as_deref() {
            Ok(Running::Yes(ctx)) => Ok(ctx.clone()),
            _ => Err(Stopped),
        }
    }
}
