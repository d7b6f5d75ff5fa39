use std::sync::Arc;

use super::super::testing::TestDatabase;
use crate::{
    config::PollMode,
    receipt::{Answer, Cause},
    source::testing::{FakeStore, TestHost, answer, done},
};

const JOBS: &str = "CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT, version INTEGER DEFAULT 1)";

fn start(database: &TestDatabase, store: &Arc<FakeStore>) -> TestHost {
    let query = "SELECT id, state, version AS updated_at FROM jobs ORDER BY id".into();
    TestHost::start(database.source(PollMode::Query { query, key: "id".into(), version: Some("updated_at".into()) }), 4, store)
}

async fn jobs(rows: &str) -> (TestDatabase, Arc<FakeStore>) {
    let mut database = TestDatabase::new(JOBS).await;
    database.execute(&format!("INSERT INTO jobs VALUES {rows}")).await;
    (database, Arc::new(FakeStore::default()))
}

async fn until_window(store: &FakeStore, window: &[(&str, &str)]) {
    let window: Vec<_> = window.iter().map(|(key, version)| (format!("row/{key}"), version.as_bytes().to_vec())).collect();
    store.until_remembered(|state| state.iter().map(|(k, v)| (k.clone(), v.clone())).eq(window.iter().cloned())).await;
}

