//! Events into a topic of Apache Kafka, by an idempotent producer.
//!
//! Source: [Kafka protocol binding](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md).

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};

use super::PublishError;
use crate::{
    config::{ContentMode, KafkaCluster},
    event::{Event, cloudevents},
    source::queue::kafka::client::{refused, said, settings, with_own},
};

/// How long the brokers may take before an event is unpublished and tried again.
const TIMEOUT_MS: &str = "30000";

/// Publishes to one topic.
pub(crate) struct KafkaPublisher {
    producer: FutureProducer<Context>,
    topic: String,
    mode: ContentMode,
    said: Said,
}

/// What the library said last of what is wrong: its results only say that something is.
type Said = Arc<Mutex<Option<String>>>;

struct Context(Said);

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(said) = said(&error, reason) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
        }
    }
}

impl KafkaPublisher {
    /// A publisher to `topic`; nothing is connected yet.
    pub(super) fn new(cluster: &KafkaCluster, topic: String, mode: ContentMode, client: String) -> Result<Self, PublishError> {
        let mut config = settings(cluster, client);
        config.set("message.timeout.ms", TIMEOUT_MS);
        // Waiting this long for company makes few batches of many events.
        config.set("linger.ms", "5");
        let mut config = with_own(config, cluster);
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        let said = Said::default();
        let created = config.create_with_context(Context(said.clone()));
        let producer = created.map_err(|error| PublishError::Unavailable(refused(&error)))?;
        Ok(Self { producer, topic, mode, said })
    }

    pub(super) async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        let structured;
        let (payload, headers) = match self.mode {
            ContentMode::Binary => (event.data.as_ref(), binary(event)),
            ContentMode::Structured => {
                structured = cloudevents::to_structured(event);
                (structured.as_ref(), header(OwnedHeaders::new(), "content-type", cloudevents::STRUCTURED))
            }
        };
        let headers = match event.traceparent() {
            Some(traceparent) => header(headers, "traceparent", traceparent),
            None => headers,
        };
        let mut record = FutureRecord::<str, [u8]>::to(&self.topic).payload(payload).headers(headers);
        if let Some(key) = event.attributes.get("partitionkey").or(event.subject.as_ref()) {
            record = record.key(key);
        }
        match self.producer.send(record, std::time::Duration::ZERO).await {
            Ok(_) => {
                *self.said.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Ok(())
            }
            Err((error, _)) => Err(self.judge(&error)),
        }
    }

    /// Whether it can ever be published.
    fn judge(&self, error: &KafkaError) -> PublishError {
        let code = error.rdkafka_error_code();
        let about = format!("the topic `{}`: {error}", self.topic);
        match code {
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessage | RDKafkaErrorCode::InvalidRecord) => {
                PublishError::Refused(about)
            }
            Some(RDKafkaErrorCode::MessageTimedOut) => {
                let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                PublishError::Unavailable(said.unwrap_or(about))
            }
            _ => PublishError::Unavailable(about),
        }
    }
}

fn binary(event: &Event) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new();
    for (name, value) in cloudevents::attributes_of(event) {
        headers = header(headers, &format!("ce_{name}"), value);
    }
    match &event.datacontenttype {
        Some(content_type) => header(headers, "content-type", content_type),
        None => headers,
    }
}

fn header(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}
