//! Who sends what is due: each kind of source for both handlers, at its own rate.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use koksmat::{Answer, Event, source::memory::MemorySender};
use koksmat_tests::{kafka, rabbitmq};
use lapin::BasicProperties;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{HANDLERS, RATES, Seen};

const BODY: &str = r#"{"sku":"TEA-0042","quantity":12,"price":7.25}"#;

/// The most that wait to be sent to a broker or database that does not keep up.
const MOST: usize = 10_000;

/// How long the client keeps a connection that it does not use: less than the host does, or it may send into one that is being closed.
const IDLE: Duration = Duration::from_secs(5);

/// Where each kind of event goes, for each of the handlers.
pub(crate) struct Senders {
    pub(crate) memory: [MemorySender; 2],
    pub(crate) topics: [String; 2],
    pub(crate) queues: [String; 2],
    pub(crate) listen: SocketAddr,
    pub(crate) token: String,
    pub(crate) rows: PathBuf,
    pub(crate) seen: Arc<Seen>,
}

/// Senders at work.
pub(crate) struct Sending {
    senders: JoinSet<(String, usize)>,
    waiting: TaskTracker,
    enough: CancellationToken,
}

impl Senders {
    pub(crate) fn start(self) -> Sending {
        let mut sending = Sending { senders: JoinSet::new(), waiting: TaskTracker::new(), enough: CancellationToken::new() };
        let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build_http();
        for (n, handler) in HANDLERS.into_iter().enumerate() {
            let steady = n == 0;
            sending.add("memory", n, {
                let (memory, waiting) = (self.memory[n].clone(), sending.waiting.clone());
                let answers = Answers { kind: "memory", steady, seen: self.seen.clone() };
                move |due| {
                    let (memory, sent) = (memory.clone(), answers.sent(due));
                    waiting.spawn(async move {
                        let answer = memory.send(Event::new("order.created", BODY)).await.unwrap().answer().await;
                        let Answer::Done { response: Some(response) } = answer else { panic!("{answer:?}") };
                        sent.answered(&response.body);
                    });
                }
            });
            sending.add("webhook", n, {
                let (client, waiting) = (client.clone(), sending.waiting.clone());
                let answers = Answers { kind: "webhook", steady, seen: self.seen.clone() };
                let url = format!("http://{}/{handler}", self.listen);
                move |due| {
                    let (client, url, sent) = (client.clone(), url.clone(), answers.sent(due));
                    waiting.spawn(async move { sent.answered(&post(&client, &url, "").await) });
                }
            });
            sending.add("queue", n, {
                let (client, waiting, token) = (client.clone(), sending.waiting.clone(), self.token.clone());
                let url = format!("http://{}/queues/queue-{handler}", self.listen);
                move |_| {
                    let (client, url, token) = (client.clone(), url.clone(), token.clone());
                    waiting.spawn(async move { post(&client, &url, &token).await });
                }
            });
            sending.add("kafka", n, {
                let producer = Flushed(kafka::client().set("linger.ms", "5").create().unwrap());
                let (topic, mut key) = (self.topics[n].clone(), 0_u32);
                move |_| {
                    key += 1;
                    let key = key.to_string();
                    producer.0.send(BaseRecord::to(&topic).key(&key).payload(BODY)).map_err(|(error, _)| error).unwrap();
                    assert!(producer.0.in_flight_count() < 50_000, "the broker does not keep up");
                }
            });
            sending.add("rabbitmq", n, {
                let to_publish = publisher(self.queues[n].clone(), &sending.waiting);
                move |_| to_publish.try_send(()).expect("RabbitMQ keeps up")
            });
            sending.add("rows", n, {
                let to_insert = inserter(self.rows.clone(), handler, &sending.waiting);
                move |_| to_insert.try_send(()).expect("SQLite keeps up")
            });
        }
        sending
    }
}

