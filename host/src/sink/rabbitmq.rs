//! Publishes to an exchange of RabbitMQ: persistent, confirmed, and never to nowhere.
//!
//! What waits to be published goes out as one batch, and the next batch collects meanwhile: the confirms of a batch are awaited together, so
//! many publishes share one round trip. A batch also settles which message was returned. The broker returns what no queue wants before it
//! confirms it, but may confirm several at once, and the client then ties the return to any of them: who reads one confirm by itself can take
//! an unroutable message for a published one. At the end of a batch every return is there, each with its message.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ErrorKind,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::sync::{OnceCell, mpsc, oneshot};

use super::PublishError;
use crate::{
    config::{AmqpConfig, ContentMode},
    event::{Event, cloudevents::amqp},
    source::queue::rabbitmq::connect::{connect, words},
    task,
};

/// The most messages in one batch.
const BATCH: usize = 256;
/// How long the broker may take to confirm a batch. What it has confirmed by then is published; the rest may come twice.
const CONFIRM: Duration = Duration::from_secs(30);

/// Where a sink publishes.
pub(crate) struct RabbitmqPublisher {
    target: Target,
    mode: ContentMode,
    /// To the task that has the connection; it is started with the first publish and ends with this.
    waiting: OnceCell<mpsc::Sender<Publish>>,
}

#[derive(Clone)]
struct Target {
    broker: AmqpConfig,
    exchange: String,
    routing_key: Option<String>,
    /// What the broker shows the connection as.
    name: String,
}

/// One message on its way.
struct Publish {
    routing_key: ShortString,
    properties: BasicProperties,
    data: Bytes,
    done: oneshot::Sender<Result<(), PublishError>>,
}

impl RabbitmqPublisher {
    /// Publish to `exchange`, with `routing_key` or else the type of each event. The broker shows the connection as `name`.
    pub(crate) fn new(broker: AmqpConfig, exchange: String, routing_key: Option<String>, mode: ContentMode, name: String) -> Self {
        let target = Target { broker, exchange, routing_key, name };
        Self { target, mode, waiting: OnceCell::new() }
    }

