//! Transfers between accounts, from every kind of source that is acknowledged, through faults: nothing is lost, no effect happens twice, and what
//! is done outside is repeated only for what was in flight.
//!
//! `KOKSMAT_TEST_EVENTS` and `KOKSMAT_TEST_FAULTS` raise the figures, `KOKSMAT_TEST_SEED` repeats the moments.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use koksmat_tests::{
    Folder, Process, Witness,
    kafka::{BROKERS, Topic, unique},
    services,
};
use rand::Rng;
use tokio::{sync::watch, task::JoinSet};

mod one_host;
mod three_hosts;

const ACCOUNTS: usize = 256;
/// Calls side by side in a host, and one in the lane besides: what it may be doing outside when it ends.
const CONCURRENCY: usize = 16;
/// Of each source. What was in flight when a host ended runs one at a time afterwards.
const IN_FLIGHT: usize = 32;
/// The most calls whose effects are committed together.
const COMMIT_BATCH: usize = 256;
/// Of the webhook and of the queue, each.
const SENDERS: usize = 8;

/// The four kinds of source take turns.
const SOURCES: usize = 4;
const POSTED: usize = 0;
const QUEUED: usize = 1;
const POLLED: usize = 2;
const PRODUCED: usize = 3;

/// How many of so many transfers come from this source.
fn of(source: usize, count: usize) -> usize {
    (0..count).filter(|n| n % SOURCES == source).count()
}

/// Whether the lane makes it: every fourth of the queue's. In the lane each waits for the commit of the one before.
fn is_atomic(n: usize) -> bool {
    n % SOURCES == QUEUED && (n / SOURCES).is_multiple_of(4)
}

/// One of the transfers.
struct Transfer {
    id: String,
    debit: String,
    credit: String,
    amount: i64,
}

impl Transfer {
    fn of(n: usize) -> Self {
        let account = |n: usize| format!("a{}", n % ACCOUNTS);
        Self { id: format!("t{n}"), debit: account(n * 7), credit: account(n * 13 + 5), amount: (n % 100) as i64 + 1 }
    }

    fn json(&self) -> String {
        let Self { id, debit, credit, amount } = self;
        format!("{{\"id\":\"{id}\",\"debit\":\"{debit}\",\"credit\":\"{credit}\",\"amount\":{amount}}}")
    }

    fn row(&self) -> String {
        let Self { id, debit, credit, amount } = self;
        format!("('{id}', '{debit}', '{credit}', {amount})")
    }
}

/// A table of transfers, for a poller that claims its rows.
const TABLE: &str = "CREATE TABLE transfer (id text PRIMARY KEY, debit text, credit text, amount int)";

/// The rows of these transfers, as one statement.
fn insert(events: Range<usize>) -> String {
    let rows: Vec<String> = events.filter(|n| n % SOURCES == POLLED).map(|n| Transfer::of(n).row()).collect();
    format!("INSERT INTO transfer VALUES {}", rows.join(", "))
}

/// Which host may be asked now, and where it is.
#[derive(Clone)]
struct Door {
    address: String,
    bearer: String,
}

impl Door {
    fn of(process: &Process, folder: &Folder) -> Self {
        Self { address: process.listen.clone(), bearer: format!("Bearer {}", folder.token()) }
    }
}

/// What the transfers go through, besides the store and the rows that are polled.
struct Bank {
    topic: Topic,
    group: String,
    witness: Witness,
    doors: watch::Sender<Vec<Door>>,
    /// How many may have been sent.
    gate: watch::Sender<usize>,
    senders: JoinSet<()>,
}

impl Bank {
    async fn open(count: usize) -> Self {
        let (topic, group, witness) = (Topic::create("transfers", 6).await, unique("bank"), Witness::start().await);
        let mut bank =
            Self { topic, group, witness, doors: watch::Sender::default(), gate: watch::Sender::default(), senders: JoinSet::new() };
        let client = Client::builder(TokioExecutor::new()).build_http();
        for (source, path) in [(POSTED, "/hook"), (QUEUED, "/queues/queue")] {
            for sender in 0..SENDERS {
                let mine = (0..count).filter(move |n| n % SOURCES == source && n / SOURCES % SENDERS == sender);
                let (client, doors, gate) = (client.clone(), bank.doors.subscribe(), bank.gate.subscribe());
                bank.senders.spawn(send(client, path, mine, doors, gate));
            }
        }
        bank
    }

