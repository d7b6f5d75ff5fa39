//! Several hosts on one store: PostgreSQL.

use std::time::{Duration, Instant};

use koksmat_tests::{
    Folder, Inside, Process, Witness,
    databases::{Database, Server},
    until,
};
use serde_json::json;

/// The longest a host that is gone is believed to be alive, with the time it takes to notice.
const TAKEN_OVER: Duration = Duration::from_secs(20);

/// A host on the store of all, with a queue whose handler calls the outside resource with the event's name, then counts it.
fn host(database: &Database, inside: &Inside, settings: &str) -> Folder {
    let script = r#"
        import { http, keyvalue } from "koksmat";
        export function handle(event) {
          const { url, id } = event.json();
          http.fetch(url, { method: "POST", body: id });
          keyvalue.add(id, 1);
          keyvalue.add("all", 1);
        }
    "#;
    let settings = format!(
        "on = [{{ source = \"queue\" }}]\ntimeout = \"60s\"\ngrants = {{ keyvalue = true, http = [\"{}\"] }}\n{settings}",
        inside.address()
    );
    Folder::new()
        .host("store = \"file:store-url\"\nconcurrency = 8")
        .file("store-url", database.url())
        .queue("queue")
        .script("held", "held.js", script, &settings)
}

async fn publish(host: &Process, folder: &Folder, inside: &Inside, id: &str) {
    let bearer = format!("Bearer {}", folder.token());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = json!({ "url": inside.url(), "id": id }).to_string();
    let reply = host.post("/queues/queue", &headers, body).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
}

/// Wait until the store holds no task any more; then each of these was counted once.
async fn each_was_counted_once(database: &Database, ids: impl Iterator<Item = String>) {
    let mut connection = database.connect().await;
    connection.until("SELECT count(*) FROM koksmat.task", 0).await;
    let ids: Vec<String> = ids.collect();
    for id in &ids {
        let value = connection.texts(&format!("SELECT convert_from(value, 'UTF8') FROM koksmat.kv WHERE key = '{id}'")).await;
        assert_eq!(value, ["1"], "{id}");
    }
    let all = connection.texts("SELECT convert_from(value, 'UTF8') FROM koksmat.kv WHERE key = 'all'").await;
    assert_eq!(all, [ids.len().to_string()]);
}

