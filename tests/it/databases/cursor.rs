//! Cursor mode and `LISTEN`, of PostgreSQL.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use koksmat_tests::{Process, TestHost, Witness, databases::Server, until};

use super::{
    polling,
    writers::{events, write_side_by_side},
};

const CURSOR: &str = "every = \"10ms\"\ncursor = { table = \"events\", key = \"id\" }";

/// What a cursor that remembers the highest number sees while others write.
async fn naive(database: koksmat_tests::databases::Database, enough: tokio_util::sync::CancellationToken) -> BTreeSet<String> {
    let mut connection = database.connect().await;
    let (mut seen, mut last, mut once_more) = (BTreeSet::new(), 0, true);
    while once_more {
        once_more = !enough.is_cancelled();
        let ids = connection.texts(&format!("SELECT id FROM events WHERE id > {last} ORDER BY id")).await;
        last = ids.last().map_or(last, |id| id.parse::<i64>().unwrap());
        seen.extend(ids);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_missed_where_the_highest_number_would_miss_some() {
    let database = Server::Postgres.database("cursor").await;
    let mut connection = events(&database).await;
    let witness = Witness::start().await;
    let host = TestHost::start(polling(&database, CURSOR, &witness, "`${event.json().note} ${event.id}`")).await;
    let enough = tokio_util::sync::CancellationToken::new();
    let naive = tokio::spawn(naive(database.clone(), enough.clone()));
    let committed = write_side_by_side(&database).await;
    enough.cancel();
    let naive = naive.await.unwrap();
    witness.hears_all(committed.len()).await;
    let (folder, stopped) = host.stop().await;
    assert_eq!(stopped.ledger.total.done, committed.len() as u64);
    let heard = witness.heard();
    let ids: BTreeSet<String> = heard.iter().map(|told| told.strip_prefix("committed ").unwrap().to_owned()).collect();
    assert!(ids == committed && heard.len() == ids.len(), "each committed row once, and no other");
    let missed = committed.difference(&naive).count();
    println!("of {} committed rows a cursor by the highest number missed {missed}", committed.len());
    assert!(missed > 0, "the test shows nothing when the naive cursor misses none");

    // Nothing was written to the table, and the next start goes on behind what was handled.
    assert_eq!(connection.count("SELECT count(*) FROM events WHERE state <> 'new'").await, 0);
    assert_eq!(connection.count("SELECT count(*) FROM pg_class WHERE relname = 'koksmat_claims'").await, 0);
    let host = TestHost::start(folder).await;
    connection.execute("INSERT INTO events (note) VALUES ('committed')").await;
    witness.hears(committed.len() + 1).await;
    host.stop().await;
    assert_eq!(witness.count(), committed.len() + 1);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_position_moves_only_behind_what_was_handled() {
    let database = Server::Postgres.database("position").await;
    let mut connection = events(&database).await;
    connection.execute("INSERT INTO events (note) SELECT 'x' FROM generate_series(1, 200)").await;
    let witness = Witness::start().await;
    let folder = polling(&database, CURSOR, &witness, "event.id");
    for round in 0..4 {
        let process = Process::start(&folder).await;
        witness.hears(10 + round * 10).await;
        process.signal("KILL").await;
        process.ended().await;
    }
    let process = Process::start(&folder).await;
    witness.hears_all(200).await;
    process.stop().await;
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_holds_it_back_and_it_says_so() {
    let database = Server::Postgres.database("held_back").await;
    let mut connection = events(&database).await;
    let mut somebody = database.connect().await;
    somebody.execute("BEGIN; INSERT INTO events (note) VALUES ('late')").await;
    connection.execute("INSERT INTO events (note) VALUES ('early')").await;
    let witness = Witness::start().await;
    // Nobody polls because of its interval.
    let settings = "every = \"1h\"\ncursor = { table = \"events\", key = \"id\" }";
    let host = TestHost::start(polling(&database, settings, &witness, "event.json().note")).await;
    let held_back = || async { host.admin("/readyz").await.text().contains("wait for a transaction").then_some(()) };
    until("the source to be held back", held_back).await;
    assert_eq!(witness.count(), 0);
    somebody.execute("COMMIT").await;
    witness.hears(2).await;
    let mut heard = witness.heard();
    heard.sort();
    assert_eq!(heard, ["early", "late"]);
    host.stop().await;
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_makes_the_next_poll_happen_at_once() {
    for mode in [
        "claim = { table = \"events\", key = \"id\" }",
        "query = \"select id, state from events\"\nkey = \"id\"\nversion = \"state\"",
        "cursor = { table = \"events\", key = \"id\" }",
    ] {
        let database = Server::Postgres.database("wake").await;
        let mut connection = events(&database).await;
        let witness = Witness::start().await;
        let settings = format!("every = \"1h\"\nwake = \"new_events\"\nin-flight = 4\n{mode}");
        let host = TestHost::start(polling(&database, &settings, &witness, "event.id")).await;
        until("somebody to listen", || async {
            let listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
            (database.connect().await.count(listening).await > 0).then_some(())
        })
        .await;
        for n in 1..=3 {
            let started = Instant::now();
            connection.execute("INSERT INTO events (note) VALUES ('x'); NOTIFY new_events").await;
            witness.hears(n).await;
            println!("handled {:?} after the notification", started.elapsed());
        }
        // More at once than may be inside the host: one notification is enough for all of them.
        connection.execute("INSERT INTO events (note) SELECT 'x' FROM generate_series(1, 30); NOTIFY new_events").await;
        witness.hears(33).await;

        // Whoever listens is cut off: it listens again, and what was written meanwhile is found.
        let cut =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        assert_eq!(connection.count(cut).await, 1);
        connection.execute("INSERT INTO events (note) VALUES ('x')").await;
        witness.hears(34).await;
        assert_eq!(host.admin("/readyz").await.status, 200, "that is no problem of the source");
        host.stop().await;
        database.drop().await;
    }
}
