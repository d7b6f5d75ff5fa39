//! What the client library calls back with, brought into the loop that owns the partitions.
//!
//! librdkafka lets the application answer a rebalance when it wants to, as long as it does: the loop waits for the calls of a partition
//! before it lets go, and goes on with the others meanwhile.

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol},
    error::KafkaError,
    types::RDKafkaRespErr,
};
use tokio::sync::mpsc;

use super::{
    client::said,
    partitions::{Place, places},
};

/// What the loop is told.
#[derive(Debug)]
pub(super) enum Happening {
    /// These partitions are to be assigned.
    Assign(Vec<Place>),
    /// These are to be let go of; `lost`: they are somebody else's already.
    Revoke { partitions: Vec<Place>, lost: bool },
    /// Something is wrong, in the library's words; `None`: it has only counted who does not answer.
    Problem(Option<String>),
}

/// The context of a consumer. It must not wait: it tells the loop, by a channel with room for what can happen between two turns of it.
pub(super) struct Context {
    happenings: mpsc::Sender<Happening>,
}

impl Context {
    pub(super) fn new(happenings: mpsc::Sender<Happening>) -> Self {
        Self { happenings }
    }
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What concerns the operator comes by `error`, once.
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // A channel full of problems is told enough.
        let _ = self.happenings.try_send(Happening::Problem(said(&error, reason)));
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let assigns = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let happening = match assigns {
            true => Happening::Assign(places(list)),
            false => Happening::Revoke { partitions: places(list), lost: consumer.assignment_lost() },
        };
        if self.happenings.try_send(happening).is_ok() {
            return;
        }
        // Nobody listens: the consumer is being closed, and has to let go of everything.
        let _ = match (assigns, consumer.rebalance_protocol()) {
            (false, RebalanceProtocol::Cooperative) => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        };
    }
}
