//! A topic or queue of one's own beside the one that a source reads, on the same broker: for a test, which writes there and not into what is
//! somebody else's.

use std::{fmt, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaResult,
    metadata::MetadataTopic,
};

use super::{
    kafka::client::{refused, settings, with_own},
    rabbitmq::{connect::connect, queue},
};
use crate::{
    config::{ContentMode, Declare, KafkaConfig, QueueType, RabbitmqConfig, SinkConfig, SinkKind, SourceConfig, SourceKind},
    event::Event,
    sink::Publisher,
};

/// How long a broker may take to make or remove something.
const ANSWER: Duration = Duration::from_secs(15);
/// The partitions of a topic beside one that is not there, or of which only a pattern is known.
const PARTITIONS: i32 = 3;
/// How the client of a test calls itself.
const CLIENT: &str = "koksmat-crash-test";

/// A topic of Kafka, or a queue of RabbitMQ.
pub struct StandIn {
    name: String,
    broker: Broker,
    publisher: Publisher,
}

enum Broker {
    Kafka(KafkaConfig),
    Rabbitmq(Box<RabbitmqConfig>),
}

impl fmt::Debug for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandIn").field("name", &self.name).finish_non_exhaustive()
    }
}

impl StandIn {
    /// Make one of this name beside what `source` reads: a topic with as many partitions, a queue that is declared as the other is (a durable
    /// classic one, where nothing is declared).
    ///
    /// # Errors
    /// When the source reads no broker, or the broker does not make it: in the broker's own words, without secrets.
    pub async fn create(source: &SourceConfig, name: &str) -> Result<Self, String> {
        match &source.kind {
            SourceKind::Kafka(kafka) => Self::topic(source, kafka, name).await,
            SourceKind::Rabbitmq(rabbitmq) => Self::queue(source, rabbitmq, name).await,
            _ => Err("it reads no broker".into()),
        }
    }

    async fn topic(source: &SourceConfig, kafka: &KafkaConfig, name: &str) -> Result<Self, String> {
        let cluster = kafka.cluster.clone();
        let publisher = publisher(source, SinkKind::Kafka { cluster, topic: name.to_owned() })?;
        let admin = admin(kafka)?;
        let beside = kafka.topics.iter().find(|topic| !topic.starts_with('^')).cloned();
        let (admin, partitions) = tokio::task::spawn_blocking(move || {
            let partitions = admin.inner().fetch_metadata(beside.as_deref(), ANSWER).map(|metadata| {
                let of =
                    |topic: &String| metadata.topics().iter().find(|found| found.name() == topic).map(|found| found.partitions().len());
                beside.as_ref().and_then(of).and_then(|count| i32::try_from(count).ok()).filter(|count| *count > 0)
            });
            (admin, partitions)
        })
        .await
        .map_err(|error| error.to_string())?;
        let partitions = partitions.map_err(|error| format!("the brokers were asked for their topics: {error}"))?.unwrap_or(PARTITIONS);
        // How often it is replicated is for the broker to say.
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        let made = admin.create_topics([&topic], &AdminOptions::new().operation_timeout(Some(ANSWER))).await;
        answered(made).map_err(|why| format!("the topic {name} could not be made: {why}"))?;
        Ok(Self { name: name.to_owned(), broker: Broker::Kafka(kafka.clone()), publisher })
    }

