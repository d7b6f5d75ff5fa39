//! A store or a database that cannot be reached.

use super::*;

/// It must not start, and say this.
async fn does_not_start(folder: &Folder) -> String {
    folder.write();
    let run = koksmat(folder.path(), &["run"]).await;
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.said());
    assert_eq!(run.log.len(), 1, "{}", run.said());
    run.said().replace(&format!("{}/", folder.path().canonicalize().unwrap().display()), "")
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_named_with_the_reason() {
    const ADVICE: &str = "does `store` in [host] name the right file, and may this user read and write it?";
    let folder = || Folder::new().host("store = \"sqlite:place/koksmat.db\"");
    let below_a_file = folder().file("place", "");
    let expected = format!("store: cannot open the store place/koksmat.db: its folder cannot be made: File exists (os error 17); {ADVICE}");
    assert_eq!(does_not_start(&below_a_file).await, expected);
    let a_folder = folder().file("place/koksmat.db/file", "");
    let expected =
        format!("store: cannot open the store place/koksmat.db: the file cannot be opened: Is a directory (os error 21); {ADVICE}");
    assert_eq!(does_not_start(&a_folder).await, expected);
    let another_file = folder().file("place/koksmat.db", "Once upon a time there was no database here.");
    let expected = format!("store: cannot open the store place/koksmat.db: file is not a database; {ADVICE}");
    assert_eq!(does_not_start(&another_file).await, expected);
    // The same for what works on the store without a host.
    let list = koksmat(another_file.path(), &["dead-letters", "list"]).await;
    assert_eq!(list.code, Some(1));
    assert!(
        list.said().starts_with("no host runs on this store, and it cannot be opened without one: cannot open the store "),
        "{}",
        list.said()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_use_names_who_uses_it() {
    let folder = Folder::new().queue("q");
    let process = Process::start(&folder).await;
    let expected = format!("store: the store data/koksmat.db is in use by the process {}; one SQLite store serves one host", process.pid());
    assert_eq!(does_not_start(&folder).await, expected);
    assert_eq!(process.stop().await.code, Some(0), "the first one never noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_database_that_is_not_there_keeps_the_host_unready_until_it_is() {
    let poller = "[sources.rows]\nkind = \"poller\"\ndatabase = \"sqlite:shop.db\"\nevery = \"20ms\"\nclaim = { table = \"outbox\", key = \"id\", done = \"delete\" }\n";
    let script = "import { keyvalue } from \"koksmat\";\nexport function handle(event) { keyvalue.set(`row/${event.json().id}`, event.json().what); }\n";
    let folder = Folder::new().toml(poller).queue("q").script(
        "h",
        "h.js",
        script,
        "on = [{ source = \"rows\" }, { source = \"q\" }]\ngrants = { keyvalue = true }",
    );
    let mut process = Process::spawn(&folder, &[]);
    process.listens().await;
    let problem = |part: &'static str| {
        let process = &process;
        async move {
            until("the problem to be shown", || async {
                let reply = process.admin("/readyz").await;
                let report = reply.json();
                let problem = report["sources"]["default/rows"]["problem"].as_str().unwrap_or_default().to_owned();
                (reply.status == 503 && report["ready"] == false && problem.contains(part)).then_some(problem)
            })
            .await
        }
    };
    assert_eq!(
        problem("open").await,
        "cannot open the database of sqlite:shop.db: unable to open database file; is the file there, and may this user read and write it?"
    );
    assert_eq!(process.admin("/livez").await.status, 200);
    // The other source takes events meanwhile, and `status` says what is the matter.
    let sent = koksmat(folder.path(), &["send", "-d", "{\"id\": \"queued\", \"what\": \"tea\"}"]).await;
    assert_eq!(sent.code, Some(0), "{}", sent.said());
    until("the queued event", || async { folder.value("row/queued") }).await;
    let status = koksmat(folder.path(), &["status"]).await.stdout;
    assert!(status.starts_with("not ready") && status.contains("rows (poller): cannot open the database of sqlite:shop.db"), "{status}");

    let database = rusqlite::Connection::open(folder.join("shop.db")).unwrap();
    database.execute_batch("create table customer (id text)").unwrap();
    let missing = problem("outbox").await;
    assert!(missing.contains("no such table: outbox") && missing.contains("sqlite:shop.db"), "{missing}");
    database.execute_batch("create table outbox (id text primary key, what text); insert into outbox values ('a', 'cup')").unwrap();
    process.ready().await;
    assert_eq!(until("the row", || async { folder.value("row/a") }).await, "cup");
    let ended = process.stop().await;
    assert_eq!(ended.code, Some(0));
    let said = ended.log.iter().filter(|line| line.contains("source cannot take events")).count();
    assert_eq!(said, 2, "once for each change:\n{}", ended.said());
}
