use std::{collections::HashSet, sync::Arc};

use super::super::testing::TestDatabase;
use crate::{
    channel::Delivery,
    config::{ClaimDone, PollMode},
    receipt::{Answer, Cause},
    source::testing::{FakeStore, TestHost, answer, done},
};

const INVOICES: &str = "CREATE TABLE invoices (id INTEGER PRIMARY KEY, total REAL, status TEXT DEFAULT 'due')";
const MARKS: &str = "SELECT count(*) FROM koksmat_claims WHERE done_at IS NOT NULL";
const HELD: &str = "SELECT count(*) FROM koksmat_claims WHERE owner IS NOT NULL";

fn claim(done: ClaimDone) -> PollMode {
    claim_for(60_000, done)
}

/// With a lease of so many milliseconds.
fn claim_for(lease: u64, done: ClaimDone) -> PollMode {
    PollMode::Claim {
        table: "invoices".into(),
        key: "id".into(),
        filter: Some("status = 'due' -- what has to be paid".into()),
        done,
        lease: std::time::Duration::from_millis(lease),
    }
}

fn start(database: &TestDatabase, done: ClaimDone, credits: usize) -> TestHost {
    TestHost::start(database.source(claim(done)), credits, &Arc::new(FakeStore::default()))
}

fn key(delivery: &Delivery) -> String {
    delivery.key.as_deref().unwrap().to_owned()
}

fn again(delivery: Delivery, after: Option<std::time::Duration>) {
    answer(delivery, Answer::Again { after, cause: Cause::Host });
}

async fn expire_leases(database: &mut TestDatabase) {
    database.execute("UPDATE koksmat_claims SET lease_until = 0").await;
}

#[tokio::test]
async fn a_row_is_an_event_and_gets_its_mark_when_handled() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices VALUES (7, 12.5, 'due'), (8, 1, 'paid')").await;
    let mut host = start(&database, ClaimDone::Mark, 4);
    let delivery = host.next().await;
    assert_eq!(delivery.event.id, "7");
    assert_eq!(delivery.event.ty, "koksmat.database.row");
    assert_eq!(delivery.event.subject.as_deref(), Some("invoices"));
    assert_eq!(delivery.event.source, "/default/test");
    assert_eq!(delivery.event.datacontenttype.as_deref(), Some("application/json"));
    assert_eq!(delivery.event.data, r#"{"id":7,"status":"due","total":12.5}"#);
    assert!(key(&delivery).starts_with("7#"));
    assert_eq!(database.value(MARKS).await, "0");
    done(delivery);
    database.until(MARKS, "1").await;

    // A handled row does not come again: the next to come is the next row.
    database.execute("INSERT INTO invoices (id) VALUES (9)").await;
    assert_eq!(host.next().await.event.id, "9");
    assert!(host.try_next().is_none());
    host.stop().await;
}

#[tokio::test]
async fn a_dead_event_is_done_too() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1)").await;
    let mut host = start(&database, ClaimDone::Mark, 1);
    answer(host.next().await, Answer::Dead { reason: "rejected".into() });
    database.until(MARKS, "1").await;
    host.stop().await;
}

#[tokio::test]
async fn no_more_rows_are_claimed_than_there_are_credits_lowest_keys_first() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (5), (4), (3), (2), (1)").await;
    let mut host = start(&database, ClaimDone::Mark, 2);
    let (first, second) = (host.next().await, host.next().await);
    assert_eq!((first.event.id.as_str(), second.event.id.as_str()), ("1", "2"));
    assert_eq!(database.value(HELD).await, "2");
    assert!(host.try_next().is_none());
    done(first);
    assert_eq!(host.next().await.event.id, "3");
    drop(second);
    host.stop().await;
}

#[tokio::test]
async fn rows_in_front_of_what_was_done_come_too() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (10), (11), (12)").await;
    let mut host = start(&database, ClaimDone::Mark, 2);
    for id in ["10", "11", "12"] {
        let delivery = host.next().await;
        assert_eq!(delivery.event.id, id);
        done(delivery);
    }
    database.until(MARKS, "3").await;
    database.execute("INSERT INTO invoices (id) VALUES (5), (13)").await;
    let (first, second) = (host.next().await, host.next().await);
    let ids = HashSet::from([first.event.id.clone(), second.event.id.clone()]);
    assert_eq!(ids, HashSet::from(["5".into(), "13".into()]));
    done(first);
    done(second);
    host.stop().await;
}

