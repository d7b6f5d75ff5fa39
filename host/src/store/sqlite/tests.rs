//! What only the SQLite store has to do: its file, its lock, its groups, its ends.

use std::{
    any::Any,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use futures_util::{future::join_all, poll};
use rusqlite::{Connection, StatementStatus};
use tempfile::TempDir;

use super::{SqliteStore, schema, writer::Survive};
use crate::store::{
    Acceptance, Accepted, Attempt, Commit, Committed, Effects, Holder, Store, StoreError, Verdict, Want, Write,
    conformance::{
        self, Opened, accept, accepted, all_letters, claim, claim_one, conformance, direct, done, done_with, ids, order, read, set,
        settling, tenant, wrote,
    },
    stop::Stop,
};

async fn in_a_file() -> Opened {
    let (folder, path) = place();
    let store: Arc<dyn Store> = Arc::new(open(&path));
    Opened { store, _with: Box::new(folder) as Box<dyn Any> }
}

async fn in_memory() -> Opened {
    Opened { store: Arc::new(SqliteStore::in_memory().unwrap()), _with: Box::new(()) }
}

mod file_store {
    super::conformance!(crate::store::sqlite::tests::in_a_file);
}

mod memory_store {
    super::conformance!(crate::store::sqlite::tests::in_memory);
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/koksmat.db");
    (folder, path)
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path).unwrap()
}

#[test]
fn a_statement_is_planned_once_whatever_its_values() {
    let (_folder, path) = place();
    let _store = open(&path);
    let mut fresh = Connection::open_in_memory().unwrap();
    schema::prepare(&mut fresh).unwrap();
    for connection in [fresh, schema::open_reader(&path).unwrap()] {
        let mut statement = connection.prepare("SELECT id FROM task WHERE state = 0 AND due <= ?1 ORDER BY due LIMIT ?2").unwrap();
        for n in 0..10 {
            assert!(statement.query([n, n]).unwrap().next().unwrap().is_none());
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }
}

/// Keep the writer busy until the answer is dropped: what is handed over meanwhile becomes one group.
fn keep_busy(store: &SqliteStore) -> (Sender<()>, impl Future<Output = Result<(), StoreError>>) {
    let (free, busy) = channel::<()>();
    let work = store.writer.run(Survive::Crash, move |_| {
        let _ = busy.recv();
        Ok(())
    });
    (free, work)
}

#[test]
fn the_second_to_open_learns_who_holds_it() {
    let (folder, path) = place();
    let store = open(&path);
    let detour = folder.path().join("data/../data/koksmat.db");
    for spelling in [&path, &detour] {
        match SqliteStore::open(spelling) {
            Err(StoreError::InUse { path: named, pid }) => {
                assert!(named.ends_with("data/koksmat.db"), "{named}");
                assert_eq!(pid, std::process::id().to_string());
            }
            other => panic!("{other:?}"),
        }
    }
    drop(store);
    open(&path);
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let (_folder, path) = place();
    drop(open(&path));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&path).unwrap();
    let refused = SqliteStore::open(&path).unwrap_err();
    let newest = schema::MIGRATIONS.len() as i64;
    assert!(matches!(refused, StoreError::Newer { found: 99, known, .. } if known == newest), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_store_of_the_first_version_is_brought_to_the_newest_with_what_it_holds() {
    let (_folder, path) = place();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let first = Connection::open(&path).unwrap();
    first.execute_batch(schema::MIGRATIONS[0]).unwrap();
    first.pragma_update(None, "user_version", 1).unwrap();
    first
        .execute_batch(
            r#"INSERT INTO dead_letter (tenant, source, kind, handler, key, reason, history, hops, header, data, at) VALUES
                ('default', 'orders', 'webhook', 'invoice', '7', 'no', '[{"at":1,"error":"no"}]', 0, '{"id":"7","source":"/s","type":"t"}', x'', 1);"#,
        )
        .unwrap();
    drop(first);
    let store = open(&path);
    let letters = store.dead_letters(all_letters()).await.unwrap();
    let attempts = [Attempt { at: 1, error: "no".into(), plugin: None }];
    assert_eq!((letters[0].key.as_deref(), &letters[0].attempts[..], letters[0].accepted_at), (Some("7"), &attempts[..], None));
    assert_eq!(store.replay(all_letters(), conformance::dead_letters::again()).await.unwrap(), 1);
    assert_eq!(ids(&claim(&store).await), ["7"]);
}

#[test]
fn what_is_no_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    fs::write(&text, "nothing of the kind ".repeat(100)).unwrap();
    let other = folder.path().join("billing.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE invoice (id INTEGER)").unwrap();
    for path in [&text, &other, &folder.path().to_path_buf()] {
        let refused = SqliteStore::open(path).unwrap_err().to_string();
        assert!(refused.contains(&path.display().to_string()), "{refused}");
    }
    assert!(fs::read_to_string(&text).unwrap().starts_with("nothing of the kind"));
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = place();
    let store = open(&path);
    accept(&store, order("1")).await;
    let mut files = 0;
    for file in fs::read_dir(path.parent().unwrap()).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        files += 1;
    }
    assert_eq!(files, 4, "the database, its log, its index and the lock");
}