    /// Publish an event; when this returns without an error a queue has it, on disk where the queue is durable.
    ///
    /// Any number may be on their way at once. One that is given up half way may or may not be published.
    pub(crate) async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        let routing_key = self.target.routing_key.as_deref().unwrap_or(&event.ty);
        let routing_key = ShortString::try_new(routing_key)
            .map_err(|_| PublishError::Refused("its routing key is longer than the 255 bytes that RabbitMQ has for it".into()))?;
        let (properties, data) = match self.mode {
            ContentMode::Binary => amqp::to_binary(event).map_err(PublishError::Refused)?,
            ContentMode::Structured => amqp::to_message(event),
        };
        let (done, answer) = oneshot::channel();
        let waiting = self.waiting.get_or_init(|| async { Publisher::start(self.target.clone()) }).await;
        let gone = || PublishError::Unavailable("the sink has stopped".into());
        waiting.send(Publish { routing_key, properties, data, done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// The task that has the connection.
struct Publisher {
    target: Target,
    open: Option<(Connection, Channel)>,
}

/// What became of the messages of a batch.
enum Batch {
    /// The channel is in order.
    Answered,
    /// It is gone.
    Lost,
}

impl Publisher {
    fn start(target: Target) -> mpsc::Sender<Publish> {
        let (waiting, next) = mpsc::channel(BATCH);
        task::spawn("rabbitmq publisher", Self { target, open: None }.run(next));
        waiting
    }

    async fn run(mut self, mut next: mpsc::Receiver<Publish>) {
        let mut batch = Vec::with_capacity(BATCH);
        while next.recv_many(&mut batch, BATCH).await > 0 {
            match self.channel().await {
                Err(why) => fail(batch.drain(..), &why),
                Ok(channel) => match tokio::time::timeout(CONFIRM, self.target.publish(&channel, &mut batch)).await {
                    Ok(Batch::Answered) => {}
                    Ok(Batch::Lost) => self.open = None,
                    Err(_) => {
                        fail(batch.drain(..), "RabbitMQ does not confirm what is published; has it run out of memory or disk?");
                        self.open = None;
                    }
                },
            }
            batch.clear();
        }
        if let Some((connection, _)) = self.open.take() {
            let _ = tokio::time::timeout(Duration::from_secs(5), connection.close(200, "OK".into())).await;
        }
    }

    /// The channel, on a new connection when the last one broke. Whoever publishes again after a failure waits in between: this does not.
    async fn channel(&mut self) -> Result<Channel, String> {
        if let Some((_, channel)) =
            self.open.as_ref().filter(|(connection, channel)| connection.status().connected() && channel.status().connected())
        {
            return Ok(channel.clone());
        }
        // What is left of the old connection goes first.
        self.open = None;
        let connection = connect(&self.target.broker, &self.target.name).await.map_err(|error| error.to_string())?;
        let opening = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>(channel)
        };
        let channel = opening.await.map_err(|error| self.target.lost(&error))?;
        self.open = Some((connection, channel.clone()));
        Ok(channel)
    }
}

impl Target {
    /// Publish what is in `batch` and answer all of it.
    async fn publish(&self, channel: &Channel, batch: &mut Vec<Publish>) -> Batch {
        let exchange = match ShortString::try_new(self.exchange.as_str()) {
            Ok(exchange) => exchange,
            Err(_) => {
                fail(batch.drain(..), "the name of an exchange has at most 255 bytes");
                return Batch::Answered;
            }
        };
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut confirms = Vec::with_capacity(batch.len());
        let mut broken = None;
        for message in batch.iter() {
            let publish =
                channel.basic_publish(exchange.clone(), message.routing_key.clone(), options, &message.data, message.properties.clone());
            match publish.await {
                Ok(confirm) => confirms.push(confirm),
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        let (mut confirmed, mut returned) = (Vec::with_capacity(confirms.len()), Vec::new());
        for confirm in confirms {
            let mut confirmation = confirm.await;
            if let Ok(Confirmation::Ack(back) | Confirmation::Nack(back)) = &mut confirmation {
                returned.extend(back.take());
            }
            confirmed.push(confirmation);
        }
        let returned = Returned::of(returned);
        broken = broken.or_else(|| confirmed.iter().find_map(|confirmation| confirmation.as_ref().err().cloned()));
        let lost = broken.as_ref().map(|error| self.lost(error));
        let mut confirmed = confirmed.into_iter();
        for message in batch.drain(..) {
            let result = match confirmed.next() {
                _ if let Some(back) = returned.find(&message) => Err(PublishError::Declined(self.unroutable(&message, back))),
                Some(Ok(Confirmation::Ack(_))) => Ok(()),
                Some(Ok(_)) => Err(PublishError::Declined("RabbitMQ did not take the message: a queue is full or failing".into())),
                // One of them broke the channel, and it may be none of this one's doing.
                Some(Err(_)) | None => Err(PublishError::Unavailable(lost.clone().unwrap_or_default())),
            };
            let _ = message.done.send(result);
        }
        if broken.is_some() { Batch::Lost } else { Batch::Answered }
    }

    fn unroutable(&self, message: &Publish, back: &str) -> String {
        format!(
            "RabbitMQ says: {back}; no queue is bound to the exchange {:?} for the routing key {:?}",
            self.exchange,
            message.routing_key.as_str()
        )
    }

    fn lost(&self, error: &lapin::Error) -> String {
        let said = words(error);
        match error.kind() {
            ErrorKind::ProtocolError(_) if said.starts_with("NOT_FOUND") => {
                format!("RabbitMQ says: {said}; make the exchange {:?}, or name another in the sink's `exchange`", self.exchange)
            }
            ErrorKind::ProtocolError(_) => format!("RabbitMQ says: {said}"),
            _ => format!("the connection to RabbitMQ was lost: {said}"),
        }
    }
}

/// What came back of a batch because no queue wants it, by message-id and routing key: why.
struct Returned(HashMap<(Option<String>, String), String>);

impl Returned {
    fn of(messages: Vec<BasicReturnMessage>) -> Self {
        let each = |back: BasicReturnMessage| {
            let id = back.properties.message_id().as_ref().map(ToString::to_string);
            ((id, back.routing_key.to_string()), back.reply_text.to_string())
        };
        Self(messages.into_iter().map(each).collect())
    }

    /// Two of the same name in one batch, or without one, share their fate: what is published again is recognised by its id.
    fn find(&self, message: &Publish) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        let id = message.properties.message_id().as_ref().map(ToString::to_string);
        self.0.get(&(id, message.routing_key.to_string())).map(String::as_str)
    }
}

fn fail(messages: impl Iterator<Item = Publish>, why: &str) {
    for message in messages {
        let _ = message.done.send(Err(PublishError::Unavailable(why.to_owned())));
    }
}
