//! Clocks and databases as sources of a real host: every firing and every row once, whoever stops, dies or writes meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use koksmat_tests::{Folder, Inside, Process, TestHost, until, within};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

/// Counts how often it saw an event, and keeps what it saw.
const WITNESS: &str = r#"
    import { keyvalue } from "koksmat";
    export function handle(event) {
      const source = event.source.split("/").at(-1);
      keyvalue.add(`times/${source}/${event.id}`, 1);
      keyvalue.set(`event/${source}/${event.id}`, { ...event, data: event.json(), at: Date.now() });
    }
"#;

fn witness(folder: Folder, kind: &str) -> Folder {
    folder.script("witness", "witness.js", WITNESS, &format!("on = [{{ kind = {kind:?} }}]\ngrants = {{ keyvalue = true }}"))
}

/// How often the handler saw each event of a source.
fn seen(folder: &Folder, source: &str) -> BTreeMap<String, i64> {
    let store = folder.store();
    let prefix = format!("times/{source}/");
    let mut rows = store.prepare("select substr(key, length(?1) + 1), cast(value as text) from kv where key glob ?1 || '*'").unwrap();
    let rows = rows.query_map([&prefix], |row| Ok((row.get(0)?, row.get::<_, String>(1)?.parse().unwrap()))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn event(folder: &Folder, source: &str, id: &str) -> Value {
    serde_json::from_str(&folder.value(&format!("event/{source}/{id}")).unwrap_or_else(|| panic!("no handler saw {id}"))).unwrap()
}

async fn until_seen(folder: &Folder, source: &str, count: usize) {
    until(&format!("{count} events of {source}"), || async { (seen(folder, source).len() >= count).then_some(()) }).await;
}

// ---- Timers ----------------------------------------------------------------------------------------------------------------------

fn every_second(missed: &str) -> Folder {
    let timer = format!("[sources.tick]\nkind = \"timer\"\ncron = \"* * * * * *\"\nmissed = {missed:?}");
    witness(Folder::new().toml(&timer), "timer")
}

/// How many seconds lie between two firings that follow each other; each firing was handled once.
fn gaps(folder: &Folder) -> Vec<i64> {
    let firings = seen(folder, "tick");
    assert!(firings.values().all(|times| *times == 1), "{firings:?}");
    let second = |due: &String| folder.store().query_row("select unixepoch(?1)", [due], |row| row.get::<_, i64>(0)).unwrap();
    let seconds: Vec<_> = firings.keys().map(second).collect();
    seconds.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_fires_at_each_due_time_once_and_never_early() {
    let host = TestHost::start(every_second("all")).await;
    until_seen(&host.folder, "tick", 3).await;
    let (folder, _) = host.stop().await;
    assert!(gaps(&folder).iter().all(|gap| *gap == 1), "{:?}", seen(&folder, "tick"));
    let (due, _) = seen(&folder, "tick").pop_first().unwrap();
    let firing = event(&folder, "tick", &due);
    assert_eq!(
        (&firing["id"], &firing["type"], &firing["subject"], &firing["source"]),
        (&json!(due), &json!("koksmat.timer.due"), &json!("tick"), &json!("/default/tick"))
    );
    assert_eq!(firing["data"], json!({ "due": due, "zone": "UTC" }));
    for due in seen(&folder, "tick").keys() {
        let second = folder.store().query_row("select unixepoch(?1)", [due], |row| row.get::<_, i64>(0)).unwrap();
        assert!(event(&folder, "tick", due)["at"].as_i64().unwrap() >= second * 1000, "{due} was early");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_whose_host_was_killed_makes_up_for_every_firing_once() {
    let folder = every_second("all");
    for round in 1..=3 {
        let process = Process::start(&folder).await;
        until_seen(&folder, "tick", round * 2).await;
        process.signal("KILL").await;
        process.ended().await;
        // What is slept through is what this is about.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }
    let count = seen(&folder, "tick").len();
    let process = Process::start(&folder).await;
    until_seen(&folder, "tick", count + 4).await;
    assert_eq!(process.stop().await.code, Some(0));
    assert!(gaps(&folder).iter().all(|gap| *gap == 1), "{:?}", seen(&folder, "tick"));
}

#[tokio::test(flavor = "multi_thread")]
async fn firings_that_were_slept_through_are_made_up_for_as_the_configuration_says() {
    let timer = |missed: &str| {
        format!("[sources.{missed}]\nkind = \"timer\"\ncron = \"0 0 1 1 *\"\nzone = \"Europe/Stockholm\"\nmissed = {missed:?}\n")
    };
    let folder = witness(Folder::new().toml(&["skip", "once", "all"].map(timer).concat()), "timer");
    let (folder, _) = TestHost::start(folder).await.stop().await;
    assert!(["skip", "once", "all"].iter().all(|source| seen(&folder, source).is_empty()), "nothing was missed before the first start");

    // As if it had stopped years ago.
    let store = Connection::open(folder.join("data/koksmat.db")).unwrap();
    let changed = store
        .execute("update source_state set value = cast(json_set(value, '$.last', '2021-06-01T00:00:00Z') as blob) where name = 'last'", [])
        .unwrap();
    assert_eq!(changed, 3);
    let this_year: i64 = store.query_row("select cast(strftime('%Y', 'now') as integer)", [], |row| row.get(0)).unwrap();
    drop(store);
    let due = |year: i64| format!("{}-12-31T23:00:00Z", year - 1);

    let host = TestHost::start(folder).await;
    until_seen(&host.folder, "all", usize::try_from(this_year - 2021).unwrap()).await;
    until_seen(&host.folder, "once", 1).await;
    host.settled().await;
    // The next start finds nothing that was missed.
    let (folder, _) = host.stop().await;
    let host = TestHost::start(folder).await;
    host.settled().await;
    let (folder, _) = host.stop().await;
    let ids = |source: &str| seen(&folder, source).into_iter().collect::<Vec<_>>();
    assert_eq!(ids("all"), (2022..=this_year).map(|year| (due(year), 1)).collect::<Vec<_>>());
    assert_eq!(ids("once"), [(due(this_year), 1)]);
    assert_eq!(ids("skip"), []);
}

// ---- Pollers ---------------------------------------------------------------------------------------------------------------------

/// A database of somebody else's.
fn database(folder: &Folder) -> Connection {
    let connection = Connection::open(folder.join("billing.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(30)).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    connection
}

fn invoices(folder: &Folder) -> Connection {
    let connection = database(folder);
    connection
        .execute_batch("create table invoice (id integer primary key, customer text, amount real, status text default 'due', sent_at text)")
        .unwrap();
    connection
}

/// A poller called `invoices` that asks every 20 ms.
fn polling(mode: &str) -> Folder {
    let poller = format!("[sources.invoices]\nkind = \"poller\"\ndatabase = \"sqlite:billing.db\"\nevery = \"20ms\"\n{mode}");
    witness(Folder::new().toml(&poller), "poller")
}

fn count(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

const WRITERS: i64 = 4;
const ROWS_EACH: i64 = 100;

/// Several writers insert rows side by side, some of which are not due, and change rows of their own.
async fn write_side_by_side(folder: &Folder) {
    let path = folder.join("billing.db");
    let writers = (0..WRITERS).map(|writer| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || {
            let connection = Connection::open(path).unwrap();
            connection.busy_timeout(Duration::from_secs(30)).unwrap();
            for n in 0..ROWS_EACH {
                let id = writer * ROWS_EACH + n + 1;
                connection.execute("insert into invoice (id, customer, amount) values (?1, ?2, ?3)", params![id, "Åse", 1.5]).unwrap();
                connection.execute("insert into invoice (id, status) values (?1, 'draft')", [id + 1_000_000]).unwrap();
                connection.execute("update invoice set customer = customer || '!' where id = ?1 + 1000000", [id]).unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        within("a writer", writer).await.unwrap();
    }
}

fn every_invoice_once() -> BTreeMap<String, i64> {
    (1..=WRITERS * ROWS_EACH).map(|id| (id.to_string(), 1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_claimed_once_while_others_write() {
    for done in ["mark", "delete", "set status = 'sent', sent_at = datetime('now')"] {
        let mode = format!("claim = {{ table = \"invoice\", key = \"id\", where = \"status = 'due'\", done = {done:?} }}");
        let folder = polling(&mode);
        let billing = invoices(&folder);
        let host = TestHost::start(folder).await;
        write_side_by_side(&host.folder).await;
        until_seen(&host.folder, "invoices", every_invoice_once().len()).await;
        // A row that is due later is claimed later.
        billing.execute("update invoice set status = 'due' where id = 1000001", []).unwrap();
        until_seen(&host.folder, "invoices", every_invoice_once().len() + 1).await;
        let (folder, stopped) = host.stop().await;
        let mut expected = every_invoice_once();
        expected.insert("1000001".into(), 1);
        assert_eq!(seen(&folder, "invoices"), expected, "{done}");
        assert_eq!(stopped.ledger.total.done, expected.len() as u64);

        let row = event(&folder, "invoices", "7");
        assert_eq!(
            (&row["type"], &row["subject"], &row["datacontenttype"]),
            (&json!("koksmat.database.row"), &json!("invoice"), &json!("application/json"))
        );
        assert_eq!(row["data"], json!({ "id": 7, "customer": "Åse", "amount": 1.5, "status": "due", "sent_at": null }));
        let handled = "id <= 400 or id = 1000001";
        let rows = count(&billing, &format!("select count(*) from invoice where {handled}"));
        let sent = count(&billing, &format!("select count(*) from invoice where ({handled}) and status = 'sent' and sent_at is not null"));
        let marks = count(&billing, "select count(*) from koksmat_claims where done_at is not null");
        let all = expected.len() as i64;
        let (expected_rows, expected_sent, expected_marks) = match done {
            "mark" => (all, 0, all),
            "delete" => (0, 0, 0),
            _ => (all, all, 0),
        };
        assert_eq!((rows, sent, marks), (expected_rows, expected_sent, expected_marks), "{done}");
        assert_eq!(count(&billing, "select count(*) from koksmat_claims where owner is not null"), 0, "nothing is held any more");

        // Another start claims nothing of it again.
        let host = TestHost::start(folder).await;
        billing.execute("insert into invoice (id) values (2000000)", []).unwrap();
        until_seen(&host.folder, "invoices", expected.len() + 1).await;
        let (folder, _) = host.stop().await;
        expected.insert("2000000".into(), 1);
        assert_eq!(seen(&folder, "invoices"), expected, "{done}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_rejected_is_a_dead_letter_and_done() {
    let poller = "[sources.invoices]\nkind = \"poller\"\ndatabase = \"sqlite:billing.db\"\nevery = \"20ms\"\nclaim = { table = \"invoice\", key = \"id\", done = \"delete\" }";
    let script = "import { Reject } from \"koksmat\";\nexport function handle(event) { if (event.json().amount < 0) throw new Reject(\"a negative amount\"); }";
    let folder = Folder::new().toml(poller).script("check", "check.js", script, "on = [{ kind = \"poller\" }]");
    let billing = invoices(&folder);
    billing.execute_batch("insert into invoice (amount) values (1), (-1), (2)").unwrap();
    let host = TestHost::start(folder).await;
    until("the table to be empty", || async { (count(&billing, "select count(*) from invoice") == 0).then_some(()) }).await;
    let (folder, stopped) = host.stop().await;
    assert_eq!((stopped.ledger.total.done, stopped.ledger.total.dead), (2, 1));
    assert_eq!(folder.count("select count(*) from dead_letter where reason = 'a negative amount' and source = 'invoices'"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_of_a_row_that_a_query_gives_is_an_event_once() {
    let query = "query = \"select id, customer, amount from invoice where status = 'due'\"\nkey = \"id\"\nversion = \"amount\"";
    let folder = polling(query);
    let billing = invoices(&folder);
    let host = TestHost::start(folder).await;
    write_side_by_side(&host.folder).await;
    until_seen(&host.folder, "invoices", every_invoice_once().len()).await;
    let (folder, _) = host.stop().await;
    assert_eq!(seen(&folder, "invoices"), every_invoice_once());

    // The window is in the store: after a start only what changed while the host was down is new.
    billing.execute("update invoice set amount = 99.5 where id in (3, 5)", []).unwrap();
    billing.execute("update invoice set customer = 'other' where id = 4", []).unwrap();
    let host = TestHost::start(folder).await;
    until("the new versions", || async { (seen(&host.folder, "invoices").values().sum::<i64>() >= 402).then_some(()) }).await;
    host.settled().await;
    let (folder, _) = host.stop().await;
    let again: Vec<_> = seen(&folder, "invoices").into_iter().filter(|(_, times)| *times != 1).collect();
    assert_eq!(again, [("3".to_owned(), 2), ("5".to_owned(), 2)]);
    assert_eq!(event(&folder, "invoices", "5")["data"], json!({ "id": 5, "customer": "Åse", "amount": 99.5 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_fires_when_it_becomes_true_and_not_while_it_is() {
    let folder = polling("condition = \"select count(*) > 2 from invoice\"").toml(
        "[sources.level]\nkind = \"poller\"\ndatabase = \"sqlite:billing.db\"\nevery = \"20ms\"\ncondition = \"select count(*) from invoice\"\non = \"change\"",
    );
    let billing = invoices(&folder);
    let host = TestHost::start(folder).await;
    let insert = || billing.execute("insert into invoice default values", []).unwrap();
    // What each poll saw is known by the events of the other poller, which asks for every change.
    for rows in 1..=4 {
        insert();
        until_seen(&host.folder, "level", rows).await;
    }
    until_seen(&host.folder, "invoices", 1).await;
    let (folder, _) = host.stop().await;
    let values = |source: &str, folder: &Folder| {
        let ids: BTreeSet<i64> = seen(folder, source).keys().map(|id| id.parse().unwrap()).collect();
        ids.iter().map(|id| event(folder, source, &id.to_string())["data"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(values("level", &folder)[1], json!({ "value": 2, "previous": 1 }));
    assert_eq!(values("invoices", &folder), [json!({ "value": 1, "previous": 0 })]);
    assert_eq!(event(&folder, "level", "1")["type"], "koksmat.database.condition");

    // It is true still, and the store knows: no event. It becomes false, then true: an event.
    let host = TestHost::start(folder).await;
    insert();
    until_seen(&host.folder, "level", 5).await;
    billing.execute("delete from invoice", []).unwrap();
    until_seen(&host.folder, "level", 6).await;
    assert_eq!(seen(&host.folder, "invoices").len(), 1);
    let was_false = "select count(*) from source_state where source = 'invoices' and not json_extract(cast(value as text), '$.holds')";
    until("the condition to be seen false", || async { (host.folder.count(was_false) == 1).then_some(()) }).await;
    for _ in 0..3 {
        insert();
    }
    until_seen(&host.folder, "invoices", 2).await;
    host.settled().await;
    let (folder, _) = host.stop().await;
    assert!(seen(&folder, "invoices").values().all(|times| *times == 1));
    assert_eq!(values("invoices", &folder)[1], json!({ "value": 1, "previous": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_yet_is_waited_for() {
    let folder = polling("claim = { table = \"invoice\", key = \"id\" }");
    let mut process = Process::spawn(&folder, &[]);
    let line = process.line("runs listen=").await;
    let admin = line.split("admin=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let readiness = || async {
        let url = format!("http://{admin}/readyz");
        koksmat_tests::host::request(&url, "GET", &[], Default::default()).await
    };
    let said = process.line("billing.db").await;
    assert!(said.contains("source=invoices"), "{said}");
    let reply = readiness().await;
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains("invoices"), "{}", reply.text());

    // The file comes first, the table later, a row last.
    let billing = database(&folder);
    let said = process.line("no such table: invoice").await;
    assert!(said.contains("source=invoices"), "{said}");
    assert_eq!(readiness().await.status, 503);
    drop(billing);
    let billing = invoices(&folder);
    until("readiness", || async { (readiness().await.status == 200).then_some(()) }).await;
    billing.execute("insert into invoice (id) values (1)", []).unwrap();
    until_seen(&folder, "invoices", 1).await;
    let ended = process.stop().await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(seen(&folder, "invoices"), BTreeMap::from([("1".to_owned(), 1)]));
    let complaints = ended.log.iter().filter(|line| line.contains("no such table")).count();
    assert_eq!(complaints, 1, "it is said once and not at every attempt: {}", ended.log.join("\n"));
}

/// Two hosts that poll one database, each with a store of its own; their handlers tell `inside` which row they have.
struct Two {
    home: Folder,
    hosts: [Folder; 2],
}

impl Two {
    fn new(inside: &Inside, lease: &str) -> Self {
        let home = Folder::new();
        let host = |name: &str| {
            let script = format!(
                "import {{ http }} from \"koksmat\";\nexport function handle(event) {{ http.fetch({:?}, {{ method: \"POST\", body: `{name} ${{event.id}}` }}); }}",
                inside.url()
            );
            let poller = format!(
                "[sources.invoices]\nkind = \"poller\"\ndatabase = \"sqlite:{}\"\nevery = \"20ms\"\nin-flight = 8\nclaim = {{ table = \"invoice\", key = \"id\", done = \"delete\", lease = {lease:?} }}",
                home.join("billing.db").display()
            );
            let settings = format!("on = [{{ kind = \"poller\" }}]\ntimeout = \"30s\"\ngrants = {{ http = [\"{}\"] }}", inside.address());
            Folder::new().toml(&poller).script("tells", "tells.js", &script, &settings)
        };
        let hosts = ["a", "b"].map(host);
        Self { home, hosts }
    }
}

/// (host, row) of every call, in the order in which they came in.
fn calls(inside: &Inside) -> Vec<(String, i64)> {
    let split = |call: String| {
        let (host, row) = call.split_once(' ').unwrap();
        (host.to_owned(), row.parse().unwrap())
    };
    inside.entered().into_iter().map(split).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_share_the_rows_of_one_database_and_miss_none() {
    let inside = Inside::start(Duration::from_millis(5)).await;
    let two = Two::new(&inside, "30s");
    let billing = invoices(&two.home);
    let [a, b] = [Process::start(&two.hosts[0]).await, Process::start(&two.hosts[1]).await];
    write_side_by_side(&two.home).await;
    billing.execute("delete from invoice where id > 1000000 and id % 2 = 0", []).unwrap();
    until("the table to be empty", || async { (count(&billing, "select count(*) from invoice") == 0).then_some(()) }).await;
    for ended in [a.stop().await, b.stop().await] {
        assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
    }
    let calls = calls(&inside);
    let rows: BTreeSet<i64> = calls.iter().map(|(_, row)| *row).collect();
    assert!((1..=WRITERS * ROWS_EACH).all(|id| rows.contains(&id)), "a row was missed");
    assert_eq!(rows.len(), calls.len(), "a row was taken twice");
    for host in ["a", "b"] {
        assert!(calls.iter().any(|(by, _)| by == host), "host {host} took none");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_host_that_died_are_taken_over_when_its_leases_end() {
    let inside = Inside::start(Duration::from_millis(100)).await;
    let two = Two::new(&inside, "1s");
    let billing = invoices(&two.home);
    for id in 1..=60 {
        billing.execute("insert into invoice (id) values (?1)", [id]).unwrap();
    }
    let a = Process::start(&two.hosts[0]).await;
    inside.reached(8).await;
    a.signal("KILL").await;
    a.ended().await;
    assert_ne!(count(&billing, "select count(*) from koksmat_claims where owner is not null"), 0, "it died with rows in its hands");
    let b = Process::start(&two.hosts[1]).await;
    until("the table to be empty", || async { (count(&billing, "select count(*) from invoice") == 0).then_some(()) }).await;
    assert_eq!(b.stop().await.code, Some(0));
    let calls = calls(&inside);
    let by = |host: &str| calls.iter().filter(|(by, _)| by == host).map(|(_, row)| *row).collect::<Vec<_>>();
    let (a, b) = (by("a"), by("b"));
    assert_eq!(b.iter().collect::<BTreeSet<_>>().len(), b.len(), "the second host took each row once");
    assert!((1..=60).all(|id| a.contains(&id) || b.contains(&id)), "a row was missed");
    assert!(a.iter().any(|row| b.contains(row)), "what the first had in its hands came again");
}