    /// A host of the bank; `rows` is the database whose table `transfer` it polls.
    fn host(&self, member: &str, rows: &str, settings: &str) -> Folder {
        let (topic, group, witness) = (&self.topic.name, &self.group, self.witness.address());
        let grants =
            format!("grants = {{ keyvalue = true, http = [\"{witness}\"] }}\nretry = {{ attempts = 100, backoff = \"20ms..200ms\" }}");
        let on = "on = [{ source = \"hook\" }, { source = \"queue\", type = \"plain\" }, { source = \"rows\" }, { source = \"kafka\" }]";
        Folder::new()
            .host(&format!("concurrency = {CONCURRENCY}"))
            .toml(&format!("[sources.queue]\nkind = \"embedded\"\nin-flight = {IN_FLIGHT}"))
            .toml(&format!(
                "[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\nid-header = \"idempotency-key\"\nin-flight = {IN_FLIGHT}"
            ))
            .toml(&format!(
                "[sources.rows]\nkind = \"poller\"\ndatabase = \"{rows}\"\nevery = \"20ms\"\nin-flight = {IN_FLIGHT}\n\
                 claim = {{ table = \"transfer\", key = \"id\", lease = \"10s\" }}"
            ))
            .toml(&format!(
                "[sources.kafka]\nkind = \"kafka\"\nbrokers = \"{BROKERS}\"\ngroup = \"{group}\"\ntopics = [\"{topic}\"]\nin-flight = {IN_FLIGHT}\n\
                 [sources.kafka.settings]\n\"group.instance.id\" = \"{member}\"\n\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 1000"
            ))
            .guest("plain", "bank", &format!("{on}\n{grants}\nconfig = {{ witness = \"http://{witness}/\"{settings} }}"))
            .guest("lane", "bank", &format!("on = [{{ source = \"queue\", type = \"atomic\" }}]\natomic = true\n{grants}\nconfig = {{ witness = \"http://{witness}/\" }}"))
    }

    /// Let these transfers go out, but for the rows.
    async fn send(&self, events: Range<usize>) {
        self.gate.send_replace(events.end);
        let messages = events.filter(|n| n % SOURCES == PRODUCED).map(|n| (format!("k{}", n % 499), Transfer::of(n).json()));
        self.topic.produce(messages).await;
    }

    /// Wait until the witness has heard so much.
    async fn hears(&self, reports: usize) {
        assert!(are_made(reports, async || self.witness.count()).await, "{} of {reports} reports", self.witness.count());
    }

    /// Every sender has had its answers.
    async fn sent(&mut self) {
        while let Some(ended) = koksmat_tests::within("a sender to be answered", self.senders.join_next()).await {
            ended.unwrap();
        }
    }

    /// Kafka has been told of everything that was handled.
    async fn committed(&self) {
        let ends = self.topic.ends().await;
        koksmat_tests::until("all offsets to be committed", || async { (self.topic.committed(&self.group).await == ends).then_some(()) })
            .await;
    }
}

/// Post transfers one after the other, each until somebody has accepted it, always with the same name.
async fn send(
    client: Client<HttpConnector, Full<bytes::Bytes>>,
    path: &'static str,
    transfers: impl Iterator<Item = usize>,
    mut doors: watch::Receiver<Vec<Door>>,
    mut gate: watch::Receiver<usize>,
) {
    for n in transfers {
        gate.wait_for(|sent| *sent > n).await.unwrap();
        let transfer = Transfer::of(n);
        loop {
            let door = {
                let doors = doors.wait_for(|doors| !doors.is_empty()).await.unwrap();
                doors[rand::rng().random_range(0..doors.len())].clone()
            };
            let ty = if is_atomic(n) { "atomic" } else { "plain" };
            let request = http::Request::post(format!("http://{}{path}?type={ty}", door.address))
                .header("authorization", &door.bearer)
                .header("content-type", "application/json")
                .header("idempotency-key", &transfer.id)
                .body(Full::from(transfer.json()))
                .unwrap();
            let answer = async {
                let answer = client.request(request).await.ok()?;
                let status = answer.status().as_u16();
                answer.into_body().collect().await.ok()?;
                Some(status)
            };
            match tokio::time::timeout(Duration::from_secs(5), answer).await.ok().flatten() {
                Some(200 | 202) => break,
                // Nobody knows whether it was accepted.
                None | Some(429 | 503) => tokio::time::sleep(Duration::from_millis(20)).await,
                Some(status) => panic!("{path}: {status}"),
            }
        }
    }
}

