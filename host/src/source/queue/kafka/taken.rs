//! A message that was taken, on its way through the host.

use std::sync::Arc;

use slab::Slab;

use super::{message::Read, partitions::Ticket};
use crate::{
    channel::{Credit, InOrder},
    event::Event,
    receipt::{Answer, Answers, Cause},
    source::SourceContext,
};

/// A message that was taken.
pub(super) struct Taken {
    pub(super) ticket: Ticket,
    pub(super) event: Arc<Event>,
    /// What it is recognised by when it comes again.
    pub(super) key: Arc<str>,
    /// It claims to be a CloudEvent and is none: why.
    invalid: Option<String>,
}

/// What became of it.
pub(super) struct Answered {
    pub(super) taken: Taken,
    pub(super) answer: Answer,
}

impl Taken {
    pub(super) fn new(ticket: Ticket, Read { mut event, key, invalid }: Read, ctx: &SourceContext) -> Self {
        // Before it is shared, or completing it would copy it.
        ctx.complete(&mut event);
        Self { ticket, event: Arc::new(event), key, invalid: invalid.map(|why| why.to_string()) }
    }

    pub(super) fn is_invalid(&self) -> bool {
        self.invalid.is_some()
    }

    /// Keep what is no event as a dead letter.
    pub(super) async fn dead(self, ctx: SourceContext, credit: Credit) -> Answered {
        let reason = self.invalid.clone().unwrap_or_default();
        let kept = ctx.dead_letter(Event::clone(&self.event), Some(self.key.to_string()), reason.clone()).await;
        drop(credit);
        let answer = if kept.is_ok() { Answer::Dead { reason } } else { Answer::Again { after: None, cause: Cause::Host } };
        Answered { taken: self, answer }
    }
}

/// The messages inside the host: at most one for each credit, and those whose answer nobody has looked at yet.
#[derive(Default)]
pub(super) struct InFlight {
    taken: Slab<Taken>,
    answers: Arc<Answers>,
    given: Vec<(usize, Answer)>,
}

impl InFlight {
    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Send a message through the control channel; the answer is still to come.
    pub(super) async fn send(&mut self, ctx: &SourceContext, taken: Taken, credit: Credit) {
        let place = InOrder { line: taken.ticket.line.clone(), at: taken.ticket.offset };
        let (event, key) = (taken.event.clone(), taken.key.clone());
        let receipt = self.answers.receipt(self.taken.insert(taken));
        ctx.send_in_order(event, key, place, receipt, credit).await;
    }

    /// Wait for answers: for all that are there, at least one. Cancel safe.
    pub(super) async fn wait(&mut self) {
        if self.given.is_empty() {
            self.answers.take(&mut self.given).await;
        }
    }

    /// The next answer of those that were waited for.
    pub(super) fn next(&mut self) -> Option<Answered> {
        let (number, answer) = self.given.pop()?;
        Some(Answered { taken: self.taken.remove(number), answer })
    }
}
