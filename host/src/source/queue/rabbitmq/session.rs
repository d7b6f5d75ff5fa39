//! One connection to the broker, with the consumers on its one channel. Deliveries belong to it: what it delivered is acknowledged on it or,
//! when it is gone, not at all (the broker delivers it again).

use std::time::Duration;

use futures_util::{
    StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use lapin::{
    Channel, Connection,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};

use super::{
    connect::{BrokerError, connect, words},
    queue::{self, Known},
};
use crate::{channel::Origin, config::RabbitmqConfig};

/// How long the broker may take to answer at a stop. What it then does not know it delivers again.
const PARTING: Duration = Duration::from_secs(5);

pub(super) struct Session {
    connection: Connection,
    channel: Channel,
    queue: ShortString,
    items: SelectAll<BoxStream<'static, Item>>,
    /// The tags of the consumers that are not cancelled.
    active: Vec<ShortString>,
    /// How many consumers there have been.
    consumers: u64,
}

/// What comes from the broker.
pub(super) enum Item {
    /// A message, and whether it came to the first consumer.
    Delivery { delivery: Box<Delivery>, first: bool },
    /// There will be no more.
    Lost(String),
    /// A consumer has ended.
    Ended(ShortString),
}

impl Session {
    /// Connect, and see to the queue. Nothing is consumed yet.
    pub(super) async fn open(config: &RabbitmqConfig, origin: &Origin) -> Result<(Self, Known), BrokerError> {
        let connection = connect(&config.broker, &format!("koksmat {}/{}", origin.tenant, origin.source)).await?;
        let known = queue::prepare(&connection, config).await?;
        let lost = |error| BrokerError(lost(&error));
        let channel = connection.create_channel().await.map_err(lost)?;
        let queue = queue::short(&config.queue, "a queue")?;
        Ok((Self { connection, channel, queue, items: SelectAll::new(), active: Vec::new(), consumers: 0 }, known))
    }

    /// Add a consumer with so many messages in its hands.
    pub(super) async fn consume(&mut self, prefetch: u16) -> Result<(), BrokerError> {
        let tag = ShortString::try_new(format!("koksmat-{}", self.consumers)).map_err(|error| BrokerError(error.to_string()))?;
        let first = self.consumers == 0;
        self.consumers += 1;
        let consuming = async {
            self.channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            self.channel.basic_consume(self.queue.clone(), tag.clone(), BasicConsumeOptions::default(), FieldTable::default()).await
        };
        let consumer = consuming.await.map_err(|error| BrokerError(lost(&error)))?;
        let item = move |delivered: lapin::Result<Delivery>| match delivered {
            Ok(delivery) => Item::Delivery { delivery: Box::new(delivery), first },
            Err(error) => Item::Lost(lost(&error)),
        };
        self.active.push(tag.clone());
        self.items.push(consumer.map(item).chain(stream::once(async { Item::Ended(tag) })).boxed());
        Ok(())
    }

    /// What comes next. Cancel safe.
    pub(super) async fn next(&mut self) -> Item {
        loop {
            match self.items.next().await {
                // One that was cancelled by us.
                Some(Item::Ended(tag)) if !self.active.contains(&tag) => {}
                Some(Item::Ended(_)) => {
                    return Item::Lost("RabbitMQ ended the consumer; was the queue deleted, or did its node go away?".to_owned());
                }
                Some(item) => return item,
                None => std::future::pending().await,
            }
        }
    }

    /// Take nothing more. What was delivered still comes.
    pub(super) async fn cancel(&mut self) -> Result<(), BrokerError> {
        for tag in std::mem::take(&mut self.active) {
            self.channel.basic_cancel(tag, BasicCancelOptions::default()).await.map_err(|error| BrokerError(lost(&error)))?;
        }
        Ok(())
    }

    /// Take nothing more, and give what was delivered and not taken yet.
    pub(super) async fn rest(&mut self) -> Vec<Delivery> {
        let mut rest = Vec::new();
        let all = async {
            if self.cancel().await.is_ok() {
                while let Some(item) = self.items.next().await {
                    if let Item::Delivery { delivery, .. } = item {
                        rest.push(*delivery);
                    }
                }
            }
        };
        let _ = tokio::time::timeout(PARTING, all).await;
        rest
    }

    /// Part from the broker. When this returns it knows every acknowledgement that was sent before.
    pub(super) async fn close(self) {
        let close = async {
            let _ = self.channel.close(200, "OK".into()).await;
            let _ = self.connection.close(200, "OK".into()).await;
        };
        let _ = tokio::time::timeout(PARTING, close).await;
    }
}

fn lost(error: &lapin::Error) -> String {
    let said = words(error);
    if error.is_amqp_error() {
        let advice = if said.contains("acknowledgement") && said.contains("timed out") {
            "; for calls that take so long say `intake = \"durable\"`"
        } else {
            ""
        };
        return format!("RabbitMQ ended the connection: {said}{advice}");
    }
    format!("the connection to RabbitMQ was lost: {said}")
}