/// What became of the transfers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    lost: usize,
    effects_twice: usize,
    wrong_balances: usize,
    /// Atomic calls that committed though a later one had.
    overtaken_in_the_lane: usize,
    outside_repeated: usize,
    outside_missing: usize,
}

impl Verdict {
    /// From all keys and values there are.
    fn of(count: usize, values: &[(String, String)], witness: &Witness) -> Self {
        let with = |prefix| values.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_str())));
        let done: BTreeMap<&str, &str> = with("done/").collect();
        let balances: BTreeMap<&str, i64> = with("account/").map(|(account, value)| (account, value.parse().unwrap())).collect();
        let mut expected = BTreeMap::<String, i64>::new();
        let mut lost = 0;
        for transfer in (0..count).map(Transfer::of) {
            lost += usize::from(!done.contains_key(transfer.id.as_str()));
            *expected.entry(transfer.debit).or_default() -= transfer.amount;
            *expected.entry(transfer.credit).or_default() += transfer.amount;
        }
        // In the order of the keys: of the lines.
        let book: Vec<u64> = with("book/").map(|(_, token)| token.parse().unwrap()).collect();
        let lines = (0..count).filter(|n| is_atomic(*n)).count();
        let heard: HashSet<String> = witness.heard().into_iter().collect();
        Self {
            lost: lost + lines.saturating_sub(book.len()),
            effects_twice: book.len().saturating_sub(lines) + done.values().filter(|times| **times != "1").count(),
            wrong_balances: expected.iter().filter(|(account, balance)| balances.get(account.as_str()) != Some(balance)).count(),
            overtaken_in_the_lane: book.windows(2).filter(|pair| pair[0] >= pair[1]).count(),
            outside_repeated: witness.count() - heard.len(),
            outside_missing: count - heard.len(),
        }
    }

    /// Say it in one line, and see that it is as promised.
    fn check(&self, what: &str, allowed: usize) {
        let Self { lost, effects_twice, wrong_balances, overtaken_in_the_lane, outside_missing, outside_repeated } = self;
        println!(
            "{what}: lost {lost}, effects twice {effects_twice}, wrong balances {wrong_balances}, overtaken in the lane {overtaken_in_the_lane}, \
             outside effects missing {outside_missing}, outside effects repeated {outside_repeated} (allowed {allowed})"
        );
        assert!(self.outside_repeated <= allowed, "{self:?}");
        assert_eq!(*self, Self { outside_repeated: self.outside_repeated, ..Self::default() });
    }
}

/// Wait until `made` says that so many transfers are made, as long as it says more from time to time. `false`: it does not any more, and what is
/// missing is lost.
async fn are_made(count: usize, mut made: impl AsyncFnMut() -> usize) -> bool {
    let mut last = (0, Instant::now());
    loop {
        let now = made().await;
        if now > last.0 {
            last = (now, Instant::now());
        }
        if now >= count || last.1.elapsed() > koksmat_tests::PATIENCE {
            return now >= count;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The part of `count` transfers that goes out before the fault number `round` of `faults`, or after the last.
fn portion(count: usize, round: usize, faults: usize) -> Range<usize> {
    count * round / (faults + 1)..count * (round + 1) / (faults + 1)
}

/// A moment while a portion is handled: so many reports have come by then.
fn moment(portion: &Range<usize>, random: &mut impl Rng) -> usize {
    portion.start + portion.len() * random.random_range(10..80) / 100
}
