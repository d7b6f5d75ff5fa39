//! The RabbitMQ of `tests/services`, and what a test does there.

use std::{path::PathBuf, sync::Arc};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind,
    message::Delivery,
    options::*,
    types::{AMQPValue, FieldTable, ShortString},
};

/// Where it listens. Without a user in it a client is `guest`.
pub const URL: &str = "amqp://127.0.0.1:25673/%2f";
pub const ADDRESS: &str = "127.0.0.1:25673";
pub const TLS_URL: &str = "amqps://localhost:25671/%2f";
pub const MANAGEMENT: &str = "http://guest:guest@127.0.0.1:25680";

/// The certificates that the services show, and one of an authority that signed none of them.
pub fn certificate(name: &str) -> PathBuf {
    state().join("certificates").join(name)
}

fn state() -> PathBuf {
    std::env::var_os("KOKSMAT_TEST_SERVICES").map(PathBuf::from).unwrap_or_else(|| {
        panic!("the services of the tests do not run: `tests/services/services.sh run cargo test -p koksmat-tests` starts them")
    })
}

/// A connection of the test's own.
#[derive(Clone)]
pub struct Rabbitmq {
    channel: Channel,
    _connection: Arc<Connection>,
}

/// A name that no other test has.
pub fn name(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::now_v7().simple())
}

/// Arguments of a queue that goes away by itself when nobody uses it any more.
pub fn arguments(fields: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-expires".into(), AMQPValue::LongInt(900_000));
    for (name, value) in fields {
        table.insert((*name).into(), value.clone());
    }
    table
}

pub fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

impl Rabbitmq {
    pub async fn connect() -> Self {
        state();
        let connection = crate::within("RabbitMQ", Connection::connect(URL, ConnectionProperties::default())).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { channel, _connection: Arc::new(connection) }
    }

    /// A durable queue with these arguments.
    pub async fn queue(&self, name: &str, fields: &[(&str, AMQPValue)]) {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        self.channel.queue_declare(name.into(), options, arguments(fields)).await.unwrap();
    }

    /// An exchange that gives everything to the queue of the same name, which is made too.
    pub async fn fanout(&self, name: &str) {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        self.channel.exchange_declare(name.into(), ExchangeKind::Fanout, options, FieldTable::default()).await.unwrap();
        self.queue(name, &[("x-queue-type", text("classic"))]).await;
        self.channel.queue_bind(name.into(), name.into(), "".into(), QueueBindOptions::default(), FieldTable::default()).await.unwrap();
    }

    /// Publish one message to a queue, and wait until the broker has it.
    pub async fn publish(&self, queue: &str, properties: BasicProperties, body: impl AsRef<[u8]>) {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let published = self.channel.basic_publish("".into(), queue.into(), options, body.as_ref(), properties.with_delivery_mode(2)).await;
        let confirmation = published.unwrap().await.unwrap();
        assert!(confirmation.is_ack() && confirmation.take_message().is_none(), "{queue} is not there");
    }

    /// Publish `count` messages with the ids `PREFIX-0`, `PREFIX-1`, …, each with its number in it.
    pub async fn publish_many(&self, queue: &str, prefix: &str, count: usize) {
        self.publish_bodies(queue, prefix, count, |n| format!("{{\"n\":{n}}}")).await;
    }

    /// The same with other bodies.
    pub async fn publish_bodies(&self, queue: &str, prefix: &str, count: usize, body: impl Fn(usize) -> String) {
        for first in (0..count).step_by(500) {
            let mut confirms = Vec::new();
            for n in first..(first + 500).min(count) {
                let properties = BasicProperties::default().with_message_id(format!("{prefix}-{n}").into()).with_delivery_mode(2);
                let body = body(n);
                let options = BasicPublishOptions::default();
                confirms.push(self.channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await.unwrap());
            }
            for confirm in confirms {
                assert!(confirm.await.unwrap().is_ack());
            }
        }
    }

    /// How many messages wait in a queue; those that a consumer has in its hands are not among them.
    pub async fn count(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
    }

    /// How many consumers a queue has.
    pub async fn consumers(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().consumer_count()
    }

    /// Take one message out of a queue.
    pub async fn take(&self, queue: &str) -> Option<Delivery> {
        let got = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap();
        got.map(|message| message.delivery)
    }

    /// Take everything out of a queue.
    pub async fn take_all(&self, queue: &str) -> Vec<Delivery> {
        let mut all = Vec::new();
        while let Some(delivery) = self.take(queue).await {
            all.push(delivery);
        }
        all
    }

    pub async fn delete(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    pub async fn delete_exchange(&self, exchange: &str) {
        self.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
    }
}

/// A message-id.
pub fn id(id: &str) -> BasicProperties {
    BasicProperties::default().with_message_id(id.into())
}

/// Headers of a message.
pub fn headers(fields: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert((*name).into(), text(value));
    }
    table
}

/// A text property.
pub fn property(property: &Option<ShortString>) -> &str {
    property.as_ref().map(ShortString::as_str).unwrap_or_default()
}
