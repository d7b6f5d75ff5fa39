//! From exec of the release binary to the committed effect of an event that waits in the store: the quickstart's configuration, a warm
//! compile cache, the median of twenty starts.
//!
//!     cargo build --release -p koksmat && cargo bench -p koksmat-tests --bench boot
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const STARTS: usize = 20;

fn main() {
    let binary = koksmat_tests::repository().join("target/release/koksmat");
    assert!(binary.is_file(), "build it first: cargo build --release -p koksmat");
    let folder = tempfile::tempdir().unwrap();
    copy(&koksmat_tests::repository().join("examples/quickstart"), folder.path());
    let config = folder.path().join("koksmat.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(":8080\"", ":0\"").replace(":8081\"", ":0\"")).unwrap();

    // Once to build, compile and fill the shelves.
    let host = start(&binary, folder.path());
    wait_until("the control socket", || folder.path().join("data/koksmat.sock").exists());
    send(&binary, folder.path(), &["--type", "stock.delivered", "--data", r#"{"sku":"tea","quantity":1000000}"#]);
    wait_until("the delivery", || stock(folder.path()) == Some(1_000_000));
    // The snapshots of the scripts are compiled behind the running host.
    run(&binary, &["build"], folder.path());
    stop(host);

    let mut took = Vec::new();
    for round in 0..STARTS {
        let host = start(&binary, folder.path());
        wait_until("the control socket", || folder.path().join("data/koksmat.sock").exists());
        send(&binary, folder.path(), &["--type", "order.created", "--after", "1s", "--data", r#"{"sku":"tea","quantity":1}"#]);
        stop(host);
        std::thread::park_timeout(Duration::from_millis(1_200));
        let before = stock(folder.path()).unwrap();
        let began = Instant::now();
        let host = start(&binary, folder.path());
        wait_until("the effect", || stock(folder.path()).is_some_and(|now| now < before));
        took.push(began.elapsed());
        println!("start {:>2}: {:>6.1} ms", round + 1, took[round].as_secs_f64() * 1e3);
        stop(host);
    }
    took.sort();
    println!("\nmedian of {STARTS}: {:.1} ms, fastest {:.1} ms, slowest {:.1} ms", ms(took[STARTS / 2]), ms(took[0]), ms(took[STARTS - 1]));
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn start(binary: &Path, folder: &Path) -> Child {
    Command::new(binary).arg("run").arg(folder).env("RUST_LOG", "error").stdout(Stdio::null()).spawn().unwrap()
}

fn stop(mut host: Child) {
    let killed = Command::new("kill").arg("-TERM").arg(host.id().to_string()).status().unwrap();
    assert!(killed.success());
    let status = host.wait().unwrap();
    assert!(status.success(), "{status}");
}

fn send(binary: &Path, folder: &Path, arguments: &[&str]) {
    let mut all = vec!["send", "--source", "orders"];
    all.extend_from_slice(arguments);
    run(binary, &all, folder);
}

fn run(binary: &Path, arguments: &[&str], folder: &Path) {
    let status = Command::new(binary).args(arguments).arg(folder).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "koksmat {arguments:?}: {status}");
}

/// What is left of the tea, as another process sees it.
fn stock(folder: &Path) -> Option<i64> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = rusqlite::Connection::open_with_flags(folder.join("data/koksmat.db"), flags).ok()?;
    let value: Vec<u8> = store.query_row("select value from kv where key = 'stock/tea'", [], |row| row.get(0)).ok()?;
    String::from_utf8(value).ok()?.parse().ok()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_name() == "data" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
