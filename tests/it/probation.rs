//! A call under which the host ends is found among those that ran beside it, whichever source its event came from.
//!
//! No guest can end the host. What stands in for one here is the test, which kills the host whenever the deadly event is inside.

use std::time::Duration;

use koksmat_tests::{
    Folder, Inside, Process,
    kafka::{BROKERS, Topic, unique},
    process::koksmat,
    rabbitmq::{self, Rabbitmq},
    until,
};
use serde_json::{Value, json};
use tokio::sync::watch;

const FOR_EVER: Duration = Duration::from_secs(3600);
const NEIGHBOURS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Where the deadly event goes, and where its neighbours are held.
struct Outside {
    deadly: Inside,
    neighbours: Inside,
    /// Where the host listens now.
    listens: watch::Sender<String>,
}

impl Outside {
    async fn start() -> Self {
        Self { deadly: Inside::start(FOR_EVER).await, neighbours: Inside::start(FOR_EVER).await, listens: watch::Sender::default() }
    }

    /// A folder with this source, whose handler calls from outside what the event is for, then counts it.
    fn folder(&self, source: &str) -> Folder {
        let script = format!(
            "import {{ http, keyvalue }} from \"koksmat\";\nexport function handle(event) {{\n  const {{ id }} = event.json();\n  \
             http.fetch(id === \"deadly\" ? \"{}\" : \"{}\", {{ method: \"POST\", body: id }});\n  keyvalue.add(id, 1);\n}}\n",
            self.deadly.url(),
            self.neighbours.url()
        );
        let settings = format!(
            "on = [{{ source = \"s\" }}]\ntimeout = \"120s\"\norder = \"none\"\ngrants = {{ keyvalue = true, http = [\"{}\", \"{}\"] }}",
            self.deadly.address(),
            self.neighbours.address()
        );
        Folder::new().toml(source).script("held", "held.js", &script, &settings)
    }

    /// The host ends whenever the deadly event is inside, until it is quarantined: how often. Its neighbours were all in flight the first
    /// time.
    async fn ends_until_it_is_quarantined(&self, folder: &Folder) -> usize {
        let mut ends = 0;
        loop {
            let mut host = Process::start(folder).await;
            self.listens.send_replace(host.listen.clone());
            tokio::select! {
                () = self.deadly.reached_by("deadly") => {}
                _ = host.line("quarantined") => {
                    host.stops_well().await;
                    return ends;
                }
            }
            self.ends(host).await;
            ends += 1;
            assert!(ends < 10, "it goes on for ever");
        }
    }

    /// The deadly event is inside and the host ends, the first time with all of its neighbours in flight.
    async fn ends(&self, host: Process) {
        self.neighbours.reached(NEIGHBOURS.len()).await;
        self.neighbours.keep_for(Duration::ZERO);
        kill(host).await;
        self.deadly.forget();
    }

