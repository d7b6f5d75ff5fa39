//! A full disk: 503 and not ready, nothing accepted is lost, and with room again it goes on.

use std::{cell::Cell, fs, path::PathBuf, process::Command};

use super::*;

/// What keeps the store from growing.
enum Disk {
    /// A small file system of its own: what a full disk is. Making one takes rights that not everybody has.
    Small { at: PathBuf },
    /// No file of the process may grow: what everybody can have.
    Limit,
}

impl Disk {
    fn small(at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self::Small { at })
    }

    /// In the words of the store.
    fn says(&self) -> &'static str {
        match self {
            Self::Small { .. } => "the store's disk is full",
            Self::Limit => "disk I/O error",
        }
    }

    fn fill(&self, process: &Process) {
        match self {
            Self::Small { at } => {
                let mut filler = fs::File::create(at.join("filler")).unwrap();
                while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
            }
            Self::Limit => limit(process, "4096:"),
        }
    }

    fn empty(&self, process: &Process) {
        match self {
            Self::Small { at } => fs::remove_file(at.join("filler")).unwrap(),
            Self::Limit => limit(process, "unlimited:"),
        }
    }
}

fn limit(process: &Process, bytes: &str) {
    let status = Command::new("prlimit").args(["--pid", &process.pid().to_string(), &format!("--fsize={bytes}")]).status();
    assert!(status.unwrap().success());
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Small { at } = self {
            let _ = Command::new("umount").arg("-l").arg(at).status();
        }
    }
}

const COUNT: &str = "import { keyvalue } from \"koksmat\";\nexport function handle(event) { keyvalue.set(`got/${event.id}`, 1); }\n";

fn folder(store: &str) -> Folder {
    Folder::new()
        .host(&format!("store = \"sqlite:{store}/koksmat.db\""))
        .toml("[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\n")
        .script("count", "count.js", COUNT, "on = [{ source = \"hook\" }]\ngrants = { keyvalue = true }")
}

async fn survives_a_full_disk(folder: &Folder, store: &str, disk: &Disk) {
    // Without this a process that reaches its limit is ended by a signal.
    let mut process = Process::spawn_by(&["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"], folder, &[]);
    process.listens().await;
    process.ready().await;
    let accepted = Cell::new(0);
    let post = async || {
        let reply = process.post("/hook", &[], json!({ "padding": "x".repeat(10_000) }).to_string()).await;
        if reply.status == 202 {
            accepted.set(accepted.get() + 1);
        }
        reply
    };
    for _ in 0..20 {
        assert_eq!(post().await.status, 202);
    }
    disk.fill(&process);
    let refused = until("a refusal", async || Some(post().await).filter(|reply| reply.status != 202)).await;
    assert_eq!((refused.status, refused.json()["detail"].as_str()), (503, Some("the event could not be stored; send it again later")));
    assert!(refused.headers.contains_key("retry-after"));
    let report = until("not ready", async || {
        post().await;
        Some(process.admin("/readyz").await).filter(|reply| reply.status == 503).map(|reply| reply.json())
    })
    .await;
    let problem = report["store"].as_str().unwrap();
    assert!(problem.contains(disk.says()), "{report}");
    assert_eq!(process.admin("/livez").await.status, 200);

    // Nobody sends while it is not ready, and yet it notices.
    disk.empty(&process);
    process.ready().await;
    assert_eq!(post().await.status, 202);
    let database = rusqlite::Connection::open(folder.join(store).join("koksmat.db")).unwrap();
    let handled = || database.query_row("select count(*) from kv where key like 'got/%'", [], |row| row.get::<_, i64>(0)).unwrap();
    until("everything accepted to be handled", async || (handled() == accepted.get()).then_some(())).await;
    let ended = process.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert_eq!(handled(), accepted.get());
    assert!(ended.log.iter().any(|line| line.contains("ERROR") && line.contains("the store does not take writes")), "{}", ended.said());
    assert!(ended.log.iter().any(|line| line.contains("the store takes writes again")), "{}", ended.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_survived() {
    let folder = folder("small");
    let Some(disk) = Disk::small(folder.join("small")) else {
        // Who may not make file systems has the other test, which needs no rights.
        return;
    };
    std::os::unix::fs::symlink(koksmat_tests::repository().join("target/test-cache"), folder.join("small/cache")).unwrap();
    survives_a_full_disk(&folder, "small", &disk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_may_not_grow_is_survived() {
    survives_a_full_disk(&folder("data"), "data", &Disk::Limit).await;
}
