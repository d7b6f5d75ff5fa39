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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        channel::Delivery,
        receipt::{Answer, Cause},
        source::test_host::TestHost,
    };

    #[tokio::test]
    async fn the_sender_gets_the_answer() {
        let mut host = TestHost::new("memory", 2);
        let (source, sender) = MemorySource::new();
        host.start(source).await;
        let pending = sender.send_with_key(Event::new("order.created", "{}"), "k1").await.unwrap();
        let delivery = host.delivery().await;
        assert_eq!((delivery.event.ty.as_str(), delivery.key.as_deref()), ("order.created", Some("k1")));
        delivery.receipt.answer(Answer::Done { response: None });
        assert_eq!(pending.answer().await, Answer::Done { response: None });
    }

    #[tokio::test]
    async fn a_sender_may_come_before_its_source() {
        let mut host = TestHost::new("memory", 1);
        let (source, sender) = MemorySource::new();
        let early = crate::task::spawn("sender", async move { sender.send(Event::new("early", "")).await.unwrap().answer().await });
        host.start(source).await;
        drop(host.delivery().await);
        assert_eq!(early.await.unwrap(), Answer::Again { after: None, cause: Cause::Host });
    }

    #[tokio::test]
    async fn a_stop_refuses_new_events_and_waits_for_those_inside() {
        let mut host = TestHost::new("memory", 1);
        let (source, sender) = MemorySource::new();
        let running = host.start(source).await;
        let pending = sender.send(Event::new("first", "")).await.unwrap();
        let delivery = host.delivery().await;
        // The only credit is inside: this one waits for it.
        let waiting = sender.send(Event::new("second", ""));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        host.ctx.stopping.cancel();
        let mut watching = sender.running.clone();
        watching.wait_for(|running| matches!(running, Running::Stopped)).await.unwrap();
        assert_eq!(sender.send(Event::new("third", "")).await.unwrap_err(), Stopped);
        assert!(!running.is_finished());
        let Delivery { receipt, credit, .. } = delivery;
        receipt.answer(Answer::Done { response: None });
        drop(credit);
        assert_eq!(waiting.await.unwrap_err(), Stopped);
        running.await.unwrap().unwrap();
        assert_eq!(pending.answer().await, Answer::Done { response: None });
        assert!(host.control.try_recv().is_none());
    }

    #[tokio::test]
    async fn a_source_that_is_gone_takes_nothing() {
        let (source, sender) = MemorySource::new();
        drop(source);
        assert_eq!(sender.send(Event::new("late", "")).await.unwrap_err(), Stopped);
    }
}
