//! Commits: one at a time, each waited for, and none at once after one that was refused.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use rdkafka::{
    TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::{KafkaError, KafkaResult},
};

use super::{Consumer, asked};

/// How often what was handled is committed.
const EVERY: Duration = Duration::from_secs(1);
/// How long to wait after a commit that was refused: brokers refuse the next one too while a rebalance is on, and asked without a pause
/// they are kept from ending it.
const AGAIN: Duration = Duration::from_millis(250);

/// What became of a commit.
pub(super) type Committed = (TopicPartitionList, KafkaResult<()>);

/// The commits of a consumer.
pub(super) struct Commits {
    consumer: Arc<Consumer>,
    under_way: Option<BoxFuture<'static, Committed>>,
    /// When what was handled is committed, however little it is.
    due: Instant,
    /// No commit before.
    not_before: Instant,
}

impl Commits {
    pub(super) fn new(consumer: Arc<Consumer>, now: Instant) -> Self {
        Self { consumer, under_way: None, due: now + EVERY, not_before: now }
    }

    /// Whether a commit may be made.
    pub(super) fn may(&self, now: Instant) -> bool {
        self.under_way.is_none() && now >= self.not_before
    }

    /// Whether a commit is to be made: it may, and either the time has come or there is `enough` of what it would cover.
    pub(super) fn are_due(&self, now: Instant, enough: bool) -> bool {
        self.may(now) && (enough || now >= self.due)
    }

    /// When [`are_due`](Self::are_due) has to be asked again, though nothing happened. None: when the one under way has ended.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let waits = self.not_before > now;
        self.under_way.is_none().then_some(if waits { self.not_before } else { self.due })
    }

    /// Whatever is handled is to be committed now.
    pub(super) fn hasten(&mut self, now: Instant) {
        self.due = now;
    }

    /// Commit these; `None`: there is nothing to commit.
    ///
    /// Not by the library's asynchronous commit, which does not tell what became of it.
    pub(super) fn commit(&mut self, now: Instant, offsets: Option<TopicPartitionList>) {
        self.due = now + EVERY;
        let Some(offsets) = offsets else { return };
        let consumer = self.consumer.clone();
        let committing = tokio::task::spawn_blocking(move || {
            let committed = consumer.commit(&offsets, CommitMode::Sync);
            (offsets, committed)
        });
        let committed = committing.map(|ended| ended.unwrap_or_else(|_| (TopicPartitionList::new(), Err(KafkaError::Canceled))));
        self.under_way = Some(committed.boxed());
    }

    /// What became of the commit that is under way; forever pending while there is none. Cancel safe.
    pub(super) async fn committed(&mut self) -> Committed {
        let committed = asked(&mut self.under_way).await;
        if committed.1.is_err() {
            self.not_before = Instant::now() + AGAIN;
            self.due = self.not_before;
        }
        committed
    }
}