#[tokio::test]
async fn what_ran_when_the_host_died_is_suspect_until_it_was_tried() {
    let (_folder, path) = place();
    let store = open(&path);
    for id in ["1", "2", "3"] {
        accept(&store, order(id)).await;
    }
    let running = store.claim(vec![Want { limit: 2, ..want() }]).await.unwrap();
    assert_eq!(ids(&running), ["1", "2"]);
    drop(store);

    let store = open(&path);
    let tasks = claim(&store).await;
    assert_eq!(tasks.iter().map(|task| task.suspect).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(tasks[0].attempts, 0, "the end of the host is no attempt");
    assert_eq!(store.commit(settling(&running[0], done())).await.unwrap(), Committed::Settled, "its claim died with its host");
    let parked = Verdict::Park { due: 0, failed: None, order: None };
    assert_eq!(store.commit(settling(&tasks[0], parked)).await.unwrap(), Committed::Yes);
    store.release(vec![tasks[1].claim, tasks[2].claim]).await.unwrap();
    store.close().await.unwrap();

    let store = open(&path);
    let mut tasks = claim(&store).await;
    tasks.sort_by_key(|task| task.event.id.clone());
    assert_eq!(tasks.iter().map(|task| task.suspect).collect::<Vec<_>>(), [false, true, false], "who never started is still one");
}

#[tokio::test]
async fn a_call_that_ends_the_host_three_times_is_quarantined() {
    let (_folder, path) = place();
    let mut store = open(&path);
    accept(&store, order("1")).await;
    accept(&store, order("2")).await;
    claim(&store).await;
    for _ in 0..3 {
        drop(store);
        store = open(&path);
        let tasks = claim(&store).await;
        assert_eq!(ids(&tasks), ["1", "2"], "both are suspect, one runs");
        assert_eq!(store.alone(tasks[0].claim).await.unwrap(), ControlFlow::Continue(()));
    }
    drop(store);
    store = open(&path);
    let tasks = claim(&store).await;
    assert_eq!(store.alone(tasks[1].claim).await.unwrap(), ControlFlow::Continue(()), "it was never running alone");
    assert_eq!(store.alone(tasks[0].claim).await.unwrap(), ControlFlow::Break(()));
    assert_eq!(store.alone(tasks[0].claim).await.unwrap(), ControlFlow::Break(()), "there is nothing left to run");
    let letters = store.dead_letters(all_letters()).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].event.id.as_str(), letters[0].handler.as_deref()), ("1", Some("invoice")));
    assert!(letters[0].reason.contains("three times"), "{}", letters[0].reason);
    let call = settling(&tasks[0], done()).call;
    assert_eq!(store.settled(call).await.unwrap().unwrap().outcome, "dead");
    assert_eq!(store.commit(settling(&tasks[0], done())).await.unwrap(), Committed::Settled);
}

