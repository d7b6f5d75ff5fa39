//! `koksmat backup` and `koksmat restore`

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use koksmat_tests::{Folder, Inside, Process, databases::Server, process::koksmat, until};

use super::{list, listing, publish, refuses, says};

fn folder() -> Folder {
    Folder::new().queue("q").script("one", "one.js", &listing("one"), "on = [{ source = \"q\" }]\ngrants = { keyvalue = true }")
}

/// A command that fails, and what it says.
async fn fails(folder: &Folder, arguments: &[&str]) -> String {
    let ended = koksmat(folder.path(), arguments).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "koksmat {}: {}", arguments.join(" "), ended.said());
    ended.said()
}

async fn handled(folder: &Folder, count: usize) {
    until(&format!("{count} events"), async || (list(folder, "one").len() >= count).then_some(())).await;
}

fn starts(folder: &Folder) -> i64 {
    folder.count("select value from meta where name = 'start_number'")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_beside_a_busy_host_is_restored_as_it_was() {
    let folder = folder();
    let host = Process::start(&folder).await;
    publish(&host, &folder, "id=1", r#"{"id": "1"}"#).await;
    handled(&folder, 1).await;
    says(&folder, &["pause", "handler", "one"]).await;
    publish(&host, &folder, "id=2", r#"{"id": "2"}"#).await;
    assert_eq!(says(&folder, &["backup", "--to", "copy.db"]).await, "the store is in copy.db\n");
    assert_eq!(fs::metadata(folder.join("copy.db")).unwrap().permissions().mode() & 0o777, 0o600);
    says(&folder, &["resume", "handler", "one"]).await;
    publish(&host, &folder, "id=3", r#"{"id": "3"}"#).await;
    handled(&folder, 3).await;
    let in_use = fails(&folder, &["restore", "--from", "copy.db"]).await;
    assert!(in_use.ends_with(&format!("is in use by the process {}; one SQLite store serves one host", host.pid())), "{in_use}");
    host.stops_well().await;
    let before = starts(&folder);

    let said = says(&folder, &["restore", "--from", "copy.db"]).await;
    let kept = said.lines().last().unwrap().strip_prefix("what it was before is kept in ").unwrap().to_owned();
    assert_eq!((list(&folder, "one"), folder.count("select count(*) from task")), (vec!["1".to_owned()], 1));
    let kept = rusqlite::Connection::open(folder.join(&kept)).unwrap();
    assert_eq!(kept.query_row("select count(*) from settled", [], |row| row.get::<_, i64>(0)).unwrap(), 3);
    assert!(starts(&folder) > before + 1_000_000, "fencing tokens are beyond all that there were");

    let host = Process::start(&folder).await;
    // What was paused then is paused again; and what was settled since is not known any more.
    publish(&host, &folder, "id=3", r#"{"id": "3"}"#).await;
    says(&folder, &["resume", "handler", "one"]).await;
    handled(&folder, 3).await;
    let mut all = list(&folder, "one");
    all.sort();
    assert_eq!(all, ["1", "2", "3"]);
    host.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_while_a_copy_is_made_is_ready_in_it_and_under_no_suspicion() {
    let inside = Inside::start(Duration::from_secs(3600)).await;
    let script = "import { http } from \"koksmat\";\nexport function handle(event) { http.fetch(event.text(), { method: \"POST\", body: event.id }); }\n";
    let settings = format!("on = [{{ source = \"q\" }}]\ntimeout = \"120s\"\ngrants = {{ http = [\"{}\"] }}", inside.address());
    let folder = Folder::new().queue("q").script("held", "held.js", script, &settings);
    let host = Process::start(&folder).await;
    publish(&host, &folder, "id=running", &inside.url()).await;
    inside.reached(1).await;
    says(&folder, &["backup", "--to", "copy.db"]).await;
    host.signal("KILL").await;
    host.ended().await;
    // The disk is lost, and with it all but the copy.
    for suffix in ["", "-wal", "-shm", ".lock"] {
        fs::remove_file(folder.join(&format!("data/koksmat.db{suffix}"))).unwrap();
    }
    assert_eq!(says(&folder, &["restore", "--from", "copy.db"]).await.lines().count(), 1, "there is nothing to keep");
    assert_eq!(folder.count("select count(*) from task where state = 0 and not suspect"), 1);
    inside.keep_for(Duration::ZERO);
    let host = Process::start(&folder).await;
    inside.reached(2).await;
    until("it to be done", async || (folder.count("select count(*) from task") == 0).then_some(())).await;
    host.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_replaces_nothing_unasked_and_never_the_store_itself() {
    let folder = folder().file("copy.db", "precious");
    let host = Process::start(&folder).await;
    for _ in 0..2 {
        let said = fails(&folder, &["backup", "--to", "copy.db"]).await;
        assert!(said.ends_with("copy.db is there already; name another file, or say that it may be replaced"), "{said}");
        for own in ["data/koksmat.db", "data/koksmat.db-wal", "data/../data/koksmat.db.lock"] {
            let said = fails(&folder, &["backup", "--replace", "--to", own]).await;
            assert!(said.ends_with("belongs to the store itself; name another file"), "{said}");
        }
        assert!(fails(&folder, &["backup", "--to", "nowhere/copy.db"]).await.contains("nowhere/copy.db cannot be written: "));
        if folder.join("data/koksmat.sock").exists() {
            // The same without a host.
            host.signal("TERM").await;
            until("the host to end", async || (!folder.join("data/koksmat.sock").exists()).then_some(())).await;
        }
    }
    assert_eq!(fs::read_to_string(folder.join("copy.db")).unwrap(), "precious");
    assert_eq!(host.ended().await.code, Some(0));
    says(&folder, &["backup", "--replace", "--to", "copy.db"]).await;
    says(&folder, &["restore", "--from", "copy.db"]).await;
    let partial =
        fs::read_dir(folder.path()).unwrap().filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("partial"));
    assert_eq!(partial.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_whole_store_is_not_restored_and_the_one_that_is_there_stays() {
    let folder = folder().file("text.db", "Once upon a time there was no database here.").file("empty.db", "");
    let host = Process::start(&folder).await;
    publish(&host, &folder, "id=1", r#"{"id": "1"}"#).await;
    handled(&folder, 1).await;
    for name in ["newer.db", "damaged.db"] {
        says(&folder, &["backup", "--to", name]).await;
    }
    host.stops_well().await;
    rusqlite::Connection::open(folder.join("newer.db")).unwrap().pragma_update(None, "user_version", 99).unwrap();
    rusqlite::Connection::open(folder.join("other.db")).unwrap().execute_batch("create table invoice (id integer)").unwrap();
    let mut damaged = fs::read(folder.join("damaged.db")).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..].fill(0x5a);
    fs::write(folder.join("damaged.db"), damaged).unwrap();
    let before = fs::read(folder.join("data/koksmat.db")).unwrap();
    for (name, why) in [
        ("missing.db", "missing.db cannot be read: "),
        ("text.db", "text.db is no store of koksmat: file is not a database"),
        ("empty.db", "empty.db is no store of koksmat: it is empty"),
        ("other.db", "other.db is no store of koksmat: it is a database of something else"),
        ("newer.db", "newer.db has schema version 99, this koksmat knows up to "),
        ("damaged.db", "damaged"),
    ] {
        let said = fails(&folder, &["restore", "--from", name]).await;
        assert!(said.contains(why), "{name}: {said}");
        assert_eq!(fs::read(folder.join("data/koksmat.db")).unwrap(), before, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_postgres_is_left_to_the_means_of_the_database() {
    let database = Server::Postgres.database("backup").await;
    let folder = folder().host("store = \"file:store-url\"").file("store-url", database.url());
    let host = Process::start(&folder).await;
    assert!(fails(&folder, &["backup", "--to", "copy.db"]).await.contains("pg_dump"));
    assert!(refuses(&folder, &["restore", "--from", "copy.db"]).await.said().contains("pg_restore"));
    host.stops_well().await;
    database.drop().await;
}
