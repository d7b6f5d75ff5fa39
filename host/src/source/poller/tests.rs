//! What every mode does when the database is not as it should be.

use std::sync::Arc;

use super::testing::TestDatabase;
use crate::{
    config::{ClaimDone, PollMode},
    source::testing::{FakeStore, TestHost, done},
};

const JOBS: &str = "CREATE TABLE jobs (id INTEGER PRIMARY KEY); INSERT INTO jobs VALUES (1)";

fn query() -> PollMode {
    PollMode::Query { query: "SELECT id FROM jobs".into(), key: "id".into(), version: None }
}

fn claim() -> PollMode {
    let lease = std::time::Duration::from_secs(60);
    PollMode::Claim { table: "jobs".into(), key: "id".into(), filter: None, done: ClaimDone::Mark, lease }
}

fn start(database: &TestDatabase, mode: PollMode) -> TestHost {
    TestHost::start(database.source(mode), 2, &Arc::new(FakeStore::default()))
}

#[tokio::test]
async fn a_database_that_is_not_there_is_waited_for_and_its_path_is_not_told() {
    let mut database = TestDatabase::missing();
    let mut host = start(&database, query());
    let problem = host.until_unready().await;
    assert_eq!(
        problem,
        "cannot open the database of env:POLLED_URL: unable to open database file; is the file there, and may this user read and write it?"
    );
    database.create(JOBS).await;
    assert_eq!(host.next().await.event.id, "1");
    host.until_ready().await;
    host.stop().await;
}

#[tokio::test]
async fn a_file_that_was_replaced_is_the_one_that_is_read() {
    let mut database = TestDatabase::new(JOBS).await;
    let mut host = start(&database, claim());
    done(host.next().await);
    database.create("CREATE TABLE jobs (id INTEGER PRIMARY KEY); INSERT INTO jobs VALUES (2)").await;
    let delivery = host.next().await;
    assert_eq!(delivery.event.id, "2");
    done(delivery);
    database.until("SELECT group_concat(row_key) FROM koksmat_claims WHERE done_at IS NOT NULL", "2").await;
    host.stop().await;
}

#[tokio::test]
async fn a_locked_database_is_waited_for() {
    let mut database = TestDatabase::new(JOBS).await;
    database.execute("BEGIN EXCLUSIVE").await;
    let mut host = start(&database, claim());
    let problem = host.until_unready().await;
    assert_eq!(problem, "the database of env:POLLED_URL is locked by another process: database is locked");
    database.execute("COMMIT").await;
    assert_eq!(host.next().await.event.id, "1");
    host.until_ready().await;
    host.stop().await;
}

#[tokio::test]
async fn a_database_of_an_unknown_kind_is_a_problem_without_its_password() {
    let database = TestDatabase::missing();
    for mode in [query(), claim()] {
        let source = database.source_at("oracle://user:hunter2@localhost/db", mode);
        let host = TestHost::start(source, 1, &Arc::new(FakeStore::default()));
        assert_eq!(
            host.until_unready().await,
            "the database URL of env:POLLED_URL cannot be used: write sqlite:PATH, postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE"
        );
        host.stop().await;
    }
}

#[tokio::test]
async fn a_mistake_in_the_statement_is_said_in_the_databases_words() {
    let database = TestDatabase::new(JOBS).await;
    let host = start(&database, PollMode::Query { query: "SELECT id FROM job".into(), key: "id".into(), version: None });
    assert_eq!(host.until_unready().await, "reading rows in the database of env:POLLED_URL: no such table: job");
    host.stop().await;
}