    async fn queue(source: &SourceConfig, rabbitmq: &RabbitmqConfig, name: &str) -> Result<Self, String> {
        let broker = rabbitmq.broker.clone();
        let to = SinkKind::Rabbitmq { broker, exchange: String::new(), routing_key: Some(name.to_owned()) };
        let publisher = publisher(source, to)?;
        let classic = Declare {
            ty: QueueType::Classic,
            dead_letter_exchange: None,
            dead_letter_routing_key: None,
            delivery_limit: None,
            single_active_consumer: false,
        };
        let mut own = rabbitmq.clone();
        own.queue = name.to_owned();
        own.declare.get_or_insert(classic);
        let connection = connect(&own.broker, CLIENT).await.map_err(|error| error.to_string())?;
        let made = queue::prepare(&connection, &own).await.map_err(|error| format!("the queue {name} could not be made: {error}"));
        let _ = connection.close(200, "OK".into()).await;
        made?;
        Ok(Self { name: name.to_owned(), broker: Broker::Rabbitmq(Box::new(own)), publisher })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether events of one subject come in the order in which they were published.
    pub fn keeps_order(&self) -> bool {
        matches!(self.broker, Broker::Kafka(_))
    }

    /// Publish an event, and wait until the broker has it.
    ///
    /// # Errors
    /// When it has not, or nobody knows.
    pub async fn publish(&self, event: &Event) -> Result<(), String> {
        self.publisher.publish(event).await.map_err(|error| error.to_string())
    }

    /// Whether everything that was published is acknowledged; of RabbitMQ, whether all of it is with a consumer at least.
    ///
    /// # Errors
    /// When the broker does not say.
    pub async fn is_consumed(&self) -> Result<bool, String> {
        match &self.broker {
            Broker::Kafka(kafka) => {
                let (mut config, name) = (with_own(settings(&kafka.cluster, CLIENT.to_owned()), &kafka.cluster), self.name.clone());
                config.set("group.id", &name);
                let consumer: BaseConsumer = config.create().map_err(|error| refused(&error))?;
                let committed = tokio::task::spawn_blocking(move || is_committed(&consumer, &name)).await;
                committed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            }
            Broker::Rabbitmq(rabbitmq) => {
                let connection = connect(&rabbitmq.broker, CLIENT).await.map_err(|error| error.to_string())?;
                let left = queue::left(&connection, &self.name).await.map_err(|error| error.to_string());
                let _ = connection.close(200, "OK".into()).await;
                Ok(left? == 0)
            }
        }
    }

    /// Remove it with what is in it.
    ///
    /// # Errors
    /// When the broker does not: it is still there, or nobody knows.
    pub async fn remove(&self) -> Result<(), String> {
        let removed = match &self.broker {
            Broker::Kafka(kafka) => {
                let options = AdminOptions::new().operation_timeout(Some(ANSWER));
                answered(admin(kafka)?.delete_topics(&[&self.name], &options).await)
            }
            Broker::Rabbitmq(rabbitmq) => match connect(&rabbitmq.broker, CLIENT).await {
                Ok(connection) => {
                    let removed = queue::remove(&connection, &self.name).await.map_err(|error| error.to_string());
                    let _ = connection.close(200, "OK".into()).await;
                    removed
                }
                Err(error) => Err(error.to_string()),
            },
        };
        removed.map_err(|why| format!("{} could not be removed: {why}", self.name))
    }
}

fn publisher(source: &SourceConfig, to: SinkKind) -> Result<Publisher, String> {
    let (tenant, name) = (source.tenant.clone(), format!("{}-stand-in", source.name));
    let sink = SinkConfig { tenant, name, on: Vec::new(), mode: ContentMode::Binary, kind: to };
    Publisher::new(&sink).map_err(|error| error.to_string())
}

fn admin(kafka: &KafkaConfig) -> Result<AdminClient<DefaultClientContext>, String> {
    let config = with_own(settings(&kafka.cluster, CLIENT.to_owned()), &kafka.cluster);
    config.create().map_err(|error| refused(&error))
}

/// Whether a group, called as its topic, has committed the end of each partition. Blocks.
fn is_committed(consumer: &BaseConsumer, topic: &str) -> KafkaResult<bool> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().filter(|found| found.name() == topic).flat_map(MetadataTopic::partitions) {
        list.add_partition(topic, partition.id());
    }
    if list.count() == 0 {
        // A topic that is not known, or not any more, says nothing of what was in it.
        return Ok(false);
    }
    for committed in consumer.committed_offsets(list, ANSWER)?.elements() {
        let (_, end) = consumer.fetch_watermarks(topic, committed.partition(), ANSWER)?;
        if end > 0 && committed.offset() != Offset::Offset(end) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first error of an answer with one result for each topic.
fn answered(answer: KafkaResult<Vec<TopicResult>>) -> Result<(), String> {
    let results = answer.map_err(|error| error.to_string())?;
    results.into_iter().try_for_each(|result| result.map(drop).map_err(|(_, code)| code.to_string()))
}
