//! A message that was taken, on its way through the host.

use std::sync::Arc;

use super::{message::Read, partitions::Ticket};
use crate::{
    channel::{Credit, InOrder},
    event::Event,
    receipt::{Answer, Cause},
    source::SourceContext,
};

/// A message that was taken.
pub(super) struct Taken {
    pub(super) ticket: Ticket,
    pub(super) event: Arc<Event>,
    /// What it is recognised by when it comes again.
    pub(super) key: String,
    /// It claims to be a CloudEvent and is none: why.
    invalid: Option<String>,
}

/// What became of it.
pub(super) struct Answered {
    pub(super) taken: Taken,
    pub(super) answer: Answer,
}

impl Taken {
    pub(super) fn new(ticket: Ticket, Read { event, key, invalid }: Read) -> Self {
        Self { ticket, event: Arc::new(event), key, invalid: invalid.map(|why| why.to_string()) }
    }

    pub(super) fn is_invalid(&self) -> bool {
        self.invalid.is_some()
    }

    /// Send it through the control channel; the answer is still to come.
    pub(super) async fn handle(self, ctx: &SourceContext, credit: Credit) -> impl Future<Output = Answered> + Send + 'static {
        let place = InOrder { line: self.ticket.line.clone(), at: self.ticket.offset };
        let pending = ctx.send_in_order(self.event.clone(), self.key.clone(), place, credit).await;
        async move { Answered { answer: pending.answer().await, taken: self } }
    }

    /// Keep what is no event as a dead letter.
    pub(super) async fn dead(self, ctx: SourceContext, credit: Credit) -> Answered {
        let reason = self.invalid.clone().unwrap_or_default();
        let kept = ctx.dead_letter(Event::clone(&self.event), Some(self.key.clone()), reason.clone()).await;
        drop(credit);
        let answer = if kept.is_ok() { Answer::Dead { reason } } else { Answer::Again { after: None, cause: Cause::Host } };
        Answered { taken: self, answer }
    }
}