#[tokio::test]
async fn each_version_of_a_row_comes_once() {
    let (mut database, store) = jobs("(1, 'new', 1)").await;
    let mut host = start(&database, &store);
    let delivery = host.next().await;
    assert_eq!(delivery.event.id, "1");
    assert_eq!(delivery.event.ty, "koksmat.database.row");
    assert_eq!(delivery.event.data, r#"{"id":1,"state":"new","updated_at":1}"#);
    assert_eq!(delivery.key.as_deref(), Some("1@1"));
    done(delivery);
    until_window(&store, &[("1", "1")]).await;

    database.execute("UPDATE jobs SET version = 2, state = 'old'").await;
    let delivery = host.next().await;
    assert_eq!(delivery.key.as_deref(), Some("1@2"));
    assert!(host.try_next().is_none());
    done(delivery);
    until_window(&store, &[("1", "2")]).await;
    host.stop().await;
}

#[tokio::test]
async fn keys_that_look_alike_are_told_apart() {
    let database = TestDatabase::new("CREATE TABLE users AS SELECT 'a@b' AS name, 'c' AS v UNION SELECT 'a', 'b@c'").await;
    let mode = PollMode::Query { query: "SELECT name, v FROM users".into(), key: "name".into(), version: Some("v".into()) };
    let mut host = TestHost::start(database.source(mode), 4, &Arc::new(FakeStore::default()));
    let (first, second) = (host.next().await, host.next().await);
    assert_ne!(first.key, second.key);
    done(first);
    done(second);
    host.stop().await;
}

#[tokio::test]
async fn without_a_version_each_key_comes_once() {
    let (mut database, store) = jobs("(1, 'new', 1)").await;
    let mode = PollMode::Query { query: "SELECT * FROM jobs".into(), key: "ID".into(), version: None };
    let mut host = TestHost::start(database.source(mode), 4, &store);
    let delivery = host.next().await;
    assert_eq!(delivery.key.as_deref(), Some("1"));
    done(delivery);
    until_window(&store, &[("1", "")]).await;
    database.execute("UPDATE jobs SET version = 2; INSERT INTO jobs VALUES (2, 'new', 1)").await;
    assert_eq!(host.next().await.key.as_deref(), Some("2"));
    host.stop().await;
}

#[tokio::test]
async fn a_row_in_flight_is_not_sent_twice_and_its_next_version_waits_for_it() {
    let (mut database, store) = jobs("(1, 'new', 1)").await;
    let mut host = start(&database, &store);
    let first = host.next().await;
    database.execute("UPDATE jobs SET version = 2; INSERT INTO jobs VALUES (2, 'new', 1)").await;
    // The poll that saw the second row saw the first, too.
    assert_eq!(host.next().await.key.as_deref(), Some("2@1"));
    done(first);
    let keys = [host.next().await, host.next().await].map(|delivery| delivery.key.unwrap().to_string());
    assert!(keys.contains(&"1@2".to_owned()), "{keys:?}");
    host.stop().await;
}

#[tokio::test]
async fn the_window_moves_when_a_row_was_handled_and_outlives_the_host() {
    let (database, store) = jobs("(1, 'new', 1), (2, 'new', 1), (3, 'new', 1)").await;
    let mut host = start(&database, &store);
    let (first, second, third) = (host.next().await, host.next().await, host.next().await);
    done(first);
    answer(second, Answer::Dead { reason: "rejected".into() });
    drop(third);
    host.stop().await;
    until_window(&store, &[("1", "1"), ("2", "1")]).await;

    let mut host = start(&database, &store);
    let delivery = host.next().await;
    assert_eq!(delivery.key.as_deref(), Some("3@1"), "not handled: it comes again under the same key");
    done(delivery);
    host.stop().await;
    until_window(&store, &[("1", "1"), ("2", "1"), ("3", "1")]).await;
}

#[tokio::test]
async fn a_row_to_be_delivered_again_comes_again_but_not_too_early() {
    let (database, store) = jobs("(1, 'new', 1), (2, 'new', 1)").await;
    let mut host = start(&database, &store);
    let (first, second) = (host.next().await, host.next().await);
    answer(first, Answer::Again { after: Some(std::time::Duration::from_secs(3600)), cause: Cause::Host });
    answer(second, Answer::Again { after: None, cause: Cause::Host });
    for _ in 0..3 {
        let delivery = host.next().await;
        assert_eq!(delivery.key.as_deref(), Some("2@1"));
        answer(delivery, Answer::Again { after: None, cause: Cause::Host });
    }
    host.stop().await;
}

#[tokio::test]
async fn what_the_query_no_longer_gives_leaves_the_window() {
    let (mut database, store) = jobs("(1, 'new', 1), (2, 'new', 1)").await;
    let mut host = start(&database, &store);
    done(host.next().await);
    done(host.next().await);
    until_window(&store, &[("1", "1"), ("2", "1")]).await;
    database.execute("DELETE FROM jobs WHERE id = 1").await;
    until_window(&store, &[("2", "1")]).await;
    host.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_delays_the_window_and_nothing_is_sent_meanwhile() {
    let (mut database, store) = jobs("(1, 'new', 1)").await;
    let mut host = start(&database, &store);
    let delivery = host.next().await;
    store.fail(true);
    done(delivery);
    assert_eq!(host.until_unready().await, "the store failed: out of order");
    database.execute("INSERT INTO jobs VALUES (2, 'new', 1)").await;
    assert!(host.try_next().is_none());
    store.fail(false);
    assert_eq!(host.next().await.key.as_deref(), Some("2@1"));
    until_window(&store, &[("1", "1")]).await;
    host.stop().await;
}

#[tokio::test]
async fn a_query_without_its_key_column_says_so() {
    let (database, store) = jobs("(1, 'new', 1)").await;
    let mode = PollMode::Query { query: "SELECT state FROM jobs".into(), key: "id".into(), version: None };
    let host = TestHost::start(database.source(mode), 4, &store);
    let problem = host.until_unready().await;
    assert_eq!(problem, "the query gives no column \"id\"; select it, or name another in the source's `key` and `version`");
    host.stop().await;
}

#[tokio::test]
async fn a_query_changes_nothing() {
    let (mut database, store) = jobs("(1, 'new', 1)").await;
    let mode = PollMode::Query { query: "DELETE FROM jobs RETURNING id".into(), key: "id".into(), version: None };
    let host = TestHost::start(database.source(mode), 4, &store);
    assert!(host.until_unready().await.contains("attempt to write a readonly database"));
    assert_eq!(database.value("SELECT count(*) FROM jobs").await, "1");
    host.stop().await;
}
