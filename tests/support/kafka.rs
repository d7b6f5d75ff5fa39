//! A real Kafka, as its clients see it.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
};

use crate::services;

/// For everybody.
pub const BROKERS: &str = "127.0.0.1:29092";
/// The listener whose clients come by [`BEHIND_ADVERTISED`], where a proxy of the test has to be.
pub const BEHIND: &str = "127.0.0.1:29192";
pub const BEHIND_ADVERTISED: &str = "127.0.0.1:29292";
pub const TLS: &str = "127.0.0.1:29093";
/// SCRAM-SHA-512 over TLS: the user `koksmat` with the password [`PASSWORD`].
pub const SCRAM: &str = "127.0.0.1:29094";
pub const PASSWORD: &str = "test-secret";

/// A topic of a test's own.
pub struct Topic {
    pub name: String,
    pub partitions: i32,
}

/// A message of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub payload: Vec<u8>,
}

/// A client of theirs, to be set up further.
pub fn client() -> ClientConfig {
    let _ = services::ca();
    ClientConfig::new().set("bootstrap.servers", BROKERS).clone()
}

/// A name that nobody has yet.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::now_v7().simple())
}

impl Topic {
    /// Make a topic whose name begins with `name`.
    pub async fn create(name: &str, partitions: i32) -> Self {
        Self::create_with(&unique(name), partitions, &[]).await
    }

    /// Make a topic of this name, with settings of its own.
    pub async fn create_with(name: &str, partitions: i32, settings: &[(&str, &str)]) -> Self {
        let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
        let mut new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let created = admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
        created[0].as_ref().unwrap_or_else(|error| panic!("{error:?}"));
        Self { name: name.to_owned(), partitions }
    }

    /// Produce messages, each with its key and payload, and wait until the broker has them all.
    pub async fn produce<K: AsRef<str>, P: AsRef<[u8]>>(&self, messages: impl IntoIterator<Item = (K, P)>) {
        self.produce_with(&[], &[], messages).await;
    }

    /// The same with settings of the producer and headers on each message.
    pub async fn produce_with<K: AsRef<str>, P: AsRef<[u8]>>(
        &self,
        settings: &[(&str, &str)],
        headers: &[(&str, &str)],
        messages: impl IntoIterator<Item = (K, P)>,
    ) {
        let mut config = client();
        config.set("linger.ms", "5").set("queue.buffering.max.messages", "1000000").set("enable.idempotence", "true");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let producer: FutureProducer = config.create().unwrap();
        let mut sent = Vec::new();
        for (key, payload) in messages {
            let all = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
            let record = FutureRecord::to(&self.name).key(key.as_ref()).payload(payload.as_ref()).headers(all);
            sent.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
        }
        for sent in join_all(sent).await {
            sent.unwrap().unwrap();
        }
    }

    /// Produce one message exactly so: no key, no payload and headers without a value are possible. The bytes go out as they are.
    pub async fn produce_bytes(&self, key: Option<&[u8]>, payload: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) {
        let producer: FutureProducer = client().create().unwrap();
        let headers = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: *value }));
        let record = FutureRecord::<[u8], [u8]> { key, payload, ..FutureRecord::to(&self.name) }.headers(headers);
        producer.send(record, Duration::from_secs(20)).await.unwrap();
    }

    /// Produce messages in one transaction, which is then committed or aborted.
    pub async fn transaction(&self, committed: bool, messages: &[(&str, &str)]) {
        let (name, id) = (self.name.clone(), unique("transaction"));
        let messages: Vec<_> = messages.iter().map(|(key, payload)| ((*key).to_owned(), (*payload).to_owned())).collect();
        let done = tokio::task::spawn_blocking(move || {
            let patience = Duration::from_secs(20);
            let producer: FutureProducer = client().set("transactional.id", id).create().unwrap();
            producer.init_transactions(patience).unwrap();
            producer.begin_transaction().unwrap();
            for (key, payload) in &messages {
                let _sent = producer.send_result(FutureRecord::to(&name).key(key).payload(payload)).map_err(|(error, _)| error).unwrap();
            }
            // Aborted messages are in the topic too, and it is for consumers to leave them out.
            producer.flush(patience).unwrap();
            if committed { producer.commit_transaction(patience) } else { producer.abort_transaction(patience) }.unwrap();
        });
        done.await.unwrap();
    }

    /// Give the topic more partitions.
    pub async fn grow(&mut self, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
        let more = NewPartitions::new(&self.name, usize::try_from(partitions).unwrap());
        let grown = admin.create_partitions([&more], &AdminOptions::new()).await.unwrap();
        grown[0].as_ref().unwrap_or_else(|error| panic!("{error:?}"));
        self.partitions = partitions;
    }

    /// Delete the topic, and wait until it is gone.
    pub async fn delete(&self) {
        let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
        let deleted = admin.delete_topics(&[&self.name], &AdminOptions::new()).await.unwrap();
        deleted[0].as_ref().unwrap_or_else(|error| panic!("{error:?}"));
        crate::until("the topic to be gone", || async {
            // Asked for everything: asked for by its name it might be made again.
            let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
            let all = tokio::task::spawn_blocking(move || admin.inner().fetch_metadata(None, Duration::from_secs(20)).unwrap());
            (!all.await.unwrap().topics().iter().any(|topic| topic.name() == self.name)).then_some(())
        })
        .await;
    }

    fn list(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.name, 0, self.partitions - 1);
        list
    }

    /// How far a group has committed, by partition; 0 where it has not.
    pub async fn committed(&self, group: &str) -> BTreeMap<i32, i64> {
        let (list, group) = (self.list(), group.to_owned());
        let committed = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = client().set("group.id", group).create().unwrap();
            // A broker that had no time for its own controller for some seconds says that it is no coordinator, and is one again.
            let patience = std::time::Instant::now() + Duration::from_secs(60);
            loop {
                match consumer.committed_offsets(list.clone(), Duration::from_secs(20)) {
                    Ok(committed) => return committed,
                    Err(error) if std::time::Instant::now() > patience => panic!("{error}"),
                    Err(_) => std::thread::sleep(Duration::from_millis(200)),
                }
            }
        });
        let offset = |offset: Offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
        committed.await.unwrap().elements().iter().map(|element| (element.partition(), offset(element.offset()))).collect()
    }

    /// Where each partition ends.
    pub async fn ends(&self) -> BTreeMap<i32, i64> {
        let (name, partitions) = (self.name.clone(), self.partitions);
        let ends = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = client().create().unwrap();
            let end = |partition| consumer.fetch_watermarks(&name, partition, Duration::from_secs(20)).unwrap().1;
            (0..partitions).map(|partition| (partition, end(partition))).collect()
        });
        ends.await.unwrap()
    }

    /// Everything that is in the topic now, in the order of each partition.
    pub async fn read(&self) -> Vec<Found> {
        let (ends, mut list) = (self.ends().await, self.list());
        list.set_all_offsets(Offset::Beginning).unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = client().set("group.id", unique("reader")).create().unwrap();
            consumer.assign(&list).unwrap();
            let (mut found, mut left) = (Vec::new(), ends.values().sum::<i64>());
            while left > 0 {
                let Some(message) = consumer.poll(Duration::from_secs(20)) else { panic!("{left} messages are missing") };
                let message = message.unwrap();
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let headers = message
                    .headers()
                    .map(|headers| headers.iter().map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default()))).collect());
                found.push(Found {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().map(text),
                    headers: headers.unwrap_or_default(),
                    payload: message.payload().unwrap_or_default().to_vec(),
                });
                left -= 1;
            }
            found
        });
        read.await.unwrap()
    }
}
