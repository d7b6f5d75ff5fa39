//! The store on a real server: what every store has to do, and what is only true of one that several hosts share.

use std::{any::Any, path::PathBuf, sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{PostgresStore, schema};
use crate::{
    config::Secret,
    store::{
        Acceptance, Accepted, Attempt, Commit, Committed, Read, Store, StoreError, Subscriber, Write,
        conformance::{self, Opened, all_letters, claim, conformance, ids},
    },
};

mod server_store {
    super::conformance!(crate::store::postgres::tests::opened);
}

/// The server that `tests/services/services.sh` starts. A test that needs it fails without it.
fn url() -> Secret {
    let Some(folder) = std::env::var_os("KOKSMAT_TEST_SERVICES").map(PathBuf::from) else {
        panic!(
            "this test needs PostgreSQL: run it by `tests/services/services.sh run cargo test -p koksmat --lib`, or as tests/run.sh does"
        )
    };
    let password = std::fs::read_to_string(folder.join("postgres-tls/password")).unwrap();
    Secret::new(format!("postgres://koksmat:{}@127.0.0.1:25432/koksmat", password.trim()), "env:STORE_URL")
}

/// A schema that nobody has, gone when the test ends.
struct Schema(String);

impl Schema {
    fn new() -> Self {
        Self(format!("test-{}", uuid::Uuid::now_v7().simple()))
    }

    async fn host(&self) -> PostgresStore {
        PostgresStore::open_in(&url(), &self.0).await.unwrap()
    }

    async fn execute(&self, statement: &str) {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut self.connect().await).await.unwrap();
    }

    async fn connect(&self) -> PgConnection {
        let mut connection = PgConnection::connect(url().expose()).await.unwrap();
        let here = format!("SET search_path = \"{}\"", self.0);
        sqlx::raw_sql(AssertSqlSafe(here)).execute(&mut connection).await.unwrap();
        connection
    }

    /// What the others do when they notice that a host is gone.
    async fn take_over(&self) {
        super::lease::take_over(&mut self.connect().await).await.unwrap();
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let name = self.0.clone();
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = PgConnection::connect(url().expose()).await.unwrap();
                let statement = format!("SET lock_timeout = '5s'; DROP SCHEMA IF EXISTS \"{name}\" CASCADE");
                let _ = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await;
            });
        });
        let _ = dropped.join();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_the_first_version_is_brought_to_the_newest_with_what_it_holds() {
    let schema = Schema::new();
    schema
        .execute(&format!(
            r#"CREATE SCHEMA "{}"; {}; INSERT INTO meta (name, value) VALUES ('schema', 1);
            INSERT INTO dead_letter (tenant, source, kind, handler, key, reason, history, hops, header, data, at) VALUES
                ('default', 'orders', 'webhook', 'invoice', '7', 'no', '[{{"at":1,"error":"no"}}]', 0, '{{"id":"7","source":"/s","type":"t"}}', '', 1)"#,
            schema.0,
            schema::MIGRATIONS[0]
        ))
        .await;
    let store = schema.host().await;
    let letters = store.dead_letters(all_letters()).await.unwrap();
    let attempts = [Attempt { at: 1, error: "no".into(), plugin: None }];
    assert_eq!((letters[0].key.as_deref(), &letters[0].attempts[..], letters[0].accepted_at), (Some("7"), &attempts[..], None));
    assert_eq!(store.replay(all_letters(), conformance::dead_letters::again()).await.unwrap(), 1);
    assert_eq!(ids(&claim(&store).await), ["7"]);
}

async fn opened() -> Opened {
    let schema = Schema::new();
    let store: Arc<dyn Store> = Arc::new(schema.host().await);
    Opened { store, _with: Box::new(schema) as Box<dyn Any> }
}

