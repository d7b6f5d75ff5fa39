//! What a source has inside the host, and where the answers to it come together.

use std::sync::Arc;

use slab::Slab;

use crate::receipt::{Answer, Answers, Receipt};

/// What is inside the host: at most one for each credit, and that whose answer nobody has looked at yet.
pub(super) struct InFlight<T> {
    inside: Slab<T>,
    answers: Arc<Answers>,
    /// The first one last.
    given: Vec<(usize, Answer)>,
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        Self { inside: Slab::new(), answers: Arc::default(), given: Vec::new() }
    }
}

impl<T> InFlight<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.inside.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.inside.len()
    }

    /// The receipt of an event that is about to be sent; with its answer `of` is given back.
    pub(super) fn receipt(&mut self, of: T) -> Receipt {
        self.answers.receipt(self.inside.insert(of))
    }

    /// Wait for answers: for all that are there, at least one. Cancel safe.
    pub(super) async fn wait(&mut self) {
        if self.given.is_empty() {
            self.answers.take(&mut self.given).await;
            self.given.reverse();
        }
    }

    /// The next answer of those that are there, in the order in which they were given.
    pub(super) fn next(&mut self) -> Option<(T, Answer)> {
        if self.given.is_empty() {
            self.answers.take_now(&mut self.given);
            self.given.reverse();
        }
        let (number, answer) = self.given.pop()?;
        Some((self.inside.remove(number), answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_are_given_in_their_order_each_with_what_it_answers() {
        let mut in_flight = InFlight::default();
        let receipts: Vec<Receipt> = (0..4).map(|of| in_flight.receipt(of)).collect();
        let done = |receipt: Receipt| receipt.answer(Answer::Done { response: None });
        let mut receipts = receipts.into_iter();
        receipts.by_ref().take(2).for_each(done);
        in_flight.wait().await;
        receipts.for_each(done);
        let mut answered = Vec::new();
        while let Some((of, _)) = in_flight.next() {
            answered.push((of, in_flight.len()));
        }
        assert_eq!(answered, [(0, 3), (1, 2), (2, 1), (3, 0)]);
    }
}
