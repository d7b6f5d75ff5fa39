//! What real brokers do rarely and a mock does on demand: commits that fail, groups that are unsettled again and again, a broker that is away
//! at the wrong moment. The host is the real one, in this process.

use std::time::Duration;

use koksmat_tests::{TestHost, until, witness::out_of_order};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    mocking::MockCluster,
    producer::{DefaultProducerContext, FutureProducer, FutureRecord},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use super::*;

const TOPIC: &str = "orders";
const GROUP: &str = "shop";
const PARTITIONS: i32 = 4;
const IN_FLIGHT: usize = 32;
/// What a host leaves unconfirmed at most.
const COMMIT_BATCH: usize = 1_000;
const UPSETS: usize = 9;

struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
    witness: Witness,
    sent: usize,
}

impl Mock {
    async fn start() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
        Self { cluster, witness: Witness::start().await, sent: 0 }
    }

    fn client(&self) -> ClientConfig {
        ClientConfig::new().set("bootstrap.servers", self.cluster.bootstrap_servers()).set("group.id", GROUP).clone()
    }

    /// A folder whose handler tells id, key and number of each message.
    fn folder(&self) -> Folder {
        let settings = format!(
            "in-flight = {IN_FLIGHT}\ncommit-batch = {COMMIT_BATCH}\n[sources.orders.settings]\n\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 100"
        );
        let folder = folder_at(&self.cluster.bootstrap_servers(), GROUP, &[TOPIC], &settings);
        told(folder, &self.witness, "event.id + \" \" + event.subject + \" \" + event.text()", "")
    }

    async fn produce(&mut self, count: usize) {
        let producer: FutureProducer = self.client().set("linger.ms", "5").create().unwrap();
        let numbers = self.sent..self.sent + count;
        let sent: Vec<_> = numbers
            .map(|n| {
                let (key, text) = (format!("k{}", n % 10), n.to_string());
                producer.send_result(FutureRecord::to(TOPIC).key(&key).payload(&text)).map_err(|(error, _)| error).unwrap()
            })
            .collect();
        for sent in futures_util::future::join_all(sent).await {
            sent.unwrap().unwrap();
        }
        self.sent += count;
    }

    /// How far the group has come, all partitions together.
    async fn passed(&self) -> usize {
        let client = self.client();
        let committed = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = client.create().unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition_range(TOPIC, 0, PARTITIONS - 1);
            let committed = consumer.committed_offsets(list, Duration::from_secs(20)).unwrap();
            let offset = |offset: Offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
            committed.elements().iter().map(|element| offset(element.offset())).sum::<i64>()
        });
        usize::try_from(committed.await.unwrap()).unwrap()
    }

    /// Whether everything that is committed was told of before.
    async fn committed_only_what_was_handled(&self) {
        let passed = self.passed().await;
        let told = self.different();
        assert!(passed <= told, "{passed} offsets are committed, and {told} messages were handled");
    }

    /// How many different messages were handled.
    fn different(&self) -> usize {
        self.witness.heard().iter().collect::<HashSet<_>>().len()
    }

    /// Everything was handled, in the order of its key.
    fn check(&self) {
        let heard = self.witness.heard();
        assert_eq!(self.different(), self.sent);
        let numbers = heard.iter().map(|line| {
            let mut words = line.split(' ').skip(1);
            (words.next().unwrap().to_owned(), words.next().unwrap().parse().unwrap())
        });
        assert_eq!(out_of_order(numbers), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_is_made_again_and_a_stop_leaves_none_undone() {
    use RDKafkaRespErr::*;
    let mut mock = Mock::start().await;
    mock.produce(200).await;
    // What a coordinator says that has just moved, is loading or is overloaded.
    let errors = [
        RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
    ];
    mock.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &errors);
    let host = TestHost::start(mock.folder()).await;
    mock.witness.hears(200).await;
    mock.committed_only_what_was_handled().await;
    until("the commits to be made", || async { (mock.passed().await == 200).then_some(()) }).await;

    // One that fails while the host stops.
    mock.produce(100).await;
    mock.witness.hears(300).await;
    mock.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS]);
    let (_, stopped) = host.stop().await;
    assert_eq!((stopped.ledger.total.done, mock.different()), (300, 300), "{}", stopped.line());
    assert_eq!(mock.passed().await, 300);
    mock.check();
    assert_eq!(mock.witness.count(), 300, "nothing came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_unsettled_again_and_again_loses_nothing_and_commits_nothing_unhandled() {
    use RDKafkaRespErr::*;
    let mut mock = Mock::start().await;
    let host = TestHost::start(mock.folder()).await;
    // A rebalance, a member that is said to be of a past generation, and one that is said not to be one at all: its partitions are lost.
    for (round, error) in
        [RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS, RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION, RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]
            .into_iter()
            .cycle()
            .take(UPSETS)
            .enumerate()
    {
        mock.produce(150).await;
        mock.witness.hears(mock.different() + 20).await;
        mock.cluster.request_errors(RDKafkaApiKey::Heartbeat, &[error]);
        until(&format!("round {round}"), || async { (mock.different() == mock.sent).then_some(()) }).await;
        mock.committed_only_what_was_handled().await;
    }
    until("the commits to be made", || async { (mock.passed().await == mock.sent).then_some(()) }).await;
    let (_, stopped) = host.stop().await;
    assert!(stopped.ledger.balanced, "{}", stopped.line());
    mock.check();
    let repeated = mock.witness.count() - mock.sent;
    println!("kafka mock: {} messages, {UPSETS} upsets of the group, {repeated} came again", mock.sent);
    assert!(repeated <= UPSETS * (IN_FLIGHT + COMMIT_BATCH), "what is not confirmed is bounded: {repeated} came again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_only_broker_is_away_stops_all_the_same_and_what_it_did_not_commit_is_not_lost() {
    let mut mock = Mock::start().await;
    mock.produce(50).await;
    let host = TestHost::start(mock.folder()).await;
    mock.witness.hears(50).await;
    until("the commits to be made", || async { (mock.passed().await == 50).then_some(()) }).await;
    mock.produce(50).await;
    mock.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; 64]);
    mock.witness.hears(100).await;
    mock.cluster.broker_down(1).unwrap();
    let (folder, stopped) = host.stop().await;
    assert_eq!((stopped.ledger.total.done, stopped.ledger.balanced), (100, true), "{}", stopped.line());
    mock.cluster.broker_up(1).unwrap();
    mock.cluster.clear_request_errors(RDKafkaApiKey::OffsetCommit);
    // What was handled and not committed comes again, unless the commit that was on its way arrives now after all.
    let host = TestHost::start(folder).await;
    until("the commits to be made", || async { (mock.passed().await == 100).then_some(()) }).await;
    host.stop().await;
    assert!([100, 150].contains(&mock.witness.count()), "{}", mock.witness.count());
    mock.check();
}
