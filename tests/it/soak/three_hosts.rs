//! Three hosts on one PostgreSQL, which are killed, and stopped for longer than their leases and woken again.

use koksmat_tests::databases::{Connection, Database, Server};
use rand::rngs::StdRng;

use super::*;

const HOSTS: usize = 3;
/// Longer than a host is believed to be alive that says nothing, and than it takes to notice.
const LONGER_THAN_ITS_LEASE: Duration = Duration::from_secs(13);
/// Calls of two hosts that write the same account at once: hence the accounts are added to and not read, so that none is overtaken after it
/// has told the witness.
const PLAIN: &str = "";

/// The hosts of the bank, each with a folder of its own.
struct Hosts {
    folders: Vec<Folder>,
    processes: Vec<Process>,
}

impl Hosts {
    async fn start(bank: &Bank, database: &Database) -> Self {
        let mut hosts = Self { folders: Vec::new(), processes: Vec::new() };
        for n in 0..HOSTS {
            let folder = bank.host(&format!("host-{n}"), "file:store-url", PLAIN).host("store = \"file:store-url\"");
            let folder = folder.file("store-url", database.url());
            hosts.processes.push(Process::start(&folder).await);
            hosts.folders.push(folder);
        }
        hosts.open(bank, None);
        hosts
    }

    /// Let senders in everywhere but at one of them.
    fn open(&self, bank: &Bank, but: Option<usize>) {
        let doors = self.processes.iter().zip(&self.folders).enumerate().filter(|(n, _)| Some(*n) != but);
        bank.doors.send_replace(doors.map(|(_, (process, folder))| Door::of(process, folder)).collect());
    }

    /// Kill one, and start it again.
    async fn kill(&mut self, which: usize, bank: &Bank) {
        self.processes[which].signal("KILL").await;
        self.open(bank, Some(which));
        let mut next = Process::spawn(&self.folders[which], &[]);
        next.listens().await;
        let killed = std::mem::replace(&mut self.processes[which], next);
        assert_eq!(killed.ended().await.code, None);
        self.open(bank, None);
    }

    /// One sleeps for longer than its lease, in the lane if one is found there; senders go on asking it. Meanwhile another one is killed.
    /// Whether it was in the lane.
    async fn stall(&mut self, bank: &Bank, connection: &mut Connection, random: &mut StdRng) -> bool {
        let (asleep, in_the_lane) = self.sleep(connection, random).await;
        let awake = tokio::time::sleep(LONGER_THAN_ITS_LEASE);
        let killed = (asleep + random.random_range(1..HOSTS)) % HOSTS;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..5_000))).await;
        self.kill(killed, bank).await;
        awake.await;
        self.processes[asleep].signal("CONT").await;
        self.processes[asleep].ready().await;
        in_the_lane
    }

    /// Put one to sleep: of some tries one that is in the lane, which shows in nobody else's coming in.
    async fn sleep(&self, connection: &mut Connection, random: &mut StdRng) -> (usize, bool) {
        const TRIES: usize = 20;
        const WHO: &str = "SELECT epoch || ' ' || host FROM koksmat.lane WHERE host IS NOT NULL";
        for last in (0..TRIES).rev() {
            let which = random.random_range(0..HOSTS);
            self.processes[which].signal("STOP").await;
            let before = connection.texts(WHO).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let in_the_lane = !before.is_empty() && connection.texts(WHO).await == before;
            if in_the_lane || last == 0 {
                return (which, in_the_lane);
            }
            self.processes[which].signal("CONT").await;
        }
        unreachable!("the last try is taken")
    }
}

/// All keys and values, in their order.
async fn values(connection: &mut Connection) -> Vec<(String, String)> {
    let all = "SELECT key || ' ' || convert_from(value, 'UTF8') FROM koksmat.kv ORDER BY key COLLATE \"C\"";
    let all = connection.texts(all).await;
    all.iter().map(|line| line.split_once(' ').unwrap()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_killed_and_hosts_that_sleep_past_their_lease_lose_nothing_and_do_nothing_twice() {
    let (count, stalls) = (services::figure("KOKSMAT_TEST_EVENTS", 3_000), services::figure("KOKSMAT_TEST_FAULTS", 3));
    let mut random = services::random();
    let database = Server::Postgres.database("soak").await;
    let mut connection = database.connect().await;
    connection.execute(TABLE).await;
    let mut bank = Bank::open(count).await;
    let mut hosts = Hosts::start(&bank, &database).await;
    let mut in_the_lane = 0;
    for stall in 0..=stalls {
        let events = portion(count, stall, stalls);
        connection.execute(&insert(events.clone())).await;
        bank.send(events.clone()).await;
        if stall < stalls {
            bank.hears(moment(&events, &mut random)).await;
            in_the_lane += usize::from(hosts.stall(&bank, &mut connection, &mut random).await);
        }
    }
    bank.sent().await;
    let done = "SELECT count(*) FROM koksmat.kv WHERE key LIKE 'done/%'";
    if are_made(count, async || connection.count(done).await).await {
        connection.until("SELECT count(*) FROM koksmat_claims WHERE done_at IS NOT NULL", of(POLLED, count)).await;
        bank.committed().await;
    }
    for host in hosts.processes {
        host.stops_well().await;
    }
    let verdict = Verdict::of(count, &values(&mut connection).await, &bank.witness);
    let faults = format!("{count} events on three hosts, {stalls} kills, {stalls} sleeps ({in_the_lane} in the lane)");
    verdict.check(&faults, 2 * stalls * (CONCURRENCY + 1 + COMMIT_BATCH));
    connection.until("SELECT (SELECT count(*) FROM koksmat.task) + (SELECT count(*) FROM koksmat.dead_letter)", 0).await;
    drop(connection);
    database.drop().await;
}
