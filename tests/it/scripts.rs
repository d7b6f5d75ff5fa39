//! JavaScript and TypeScript handlers with nothing else installed: what they can do, and what they are told when they cannot.
//!
//! New code is served in two tiers: at once by the generic runtime, then by a snapshot that was compiled meanwhile. Both mean the same, so
//! nearly everything here is asked of both.

use koksmat::{Answer, Event, Response};
use koksmat_tests::{Folder, TestHost, log};
use serde_json::Value;
use tokio::sync::OnceCell;

mod build_time;
mod capabilities;
mod failures;
mod globals;
mod tiers;
mod types;

const FROM_MEMORY: &str = "on = [{ source = \"memory\" }]";
/// What is logged when the second tier takes over.
const SNAPSHOT_SERVES: &str = "the script's snapshot serves";

/// A handler that was never built before.
struct New {
    folder: Folder,
    /// Of the handler.
    name: String,
}

/// A handler with these files, the first of which is its entry; nobody has built it before, whatever the tests' cache holds.
async fn new_handler(files: &[(&str, &str)], settings: &str) -> New {
    runtime_is_compiled().await;
    log::listen();
    let name = format!("script-{}", uuid::Uuid::now_v7().simple());
    let [(entry, source), others @ ..] = files else { panic!("no files") };
    // At the end, so that the lines stay what they are.
    let source = format!("{source}\nexport const neverBuiltBefore = \"{name}\";\n");
    let mut folder = Folder::new().script(&name, entry, &source, settings);
    for (file, text) in others {
        folder = folder.file(file, text);
    }
    New { folder, name }
}

/// The generic runtime is compiled once for each version of the host; the tests are about what comes after.
async fn runtime_is_compiled() {
    static ONCE: OnceCell<()> = OnceCell::const_new();
    ONCE.get_or_init(|| async {
        let folder = Folder::new().script("any", "any.js", "export function handle() {}", "on = [{ kind = \"timer\" }]");
        koksmat::host::build_handlers(&folder.config(), |_, _, _| {}).await.unwrap();
    })
    .await;
}

/// Ask `check` of the new handler while the generic runtime serves it, and again when its snapshot does.
async fn in_both_tiers(files: &[(&str, &str)], settings: &str, check: impl AsyncFn(&TestHost)) {
    for _ in 0..10 {
        let New { folder, name } = new_handler(files, settings).await;
        let host = TestHost::start(folder).await;
        check(&host).await;
        if log::of_handler(&name).iter().any(|line| line.message == SNAPSHOT_SERVES) {
            // The machine was busy with something else: that says nothing about the first tier.
            host.stop().await;
            continue;
        }
        log::line(&name, SNAPSHOT_SERVES).await;
        check(&host).await;
        host.stop().await;
        return;
    }
    panic!("the snapshot was always faster than the first events");
}

/// What the handler answers to an event with this data.
async fn response(host: &TestHost, event: Event) -> Response {
    match host.handle(event).await {
        Answer::Done { response: Some(response) } => response,
        other => panic!("{other:?}"),
    }
}

/// The JSON it answers.
async fn json_response(host: &TestHost, event: Event) -> Value {
    let response = response(host, event).await;
    assert_eq!(response.status, 200);
    serde_json::from_slice(&response.body).unwrap()
}

/// Why it does not work: the reason of the dead letter. The handler has one attempt.
async fn failure(host: &TestHost, event: Event) -> String {
    let id = event.id.clone();
    match host.handle(event).await {
        Answer::Dead { reason } => {
            let kept: String =
                host.folder.store().query_row("select reason from dead_letter where header ->> 'id' = ?1", [id], |row| row.get(0)).unwrap();
            assert_eq!(kept, reason);
            reason
        }
        other => panic!("{other:?}"),
    }
}
