//! Claim mode.

use std::{collections::BTreeSet, time::Duration};

use koksmat_tests::{
    Folder, Inside, Process, Proxy, TestHost, Witness,
    databases::{SERVERS, Server},
    outages, services, until,
};

use super::{
    polling, polling_at,
    writers::{events, write_side_by_side},
};

const HELD: &str = "SELECT count(*) FROM koksmat_claims WHERE owner IS NOT NULL";
const MARKS: &str = "SELECT count(*) FROM koksmat_claims WHERE done_at IS NOT NULL";

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_take_each_committed_row_once_and_no_other() {
    for server in SERVERS {
        let database = server.database("two_hosts").await;
        let mut connection = events(&database).await;
        let settings = "every = \"10ms\"\nin-flight = 32\nclaim = { table = \"events\", key = \"id\" }";
        let witness = Witness::start().await;
        let mut hosts = Vec::new();
        for name in ["a", "b"] {
            hosts.push(
                TestHost::start(polling(&database, settings, &witness, &format!("`{name} ${{event.json().note}} ${{event.id}}`"))).await,
            );
        }
        let committed = write_side_by_side(&database).await;
        assert!(committed.len() > 400, "{server:?}");
        connection.until(MARKS, committed.len()).await;
        for host in hosts {
            host.stop().await;
        }
        let heard = witness.heard();
        let part = |n: usize| heard.iter().map(move |told| told.rsplitn(2, ' ').nth(n).unwrap().to_owned());
        let ids: BTreeSet<String> = part(0).collect();
        assert_eq!(ids.len(), heard.len(), "{server:?}: a row was handled twice");
        assert!(ids == committed, "{server:?}: missed {:?}", committed.difference(&ids).collect::<Vec<_>>());
        let by: BTreeSet<String> = part(1).collect();
        assert_eq!(
            by,
            BTreeSet::from(["a committed".to_owned(), "b committed".to_owned()]),
            "{server:?}: both took some, none not committed"
        );
        assert_eq!(connection.count(HELD).await, 0, "{server:?}: nothing is held any more");
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_handled_is_marked_deleted_or_changed() {
    for server in SERVERS {
        for done in ["mark", "delete", "set state = 'sent' -- at last"] {
            let database = server.database("done").await;
            let mut connection = events(&database).await;
            connection.execute("INSERT INTO events (note) VALUES ('a'), ('b'), ('c'); INSERT INTO events (state) VALUES ('draft')").await;
            let witness = Witness::start().await;
            let settings = format!(
                "every = \"10ms\"\nclaim = {{ table = \"events\", key = \"id\", where = \"state = 'new' -- what is new\", done = {done:?} }}"
            );
            let host = TestHost::start(polling(&database, &settings, &witness, "event.id")).await;
            witness.hears(3).await;
            connection.execute("INSERT INTO events (note) VALUES ('d')").await;
            witness.hears(4).await;
            let (folder, _) = host.stop().await;
            let sent = "SELECT count(*) FROM events WHERE state = 'sent'";
            let rows = "SELECT count(*) FROM events";
            let counts = [connection.count(MARKS).await, connection.count(rows).await, connection.count(sent).await];
            assert_eq!(
                counts,
                if done == "mark" {
                    [4, 5, 0]
                } else if done == "delete" {
                    [0, 1, 0]
                } else {
                    [0, 5, 4]
                },
                "{server:?} {done}"
            );
            assert_eq!(connection.count(HELD).await, 0);

            // Nothing of it comes again. A row that is gone takes its mark with it.
            let host = TestHost::start(folder).await;
            connection.execute("DELETE FROM events WHERE note = 'a'; INSERT INTO events (note) VALUES ('e')").await;
            witness.hears(5).await;
            connection.until(MARKS, if done == "mark" { 4 } else { 0 }).await;
            host.stop().await;
            let heard = witness.heard();
            assert_eq!(heard.iter().collect::<BTreeSet<_>>().len(), heard.len(), "{server:?} {done}: {heard:?}");
            database.drop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_may_be_of_any_type_and_rows_without_one_are_left_alone() {
    for server in SERVERS {
        let database = server.database("keys").await;
        let mut connection = database.connect().await;
        let postgres = server == Server::Postgres;
        let (uuid, bytes, number) = ("0192f0c1-2b3c-7def-8123-456789abcdef", "00ff", "12345678901234567890.50");
        let types = if postgres {
            [
                ("text", "'Å''s \"key\" '", "Å's \"key\" "),
                ("uuid", "'0192f0c1-2b3c-7def-8123-456789abcdef'", uuid),
                ("numeric(30, 2)", "12345678901234567890.50", number),
                ("timestamptz", "'2026-01-02 03:04:05.678+01'", "2026-01-02 02:04:05.678+00"),
                ("char(4)", "'ab'", "ab"),
                ("bytea", "'\\x00ff'", "\\x00ff"),
            ]
        } else {
            [
                ("VARCHAR(50) CHARACTER SET latin1", "'Å''s \"key\"'", "Å's \"key\""),
                ("UUID", "'0192f0c1-2b3c-7def-8123-456789abcdef'", uuid),
                ("DECIMAL(30, 2)", "12345678901234567890.50", number),
                ("DATETIME(3)", "'2026-01-02 03:04:05.678'", "2026-01-02 03:04:05.678"),
                ("BIGINT UNSIGNED", "18446744073709551615", "18446744073709551615"),
                ("VARBINARY(16)", "x'00ff'", bytes),
            ]
        };
        for (ty, key, id) in types {
            for done in ["mark", "delete"] {
                connection.execute("DROP TABLE IF EXISTS events; DROP TABLE IF EXISTS koksmat_claims").await;
                connection.execute(&format!("CREATE TABLE events (id {ty}); INSERT INTO events VALUES (NULL), ({key})")).await;
                let witness = Witness::start().await;
                let settings = format!("every = \"10ms\"\nclaim = {{ table = \"events\", key = \"id\", done = \"{done}\" }}");
                let host = TestHost::start(polling(&database, &settings, &witness, "event.id")).await;
                let (sql, expected) = if done == "mark" { (MARKS, 1) } else { ("SELECT count(*) FROM events WHERE id IS NOT NULL", 0) };
                connection.until(sql, expected).await;
                // The sweep compares marks with rows, and this one's row is there.
                tokio::time::sleep(Duration::from_millis(1_200)).await;
                assert_eq!(connection.count(sql).await, expected, "{server:?} {ty} {done}");
                host.stop().await;
                assert_eq!(witness.heard(), [id], "{server:?} {ty}");
                assert_eq!(connection.count("SELECT count(*) FROM events WHERE id IS NULL").await, 1);
            }
        }
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_else_has_locked_holds_up_no_other() {
    for server in SERVERS {
        let database = server.database("locked").await;
        let mut connection = events(&database).await;
        connection.execute("INSERT INTO events (note) VALUES ('a'), ('b'), ('c')").await;
        let mut somebody = database.connect().await;
        somebody.execute("BEGIN; UPDATE events SET note = 'changed' WHERE id = 1").await;
        let witness = Witness::start().await;
        let settings = "every = \"10ms\"\nclaim = { table = \"events\", key = \"id\", done = \"delete\" }";
        let host = TestHost::start(polling(&database, settings, &witness, "`${event.id} ${event.json().note}`")).await;
        connection.until("SELECT count(*) FROM events", 1).await;
        let mut others = witness.heard();
        others.sort();
        assert_eq!(others, ["2 b", "3 c"], "{server:?}");
        somebody.execute("COMMIT").await;
        witness.hears(3).await;
        assert_eq!(witness.heard()[2], "1 changed", "{server:?}");
        host.stop().await;
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_in_front_of_many_are_not_left_behind() {
    for server in SERVERS {
        let database = server.database("in_front").await;
        let mut connection = events(&database).await;
        let rows: Vec<String> = (1001..=1100).map(|id| format!("({id}, 'behind')")).collect();
        connection.execute(&format!("INSERT INTO events (id, note) VALUES {}", rows.join(", "))).await;
        let witness = Witness::start().await;
        // No poll but the first that is not for more.
        let settings = "every = \"1h\"\nin-flight = 16\nclaim = { table = \"events\", key = \"id\", done = \"delete\" }";
        let host = TestHost::start(polling(&database, settings, &witness, "event.json().note")).await;
        witness.hears(20).await;
        connection.execute("INSERT INTO events (id, note) VALUES (1, 'in front'), (2, 'in front'), (3, 'in front')").await;
        connection.until("SELECT count(*) FROM events", 0).await;
        let heard = witness.heard();
        assert_eq!(heard.len(), 103, "{server:?}");
        assert_eq!(heard.iter().filter(|note| *note == "in front").count(), 3, "{server:?}");
        host.stop().await;
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_host_that_died_are_taken_over_when_its_leases_end() {
    for server in SERVERS {
        let database = server.database("died").await;
        let mut connection = events(&database).await;
        connection.execute("INSERT INTO events (note) VALUES ('a'), ('b'), ('c'), ('d')").await;
        let settings = "every = \"10ms\"\nclaim = { table = \"events\", key = \"id\", lease = \"2s\" }";
        let stuck = Inside::start(Duration::from_secs(600)).await;
        let folder = holding(&database.url(), settings, &stuck);
        let dies = Process::start(&folder).await;
        stuck.reached(4).await;
        assert_eq!(connection.count(HELD).await, 4, "{server:?}");

        // While it lives its leases are extended.
        let witness = Witness::start().await;
        let host = TestHost::start(polling(&database, settings, &witness, "event.id")).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(witness.heard(), [""; 0], "{server:?}: what is held is nobody else's");
        dies.signal("KILL").await;
        dies.ended().await;
        connection.until(MARKS, 4).await;
        let mut heard = witness.heard();
        heard.sort();
        assert_eq!(heard, ["1", "2", "3", "4"], "{server:?}");
        host.stop().await;
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_is_waited_for_and_nothing_is_lost_or_doubled() {
    let away = Duration::from_secs(services::figure("KOKSMAT_TEST_GONE", 3) as u64);
    for server in SERVERS {
        let database = server.database("away").await;
        let mut connection = events(&database).await;
        let proxy = Proxy::start("127.0.0.1:0", server.address()).await;
        let witness = Witness::start().await;
        let settings = "every = \"10ms\"\nin-flight = 16\nclaim = { table = \"events\", key = \"id\" }";
        let folder = polling_at(&database.url_at(proxy.address()), settings, &witness, "event.id");
        let mut process = Process::start(&folder).await;
        let mut rows = 0;
        for round in 0..3 {
            for _ in 0..40 {
                connection.execute("INSERT INTO events (note) VALUES ('x'), ('y'), ('z')").await;
            }
            rows += 120;
            witness.hears(rows - 60).await;
            proxy.close();
            until("the source not to be ready", || async { (process.admin("/readyz").await.status == 503).then_some(()) }).await;
            if round == 2 {
                tokio::time::sleep(away).await;
                assert_eq!(process.admin("/livez").await.status, 200, "{server:?}");
            }
            proxy.open();
            process.ready().await;
            connection.until(MARKS, rows).await;
            assert_eq!(connection.count(HELD).await, 0, "{server:?} round {round}");
        }
        process.line("of file:database-url").await;
        let ended = process.stop().await;
        assert_eq!(ended.code, Some(0));
        let said = ended.said();
        assert!(!said.contains("test-secret"), "{said}");
        let outages = outages(&ended.log);
        assert!(outages.len() == 3 && outages.iter().all(|said| said.len() <= 5), "{server:?}: once per change: {outages:?}");
        let heard = witness.heard();
        let ids: BTreeSet<_> = heard.iter().collect();
        assert_eq!(ids.len(), rows, "{server:?}: each row was handled");
        // A row may come again when the answer to its mark was lost; the handler here has no effect that would recognise it.
        assert!(heard.len() - ids.len() <= 3 * 16, "{server:?}: {} came again", heard.len() - ids.len());
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_away_while_there_was_nothing_to_do_is_back_for_good() {
    for server in SERVERS {
        let database = server.database("idle").await;
        let mut connection = events(&database).await;
        let proxy = Proxy::start("127.0.0.1:0", server.address()).await;
        let witness = Witness::start().await;
        let settings = "every = \"10ms\"\nin-flight = 16\nclaim = { table = \"events\", key = \"id\" }";
        let process = Process::start(&polling_at(&database.url_at(proxy.address()), settings, &witness, "event.id")).await;
        for round in 1..=3 {
            connection.execute(&format!("INSERT INTO events (note) VALUES {}", ["('x')"; 100].join(", "))).await;
            connection.until(MARKS, round * 100).await;
            if round < 3 {
                proxy.close();
                until("the source not to be ready", || async { (process.admin("/readyz").await.status == 503).then_some(()) }).await;
                proxy.open();
                process.ready().await;
            }
        }
        let outages = outages(&process.stop().await.log);
        assert_eq!(outages.len(), 2, "{server:?}: every connection is a new one after an outage: {outages:?}");
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_claimed_by_a_statement_without_an_answer_is_given_back() {
    for server in SERVERS {
        let database = server.database("doubt").await;
        let mut connection = events(&database).await;
        connection.execute("INSERT INTO events (note) VALUES ('a')").await;
        let inside = Inside::start(Duration::from_secs(600)).await;
        let proxy = Proxy::start("127.0.0.1:0", server.address()).await;
        let settings = "every = \"10ms\"\nclaim = { table = \"events\", key = \"id\" }";
        let host = TestHost::start(holding(&database.url_at(proxy.address()), settings, &inside)).await;
        inside.reached_by("1").await;

        // As if the connection had been lost between the commit of this claim and its answer.
        let now = if server == Server::Postgres { "now() + interval '1 hour'" } else { "utc_timestamp(3) + interval 1 hour" };
        connection
            .execute(&format!(
                "BEGIN; INSERT INTO events (note) VALUES ('b');
                 INSERT INTO koksmat_claims (source, row_table, row_key, generation, epoch, owner, lease_until)
                 SELECT source, row_table, '2', 'g', 1, owner, {now} FROM koksmat_claims; COMMIT"
            ))
            .await;
        proxy.close();
        until("the source not to be ready", || async { (host.admin("/readyz").await.status == 503).then_some(()) }).await;
        proxy.open();
        inside.reached_by("2").await;
        assert_eq!(inside.entered(), ["1", "2"], "{server:?}: what is in flight is not given back");
        inside.keep_for(Duration::ZERO);
        connection.until(MARKS, 2).await;
        host.stop().await;
        database.drop().await;
    }
}

/// A folder whose handler stays inside with each row.
fn holding(url: &str, settings: &str, inside: &Inside) -> Folder {
    let script = format!(
        "import {{ http }} from \"koksmat\";\nexport function handle(event) {{ http.fetch({:?}, {{ method: \"POST\", body: event.id }}); }}",
        inside.url()
    );
    let handler = format!("on = {{ source = \"rows\" }}\ntimeout = \"10m\"\ngrants = {{ http = [\"{}\"] }}", inside.address());
    let source = format!("[sources.rows]\nkind = \"poller\"\ndatabase = \"file:url\"\n{settings}");
    Folder::new().file("url", url).toml(&source).script("waits", "waits.js", &script, &handler)
}
