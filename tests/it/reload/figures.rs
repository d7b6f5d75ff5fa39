//! The figures: reload after reload under load, from a save to the first event that is answered by it, a thousand plugins.
//!
//! `KOKSMAT_TEST_RELOADS`, `KOKSMAT_TEST_SAVES` and `KOKSMAT_TEST_PLUGINS` raise them; `KOKSMAT_BIN` names the release build that they are promised of.

use std::time::{Duration, Instant};

use koksmat_tests::{Folder, Inside, Process, guests, process::koksmat_with, services, traffic::Traffic};

use super::{ANSWERED, ON, says};

/// From here on it is the promise itself that is measured.
const FULL: u32 = 1_000;

/// What the kernel says of a process's memory, in KiB.
fn kib(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn mappings(pid: u32) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines().count() as u64
}

/// Have a running host reload what has changed.
async fn reload(host: &Process, bearer: &str) -> Duration {
    let began = Instant::now();
    let url = format!("http://{}/api/reload", host.admin);
    let reply = koksmat_tests::host::request(&url, "POST", &[("authorization", bearer)], "".into()).await;
    assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"applied".into()), "{}", reply.text());
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_after_reload_under_load_loses_nothing_and_fails_nothing() {
    let reloads = services::figure("KOKSMAT_TEST_RELOADS", 100);
    let inside = Inside::start(Duration::from_millis(1)).await;
    let traffic = Traffic::new(&inside, "concurrency = 8\nwatch = false");
    let host = Process::start(&traffic.folder).await;
    let sending = traffic.send_to(&host);
    let bearer = format!("Bearer {}", traffic.folder.token());
    let mut longest = Duration::ZERO;
    for n in 1..=reloads {
        let file = traffic.folder.join(["quick.js", "slow.js", "echo.js"][n % 3]);
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("\n// version").next().unwrap();
        std::fs::write(&file, format!("{code}\n// version {n}\n")).unwrap();
        longest = longest.max(reload(&host, &bearer).await);
        traffic.flows(1).await;
    }
    sending.stop().await;
    traffic.handled().await;
    let ledger = host.stops_well().await;
    traffic.check();
    println!(
        "{reloads} reloads, {} events accepted: lost 0, dead {}, parked {}, the longest reload {longest:?}",
        traffic.accepted(),
        ledger["dead"],
        ledger["parked"]
    );
    assert_eq!((&ledger["dead"], &ledger["parked"]), (&0.into(), &0.into()), "failed because of a reload");
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_after_reload_leaves_nothing_behind() {
    let reloads = u32::try_from(services::figure("KOKSMAT_TEST_RELOADS", 100)).unwrap();
    let first = guests::never_compiled();
    let folder = Folder::new().host("watch = false\nconcurrency = 8").toml(ANSWERED).file("answer.wasm", guests::version(first)).handler(
        "answer",
        "answer.wasm",
        ON,
    );
    folder.write();
    let host = Process::start(&folder).await;
    let bearer = format!("Bearer {}", folder.token());
    let mut early = None;
    for n in 1..=reloads {
        std::fs::write(folder.join("answer.wasm"), guests::version(first + n)).unwrap();
        reload(&host, &bearer).await;
        assert_eq!(host.post("/ask", &[], "").await.text(), format!("koksmat-version-{:08}", first + n), "nothing by half");
        if n == 50 {
            rest(reloads).await;
            early = Some((kib(host.pid(), "VmRSS"), mappings(host.pid())));
        }
    }
    rest(reloads).await;
    let ((early_rss, early_maps), rss, maps) = (early.unwrap(), kib(host.pid(), "VmRSS"), mappings(host.pid()));
    host.stops_well().await;
    println!("{reloads} reloads: resident {early_rss} KiB after 50, {rss} KiB after all; mappings {early_maps}, {maps}");
    assert!(maps as f64 <= early_maps as f64 * 1.1, "mappings: {early_maps} then {maps}");
    // What an allocator keeps of the last compile weighs less, the more there were.
    let kept = if reloads < FULL { 32.0 * 1024.0 } else { 0.0 };
    assert!(rss as f64 <= early_rss as f64 * 1.1 + kept, "resident: {early_rss} KiB then {rss} KiB");
}

/// What is compiled beside is done, and allocators have given back what they give back: a minute for the large figure.
async fn rest(reloads: u32) {
    tokio::time::sleep(Duration::from_millis(60 * u64::from(reloads.min(1_000)))).await;
}

/// How long it took from each save until an event was answered by what was saved.
async fn saves(folder: &Folder, file: &str, version: impl Fn(usize) -> (Vec<u8>, String)) -> Vec<Duration> {
    folder.write();
    let host = Process::start(folder).await;
    let mut took = Vec::new();
    for save in 1..=services::figure("KOKSMAT_TEST_SAVES", 20) {
        let (code, answer) = version(save);
        let began = Instant::now();
        std::fs::write(folder.join(file), code).unwrap();
        while host.post("/ask", &[], "").await.text() != answer {
            assert!(began.elapsed() < Duration::from_secs(30), "{answer} does not serve");
            // Asking takes a processor too.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        took.push(began.elapsed());
    }
    host.stops_well().await;
    took.sort();
    took
}

fn assert_soon(what: &str, took: &[Duration], median: Duration) {
    let (half, most) = (took[took.len() / 2], took[(took.len() * 99).div_ceil(100) - 1]);
    println!("{what}: from save to serving, of {}: p50 {half:?}, p99 {most:?}", took.len());
    assert!(half <= median && most <= Duration::from_millis(500).max(median * 2), "{what}: p50 {half:?}, p99 {most:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_serves_in_a_moment() {
    for file in ["answer.js", "answer.ts"] {
        let folder = Folder::new().toml(ANSWERED).script("answer", file, &says("0"), ON);
        let took = saves(&folder, file, |n| (says(&n.to_string()).into_bytes(), n.to_string())).await;
        assert_soon(file, &took, Duration::from_millis(50));
    }
    let first = guests::never_compiled();
    let version = |n: usize| {
        let number = first + u32::try_from(n).unwrap();
        (guests::version(number), format!("koksmat-version-{number:08}"))
    };
    let folder = Folder::new().toml(ANSWERED).file("answer.wasm", version(0).0).handler("answer", "answer.wasm", ON);
    let took = saves(&folder, "answer.wasm", version).await;
    // The compiler of a debug build takes several times as long: this shows that it is not waited for otherwise.
    let is_promise = !cfg!(debug_assertions) || std::env::var_os("KOKSMAT_BIN").is_some();
    assert_soon("a component of 44 KB", &took, Duration::from_millis(if is_promise { 150 } else { 1_000 }));
}

#[tokio::test]
async fn many_plugins_start_from_the_cache_in_a_moment_and_cost_little() {
    let plugins = u32::try_from(services::figure("KOKSMAT_TEST_PLUGINS", 100)).unwrap();
    let with = |count: u32| {
        let mut folder = Folder::new().queue("q");
        for n in 0..count {
            folder = folder.file(&format!("{n}.wasm"), guests::version(n)).handler(
                &format!("h{n}"),
                &format!("{n}.wasm"),
                &format!("on = {{ type = \"t{n}\" }}"),
            );
        }
        folder
    };
    // Half of them and all of them: what a host takes anyway is in both.
    let mut seen = Vec::new();
    for count in [plugins / 2, plugins] {
        let folder = with(count);
        folder.write();
        let built = koksmat_with(folder.path(), &["build"], &[], Duration::from_secs(600)).await;
        assert_eq!(built.code, Some(0), "{}", built.said());
        let began = Instant::now();
        let host = Process::start(&folder).await;
        host.ready().await;
        let took = began.elapsed();
        // Idle: the threads that loaded them have ended.
        tokio::time::sleep(Duration::from_secs(12)).await;
        seen.push((took, kib(host.pid(), "VmRSS")));
        host.stops_well().await;
    }
    let (took, each) = (seen[1].0, (seen[1].1 as f64 - seen[0].1 as f64) / f64::from(plugins - plugins / 2));
    println!("{plugins} plugins: ready after {took:?}, {each:.0} KiB resident each");
    assert!(took < Duration::from_secs(2), "{took:?}");
    // With few of them what the host takes anyway weighs more than they do, and it is not the same each time.
    assert!(each < 300.0 || plugins < FULL, "{each:.0} KiB");
}
