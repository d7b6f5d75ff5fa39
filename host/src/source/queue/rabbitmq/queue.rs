//! The queue: declared or found, and whether what the broker gives up on is kept.

use lapin::{
    Connection, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    connect::{BrokerError, words},
    management::{self, Found},
};
use crate::config::{Declare, QueueType, RabbitmqConfig};

/// What is known of a queue that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// Only one consumer at a time gets messages; absent: nobody said.
    pub(crate) single_active_consumer: Option<bool>,
    /// Nobody could say whether what the broker gives up on is kept.
    pub(crate) unsafe_perhaps: bool,
}

/// See to it that the queue is there and loses nothing.
pub(crate) async fn prepare(connection: &Connection, config: &RabbitmqConfig) -> Result<Known, BrokerError> {
    if let Some(exchange) = config.declare.as_ref().and_then(|declare| declare.dead_letter_exchange.as_deref()) {
        exchange_is_there(connection, exchange).await?;
    }
    declare(connection, config).await?;
    let found = match &config.management {
        None => None,
        Some(url) => management::ask(url, &config.broker, &config.queue).await.inspect_err(|error| tracing::warn!("{error}")).ok(),
    };
    match (&config.declare, found) {
        (_, Some(Found { quorum: true, dead_letter_exchange: false, .. })) => Err(BrokerError(format!(
            "the quorum queue {:?} has no dead-letter exchange: the broker would throw away what it has delivered too often. Give it one, by a policy or by its \
             argument `x-dead-letter-exchange`",
            config.queue
        ))),
        (_, Some(found)) => Ok(Known { single_active_consumer: Some(found.single_active_consumer), unsafe_perhaps: false }),
        (Some(declare), None) => Ok(Known { single_active_consumer: Some(declare.single_active_consumer), unsafe_perhaps: false }),
        (None, None) => Ok(Known { single_active_consumer: None, unsafe_perhaps: true }),
    }
}

/// A dead-letter exchange that is not there throws away what it is given.
async fn exchange_is_there(connection: &Connection, exchange: &str) -> Result<(), BrokerError> {
    let name = short(exchange, "an exchange")?;
    // A question that is answered with no ends the channel it was asked on.
    let channel = connection.create_channel().await.map_err(said)?;
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    match channel.exchange_declare(name, ExchangeKind::Direct, options, FieldTable::default()).await {
        Ok(()) => {
            let _ = channel.close(200, "OK".into()).await;
            Ok(())
        }
        Err(error) if code(&error) == Some(404) => Err(BrokerError(format!(
            "RabbitMQ says: {}; make the dead-letter exchange and bind a queue to it, or what the broker gives up on is lost",
            words(&error)
        ))),
        // Who may not ask may still consume.
        Err(error) if code(&error) == Some(403) => Ok(()),
        Err(error) => Err(said(error)),
    }
}

async fn declare(connection: &Connection, config: &RabbitmqConfig) -> Result<(), BrokerError> {
    let channel = connection.create_channel().await.map_err(said)?;
    let (options, arguments) = match &config.declare {
        Some(declare) => (QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }, arguments(declare)),
        None => (QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() }, FieldTable::default()),
    };
    let declared = channel.queue_declare(short(&config.queue, "a queue")?, options, arguments).await;
    if let Err(error) = declared {
        let said = words(&error);
        return Err(BrokerError(match code(&error) {
            Some(404) => format!("RabbitMQ says: {said}; make the queue, or let the source do it with `declare`"),
            Some(406) => {
                format!("RabbitMQ says: {said}; the queue is there and is another: make `declare` say what it is, or leave it out")
            }
            Some(403) => format!("RabbitMQ says: {said}; give the user the right to configure, write and read what the source names"),
            Some(405) => format!("RabbitMQ says: {said}; another connection has the queue for itself"),
            _ => format!("RabbitMQ says: {said}"),
        }));
    }
    let _ = channel.close(200, "OK".into()).await;
    Ok(())
}

/// How many messages a queue has that are with no consumer.
pub(crate) async fn left(connection: &Connection, queue: &str) -> Result<u32, BrokerError> {
    let channel = connection.create_channel().await.map_err(said)?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = channel.queue_declare(short(queue, "a queue")?, options, FieldTable::default()).await.map_err(said)?;
    Ok(found.message_count())
}

/// Remove a queue with what is in it.
pub(crate) async fn remove(connection: &Connection, queue: &str) -> Result<(), BrokerError> {
    let channel = connection.create_channel().await.map_err(said)?;
    channel.queue_delete(short(queue, "a queue")?, QueueDeleteOptions::default()).await.map_err(said)?;
    Ok(())
}

fn arguments(declare: &Declare) -> FieldTable {
    let mut table = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(text.into());
    let ty = match declare.ty {
        QueueType::Quorum => "quorum",
        QueueType::Classic => "classic",
    };
    table.insert("x-queue-type".into(), text(ty));
    if let Some(exchange) = &declare.dead_letter_exchange {
        table.insert("x-dead-letter-exchange".into(), text(exchange));
    }
    if let Some(routing_key) = &declare.dead_letter_routing_key {
        table.insert("x-dead-letter-routing-key".into(), text(routing_key));
    }
    if let Some(limit) = declare.delivery_limit {
        table.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(i64::from(limit)));
    }
    if declare.single_active_consumer {
        table.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    table
}

pub(super) fn short(name: &str, what: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(name).map_err(|_| BrokerError(format!("the name of {what} has at most 255 bytes: {name:.40}…")))
}

/// The code with which the broker refused.
fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

fn said(error: lapin::Error) -> BrokerError {
    BrokerError(match error.kind() {
        ErrorKind::ProtocolError(_) => format!("RabbitMQ says: {}", words(&error)),
        _ => format!("the connection to RabbitMQ was lost: {}", words(&error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_says_what_the_configuration_says_and_nothing_else() {
        let declare = Declare {
            ty: QueueType::Quorum,
            dead_letter_exchange: Some("dead".into()),
            dead_letter_routing_key: None,
            delivery_limit: Some(20),
            single_active_consumer: true,
        };
        let names = |table: FieldTable| table.inner().keys().map(ToString::to_string).collect::<Vec<_>>();
        let said = arguments(&declare);
        assert_eq!(said.inner().get("x-delivery-limit"), Some(&AMQPValue::LongLongInt(20)));
        assert_eq!(names(said), ["x-dead-letter-exchange", "x-delivery-limit", "x-queue-type", "x-single-active-consumer"]);
        let classic =
            Declare { ty: QueueType::Classic, dead_letter_exchange: None, delivery_limit: None, single_active_consumer: false, ..declare };
        assert_eq!(names(arguments(&classic)), ["x-queue-type"]);
    }
}
