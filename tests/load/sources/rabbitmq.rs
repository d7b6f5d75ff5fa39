//! RabbitMQ: a consumer of a classic queue with the host's prefetch that acknowledges each message.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use koksmat_tests::rabbitmq::{Rabbitmq, URL, name};
use lapin::{Connection, ConnectionProperties, options::*, types::FieldTable};

use super::{Floor, ROUNDS, Rounds, WARM, handle, host, order};

const PREFETCH: u16 = 256;
const MESSAGES: usize = 40_000;

pub(super) async fn compare() {
    compare_on(true).await;
    compare_on(false).await;
}

async fn compare_on(component: bool) {
    let rabbitmq = Rabbitmq::connect().await;
    let queue = name("bench");
    rabbitmq.queue(&queue, &[]).await;
    let floor = component.then(Floor::new);
    let mut rounds = Rounds::new("RabbitMQ", component, MESSAGES);
    for _ in 0..ROUNDS {
        fill(&rabbitmq, &queue).await;
        let bare = bare_loop(&queue, floor.as_ref()).await;
        fill(&rabbitmq, &queue).await;
        let source = format!("kind = \"rabbitmq\"\nurl = \"{URL}\"\nqueue = \"{queue}\"\nin-flight = {PREFETCH}");
        rounds.add(bare, host(&source, MESSAGES, component).await);
    }
    rounds.end();
}

async fn fill(rabbitmq: &Rabbitmq, queue: &str) {
    let order = order();
    rabbitmq.publish_bodies(queue, &name("order"), MESSAGES, |_| order.clone()).await;
}

async fn bare_loop(queue: &str, floor: Option<&Floor>) -> Duration {
    let connection = Connection::connect(URL, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.unwrap();
    let consume = channel.basic_consume(queue.into(), "bare".into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut messages = consume.await.unwrap();
    let mut began = Instant::now();
    for handled in 1..=MESSAGES {
        let message = messages.next().await.unwrap().unwrap();
        handle(floor, &message.data).await;
        message.ack(BasicAckOptions::default()).await.unwrap();
        if handled == WARM {
            began = Instant::now();
        }
    }
    let took = began.elapsed();
    connection.close(200, "OK".into()).await.unwrap();
    took
}