async fn two_hosts(database: &Database, settings: &str) -> Inside {
    let inside = Inside::start(Duration::from_millis(4)).await;
    let folders = [host(database, &inside, settings), host(database, &inside, settings)];
    let hosts = [Process::start(&folders[0]).await, Process::start(&folders[1]).await];
    for n in 0..60 {
        publish(&hosts[n % 2], &folders[n % 2], &inside, &format!("event-{n}")).await;
    }
    each_was_counted_once(database, (0..60).map(|n| format!("event-{n}"))).await;
    let mut handled = 0;
    for host in hosts {
        let ledger = host.stops_well().await;
        let done = ledger["done"].as_u64().unwrap();
        assert!(done > 0, "each has its share: {ledger}");
        handled += done;
    }
    assert_eq!(handled, 60);
    inside
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_handlers_of_two_hosts_never_overlap() {
    let database = Server::Postgres.database("lane").await;
    assert_eq!(two_hosts(&database, "atomic = true").await.most(), 1);
    database.drop().await;
    let database = Server::Postgres.database("no_lane").await;
    assert!(two_hosts(&database, "").await.most() > 1, "otherwise the test of the lane could not fail");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_host_was_running_is_taken_over_within_its_lease() {
    let database = Server::Postgres.database("taken_over").await;
    let inside = Inside::start(Duration::from_secs(3600)).await;
    let (a, b) = (host(&database, &inside, ""), host(&database, &inside, ""));
    let killed = Process::start(&a).await;
    for n in 0..3 {
        publish(&killed, &a, &inside, &format!("event-{n}")).await;
    }
    inside.reached(3).await;
    let survivor = Process::start(&b).await;
    killed.signal("KILL").await;
    let since = Instant::now();
    killed.ended().await;
    inside.keep_for(Duration::ZERO);
    each_was_counted_once(&database, (0..3).map(|n| format!("event-{n}"))).await;
    assert!(since.elapsed() < TAKEN_OVER, "it took {:?}", since.elapsed());
    survivor.stops_well().await;
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_that_believe_to_be_in_the_lane_one_commits() {
    let database = Server::Postgres.database("asleep").await;
    let inside = Inside::start(Duration::from_secs(3600)).await;
    let (a, b) = (host(&database, &inside, "atomic = true"), host(&database, &inside, "atomic = true"));
    let asleep = Process::start(&a).await;
    publish(&asleep, &a, &inside, "first").await;
    inside.reached(1).await;
    let awake = Process::start(&b).await;
    publish(&awake, &b, &inside, "second").await;
    // It sleeps for longer than its leases last; by then the other has taken over its task and is in the lane.
    asleep.signal("STOP").await;
    inside.reached(2).await;
    inside.keep_for(Duration::ZERO);
    each_was_counted_once(&database, ["first", "second"].map(str::to_owned).into_iter()).await;
    asleep.signal("CONT").await;
    until("the sleeper to be ready", || async { (asleep.admin("/readyz").await.status == 200).then_some(()) }).await;
    publish(&asleep, &a, &inside, "third").await;
    each_was_counted_once(&database, ["first", "second", "third"].map(str::to_owned).into_iter()).await;
    asleep.stop().await;
    awake.stops_well().await;
    database.drop().await;
}

/// Two hosts on the store of all, each with this source and a handler that tells the witness of its events.
fn both(database: &Database, witness: &Witness, source: &str) -> [Folder; 2] {
    [(); 2].map(|()| {
        let handler = format!("on = {{ source = \"only\" }}\ngrants = {{ http = [\"{}\"] }}", witness.address());
        Folder::new()
            .host("store = \"file:store-url\"")
            .file("store-url", database.url())
            .toml(&format!("[sources.only]\n{source}\n"))
            .script("tells", "tells.js", &witness.script("event.id"), &handler)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_fires_once_whichever_host_is_first() {
    let database = Server::Postgres.database("timer").await;
    let witness = Witness::start().await;
    let folders = both(&database, &witness, "kind = \"timer\"\ncron = \"* * * * * *\"");
    let (a, b) = (Process::start(&folders[0]).await, Process::start(&folders[1]).await);
    witness.hears(5).await;
    a.stops_well().await;
    let before = witness.count();
    witness.hears(before + 2).await;
    b.stops_well().await;
    assert_eq!(witness.different(), witness.count(), "{:?}", witness.heard());
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_not_claimed_are_polled_by_one_host_and_by_the_other_when_it_stops() {
    for mode in ["query = \"select id from events\"\nkey = \"id\"", "cursor = { table = \"events\", key = \"id\" }"] {
        let database = Server::Postgres.database("polled_by_one").await;
        let mut connection = database.connect().await;
        connection.execute("CREATE TABLE events (id bigserial PRIMARY KEY, xid xid8 NOT NULL DEFAULT pg_current_xact_id())").await;
        let witness = Witness::start().await;
        let source = format!("kind = \"poller\"\ndatabase = \"file:store-url\"\nevery = \"20ms\"\n{mode}");
        let folders = both(&database, &witness, &source);
        let (a, b) = (Process::start(&folders[0]).await, Process::start(&folders[1]).await);
        connection.execute("INSERT INTO events DEFAULT VALUES; INSERT INTO events DEFAULT VALUES").await;
        witness.hears(2).await;
        until("one to wait for the other", || async {
            let waits = async |host: &Process| host.admin("/readyz").await.text().contains("another host that shares the store runs it");
            (waits(&a).await != waits(&b).await).then_some(())
        })
        .await;
        a.stops_well().await;
        connection.execute("INSERT INTO events DEFAULT VALUES").await;
        witness.hears(3).await;
        b.stops_well().await;
        let mut heard = witness.heard();
        heard.sort();
        assert_eq!(heard, ["1", "2", "3"], "{mode}");
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_is_waited_for() {
    let database = Server::Postgres.database("store_gone").await;
    let proxy = koksmat_tests::Proxy::start("127.0.0.1:0", Server::Postgres.address()).await;
    let inside = Inside::start(Duration::ZERO).await;
    let folder = host(&database, &inside, "").file("store-url", database.url_at(proxy.address()));
    let process = Process::start(&folder).await;
    publish(&process, &folder, &inside, "before").await;
    inside.reached(1).await;
    proxy.close();
    let bearer = format!("Bearer {}", folder.token());
    let body = json!({ "url": inside.url(), "id": "refused" }).to_string();
    let refused = process.post("/queues/queue", &[("authorization", &bearer), ("content-type", "application/json")], body).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    until("not to be ready", || async { (process.admin("/readyz").await.status == 503).then_some(()) }).await;
    proxy.open();
    until("to be ready again", || async { (process.admin("/readyz").await.status == 200).then_some(()) }).await;
    publish(&process, &folder, &inside, "after").await;
    each_was_counted_once(&database, ["before", "after"].map(str::to_owned).into_iter()).await;
    process.stops_well().await;
    database.drop().await;
}

/// What the server answers to whoever writes while its disk is full: another way to fill one takes rights that not everybody has.
const FULL: &str = "CREATE FUNCTION koksmat.full() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
    CREATE TRIGGER full_disk BEFORE INSERT ON koksmat.event EXECUTE FUNCTION koksmat.full();
    CREATE TRIGGER full_disk BEFORE INSERT ON koksmat.source_state EXECUTE FUNCTION koksmat.full();";
const ROOM: &str = "DROP TRIGGER full_disk ON koksmat.event; DROP TRIGGER full_disk ON koksmat.source_state; DROP FUNCTION koksmat.full();";

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_disk_is_full_takes_nothing_and_loses_nothing() {
    let database = Server::Postgres.database("store_full").await;
    let inside = Inside::start(Duration::ZERO).await;
    let folder = host(&database, &inside, "");
    let process = Process::start(&folder).await;
    publish(&process, &folder, &inside, "before").await;
    let mut connection = database.connect().await;
    connection.execute(FULL).await;
    let bearer = format!("Bearer {}", folder.token());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = json!({ "url": inside.url(), "id": "refused" }).to_string();
    let refused = process.post("/queues/queue", &headers, body).await;
    assert_eq!((refused.status, refused.json()["detail"].as_str()), (503, Some("the event could not be stored; send it again later")));
    let report =
        until("not to be ready", || async { Some(process.admin("/readyz").await).filter(|reply| reply.status == 503) }).await.json();
    assert!(report["store"].as_str().unwrap().contains("the store's disk is full"), "{report}");
    connection.execute(ROOM).await;
    process.ready().await;
    publish(&process, &folder, &inside, "after").await;
    each_was_counted_once(&database, ["before", "after"].map(str::to_owned).into_iter()).await;
    process.stops_well().await;
    database.drop().await;
}