#[tokio::test]
async fn a_row_to_be_delivered_again_comes_again_with_the_same_key() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1)").await;
    let mut host = start(&database, ClaimDone::Mark, 1);
    let delivery = host.next().await;
    let first = key(&delivery);
    again(delivery, None);
    let delivery = host.next().await;
    assert_eq!(key(&delivery), first);

    // Not before an hour has passed.
    again(delivery, Some(std::time::Duration::from_secs(3600)));
    database.until("SELECT owner IS NULL AND lease_until > unixepoch() * 1000 + 3500000 FROM koksmat_claims", "1").await;
    expire_leases(&mut database).await;
    let delivery = host.next().await;
    assert_eq!(key(&delivery), first);
    done(delivery);
    host.stop().await;
}

#[tokio::test]
async fn two_pollers_never_have_the_same_row() {
    let mut database = TestDatabase::new(INVOICES).await;
    database
        .execute(
            "WITH RECURSIVE n(id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM n WHERE id < 300) INSERT INTO invoices (id) SELECT id FROM n",
        )
        .await;
    let mut hosts = [start(&database, ClaimDone::Mark, 20), start(&database, ClaimDone::Mark, 20)];
    let mut seen = HashSet::new();
    let mut held = Vec::new();
    let mut taken = [0, 0];
    while seen.len() < 300 {
        let [one, other] = &mut hosts;
        let delivery = tokio::select! {
            delivery = one.next(), if held.len() < 40 => { taken[0] += 1; delivery }
            delivery = other.next(), if held.len() < 40 => { taken[1] += 1; delivery }
        };
        assert!(seen.insert(delivery.event.id.clone()), "{} came twice", delivery.event.id);
        held.push(delivery);
        // All forty are in flight at once before the first is answered.
        if held.len() == 40 || seen.len() == 300 {
            held.drain(..).for_each(done);
        }
    }
    assert!(taken.iter().all(|n| *n > 0), "both took some: {taken:?}");
    database.until(MARKS, "300").await;
    for host in hosts {
        host.stop().await;
    }
}

#[tokio::test]
async fn the_rows_of_a_killed_poller_go_to_another_when_their_lease_has_ended_with_the_same_key() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1)").await;
    let mut killed = start(&database, ClaimDone::Mark, 1);
    let first = key(&killed.next().await);
    killed.kill().await;

    let mut other = start(&database, ClaimDone::Mark, 1);
    other.until_ready().await;
    assert!(other.try_next().is_none(), "the lease has not ended");
    expire_leases(&mut database).await;
    let delivery = other.next().await;
    assert_eq!(key(&delivery), first);
    done(delivery);
    database.until(MARKS, "1").await;
    other.stop().await;
}

#[tokio::test]
async fn who_lost_a_claim_cannot_complete_the_row() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1)").await;
    let mut late = start(&database, ClaimDone::Delete, 1);
    let first = late.next().await;
    expire_leases(&mut database).await;
    let mut other = start(&database, ClaimDone::Delete, 1);
    let second = other.next().await;
    assert_eq!(key(&first), key(&second));

    done(first);
    late.stop().await;
    assert_eq!(database.value("SELECT count(*) FROM invoices").await, "1");
    done(second);
    database.until("SELECT count(*) FROM invoices", "0").await;
    other.stop().await;
}

#[tokio::test]
async fn a_lease_is_extended_while_its_row_is_in_flight() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1)").await;
    let mut host = TestHost::start(database.source(claim_for(300, ClaimDone::Mark)), 1, &Arc::new(FakeStore::default()));
    let delivery = host.next().await;
    let until = database.value("SELECT lease_until FROM koksmat_claims").await;
    database.until(&format!("SELECT lease_until > {until} + 300 FROM koksmat_claims"), "1").await;
    assert_eq!(database.value("SELECT epoch FROM koksmat_claims").await, "1");
    done(delivery);
    host.stop().await;
}