impl Sending {
    /// Have one sent whenever it is due, until it is enough.
    fn add(&mut self, kind: &'static str, handler: usize, mut send: impl FnMut(Instant) + Send + 'static) {
        let rate = RATES.iter().find(|(name, _)| *name == kind).unwrap().1 / if handler == 0 { 1 } else { 5 };
        let enough = self.enough.clone();
        self.senders.spawn(async move {
            let apart = Duration::from_secs(1) / rate;
            let began = Instant::now();
            let mut sent = 0_u32;
            while !enough.is_cancelled() {
                let due = began + apart * sent;
                if due > Instant::now() {
                    tokio::time::sleep_until(due.into()).await;
                }
                send(due);
                sent += 1;
            }
            (format!("{kind}-{}", HANDLERS[handler]), sent as usize)
        });
    }

    /// Stop, and wait for what was sent to be answered or confirmed. How many were sent, by source.
    pub(crate) async fn stop(mut self) -> BTreeMap<String, usize> {
        self.enough.cancel();
        let mut sent = BTreeMap::new();
        while let Some(ended) = self.senders.join_next().await {
            sent.extend([ended.unwrap()]);
        }
        self.waiting.close();
        koksmat_tests::within("everything that was sent to be answered", self.waiting.wait()).await;
        sent
    }
}

/// What it was given is with the broker when it is dropped.
struct Flushed(ThreadedProducer<DefaultProducerContext>);

impl Drop for Flushed {
    fn drop(&mut self) {
        self.0.flush(Duration::from_secs(20)).unwrap();
    }
}

/// Those who wait for the answer of one source.
struct Answers {
    kind: &'static str,
    steady: bool,
    seen: Arc<Seen>,
}

/// One of them.
struct Sent {
    kind: &'static str,
    steady: bool,
    due: Instant,
    applied: u32,
    seen: Arc<Seen>,
}

impl Answers {
    fn sent(&self, due: Instant) -> Sent {
        let (kind, steady, seen) = (self.kind, self.steady, self.seen.clone());
        Sent { kind, steady, due, applied: seen.applied.load(Ordering::SeqCst), seen }
    }
}

impl Sent {
    fn answered(self, answer: &[u8]) {
        let answer = std::str::from_utf8(answer).unwrap();
        if self.steady {
            assert_eq!(answer, "koksmat-version-00000000");
            self.seen.answered(self.kind, self.due);
        } else {
            self.seen.answered_by_version(answer, self.applied);
        }
    }
}

async fn post(client: &Client<HttpConnector, Full<Bytes>>, url: &str, token: &str) -> Bytes {
    let request = http::Request::post(url).header("content-type", "application/json").header("authorization", format!("Bearer {token}"));
    let response = client.request(request.body(Full::from(BODY)).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert!(parts.status.is_success(), "{url}: {} {body:?}", parts.status);
    body
}

/// Publishes whatever there is to publish, and waits for all of it to be confirmed.
fn publisher(queue: String, waiting: &TaskTracker) -> mpsc::Sender<()> {
    let (to_publish, mut orders) = mpsc::channel(MOST);
    waiting.spawn(async move {
        let rabbitmq = rabbitmq::Rabbitmq::connect().await;
        let mut group = Vec::new();
        while orders.recv_many(&mut group, 100).await > 0 {
            let publish = group.drain(..).map(|()| rabbitmq.publish(&queue, BasicProperties::default(), BODY));
            futures_util::future::join_all(publish).await;
        }
    });
    to_publish
}

/// Inserts whatever there is to insert, on a thread of its own.
fn inserter(rows: PathBuf, table: &'static str, waiting: &TaskTracker) -> mpsc::Sender<()> {
    let (to_insert, mut orders) = mpsc::channel(MOST);
    waiting.spawn_blocking(move || {
        let mut connection = rusqlite::Connection::open(rows).unwrap();
        connection.busy_timeout(Duration::from_secs(30)).unwrap();
        connection.execute_batch("pragma synchronous = normal").unwrap();
        let (mut next, mut due) = (0, Vec::new());
        while orders.blocking_recv_many(&mut due, MOST) > 0 {
            let group = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
            for () in due.drain(..) {
                next += 1;
                group.execute(&format!("insert into {table} (id) values (?1)"), [format!("{next:09}")]).unwrap();
            }
            group.commit().unwrap();
        }
    });
    to_insert
}
