//! Durable intake: events are written to the store in the order in which they came.
//!
//! They go there in batches, one after the other. What the store has no room for stays at the head of the line and is tried again after a
//! while, so that nothing of its key gets in before it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};

use super::asked;
use crate::{
    channel::Credit,
    event::Event,
    source::{AcceptRequest, SourceContext},
    store::{Accepted, StoreError},
};

/// The most events of a batch.
const BATCH: usize = 256;
/// How long what was not accepted waits.
const AGAIN: Duration = Duration::from_secs(1);

/// An event in the line: `T` is what the source knows it by.
pub(super) struct Waiting<T> {
    pub(super) of: T,
    pub(super) event: Arc<Event>,
    pub(super) key: Arc<str>,
    /// Given back when it is in the store.
    pub(super) _credit: Credit,
}

/// A batch and what became of it.
type Batch<T> = (Vec<Waiting<T>>, Result<Vec<Accepted>, StoreError>);

/// The line.
pub(super) struct Line<T> {
    ctx: SourceContext,
    /// The most unsettled tasks the source may have.
    backlog: u64,
    waiting: VecDeque<Waiting<T>>,
    accepting: Option<BoxFuture<'static, Batch<T>>>,
    /// When the head of the line is tried again, and why it was not accepted.
    again: Option<(Instant, &'static str)>,
}

impl<T: Send + 'static> Line<T> {
    pub(super) fn new(ctx: SourceContext, backlog: u64) -> Self {
        Self { ctx, backlog, waiting: VecDeque::new(), accepting: None, again: None }
    }

    pub(super) fn push(&mut self, waiting: Waiting<T>) {
        self.waiting.push_back(waiting);
    }

    /// Take out what is not wanted any more. What is on its way to the store arrives there.
    pub(super) fn remove(&mut self, unwanted: impl Fn(&T) -> bool) -> Vec<T> {
        let (removed, kept) = self.waiting.drain(..).partition(|waiting| unwanted(&waiting.of));
        self.waiting = kept;
        let removed: VecDeque<Waiting<T>> = removed;
        removed.into_iter().map(|waiting| waiting.of).collect()
    }

    /// Nothing waits and nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.accepting.is_none()
    }

    /// Why the head of the line waits, when the store did not take it.
    pub(super) fn held(&self) -> Option<&'static str> {
        self.again.filter(|_| !self.waiting.is_empty()).map(|(_, why)| why)
    }

    /// The next events that are in the store, at least one; forever pending while the line is empty. Cancel safe.
    pub(super) async fn accepted(&mut self) -> Vec<T> {
        loop {
            if self.accepting.is_none() && !self.waiting.is_empty() {
                if let Some((again, _)) = self.again {
                    tokio::time::sleep_until(again.into()).await;
                }
                let batch = self.waiting.drain(..self.waiting.len().min(BATCH)).collect();
                self.accepting = Some(accept(self.ctx.clone(), self.backlog, batch).boxed());
            }
            let (batch, answers) = asked(&mut self.accepting).await;
            let accepted = match answers {
                Ok(answers) => self.sort_out(batch, answers, "its backlog in the store is full: it waits for its handlers"),
                // The host knows what is wrong with its store, and says so.
                Err(_) => self.sort_out(batch, Vec::new(), "the store does not take its events"),
            };
            if !accepted.is_empty() {
                return accepted;
            }
        }
    }

    /// What is in the store goes out, the rest back to the head of the line.
    fn sort_out(&mut self, batch: Vec<Waiting<T>>, answers: Vec<Accepted>, why_not: &'static str) -> Vec<T> {
        let mut answers = answers.into_iter();
        let (mut accepted, mut rest) = (Vec::with_capacity(batch.len()), Vec::new());
        for waiting in batch {
            match answers.next() {
                Some(Accepted::New { .. } | Accepted::Duplicate { .. }) => accepted.push(waiting.of),
                Some(Accepted::Full) | None => rest.push(waiting),
            }
        }
        self.again = (!rest.is_empty()).then(|| (Instant::now() + AGAIN, why_not));
        rest.into_iter().rev().for_each(|waiting| self.waiting.push_front(waiting));
        accepted
    }
}

async fn accept<T>(ctx: SourceContext, backlog: u64, batch: Vec<Waiting<T>>) -> Batch<T> {
    let request = |waiting: &Waiting<T>| AcceptRequest {
        event: Event::clone(&waiting.event),
        key: Some(waiting.key.to_string()),
        backlog: Some(backlog),
        ..AcceptRequest::default()
    };
    let requests = batch.iter().map(request).collect();
    let accepted = ctx.accept_in_order(requests).await;
    (batch, accepted)
}