#[tokio::test]
async fn done_can_delete_the_row() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1), (2)").await;
    let mut host = start(&database, ClaimDone::Delete, 1);
    let delivery = host.next().await;
    assert_eq!(database.value("SELECT count(*) FROM invoices").await, "2");
    done(delivery);
    let delivery = host.next().await;
    assert_eq!(delivery.event.id, "2");
    database.until("SELECT group_concat(id) FROM invoices", "2").await;
    database.until("SELECT group_concat(row_key) FROM koksmat_claims", "2").await;
    done(delivery);
    host.stop().await;
}

#[tokio::test]
async fn done_can_change_the_row_and_a_row_that_matches_again_is_a_new_event() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1)").await;
    let mut host = start(&database, ClaimDone::Set("status = 'sent' -- by mail".into()), 1);
    let delivery = host.next().await;
    let first = key(&delivery);
    done(delivery);
    database.until("SELECT status FROM invoices", "sent").await;
    assert_eq!(database.value("SELECT count(*) FROM koksmat_claims").await, "0");

    database.execute("UPDATE invoices SET status = 'due'").await;
    let delivery = host.next().await;
    assert_eq!(delivery.event.id, "1");
    assert_ne!(key(&delivery), first);
    done(delivery);
    host.stop().await;
}

#[tokio::test]
async fn a_mark_lives_as_long_as_its_row_and_a_row_with_its_key_is_a_new_one() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1), (2)").await;
    let mut host = start(&database, ClaimDone::Mark, 2);
    let (delivery, other) = (host.next().await, host.next().await);
    let first = key(&delivery);
    done(delivery);
    done(other);
    database.until(MARKS, "2").await;
    database.execute("DELETE FROM invoices WHERE id = 1").await;
    database.until("SELECT group_concat(row_key) FROM koksmat_claims", "2").await;

    database.execute("INSERT INTO invoices (id) VALUES (1)").await;
    let delivery = host.next().await;
    assert_eq!(delivery.event.id, "1");
    assert_ne!(key(&delivery), first);
    done(delivery);
    host.stop().await;
}

