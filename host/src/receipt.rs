//! The answer slot inside a delivery: single use, and silence means "deliver again".

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

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
    /// An operator paused the handler.
    Paused,
}

/// How long a sender is asked to wait for what is paused: nobody knows how long that will be.
pub(crate) const RETRY_PAUSED: Duration = Duration::from_secs(10);

/// The right, and the duty, to answer one delivery. Dropped unanswered it means [`Answer::Again`].
#[must_use = "a dropped receipt means: deliver again"]
#[derive(Debug)]
pub struct Receipt(Way);

/// Where the answer goes.
#[derive(Debug)]
enum Way {
    One(oneshot::Sender<Answer>),
    Many { answers: Arc<Answers>, number: usize },
    Answered,
}

impl Receipt {
    /// A receipt and the place where its answer arrives.
    pub fn new() -> (Self, Pending) {
        let (tx, rx) = oneshot::channel();
        (Self(Way::One(tx)), Pending(rx))
    }

    /// Answer. A source that no longer listens is no error: it will see the event again.
    pub(crate) fn answer(mut self, answer: Answer) {
        self.give(answer);
    }

    fn give(&mut self, answer: Answer) {
        match std::mem::replace(&mut self.0, Way::Answered) {
            Way::One(to) => drop(to.send(answer)),
            Way::Many { answers, number } => answers.give(number, answer),
            Way::Answered => {}
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.give(AGAIN);
    }
}

/// What silence means.
const AGAIN: Answer = Answer::Again { after: None, cause: Cause::Host };

/// An answer to come.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Answer>);

impl Pending {
    /// Wait for the answer.
    ///
    /// Cancel safe: dropping the future loses nothing but the answer.
    pub async fn answer(self) -> Answer {
        self.0.await.unwrap_or(AGAIN)
    }
}

/// Where the answers of a source with many events in flight come together, each with the number that the source gave it: cheaper than a
/// [`Pending`] for each. Never more than there are receipts.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    given: Mutex<Vec<(usize, Answer)>>,
    /// Rung for the first one after they were taken.
    bell: Notify,
}

impl Answers {
    /// A receipt whose answer comes here.
    pub(crate) fn receipt(self: &Arc<Self>, number: usize) -> Receipt {
        Receipt(Way::Many { answers: self.clone(), number })
    }

    fn give(&self, number: usize, answer: Answer) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.push((number, answer));
        let first = given.len() == 1;
        drop(given);
        if first {
            self.bell.notify_one();
        }
    }

    /// All that were given, at least one, into `into`, which is empty. Cancel safe.
    pub(crate) async fn take(&self, into: &mut Vec<(usize, Answer)>) {
        loop {
            self.take_now(into);
            if !into.is_empty() {
                return;
            }
            self.bell.notified().await;
        }
    }

    /// All that were given by now, at the end of `into`.
    pub(crate) fn take_now(&self, into: &mut Vec<(usize, Answer)>) {
        into.append(&mut self.given.lock().unwrap_or_else(PoisonError::into_inner));
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

    #[tokio::test]
    async fn answers_of_many_come_together_each_once_and_silence_is_one() {
        let answers = Arc::<Answers>::default();
        let (first, second, third) = (answers.receipt(1), answers.receipt(2), answers.receipt(3));
        first.answer(Answer::Done { response: None });
        drop(second);
        let mut taken = Vec::new();
        answers.take(&mut taken).await;
        assert!(matches!(taken[..], [(1, Answer::Done { .. }), (2, Answer::Again { .. })]), "{taken:?}");
        let (taken, ()) = tokio::join!(
            async {
                let mut taken = Vec::new();
                answers.take(&mut taken).await;
                taken
            },
            async { third.answer(Answer::Dead { reason: "x".into() }) }
        );
        assert!(matches!(taken[..], [(3, Answer::Dead { .. })]), "{taken:?}");
    }
}
