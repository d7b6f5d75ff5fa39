//! Where emitted events are published: the outbox and its publishers.
//!
//! A sink that wants an emitted event is a subscriber like a handler: its task is written in the transaction that commits the call which
//! emitted, so an event leaves when its call is done, or never. From there [`outbox`] publishes it, in order of its key and with the id it
//! has, as often as it takes: whoever reads it sees it at least once, and knows it by its id.

use std::sync::Arc;

use crate::{
    config::{SinkConfig, SinkKind},
    event::Event,
};

mod kafka;
pub(crate) mod outbox;
mod pace;
mod rabbitmq;

use self::{kafka::KafkaPublisher, rabbitmq::RabbitmqPublisher};

/// What the subscriber of a sink begins with; no handler's name has a `:`.
const PREFIX: &str = "sink:";

/// What a sink is called as a subscriber.
pub(crate) fn subscriber(sink: &str) -> Arc<str> {
    format!("{PREFIX}{sink}").into()
}

/// The sink that this subscriber is, if it is one.
pub(crate) fn name_of(subscriber: &str) -> Option<&str> {
    subscriber.strip_prefix(PREFIX)
}

/// Whether tasks of this subscriber are a sink's, and no handler's.
pub(crate) fn is_sink(subscriber: &str) -> bool {
    subscriber.starts_with(PREFIX)
}

/// Why an event was not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// The broker is away, or takes nothing.
    #[error("{0}")]
    Unavailable(String),
    /// The broker is there and does not take this event now; it may well take others.
    #[error("{0}")]
    Declined(String),
    /// It never will.
    #[error("{0}")]
    Refused(String),
}

/// Publishes to one broker.
pub(crate) enum Publisher {
    Kafka(KafkaPublisher),
    Rabbitmq(Box<RabbitmqPublisher>),
}

impl Publisher {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// When the client library refuses its settings.
    pub(crate) fn new(sink: &SinkConfig) -> Result<Self, PublishError> {
        let name = format!("{}/{}", sink.tenant, sink.name);
        Ok(match sink.kind.clone() {
            SinkKind::Kafka { cluster, topic } => {
                Self::Kafka(KafkaPublisher::new(&cluster, topic, sink.mode, format!("koksmat-{}-{}", sink.tenant, sink.name))?)
            }
            SinkKind::Rabbitmq { broker, exchange, routing_key } => {
                Self::Rabbitmq(Box::new(RabbitmqPublisher::new(broker, exchange, routing_key, sink.mode, name)))
            }
        })
    }

    /// Publish, and wait until the broker has it.
    ///
    /// # Errors
    /// When it has not, or nobody knows.
    pub(crate) async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        match self {
            Self::Kafka(kafka) => kafka.publish(event).await,
            Self::Rabbitmq(rabbitmq) => rabbitmq.publish(event).await,
        }
    }
}