#[tokio::test]
async fn keys_may_be_text_and_names_may_be_odd() {
    let mut database =
        TestDatabase::new(r#"CREATE TABLE "odd ""table""" ("the key" TEXT UNIQUE, data BLOB); INSERT INTO "odd ""table""" VALUES ('a#1', x'00ff'), (NULL, NULL)"#)
            .await;
    let mode = PollMode::Claim {
        table: r#"odd "table""#.into(),
        key: "the key".into(),
        filter: None,
        done: ClaimDone::Delete,
        lease: std::time::Duration::from_secs(60),
    };
    let mut host = TestHost::start(database.source(mode), 4, &Arc::new(FakeStore::default()));
    let delivery = host.next().await;
    assert_eq!(delivery.event.data, r#"{"data":"AP8=","the key":"a#1"}"#);
    done(delivery);
    database.until(r#"SELECT count(*) FROM "odd ""table""""#, "1").await;
    host.stop().await;
}

#[tokio::test]
async fn nothing_is_missed_while_others_write() {
    let mut database = TestDatabase::new(INVOICES).await;
    let mut host = start(&database, ClaimDone::Mark, 16);
    let writers = (0..4).map(|writer| {
        let connection = database.connect();
        async move {
            let mut connection = connection.await;
            for n in 0..50 {
                // Keys go up and down, and are committed in another order than they were given.
                let id = if writer % 2 == 0 { 10_000 * writer + n } else { 10_000 * writer - n };
                sqlx::query("INSERT INTO invoices (id) VALUES (?)").bind(id).execute(&mut connection).await.unwrap();
            }
        }
    });
    let writing = futures_util::future::join_all(writers);
    let handling = async {
        let mut seen = HashSet::new();
        while seen.len() < 200 {
            let delivery = host.next().await;
            assert!(seen.insert(delivery.event.id.clone()), "{} came twice", delivery.event.id);
            done(delivery);
        }
    };
    tokio::join!(writing, handling);
    database.until(MARKS, "200").await;
    host.stop().await;
}

#[tokio::test]
async fn a_stop_takes_nothing_new_and_completes_what_is_in_flight() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1), (2), (3)").await;
    let mut host = start(&database, ClaimDone::Mark, 2);
    let (first, second) = (host.next().await, host.next().await);
    host.ask_to_stop();
    done(first);
    database.until(MARKS, "1").await;
    again(second, None);
    host.stop().await;
    assert_eq!(database.value("SELECT group_concat(row_key) FROM koksmat_claims WHERE done_at IS NOT NULL").await, "1");
    // The other is free for anyone at once.
    assert_eq!(
        database.value("SELECT owner IS NULL AND lease_until <= unixepoch('subsec') * 1000 FROM koksmat_claims WHERE row_key = 2").await,
        "1"
    );
    assert_eq!(database.value("SELECT count(*) FROM koksmat_claims").await, "2");
}

#[tokio::test]
async fn a_row_that_cannot_be_changed_holds_up_no_other_and_is_not_handled_again() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1), (2)").await;
    database
        .execute("CREATE TRIGGER closed BEFORE UPDATE ON invoices WHEN OLD.id = 1 BEGIN SELECT RAISE(ABORT, 'the books are closed'); END")
        .await;
    let source = database.source(claim_for(300, ClaimDone::Set("status = 'sent'".into())));
    let mut host = TestHost::start(source, 2, &Arc::new(FakeStore::default()));
    let (first, second) = (host.next().await, host.next().await);
    done(first);
    done(second);
    let problem = host.until_unready().await;
    assert_eq!(problem, "marking rows in the database of env:POLLED_URL: the books are closed");
    database.until("SELECT group_concat(status) FROM invoices", "due,sent").await;
    // Until it can, nobody else takes it.
    let until = database.value("SELECT lease_until FROM koksmat_claims").await;
    database.until(&format!("SELECT lease_until > {until} + 300 FROM koksmat_claims"), "1").await;
    assert!(host.try_next().is_none());

    database.execute("DROP TRIGGER closed").await;
    host.until_ready().await;
    database.until("SELECT group_concat(status) FROM invoices", "sent,sent").await;
    host.stop().await;
}

#[tokio::test]
async fn a_stop_carries_out_answers_that_were_owed_before_it() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1)").await;
    let mut host = start(&database, ClaimDone::Mark, 1);
    let delivery = host.next().await;
    host.until_ready().await;
    database.execute("BEGIN EXCLUSIVE").await;
    done(delivery);
    host.until_unready().await;
    host.ask_to_stop();
    database.execute("COMMIT").await;
    host.stop().await;
    assert_eq!(database.value(MARKS).await, "1");
}

#[tokio::test]
async fn a_stop_ends_when_a_row_cannot_be_changed_and_leaves_it_to_the_lease() {
    let mut database = TestDatabase::new(INVOICES).await;
    database.execute("INSERT INTO invoices (id) VALUES (1)").await;
    database.execute("CREATE TRIGGER closed BEFORE DELETE ON invoices BEGIN SELECT RAISE(ABORT, 'the books are closed'); END").await;
    let mut host = start(&database, ClaimDone::Delete, 1);
    done(host.next().await);
    host.until_unready().await;
    host.stop().await;
    assert_eq!(database.value(HELD).await, "1");
}

#[tokio::test]
async fn a_database_that_may_not_be_written_says_which_table_to_make() {
    let database = TestDatabase::new(INVOICES).await;
    let url = format!("sqlite:{}?mode=ro", database.path().display());
    let host = TestHost::start(database.source_at(&url, claim(ClaimDone::Mark)), 1, &Arc::new(FakeStore::default()));
    let problem = host.until_unready().await;
    assert!(problem.starts_with("cannot prepare the database of env:POLLED_URL: attempt to write a readonly database"), "{problem}");
    assert!(problem.contains("CREATE TABLE IF NOT EXISTS koksmat_claims"), "{problem}");
    host.stop().await;
}
