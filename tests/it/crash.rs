//! The end nobody asked for: `kill -9` at any moment, and what is true after the restart.

use std::time::{Duration, Instant};

use koksmat_tests::{Folder, Inside, Process, Traffic, process::koksmat, until};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

const FOR_EVER: Duration = Duration::from_secs(3600);
/// "Within seconds": the longest that what was accepted may wait after the last restart.
const SECONDS: Duration = Duration::from_secs(20);

async fn kill(host: Process) {
    host.signal("KILL").await;
    let ended = host.ended().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (None, ""), "{}", ended.log.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_at_any_moment_every_accepted_event_is_handled_once_by_each_of_its_handlers() {
    let inside = Inside::start(Duration::from_millis(5)).await;
    let traffic = Traffic::new(&inside, "concurrency = 8");
    let mut random = StdRng::seed_from_u64(9);
    for _ in 0..20 {
        let host = Process::start(&traffic.folder).await;
        let sending = traffic.send_to(&host);
        tokio::time::sleep(Duration::from_millis(random.random_range(20..400))).await;
        kill(host).await;
        sending.stop().await;
    }
    let host = Process::start(&traffic.folder).await;
    let restarted = Instant::now();
    traffic.handled().await;
    assert!(restarted.elapsed() < SECONDS, "it took {:?}", restarted.elapsed());
    let ended = host.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
    assert_eq!(ended.ledger()["ledger"]["balanced"], true);
    for source in ["queue", "hook", "answer", "claimed", "queried"] {
        assert!(traffic.accepted_from(source) > 20, "{} of {source}: too few to prove anything", traffic.accepted_from(source));
    }
    traffic.check();
}

/// A queue whose handler calls the outside resource with the event's name, then counts it.
fn held(inside: &Inside) -> Folder {
    let script = r#"
        import { http, keyvalue } from "koksmat";
        export function handle(event) {
          const { url, id } = event.json();
          http.fetch(url, { method: "POST", body: id });
          keyvalue.add(id, 1);
        }
    "#;
    let settings =
        format!("on = [{{ source = \"queue\" }}]\ntimeout = \"120s\"\ngrants = {{ keyvalue = true, http = [\"{}\"] }}", inside.address());
    Folder::new().queue("queue").script("held", "held.js", script, &settings)
}

async fn publish(host: &Process, folder: &Folder, inside: &Inside, id: &str) {
    let bearer = format!("Bearer {}", folder.token());
    let data = json!({ "url": inside.url(), "id": id }).to_string();
    assert_eq!(host.post("/queues/queue", &[("authorization", &bearer)], data).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_flight_at_a_kill_runs_one_at_a_time() {
    let inside = Inside::start(FOR_EVER).await;
    let folder = held(&inside);
    let host = Process::start(&folder).await;
    for n in 0..10 {
        publish(&host, &folder, &inside, &format!("suspect-{n}")).await;
    }
    inside.reached(10).await;
    assert_eq!(inside.most(), 10, "otherwise this could not fail");
    kill(host).await;
    until("their connections to be gone", || async { (inside.now() == 0).then_some(()) }).await;

    inside.forget();
    inside.keep_for(Duration::from_millis(50));
    let host = Process::start(&folder).await;
    inside.reached(10).await;
    until("all to be handled", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
    assert_eq!(inside.most(), 1);
    // That is past: what comes now runs side by side.
    inside.keep_for(FOR_EVER);
    publish(&host, &folder, &inside, "new-1").await;
    publish(&host, &folder, &inside, "new-2").await;
    inside.reached(12).await;
    assert_eq!(inside.now(), 2);
    inside.keep_for(Duration::ZERO);
    let ended = host.stop().await;
    assert_eq!((ended.code, &ended.ledger()["ledger"]["done"]), (Some(0), &json!(12)));
    assert_eq!(folder.count("select count(*) from kv where cast(value as text) = '1'"), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_which_the_host_ends_three_times_is_quarantined_and_the_others_are_handled() {
    let inside = Inside::start(FOR_EVER).await;
    let folder = held(&inside);
    let host = Process::start(&folder).await;
    publish(&host, &folder, &inside, "deadly").await;
    inside.reached(1).await;
    publish(&host, &folder, &inside, "innocent").await;
    inside.reached(2).await;
    kill(host).await;
    // Both were in flight, neither alone: that counts for nobody.
    for round in 1..=3 {
        inside.forget();
        let host = Process::start(&folder).await;
        inside.reached(1).await;
        assert_eq!(inside.entered(), ["deadly"]);
        publish(&host, &folder, &inside, &format!("accepted-{round}")).await;
        assert_eq!(folder.count("select count(*) from dead_letter"), 0);
        kill(host).await;
    }
    inside.keep_for(Duration::ZERO);
    let mut host = Process::start(&folder).await;
    host.line("quarantined").await;
    until("the others to be handled", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
    let letters = koksmat(folder.path(), &["dead-letters", "list", "--json"]).await;
    let letters: Vec<Value> = letters.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0]["reason"].as_str().unwrap().starts_with("quarantined"), "{letters:?}");
    let ended = host.stop().await;
    let ledger = ended.ledger();
    assert_eq!((ended.code, &ledger["ledger"]["dead"], &ledger["ledger"]["balanced"]), (Some(0), &json!(1), &json!(true)));
    for id in ["innocent", "accepted-1", "accepted-2", "accepted-3"] {
        assert_eq!(folder.value(id).as_deref(), Some("1"), "{id}");
    }
    assert_eq!(folder.value("deadly"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_claimed_at_a_kill_does_not_wait_for_its_lease() {
    let inside = Inside::start(FOR_EVER).await;
    let folder = held(&inside)
        .toml(
            r#"
            [sources.rows]
            kind = "poller"
            database = "sqlite:rows.db"
            every = "20ms"
            claim = { table = "row", key = "id", lease = "1h" }
            "#,
        )
        .handler(
            "row",
            "held.js",
            &format!(
                "on = [{{ source = \"rows\" }}]\ntimeout = \"120s\"\ngrants = {{ keyvalue = true, http = [\"{}\"] }}",
                inside.address()
            ),
        );
    let rows = rusqlite::Connection::open(folder.join("rows.db")).unwrap();
    rows.execute_batch("create table row (id text primary key, url text)").unwrap();
    rows.execute("insert into row values ('row', ?1)", [inside.url()]).unwrap();
    for _ in 0..2 {
        inside.forget();
        let host = Process::start(&folder).await;
        inside.reached_by("row").await;
        kill(host).await;
    }
    inside.keep_for(Duration::ZERO);
    let host = Process::start(&folder).await;
    until("the row to be handled", || async { folder.value("row") }).await;
    let marked = "select count(*) from koksmat_claims where row_key = 'row' and done_at is not null";
    until("the row to be marked", || async { (rows.query_row(marked, [], |row| row.get::<_, i64>(0)).unwrap() == 1).then_some(()) }).await;
    assert_eq!(host.stop().await.code, Some(0));
    assert_eq!(folder.value("row").as_deref(), Some("1"));
}