fn ordered(id: &str, key: &str) -> Acceptance {
    Acceptance { handlers: vec![Subscriber { handler: "invoice".into(), order: Some(key.into()) }], ..conformance::order(id) }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_share_the_tasks_and_each_is_one_hosts() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    assert!(a.start_number() < b.start_number());
    for n in 0..200 {
        conformance::accept(&a, conformance::order(&n.to_string())).await;
    }
    let take = async |store: &PostgresStore| {
        let mut taken = Vec::new();
        loop {
            let tasks = store.claim(vec![conformance::want("invoice", 7)]).await.unwrap();
            if tasks.is_empty() {
                return taken;
            }
            for task in tasks {
                assert_eq!(store.commit(conformance::settling(&task, conformance::done())).await.unwrap(), Committed::Yes);
                taken.push(task.event.id.clone());
            }
        }
    };
    let (mut taken, by_b) = tokio::join!(take(&a), take(&b));
    assert!(!taken.is_empty() && !by_b.is_empty(), "both took some");
    taken.extend(by_b);
    taken.sort_by_key(|id| id.parse::<u32>().unwrap());
    assert_eq!(taken, (0..200).map(|n| n.to_string()).collect::<Vec<_>>(), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_two_hosts_accept_at_once_is_one() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    for n in 0..50 {
        let (one, two) =
            tokio::join!(a.accept(vec![conformance::order(&n.to_string())]), b.accept(vec![conformance::order(&n.to_string())]));
        let mut both = [one.unwrap().remove(0), two.unwrap().remove(0)];
        both.sort_by_key(|accepted| matches!(accepted, Accepted::Duplicate { .. }));
        assert!(matches!(both, [Accepted::New { .. }, Accepted::Duplicate { .. }]), "{both:?}");
    }
    assert_eq!(conformance::claim(&a).await.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_one_order_key_never_run_on_two_hosts_at_once_and_none_is_forgotten() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    let running = std::sync::Mutex::new(std::collections::HashSet::new());
    let accept = async |store: &PostgresStore, from: u32| {
        for n in 0..60 {
            conformance::accept(store, ordered(&(from + n).to_string(), &(n % 3).to_string())).await;
        }
    };
    let ended = std::sync::atomic::AtomicUsize::new(0);
    let work = async |store: &PostgresStore| {
        while ended.load(std::sync::atomic::Ordering::SeqCst) < 120 {
            for task in store.claim(vec![conformance::want("invoice", 3)]).await.unwrap() {
                let key = task.event.id.parse::<u32>().unwrap() % 1000 % 3;
                assert!(running.lock().unwrap().insert(key), "two of one key run at once");
                tokio::task::yield_now().await;
                running.lock().unwrap().remove(&key);
                assert_eq!(store.commit(conformance::settling(&task, conformance::done())).await.unwrap(), Committed::Yes);
                ended.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
    };
    let all = async { tokio::join!(accept(&a, 0), accept(&b, 1000), work(&a), work(&b)) };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("every task has its turn");
    assert!(a.depths().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_between_hosts() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    let count = async |store: &PostgresStore| {
        for _ in 0..25 {
            loop {
                let found = store.get(conformance::tenant(), "count".into()).await.unwrap();
                let (count, version) =
                    found.map_or((0, 0), |(value, version)| (std::str::from_utf8(&value).unwrap().parse().unwrap(), version));
                let next: i64 = count + 1;
                let mut effects = conformance::set("count", &next.to_string());
                effects.reads.push(Read::Key { key: "count".into(), version });
                effects.writes.insert("adds".into(), Write::Add(1));
                if store.commit(conformance::direct(None, conformance::done_with(effects))).await.unwrap() == Committed::Yes {
                    break;
                }
            }
        }
    };
    tokio::join!(count(&a), count(&b), count(&a), count(&b));
    let value = async |key: &str| a.get(conformance::tenant(), key.into()).await.unwrap().unwrap().0;
    assert_eq!((value("count").await, value("adds").await), ("100".into(), "100".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_host_was_running_is_taken_over_and_its_claims_are_void() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    conformance::accept(&a, conformance::order("1")).await;
    let lost = conformance::claim_one(&a).await;
    a.ended.cancel();
    assert!(conformance::claim(&b).await.is_empty(), "while its lease lasts it is its own");
    schema.execute(&format!("UPDATE host SET lease_until = 0 WHERE id = '{}'", a.host)).await;
    let taken = loop {
        if let Some(task) = conformance::claim(&b).await.pop() {
            break task;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(taken.suspect, "it may be what ended the other");
    assert_eq!(
        a.commit(conformance::settling(&lost, conformance::done())).await.unwrap(),
        Committed::Settled,
        "it is not its own any more"
    );
    assert!(conformance::claim(&a).await.is_empty(), "a host that is not believed to be alive claims nothing");
    assert_eq!(b.commit(conformance::settling(&taken, conformance::done())).await.unwrap(), Committed::Yes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_which_three_hosts_end_while_it_runs_alone_is_quarantined() {
    let schema = Schema::new();
    let mut host = schema.host().await;
    for id in ["1", "2"] {
        conformance::accept(&host, conformance::order(id)).await;
    }
    assert_eq!(conformance::ids(&conformance::claim(&host).await), ["1", "2"]);
    let next_after_the_end_of = async |host: PostgresStore| {
        host.ended.cancel();
        schema.execute("UPDATE host SET lease_until = 0").await;
        let next = schema.host().await;
        schema.take_over().await;
        next
    };
    for _ in 0..3 {
        host = next_after_the_end_of(host).await;
        let tasks = conformance::claim(&host).await;
        assert!(tasks.len() == 2 && tasks.iter().all(|task| task.suspect), "both are suspect, one runs");
        assert!(host.alone(tasks[0].claim).await.unwrap().is_continue());
    }
    host = next_after_the_end_of(host).await;
    let tasks = conformance::claim(&host).await;
    assert!(host.alone(tasks[1].claim).await.unwrap().is_continue(), "it was never running alone");
    assert!(host.alone(tasks[0].claim).await.unwrap().is_break());
    let letters = host.dead_letters(conformance::all_letters()).await.unwrap();
    assert_eq!((letters.len(), letters[0].event.id.as_str()), (1, "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_closes_gives_back_what_it_held_at_once() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    conformance::accept(&a, conformance::order("1")).await;
    conformance::claim_one(&a).await;
    a.close().await.unwrap();
    a.close().await.unwrap();
    let task = conformance::claim_one(&b).await;
    assert!(!task.suspect, "it was a stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_that_are_alive_and_their_lanes_are_known() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    let fence = b.enter_lane("atomic/global".into()).await.unwrap().unwrap();
    let fleet = a.fleet().await.unwrap();
    let mut hosts: Vec<_> = fleet.hosts.iter().map(|host| (host.id.as_str(), host.this)).collect();
    hosts.sort_by_key(|(_, this)| !this);
    assert_eq!(hosts, [(&*a.host, true), (&*b.host, false)]);
    let lane = &fleet.lanes[..];
    assert!(matches!(lane, [held] if held.lane == "atomic/global" && held.host == *b.host && held.epoch == fence.epoch), "{lane:?}");
    b.close().await.unwrap();
    assert_eq!(a.fleet().await.unwrap().hosts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_is_made_again() {
    let schema = Schema::new();
    let store = schema.host().await;
    for n in 0..5 {
        schema
            .execute(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'koksmat/{}'", schema.0))
            .await;
        let id = n.to_string();
        while store.accept(vec![conformance::order(&id)]).await.is_err() {}
    }
    assert_eq!(conformance::claim(&store).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_store_is_refused() {
    let schema = Schema::new();
    schema.host().await.close().await.unwrap();
    schema.execute("UPDATE meta SET value = 99 WHERE name = 'schema'").await;
    let refused = PostgresStore::open_in(&url(), &schema.0).await.unwrap_err();
    let newest = schema::MIGRATIONS.len();
    let said = format!("the store env:STORE_URL has schema version 99, this koksmat knows up to {newest}; use a newer koksmat");
    assert_eq!(refused.to_string(), said);
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_said_without_the_password() {
    let wrong = Secret::new(url().expose().replace(":test-secret@", ":hunter2@"), "env:STORE_URL");
    let refused = PostgresStore::open(&wrong).await.unwrap_err().to_string();
    assert_eq!(refused, "cannot connect to the store of env:STORE_URL: password authentication failed for user \"koksmat\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_is_in_a_lane_and_its_epoch_grows() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    let first = a.enter_lane("global".into()).await.unwrap().expect("nobody is in it");
    assert_eq!(b.enter_lane("global".into()).await.unwrap(), None);
    assert_eq!(a.enter_lane("global".into()).await.unwrap(), None, "nor another call of the same host");
    assert!(b.enter_lane("other".into()).await.unwrap().is_some(), "another lane is another");
    let within = Commit { fence: Some(first.clone()), ..conformance::direct(Some("1"), conformance::done()) };
    assert_eq!(a.commit(within).await.unwrap(), Committed::Yes, "also a call without effects");
    let second = b.enter_lane("global".into()).await.unwrap().expect("with its commit it has left");
    assert!(second.epoch > first.epoch);
    b.leave_lane(second.clone()).await.unwrap();
    let third = a.enter_lane("global".into()).await.unwrap().expect("it has left");
    assert!(third.epoch > second.epoch);
    // Leaving once more is not leaving for somebody else.
    b.leave_lane(second).await.unwrap();
    assert_eq!(b.enter_lane("global".into()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_in_a_lane_for_too_long_commits_nothing() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    let late = a.enter_lane("global".into()).await.unwrap().unwrap();
    assert!(a.stay_in_lane(late.clone()).await.unwrap());
    schema.execute("UPDATE lane SET lease_until = 0").await;
    let now = b.enter_lane("global".into()).await.unwrap().expect("the lease has ended");
    assert!(!a.stay_in_lane(late.clone()).await.unwrap());
    for verdict in [conformance::done_with(conformance::set("stock", "late")), conformance::park(0), conformance::dead("late")] {
        let commit = Commit { fence: Some(late.clone()), ..conformance::direct(Some("1"), verdict) };
        assert_eq!(a.commit(commit).await.unwrap(), Committed::Fenced);
    }
    assert!(a.depths().await.unwrap().is_empty() && a.dead_letters(conformance::all_letters()).await.unwrap().is_empty());
    let commit = Commit { fence: Some(now), ..conformance::direct(Some("1"), conformance::done_with(conformance::set("stock", "now"))) };
    assert_eq!(b.commit(commit).await.unwrap(), Committed::Yes);
    assert_eq!(a.get(conformance::tenant(), "stock".into()).await.unwrap().unwrap().0, "now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_two_hosts_end_at_once_takes_effect_once() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    let count = || conformance::done_with(conformance::wrote("all", Write::Add(1)));
    for n in 0..50 {
        let key = n.to_string();
        // A partition went from one host to the other while the call ran on both; on one of them it fails.
        let (one, other) = tokio::join!(
            a.commit(conformance::direct(Some(&key), count())),
            b.commit(conformance::direct(Some(&key), conformance::park(0)))
        );
        let ends = [one.unwrap(), other.unwrap()];
        assert!(matches!(ends, [Committed::Yes, Committed::Settled] | [Committed::Settled, Committed::Yes]), "{ends:?}");
    }
    for task in conformance::claim(&a).await {
        assert_eq!(a.commit(conformance::settling(&task, count())).await.unwrap(), Committed::Yes);
    }
    assert_eq!(a.get(conformance::tenant(), "all".into()).await.unwrap().unwrap().0, "50");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_inside_a_transaction_holds_up_no_lease() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    conformance::accept(&a, conformance::order("1")).await;
    conformance::accept(&b, conformance::order("2")).await;
    let theirs = conformance::claim(&a).await;
    assert_eq!(theirs.len(), 2);
    // Somebody holds a task of a host that is dead, and that host's row, in an open transaction.
    let mut stopped = PgConnection::connect(url().expose()).await.unwrap();
    let hold = format!(
        "SET search_path = \"{}\"; BEGIN; UPDATE host SET lease_until = 0 WHERE id = '{}'; DELETE FROM task WHERE id = {}",
        schema.0, a.host, theirs[0].claim.task
    );
    a.ended.cancel();
    schema.execute(&format!("UPDATE host SET lease_until = 0 WHERE id = '{}'", a.host)).await;
    sqlx::raw_sql(AssertSqlSafe(hold)).execute(&mut stopped).await.unwrap();
    let taken = loop {
        if let Some(task) = conformance::claim(&b).await.pop() {
            break task;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(taken.claim.task, theirs[1].claim.task, "the other task is taken over meanwhile");
    sqlx::raw_sql("ROLLBACK").execute(&mut stopped).await.unwrap();
    let taken = loop {
        if let Some(task) = conformance::claim(&b).await.pop() {
            break task;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(taken.claim.task, theirs[0].claim.task);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_remembers_is_written_by_the_host_that_runs_it() {
    let schema = Schema::new();
    let (a, b) = (schema.host().await, schema.host().await);
    let entries = |value: &str| vec![("seen".to_owned(), Some(value.as_bytes().to_vec()))];
    let state = async || a.state(conformance::tenant(), "orders".into(), "seen".into()).await.unwrap()[0].1.clone();
    let lane = crate::store::lane_of(&conformance::tenant(), "orders");
    a.enter_lane(lane.clone()).await.unwrap().unwrap();
    a.set_state(conformance::tenant(), "orders".into(), entries("a")).await.unwrap();
    // It sleeps for longer than its lease lasts.
    schema.execute("UPDATE lane SET lease_until = 0").await;
    b.enter_lane(lane).await.unwrap().unwrap();
    b.accept(vec![Acceptance { state: entries("b"), ..conformance::order("1") }]).await.unwrap();
    let late = a.set_state(conformance::tenant(), "orders".into(), entries("late")).await;
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
    let late = Acceptance { state: entries("late"), ..conformance::order("2") };
    // Another source's event that is accepted at once is none the worse for it.
    let other = Acceptance { source: "returns".into(), ..conformance::order("2") };
    let (late, other) = tokio::join!(a.accept(vec![late]), a.accept(vec![other]));
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
    assert_eq!(other.unwrap(), [Accepted::New { id: "2".into() }]);
    assert_eq!(state().await, b"b");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_beside_something_that_fails_is_accepted() {
    let schema = Schema::new();
    let store = schema.host().await;
    store.enter_lane(crate::store::lane_of(&conformance::tenant(), "orders")).await.unwrap().unwrap();
    // Somebody holds the lane's row for longer than anybody waits for a lock.
    let mut somebody = PgConnection::connect(url().expose()).await.unwrap();
    let hold = format!("SET search_path = \"{}\"; BEGIN; SELECT 1 FROM lane FOR UPDATE", schema.0);
    sqlx::raw_sql(AssertSqlSafe(hold)).execute(&mut somebody).await.unwrap();
    let remembering = |id: &str| Acceptance { state: vec![("last".into(), Some(id.into()))], ..conformance::order(id) };
    let other = |id: &str| Acceptance { source: "returns".into(), ..conformance::order(id) };
    // While the first waits the others become a group.
    let first = async { store.accept(vec![remembering("1")]).await };
    let group = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::join!(store.accept(vec![other("2")]), store.accept(vec![remembering("3")]), store.accept(vec![other("4")]))
    };
    let (first, (second, third, fourth)) = tokio::join!(first, group);
    assert!(first.is_err() && third.is_err(), "{first:?} {third:?}");
    assert_eq!((second.unwrap(), fourth.unwrap()), (vec![Accepted::New { id: "2".into() }], vec![Accepted::New { id: "4".into() }]));
    assert_eq!(store.backlog(conformance::tenant(), "returns".into()).await.unwrap(), 2, "what was promised is there");
}
