//! Topics of Apache Kafka: an offset is committed when every event up to it is handled, parked or dead.
//!
//! ```text
//! connect ─► subscribe ─► assigned ─► take ─► send ─► answered ─► contiguous offsets ─► commit
//!                            ▲                                                             │
//!                            └── revoked: take nothing, wait for what runs, commit, let go ┘
//! ```
//!
//! [`offsets`] says how far a partition may be committed, a pure state machine; [`partitions`] holds those that are assigned, each assignment
//! with an epoch of its own, so that an answer which comes after the partition went to somebody else commits nothing; [`rebalance`] brings
//! what the client library calls back with into the one loop of [`consume`], which owns everything. [`message`] makes events of messages,
//! [`taken`] sends them through the host and [`line`] into the store; [`commits`] are made one at a time; [`probe`] asks whether the brokers
//! answer, and [`client`] speaks to the library.
//!
//! Rebalances are carried out by the loop and not inside the callback: while a partition's calls end the others go on. Back-pressure is
//! pausing: the loop goes on polling, so the member stays in its group however long handlers take.

use std::{
    future::{Future, pending},
    pin::Pin,
};

use futures_util::future::BoxFuture;
use rdkafka::consumer::StreamConsumer;

use crate::{
    config::KafkaConfig,
    source::{Source, SourceContext, SourceError},
};

pub(crate) mod client;
mod commits;
mod consume;
mod line;
mod message;
mod offsets;
mod partitions;
mod probe;
mod rebalance;
#[cfg(test)]
pub(crate) mod simulated;
mod taken;

type Consumer = StreamConsumer<rebalance::Context>;

/// `kind = "kafka"`.
pub struct KafkaSource {
    config: KafkaConfig,
}

impl KafkaSource {
    /// A source that takes what `config` says.
    pub fn new(config: KafkaConfig) -> Self {
        Self { config }
    }
}

impl Source for KafkaSource {
    fn kind(&self) -> &str {
        "kafka"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        Box::pin(consume::run(&self.config, ctx))
    }
}

/// The answer to a question, once; forever pending while none is asked. Cancel safe.
async fn asked<T>(question: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(asking) = question else { return pending().await };
    let answer = asking.await;
    *question = None;
    answer
}
