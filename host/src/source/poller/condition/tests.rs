use std::sync::Arc;

use super::super::testing::TestDatabase;
use crate::{
    config::{ConditionOn, PollMode},
    event::Event,
    source::testing::{FakeStore, TestHost},
};

const JOBS: &str = "CREATE TABLE jobs (n INTEGER)";
const MANY: &str = "SELECT count(*) > 2 FROM jobs";
const COUNT: &str = "SELECT count(*) FROM jobs";

fn start(database: &TestDatabase, store: &Arc<FakeStore>, condition: &str, on: ConditionOn) -> TestHost {
    TestHost::start(database.source(PollMode::Condition { condition: condition.into(), on }), 1, store)
}

async fn until_seen(store: &FakeStore, value: &str) {
    let value = format!("\"value\":{value}");
    store.until_remembered(|state| state.get("condition").is_some_and(|seen| String::from_utf8_lossy(seen).contains(&value))).await;
}

fn texts(accepted: &[(String, Event)]) -> Vec<(&str, &str)> {
    accepted.iter().map(|(key, event)| (key.as_str(), std::str::from_utf8(&event.data).unwrap())).collect()
}

#[tokio::test]
async fn it_fires_each_time_it_becomes_true() {
    let (mut database, store) = (TestDatabase::new(JOBS).await, Arc::new(FakeStore::default()));
    let host = start(&database, &store, MANY, ConditionOn::True);
    until_seen(&store, "0").await;
    database.execute("INSERT INTO jobs VALUES (1), (2), (3)").await;
    let accepted = store.until_accepted(1).await;
    assert_eq!(accepted[0].1.ty, "koksmat.database.condition");
    assert_eq!(accepted[0].1.id, "1");

    database.execute("DELETE FROM jobs").await;
    until_seen(&store, "0").await;
    database.execute("INSERT INTO jobs VALUES (1), (2), (3)").await;
    let accepted = store.until_accepted(2).await;
    assert_eq!(texts(&accepted), [("1", r#"{"previous":0,"value":1}"#), ("2", r#"{"previous":0,"value":1}"#)]);
    host.stop().await;
}

#[tokio::test]
async fn what_is_true_at_first_fires_and_does_not_fire_again_after_a_restart() {
    let (mut database, store) = (TestDatabase::new(JOBS).await, Arc::new(FakeStore::default()));
    database.execute("INSERT INTO jobs VALUES (1), (2), (3)").await;
    let host = start(&database, &store, MANY, ConditionOn::True);
    assert_eq!(texts(&store.until_accepted(1).await), [("1", r#"{"previous":null,"value":1}"#)]);
    host.kill().await;

    let host = start(&database, &store, MANY, ConditionOn::True);
    host.until_ready().await;
    database.execute("DELETE FROM jobs").await;
    until_seen(&store, "0").await;
    assert_eq!(store.accepted().len(), 1);
    host.stop().await;
}

#[tokio::test]
async fn on_change_it_fires_whenever_the_value_is_another_but_not_at_first() {
    let (mut database, store) = (TestDatabase::new(JOBS).await, Arc::new(FakeStore::default()));
    let host = start(&database, &store, COUNT, ConditionOn::Change);
    until_seen(&store, "0").await;
    database.execute("INSERT INTO jobs VALUES (1)").await;
    store.until_accepted(1).await;
    database.execute("INSERT INTO jobs VALUES (2), (3)").await;
    let accepted = store.until_accepted(2).await;
    assert_eq!(texts(&accepted), [("1", r#"{"previous":0,"value":1}"#), ("2", r#"{"previous":1,"value":3}"#)]);
    host.stop().await;
}

#[tokio::test]
async fn a_change_while_the_host_is_away_is_seen_when_it_is_back() {
    let (mut database, store) = (TestDatabase::new(JOBS).await, Arc::new(FakeStore::default()));
    let host = start(&database, &store, COUNT, ConditionOn::Change);
    until_seen(&store, "0").await;
    host.kill().await;
    database.execute("INSERT INTO jobs VALUES (1)").await;
    let host = start(&database, &store, COUNT, ConditionOn::Change);
    assert_eq!(texts(&store.until_accepted(1).await), [("1", r#"{"previous":0,"value":1}"#)]);
    host.stop().await;
}

#[tokio::test]
async fn another_statement_begins_anew_and_numbers_go_on() {
    let (mut database, store) = (TestDatabase::new(JOBS).await, Arc::new(FakeStore::default()));
    let host = start(&database, &store, COUNT, ConditionOn::Change);
    until_seen(&store, "0").await;
    database.execute("INSERT INTO jobs VALUES (5)").await;
    store.until_accepted(1).await;
    host.kill().await;
    let host = start(&database, &store, "SELECT max(n) FROM jobs", ConditionOn::Change);
    until_seen(&store, "5").await;
    database.execute("INSERT INTO jobs VALUES (6)").await;
    let accepted = store.until_accepted(2).await;
    assert_eq!(texts(&accepted)[1], ("2", r#"{"previous":5,"value":6}"#));
    host.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_delays_a_change_and_does_not_lose_it() {
    let (mut database, store) = (TestDatabase::new(JOBS).await, Arc::new(FakeStore::default()));
    let host = start(&database, &store, COUNT, ConditionOn::Change);
    until_seen(&store, "0").await;
    store.fail(true);
    database.execute("INSERT INTO jobs VALUES (1)").await;
    host.until_unready().await;
    store.fail(false);
    host.until_ready().await;
    assert_eq!(texts(&store.until_accepted(1).await), [("1", r#"{"previous":0,"value":1}"#)]);
    host.stop().await;
}
