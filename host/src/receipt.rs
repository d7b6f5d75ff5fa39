//! The answer slot inside a delivery: single use, and silence means "deliver again".

use std::time::Duration;

use tokio::sync::oneshot;

use crate::outcome::Response;

/// What became of an event, said by settle and carried out by the source.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Every call of the event is settled: acknowledge.
    Done {
        /// What the handler answered, for a source where someone waits for it.
        response: Option<Response>,
    },
    /// Deliver again.
    Again {
        /// Not before this has passed.
        after: Option<Duration>,
        /// Why.
        cause: Cause,
    },
    /// It will never work; the event is among the dead letters, or nobody wanted it.
    Dead {
        /// What the sender may be told.
        reason: String,
    },
}

/// Why an event is to be delivered again. A webhook that replies with the handler's answer chooses its status by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The handler asked for it.
    Retry,
    /// The call reached its deadline.
    Timeout,
    /// The guest trapped or ran out of memory.
    Crash,
    /// The host stopped before the event was handled, or its store failed.
    Host,
}

/// The right, and the duty, to answer one delivery. Dropped unanswered it means [`Answer::Again`].
#[must_use = "a dropped receipt means: deliver again"]
#[derive(Debug)]
pub struct Receipt(oneshot::Sender<Answer>);

impl Receipt {
    /// A receipt and the place where its answer arrives.
    pub fn new() -> (Self, Pending) {
        let (tx, rx) = oneshot::channel();
        (Self(tx), Pending(rx))
    }

    /// Answer. A source that no longer listens is no error: it will see the event again.
    pub(crate) fn answer(self, answer: Answer) {
        let _ = self.0.send(answer);
    }
}

/// An answer to come.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Answer>);

impl Pending {
    /// Wait for the answer.
    ///
    /// Cancel safe: dropping the future loses nothing but the answer.
    pub async fn answer(self) -> Answer {
        self.0.await.unwrap_or(Answer::Again { after: None, cause: Cause::Host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_receipt_means_again() {
        let (receipt, pending) = Receipt::new();
        drop(receipt);
        assert!(matches!(pending.answer().await, Answer::Again { .. }));
    }
}
