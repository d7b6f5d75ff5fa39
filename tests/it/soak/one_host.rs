//! One host, which is killed again and again.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_no_transfer_and_make_none_twice() {
    let (count, kills) = (services::figure("KOKSMAT_TEST_EVENTS", 50_000), services::figure("KOKSMAT_TEST_FAULTS", 20));
    let mut random = services::random();
    let mut bank = Bank::open(count).await;
    let folder = bank.host("one", "sqlite:rows.db", ", reads = \"yes\"");
    let rows = rusqlite::Connection::open(folder.join("rows.db")).unwrap();
    rows.busy_timeout(koksmat_tests::PATIENCE).unwrap();
    rows.execute_batch(&format!("pragma journal_mode = wal; {TABLE}")).unwrap();
    let mut host = start(&bank, &folder).await;
    for kill in 0..=kills {
        let events = portion(count, kill, kills);
        rows.execute_batch(&insert(events.clone())).unwrap();
        bank.send(events.clone()).await;
        if kill == kills {
            break;
        }
        bank.hears(moment(&events, &mut random)).await;
        host.signal("KILL").await;
        bank.doors.send_replace(Vec::new());
        assert_eq!(host.ended().await.code, None);
        host = start(&bank, &folder).await;
    }
    bank.sent().await;
    let done = "select count(*) from kv where tenant = 'default' and key >= 'done/' and key < 'done0'";
    if are_made(count, async || folder.count(done) as usize).await {
        let marked = "select count(*) from koksmat_claims where done_at is not null";
        let marked = || rows.query_row(marked, [], |row| row.get::<_, i64>(0)).unwrap();
        koksmat_tests::until("all rows to be marked", || async { (marked() as usize == of(POLLED, count)).then_some(()) }).await;
        bank.committed().await;
    }
    host.stops_well().await;

    let store = folder.store();
    let mut values = store.prepare("select key, cast(value as text) from kv order by key").unwrap();
    let values: Vec<(String, String)> = values.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    let verdict = Verdict::of(count, &values, &bank.witness);
    verdict.check(&format!("{count} events, {kills} kills"), kills * (CONCURRENCY + 1 + COMMIT_BATCH));
    assert_eq!(folder.count("select (select count(*) from task) + (select count(*) from dead_letter)"), 0);
}

/// Start it and let senders in as soon as it listens.
async fn start(bank: &Bank, folder: &Folder) -> Process {
    let mut host = Process::spawn(folder, &[]);
    host.listens().await;
    bank.doors.send_replace(vec![Door::of(&host, folder)]);
    host
}
