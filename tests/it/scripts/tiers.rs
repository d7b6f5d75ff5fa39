//! From a file to the first event: new code at once, built code from the cache.

use std::time::{Duration, Instant};

use koksmat::Event;
use koksmat_tests::{
    Folder, Process, TestHost,
    process::{Ended, koksmat},
};

use super::{FROM_MEMORY, New, SNAPSHOT_SERVES, new_handler, response};

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the figure is of interest")]
async fn new_code_serves_before_it_is_compiled() {
    let mut took = Vec::new();
    for _ in 0..5 {
        let New { folder, .. } = new_handler(&[("new.ts", "export const handle = (): string => \"new\";")], FROM_MEMORY).await;
        let started = Instant::now();
        let host = TestHost::start(folder).await;
        assert_eq!(response(&host, Event::new("go", "")).await.body, "new");
        took.push(started.elapsed());
        host.stop().await;
    }
    took.sort();
    println!("from the start of a host to the first event through code it has never seen: {took:?}");
    // Compiling alone takes longer on any machine: this is milliseconds, with much room for a loaded one.
    assert!(took[0] < Duration::from_millis(500), "{took:?}");
}

const QUEUED: &str = "on = [{ source = \"orders\" }]\ngrants = { keyvalue = true }";
const COUNTS: &str = "import { keyvalue } from \"koksmat\";\nexport function handle() { keyvalue.increment(\"handled\"); }\n";

fn said(ended: &Ended) -> &str {
    assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
    ended.stdout.trim()
}

/// Run the host until it has handled one more event; whether a snapshot took over meanwhile or later.
async fn run_for_one_event(folder: &Folder, expected: i64, wait_for_snapshot: bool) -> bool {
    let mut process = Process::start_with(folder, &[("RUST_LOG", "info,koksmat::plugin=debug")]).await;
    let authorization = format!("Bearer {}", folder.token());
    let reply = process.post("/queues/orders", &[("authorization", &authorization)], "{}").await;
    assert_eq!(reply.status, 202);
    koksmat_tests::until("the event to be handled", || async {
        (folder.value("handled").is_some_and(|count| count == expected.to_string())).then_some(())
    })
    .await;
    if wait_for_snapshot {
        process.line(SNAPSHOT_SERVES).await;
    }
    process.stop().await.log.iter().any(|line| line.contains(SNAPSHOT_SERVES))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_built_before_starts_from_the_cache() {
    let New { folder, name } = new_handler(&[("count.js", COUNTS)], QUEUED).await;
    let folder = folder.queue("orders");
    folder.write();
    let build = async || koksmat(folder.path(), &["build"]).await;
    let first = build().await;
    assert!(said(&first).starts_with(&format!("{name}: built (")), "{first:?}");
    let second = build().await;
    assert!(said(&second).starts_with(&format!("{name}: was built before (")), "{second:?}");
    assert!(!run_for_one_event(&folder, 1, false).await, "there was nothing to take over from");

    // Its content counts: a touch changes nothing, a change does, and taking the change back finds what was built first.
    let source = std::fs::read_to_string(folder.join("count.js")).unwrap();
    std::fs::write(folder.join("count.js"), &source).unwrap();
    assert!(said(&build().await).contains("was built before"));
    std::fs::write(folder.join("count.js"), source.replace("increment(\"handled\")", "increment(\"handled\", 1)")).unwrap();
    assert!(said(&build().await).contains(": built ("));
    std::fs::write(folder.join("count.js"), &source).unwrap();
    assert!(said(&build().await).contains("was built before"));
}

#[tokio::test(flavor = "multi_thread")]
async fn running_new_code_builds_it_for_the_next_time() {
    let New { folder, name } = new_handler(&[("count.js", COUNTS)], QUEUED).await;
    let folder = folder.queue("orders");
    assert!(run_for_one_event(&folder, 1, true).await, "new code begins in the first tier");
    assert!(!run_for_one_event(&folder, 2, false).await, "the second time it does not");
    let built = koksmat(folder.path(), &["build"]).await;
    assert!(said(&built).starts_with(&format!("{name}: was built before (")), "{built:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_file_that_changed_is_new_code() {
    let files = [
        ("entry.js", "import { answer } from \"./lib/answer\";\nexport const handle = () => answer;"),
        ("lib/answer.js", "export const answer = \"one\";"),
    ];
    let New { folder, .. } = new_handler(&files, FROM_MEMORY).await;
    koksmat::host::build_handlers(&folder.config_with(&["memory"]), |_, ready, _| assert!(!ready)).await.unwrap();
    let host = TestHost::start(folder).await;
    assert_eq!(response(&host, Event::new("go", "")).await.body, "one");
    let (folder, _) = host.stop().await;
    let folder = folder.file("lib/answer.js", "export const answer = \"two\";");
    let host = TestHost::start(folder).await;
    assert_eq!(response(&host, Event::new("go", "")).await.body, "two");
    host.stop().await;
}
