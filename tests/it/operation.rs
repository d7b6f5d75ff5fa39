//! What operators do: look at what waits, hold parts of the host still, back up its store and restore it.

mod backups;
mod pausing;
mod queues;

use koksmat_tests::{Folder, Process, process::Ended, process::koksmat};

/// A command that works, and what it says.
async fn says(folder: &Folder, arguments: &[&str]) -> String {
    let ended = koksmat(folder.path(), arguments).await;
    assert_eq!(ended.code, Some(0), "koksmat {}: {}", arguments.join(" "), ended.said());
    ended.stdout
}

/// The documents of a command that lists.
async fn lists(folder: &Folder, arguments: &[&str]) -> Vec<serde_json::Value> {
    says(folder, arguments).await.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A command that is refused as wrong usage.
async fn refuses(folder: &Folder, arguments: &[&str]) -> Ended {
    let ended = koksmat(folder.path(), arguments).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "koksmat {}: {}", arguments.join(" "), ended.said());
    ended
}

/// Publish to the embedded queue `q`.
async fn publish(host: &Process, folder: &Folder, query: &str, data: &str) {
    let bearer = format!("Bearer {}", folder.token());
    let reply = host.post(&format!("/queues/q?{query}"), &[("authorization", &bearer)], data.to_owned()).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
}

/// Appends what each event says to the list in the store that has the name of the handler.
fn listing(name: &str) -> String {
    format!(
        "import {{ keyvalue }} from \"koksmat\";\nexport function handle(event) {{\n  \
         keyvalue.set(\"{name}\", [...JSON.parse(keyvalue.get(\"{name}\") ?? \"[]\"), event.json().id]);\n}}\n"
    )
}

fn list(folder: &Folder, name: &str) -> Vec<String> {
    folder.value(name).map(|list| serde_json::from_str(&list).unwrap()).unwrap_or_default()
}
