//! A message that was taken, on its way through the host.

use std::sync::Arc;

use super::{message::Read, partitions::Ticket};
use crate::{
    channel::Credit,
    event::Event,
    receipt::{Answer, Cause},
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