#[tokio::test]
async fn what_was_accepted_survives_the_end_of_the_machine() {
    let (folder, path) = place();
    let store = open(&path);
    accept(&store, order("1")).await;
    let task = claim_one(&store).await;
    store.commit(settling(&task, done())).await.unwrap();
    accept(&store, order("2")).await;
    // What is on disk now, the store still open.
    let copy = folder.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    fs::copy(path.with_extension("db-wal"), folder.path().join("copy.db-wal")).unwrap();

    let after = open(&copy);
    assert_eq!(ids(&claim(&after).await), ["2"]);
    assert_eq!(accepted(&after, order("1")).await, Accepted::Duplicate { id: "1".into() });
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_too_much_and_the_rest_goes_on() {
    let (_folder, path) = place();
    let store = open(&path);
    accept(&store, order("1")).await;
    let limit = async |pages: i64| {
        store.writer.run(Survive::Crash, move |c| Ok(c.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?)).await.unwrap()
    };
    let pages = store.writer.run(Survive::Crash, |c| Ok(c.pragma_query_value(None, "page_count", |row| row.get(0))?)).await.unwrap();
    limit(pages).await;
    let huge = |id: &str| {
        let mut event = (*order(id).event).clone();
        event.data = vec![7; 1 << 20].into();
        Acceptance { event: Arc::new(event), ..order(id) }
    };
    let (free, busy) = keep_busy(&store);
    let (mut busy, mut too_much, mut small) = (Box::pin(busy), store.accept(vec![huge("2")]), store.accept(vec![order("3")]));
    assert!(poll!(&mut busy).is_pending() && poll!(&mut too_much).is_pending() && poll!(&mut small).is_pending());
    drop(free);
    assert!(matches!(too_much.await, Err(StoreError::Full(_))));
    assert!(matches!(small.await.as_deref(), Ok([Accepted::New { .. }])), "its neighbour in the group fits");
    limit(1 << 20).await;
    accept(&store, huge("2")).await;
    assert_eq!(ids(&claim(&store).await), ["1", "3", "2"], "nothing of the refused one was left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_side_by_side_shares_commits() {
    let (_folder, path) = place();
    let store = open(&path);
    let before = store.writer.commits.load(Ordering::Relaxed);
    let accepted = join_all((0..200).map(|id| store.accept(vec![order(&id.to_string())]))).await;
    assert!(accepted.iter().all(|accepted| matches!(accepted.as_deref(), Ok([Accepted::New { .. }]))));
    let commits = store.writer.commits.load(Ordering::Relaxed) - before;
    assert!(commits <= 50, "{commits} commits for 200 events");
}

#[tokio::test]
async fn a_member_that_fails_takes_no_other_along() {
    let (_folder, path) = place();
    let store = open(&path);
    accept(&store, order("1")).await;
    let (free, busy) = keep_busy(&store);
    let mut busy = Box::pin(busy);
    let mut claimed = store.claim(vec![want()]);
    let mut panics = Box::pin(store.writer.run(Survive::PowerLoss, |c| {
        c.execute("DELETE FROM task", [])?;
        panic!("a fault of ours")
    }));
    let mut fails = Box::pin(store.writer.run(Survive::PowerLoss, |c| {
        c.execute("DELETE FROM task", [])?;
        Err::<(), _>(Stop::Failed(StoreError::Other("no".into())))
    }));
    // As SQLite does when a disk is full in the middle of a large statement.
    let mut rolls_back = Box::pin(store.writer.run(Survive::PowerLoss, |c| {
        c.execute_batch("ROLLBACK")?;
        Err::<(), _>(Stop::Failed(StoreError::Full("no room".into())))
    }));
    let mut accepted = store.accept(vec![order("2")]);
    let _ = (poll!(&mut busy), poll!(&mut claimed), poll!(&mut panics), poll!(&mut fails), poll!(&mut rolls_back), poll!(&mut accepted));
    drop(free);
    let panicked: Result<(), _> = panics.await;
    assert!(matches!(panicked, Err(StoreError::Other(why)) if why.contains("a fault of ours")));
    assert!(matches!(fails.await, Err(StoreError::Other(_))));
    assert!(matches!(rolls_back.await, Err(StoreError::Full(_))));
    assert!(matches!(accepted.await.as_deref(), Ok([Accepted::New { .. }])));
    let claimed = claimed.await.unwrap();
    assert_eq!(ids(&claimed), ["1"]);
    assert_eq!(ids(&claim(&store).await), ["2"], "the group was carried out twice, the first task is still claimed once");
    assert_eq!(store.commit(settling(&claimed[0], done())).await.unwrap(), Committed::Yes);
}

#[tokio::test]
async fn no_commit_slips_in_between_the_check_and_the_hold() {
    let (_folder, path) = place();
    let store = open(&path);
    let stock = read(&store, "stock").await;
    let relying = |holder| {
        let effects = Effects { reads: vec![stock.clone()], ..set("log", "1") };
        store.commit(Commit { holder: Some(holder), ..direct(None, done_with(effects)) })
    };
    let hold = |holder| store.hold(holder, tenant(), vec![stock.clone()], Vec::new(), Duration::from_secs(600));
    let write = || store.commit(direct(None, done_with(set("stock", "1"))));

    let (early, late) = (Holder::new(), Holder::new());
    let (free, busy) = keep_busy(&store);
    let (mut busy, mut held, mut written) = (Box::pin(busy), hold(early), write());
    let _ = (poll!(&mut busy), poll!(&mut held), poll!(&mut written));
    drop(free);
    assert!(held.await.unwrap(), "it asked first");
    assert_eq!(relying(early).await.unwrap(), Committed::Yes);
    assert_eq!(written.await.unwrap(), Committed::Yes);

    store.commit(direct(None, done_with(wrote("stock", Write::Delete)))).await.unwrap();
    let (free, busy) = keep_busy(&store);
    let (mut busy, mut written, mut held) = (Box::pin(busy), write(), hold(late));
    let _ = (poll!(&mut busy), poll!(&mut written), poll!(&mut held));
    drop(free);
    assert!(!held.await.unwrap(), "the write was on its way before");
}

#[tokio::test]
async fn only_what_was_promised_waits_for_the_disk() {
    let (_folder, path) = place();
    let store = open(&path);
    let level = async |survive| -> i64 {
        store.writer.run(survive, |c| Ok(c.pragma_query_value(None, "synchronous", |row| row.get(0))?)).await.unwrap()
    };
    let (full, normal) = (2, 1);
    assert_eq!(level(Survive::PowerLoss).await, full);
    assert_eq!(level(Survive::Crash).await, normal);
    assert_eq!(level(Survive::PowerLoss).await, full);
}

#[tokio::test]
async fn close_finishes_what_was_handed_over_and_lets_go() {
    let (_folder, path) = place();
    let store = open(&path);
    assert_eq!(store.start_number(), 1);
    let (free, busy) = keep_busy(&store);
    let (mut busy, mut accepted, mut closed) = (Box::pin(busy), store.accept(vec![order("1")]), store.close());
    let _ = (poll!(&mut busy), poll!(&mut accepted), poll!(&mut closed));
    drop(free);
    closed.await.unwrap();
    assert!(matches!(accepted.await.as_deref(), Ok([Accepted::New { .. }])));
    assert!(matches!(store.accept(vec![order("2")]).await, Err(StoreError::Closed)));
    assert!(matches!(store.depths().await, Err(StoreError::Closed)));
    store.close().await.unwrap();
    assert!(!path.with_extension("db-wal").exists(), "all of it is in the one file");

    let again = open(&path);
    assert_eq!(again.start_number(), 2);
    let task = claim_one(&again).await;
    assert!(!task.suspect);
}

#[tokio::test]
async fn what_takes_long_to_read_does_not_hold_up_the_end() {
    let (_folder, path) = place();
    let store = open(&path);
    let for_ever = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let reading = store.readers.run_long(|c| Ok(c.query_row(for_ever, [], |row| row.get::<_, i64>(0))?));
    let (read, closed) = tokio::join!(reading, store.close());
    assert!(read.is_err());
    closed.unwrap();
}

fn want() -> Want {
    Want { tenant: tenant(), source: "orders".into(), handler: "invoice".into(), limit: 9 }
}