    async fn quarantines_the_deadly_one(&self, folder: &Folder, after: usize) {
        assert_eq!(self.ends_until_it_is_quarantined(folder).await, after);
        let host = Process::start(folder).await;
        self.listens.send_replace(host.listen.clone());
        until("its neighbours to be handled", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
        for id in NEIGHBOURS {
            until(id, || async { folder.value(id) }).await;
            assert_eq!(folder.value(id).as_deref(), Some("1"), "{id}");
        }
        let letters = koksmat(folder.path(), &["dead-letters", "list", "--json"]).await.stdout;
        let letters: Vec<Value> = letters.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert!(letters[0]["reason"].as_str().unwrap().starts_with("quarantined"), "{letters:?}");
        assert_eq!(folder.value("deadly"), None, "it is the one");
        host.stops_well().await;
    }

    /// The host is killed three times from outside while all of these are in flight, and goes on. Nothing is quarantined.
    async fn survives_three_kills(&self, folder: &Folder, ids: &[&str]) {
        // All side by side, all as tasks, and then one at a time.
        for inside in [ids.len(), ids.len(), 1] {
            self.neighbours.forget();
            let host = Process::start(folder).await;
            self.neighbours.reached(inside).await;
            assert_eq!(self.neighbours.now(), inside);
            kill(host).await;
            until("their connections to be gone", || async { (self.neighbours.now() == 0).then_some(()) }).await;
        }
        self.neighbours.keep_for(Duration::ZERO);
        let host = Process::start(folder).await;
        for id in ids {
            until(id, || async { folder.value(id) }).await;
        }
        until("all to be settled", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
        assert_eq!(folder.count("select count(*) from dead_letter"), 0);
        assert_eq!(folder.count("select count(*) from kv where cast(value as text) = '1'"), i64::try_from(ids.len()).unwrap());
        host.stops_well().await;
    }
}

async fn kill(host: Process) {
    host.signal("KILL").await;
    host.ended().await;
}

/// The neighbours, and the deadly one in their middle.
fn all() -> impl Iterator<Item = &'static str> {
    NEIGHBOURS[..3].iter().copied().chain(["deadly"]).chain(NEIGHBOURS[3..].iter().copied())
}

const ROWS: &str =
    "[sources.s]\nkind = \"poller\"\ndatabase = \"sqlite:shop.db\"\nevery = \"20ms\"\nclaim = { table = \"outbox\", key = \"id\" }\n";

fn insert(folder: &Folder, ids: impl Iterator<Item = &'static str>) {
    let shop = rusqlite::Connection::open(folder.join("shop.db")).unwrap();
    shop.execute_batch("create table outbox (id text primary key)").unwrap();
    for id in ids {
        shop.execute("insert into outbox values (?1)", [id]).unwrap();
    }
}

fn message(id: &str) -> String {
    json!({ "id": id }).to_string()
}

async fn topic_with(ids: impl Iterator<Item = &'static str>) -> (Topic, String) {
    let topic = Topic::create("deadly", 2).await;
    topic.produce(ids.map(|id| (id, message(id)))).await;
    let source = format!(
        "[sources.s]\nkind = \"kafka\"\nbrokers = \"{BROKERS}\"\ngroup = \"{}\"\ntopics = [\"{}\"]\n\
         [sources.s.settings]\n\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 1000\n",
        unique("g"),
        topic.name
    );
    (topic, source)
}

// Once it ran among others and nothing was known of any, once among others that were written down, three times alone.
const OF_A_DIRECT_SOURCE: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_deadly_row_is_quarantined_and_its_neighbours_are_handled() {
    let outside = Outside::start().await;
    let folder = outside.folder(ROWS);
    insert(&folder, all());
    outside.quarantines_the_deadly_one(&folder, OF_A_DIRECT_SOURCE).await;
    let shop = rusqlite::Connection::open(folder.join("shop.db")).unwrap();
    let marked = "select count(*) from koksmat_claims where done_at is not null";
    assert_eq!(shop.query_row(marked, [], |row| row.get::<_, i64>(0)).unwrap(), 7, "the source is through with all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadly_message_of_kafka_is_quarantined_and_its_neighbours_are_handled() {
    let outside = Outside::start().await;
    let (_topic, source) = topic_with(all()).await;
    outside.quarantines_the_deadly_one(&outside.folder(&source), OF_A_DIRECT_SOURCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadly_message_of_rabbitmq_is_quarantined_and_its_neighbours_are_handled() {
    let outside = Outside::start().await;
    let (broker, queue) = (Rabbitmq::connect().await, rabbitmq::name("deadly"));
    broker.queue(&queue, &[("x-queue-type", rabbitmq::text("classic"))]).await;
    for id in all() {
        broker.publish(&queue, rabbitmq::id(id), message(id)).await;
    }
    let source = format!("[sources.s]\nkind = \"rabbitmq\"\nurl = \"{}\"\nqueue = \"{queue}\"\n", rabbitmq::URL);
    outside.quarantines_the_deadly_one(&outside.folder(&source), OF_A_DIRECT_SOURCE).await;
    broker.delete(&queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadly_message_of_the_embedded_queue_is_quarantined_and_its_neighbours_are_handled() {
    let outside = Outside::start().await;
    let folder = outside.folder("[sources.s]\nkind = \"embedded\"\n");
    let host = Process::start(&folder).await;
    says_nothing_of(&host, "ended without a stop");
    let bearer = format!("Bearer {}", folder.token());
    for id in all() {
        assert_eq!(host.post("/queues/s", &[("authorization", &bearer)], message(id)).await.status, 202);
    }
    outside.deadly.reached_by("deadly").await;
    outside.ends(host).await;
    // What is in the store is known from the first.
    outside.quarantines_the_deadly_one(&folder, OF_A_DIRECT_SOURCE - 2).await;
}

fn says_nothing_of(host: &Process, what: &str) {
    assert!(!host.log().iter().any(|line| line.contains(what)), "{}", host.log().join("\n"));
}

/// Whoever posts this to the webhook until it is answered for good: the status.
async fn insists(mut listens: watch::Receiver<String>, id: &'static str) -> u16 {
    listens.wait_for(|address| !address.is_empty()).await.unwrap();
    loop {
        let url = format!("http://{}/hook", *listens.borrow());
        match koksmat_tests::host::try_request(&url, "POST", &[("x-id", id)], message(id).into()).await {
            Ok(reply) if reply.status < 500 => return reply.status,
            // Nobody is there, or not yet ready to answer.
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadly_request_whose_sender_waits_is_quarantined_and_its_neighbours_are_answered() {
    let outside = Outside::start().await;
    let folder = outside.folder("[sources.s]\nkind = \"webhook\"\npath = \"/hook\"\nreply = \"handler\"\nid-header = \"x-id\"\n");
    let senders: Vec<_> = all().map(|id| tokio::spawn(insists(outside.listens.subscribe(), id))).collect();
    outside.quarantines_the_deadly_one(&folder, OF_A_DIRECT_SOURCE).await;
    for (id, sender) in all().zip(senders) {
        assert_eq!(sender.await.unwrap(), if id == "deadly" { 422 } else { 204 }, "{id}");
    }
    // One that was settled may stand there: the kill came before it was struck off, and its sender is answered without another call.
    let open = "select count(*) from source_state as attempt where attempt.source = '(attempts)' and not exists (select 1 from settled
        where attempt.name = settled.tenant || '/' || settled.source || '/' || settled.handler || '/' || settled.key)";
    assert_eq!(folder.count(open), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_kills_from_outside_quarantine_no_row() {
    let outside = Outside::start().await;
    let folder = outside.folder(ROWS);
    insert(&folder, NEIGHBOURS.into_iter());
    outside.survives_three_kills(&folder, &NEIGHBOURS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_kills_from_outside_quarantine_no_message_of_kafka() {
    let outside = Outside::start().await;
    let (_topic, source) = topic_with(NEIGHBOURS.into_iter()).await;
    outside.survives_three_kills(&outside.folder(&source), &NEIGHBOURS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_suspect_runs_nothing_else_does_whichever_source_it_is_of() {
    let outside = Outside::start().await;
    let tell = "export function handle() { return \"told\"; }\n";
    let folder = outside
        .folder("[sources.s]\nkind = \"embedded\"\n[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\nreply = \"handler\"\n")
        .script("tell", "tell.js", tell, "on = [{ source = \"hook\" }]");
    let host = Process::start(&folder).await;
    let bearer = format!("Bearer {}", folder.token());
    host.post("/queues/s", &[("authorization", &bearer)], message("a")).await;
    outside.neighbours.reached(1).await;
    kill(host).await;
    outside.neighbours.forget();
    let host = Process::start(&folder).await;
    outside.neighbours.reached(1).await;
    let (replied, ()) = tokio::join!(host.post("/hook", &[], "{}"), async {
        until("the request to wait", || async {
            let status = koksmat(folder.path(), &["status", "--json"]).await.stdout;
            let status: Value = serde_json::from_str(&status).unwrap();
            (status["running"] == 1 && status["waiting"] == 1).then_some(())
        })
        .await;
        outside.neighbours.keep_for(Duration::ZERO);
    });
    assert_eq!((replied.status, replied.text().as_str()), (200, "told"));
    host.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_stop_nothing_is_run_with_care() {
    let outside = Outside::start().await;
    outside.neighbours.keep_for(Duration::ZERO);
    let folder = outside.folder(ROWS);
    insert(&folder, NEIGHBOURS.into_iter());
    Process::start(&folder).await.stops_well().await;
    let host = Process::start(&folder).await;
    says_nothing_of(&host, "ended without a stop");
    for id in NEIGHBOURS {
        until(id, || async { folder.value(id) }).await;
    }
    let ledger = host.stops_well().await;
    assert_eq!(ledger["parked"], 0, "{ledger}");
}
