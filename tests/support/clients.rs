//! The programs of `tests/clients`: independent senders, and the TypeScript compiler.

use std::process::Stdio;

use tokio::process::Command;

/// Run a program; what it printed, a JSON document a line.
pub async fn node(program: &str, arguments: &[&str]) -> Vec<serde_json::Value> {
    let (ok, stdout, stderr) = run("node", &[&[program], arguments].concat()).await;
    assert!(ok, "{program}: {stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Run the TypeScript compiler; what it complains about.
pub async fn tsc(arguments: &[&str]) -> Result<(), String> {
    let (ok, stdout, stderr) = run("node", &[&["node_modules/typescript/bin/tsc"], arguments].concat()).await;
    if ok { Ok(()) } else { Err(stdout + &stderr) }
}

async fn run(program: &str, arguments: &[&str]) -> (bool, String, String) {
    let folder = crate::repository().join("tests/clients");
    assert!(folder.join("node_modules").is_dir(), "the clients are not installed: `npm ci` in tests/clients (tests/run.sh does it)");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let output = crate::within(&format!("{program} {}", arguments.join(" ")), command.output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}
