//! `koksmat pause` and `koksmat resume`

use std::time::Duration;

use koksmat::{Answer, Event, Part};
use koksmat_tests::{
    Folder, Inside, Process, TestHost,
    databases::Server,
    kafka::{BROKERS, Topic, unique},
    rabbitmq::{self, Rabbitmq},
    until,
};
use serde_json::json;

use super::{list, listing, lists, publish, refuses, says};

const ROWS: &str =
    "[sources.rows]\nkind = \"poller\"\ndatabase = \"sqlite:shop.db\"\nevery = \"20ms\"\nclaim = { table = \"outbox\", key = \"id\" }\n";

fn shop(folder: &Folder) -> rusqlite::Connection {
    let shop = rusqlite::Connection::open(folder.join("shop.db")).unwrap();
    shop.execute_batch("create table outbox (id text primary key)").unwrap();
    shop
}

fn insert(shop: &rusqlite::Connection, ids: &[&str]) {
    for id in ids {
        shop.execute("insert into outbox values (?1)", [id]).unwrap();
    }
}

fn marked(shop: &rusqlite::Connection) -> i64 {
    shop.query_row("select count(*) from koksmat_claims where done_at is not null", [], |row| row.get(0)).unwrap()
}

fn tasks(folder: &Folder) -> i64 {
    folder.count("select count(*) from task")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_handlers_events_wait_in_the_store_and_the_other_handler_of_the_source_goes_on() {
    let on = "on = [{ source = \"rows\" }]\ngrants = { keyvalue = true }";
    let folder = Folder::new().toml(ROWS).script("one", "one.js", &listing("one"), on).script("two", "two.js", &listing("two"), on);
    let shop = shop(&folder);
    let mut host = Process::start(&folder).await;
    insert(&shop, &["a"]);
    until("both to have it", async || (list(&folder, "one").len() + list(&folder, "two").len() == 2).then_some(())).await;
    let said = says(&folder, &["pause", "handler", "one"]).await;
    assert_eq!(said, "the handler `one` is paused: its events wait in the store until `koksmat resume`\n");
    insert(&shop, &["b", "c"]);
    // The source can mark its rows: what waits is in the store.
    until("the rows to be done", async || (marked(&shop) == 3).then_some(())).await;
    host.line("the handler `one` is paused").await;
    let status: serde_json::Value = serde_json::from_str(&says(&folder, &["status", "--json"]).await).unwrap();
    assert!(status["health"]["paused_handlers"]["default/one"].as_i64().unwrap() > 0 && status["health"]["ready"] == true, "{status}");
    assert!(says(&folder, &["status"]).await.contains("paused handlers\n  one: since "));
    assert!(host.admin("/metrics").await.text().contains("koksmat_paused{tenant=\"default\",part=\"handler\",name=\"one\"} 1"));
    let queue = &lists(&folder, &["queues", "--json"]).await[0];
    assert_eq!(
        (&queue["handler"], &queue["ready"], &queue["failed"], &queue["paused"]),
        (&json!("one"), &json!(2), &json!(0), &json!(true))
    );
    host.stops_well().await;

    let host = Process::start(&folder).await;
    insert(&shop, &["d"]);
    until("the row to be done", async || (marked(&shop) == 4).then_some(())).await;
    assert_eq!((list(&folder, "one").len(), list(&folder, "two").len(), tasks(&folder)), (1, 4, 3));
    assert_eq!(says(&folder, &["resume", "handler", "one"]).await, "the handler `one` goes on\n");
    until("what waited to be handled", async || (tasks(&folder) == 0).then_some(())).await;
    let mut handled = list(&folder, "one");
    handled.sort();
    assert_eq!(handled, ["a", "b", "c", "d"]);
    assert_eq!(says(&folder, &["resume", "handler", "one"]).await, "the handler `one` was not paused\n");
    host.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_source_takes_nothing_new_until_it_is_resumed_though_the_host_is_started_again() {
    let folder = Folder::new().toml(ROWS).queue("q").toml("[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\n").script(
        "all",
        "all.js",
        &listing("all"),
        "on = [{ type = \"*\" }]\ngrants = { keyvalue = true }",
    );
    let shop = shop(&folder);
    let host = Process::start(&folder).await;
    for source in ["rows", "q", "hook"] {
        let said = says(&folder, &["pause", "source", source]).await;
        assert_eq!(said, format!("the source `{source}` is paused: it takes nothing new until `koksmat resume`\n"));
    }
    host.stops_well().await;

    let host = Process::start(&folder).await;
    assert_eq!(host.admin("/readyz").await.status, 200, "a pause is no problem");
    assert!(says(&folder, &["status"]).await.contains("rows (poller): paused since "));
    insert(&shop, &["row"]);
    let refused = host.post("/hook", &[], r#"{"id": "hook"}"#).await;
    assert_eq!((refused.status, refused.headers["retry-after"].to_str().unwrap()), (503, "10"));
    assert_eq!(refused.json()["detail"], "the source is paused; send it again later");
    // A queue takes what is published: nothing is lost, and nothing is handed out.
    publish(&host, &folder, "", r#"{"id": "queued"}"#).await;
    // One that is not paused shows that the others had their time.
    says(&folder, &["resume", "source", "hook"]).await;
    assert_eq!(host.post("/hook", &[], r#"{"id": "hook"}"#).await.status, 202);
    until("the hook's event", async || (list(&folder, "all") == ["hook"]).then_some(())).await;
    assert_eq!(tasks(&folder), 1);
    host.stops_well().await;

    // Without a host the store remembers.
    says(&folder, &["resume", "source", "q"]).await;
    let host = Process::start(&folder).await;
    until("the queue's event", async || (list(&folder, "all") == ["hook", "queued"]).then_some(())).await;
    says(&folder, &["resume", "source", "rows"]).await;
    until("the row", async || (list(&folder, "all") == ["hook", "queued", "row"]).then_some(())).await;
    host.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_what_is_not_there_names_what_there_is() {
    let folder = Folder::new().queue("q").queue("r").script(
        "one",
        "one.js",
        &listing("one"),
        "on = [{ type = \"*\" }]\ngrants = { keyvalue = true }",
    );
    let host = Process::start(&folder).await;
    for _ in 0..2 {
        assert_eq!(refuses(&folder, &["pause", "source", "s"]).await.said(), "there is no source `s`; there are `q`, `r`");
        assert_eq!(refuses(&folder, &["resume", "handler", "two"]).await.said(), "there is no handler `two`; there is `one`");
        if folder.join("data/koksmat.sock").exists() {
            host.signal("TERM").await;
            until("the host to end", async || (!folder.join("data/koksmat.sock").exists()).then_some(())).await;
        }
    }
    assert_eq!(host.ended().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_address_pauses_for_whoever_has_the_token() {
    let folder = Folder::new().queue("q").script("one", "one.js", &listing("one"), "on = [{ type = \"*\" }]\ngrants = { keyvalue = true }");
    let host = Process::start(&folder).await;
    let bearer = format!("Bearer {}", folder.token());
    let call = async |call: &str, headers: &[(&str, &str)]| {
        koksmat_tests::host::request(&format!("http://{}/api/{call}", host.admin), "POST", headers, Default::default()).await
    };
    let with = [("authorization", bearer.as_str())];
    assert_eq!(call("pause?source=q", &[]).await.status, 401);
    assert_eq!(call("pause?source=q", &with).await.status, 200);
    assert_eq!(call("pause?source=q&handler=one", &with).await.status, 400);
    assert_eq!(call("pause?source=x", &with).await.status, 404);
    assert!(says(&folder, &["status"]).await.contains("q (embedded): paused since "));
    assert_eq!(call("resume?source=q", &with).await.json(), json!({ "resumed": true }));
    host.stops_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_is_paused_while_it_is_busy_keeps_its_order_and_the_lane() {
    let inside = Inside::start(Duration::from_secs(3600)).await;
    let script = r#"
        import { http, keyvalue } from "koksmat";
        export function handle(event) {
          const { url, id } = event.json();
          http.fetch(url, { method: "POST", body: id });
          keyvalue.set("all", [...JSON.parse(keyvalue.get("all") ?? "[]"), id]);
        }
    "#;
    let settings = |more: &str| {
        format!(
            "on = [{{ source = \"memory\" }}]\n{more}\ntimeout = \"120s\"\ngrants = {{ keyvalue = true, http = [\"{}\"] }}",
            inside.address()
        )
    };
    let folder = Folder::new().script("held", "held.js", script, &settings("atomic = true\norder = \"key\"")).script(
        "other",
        "other.js",
        &listing("other"),
        "on = [{ source = \"memory\" }]\natomic = true\ngrants = { keyvalue = true }",
    );
    let host = TestHost::start(folder).await;
    let event = |id: &str| {
        let mut event = Event::new("order", json!({ "url": inside.url(), "id": id }).to_string());
        event.subject = Some("anna".into());
        event
    };
    let mut answers = vec![host.memory.send(event("1")).await.unwrap()];
    inside.reached(1).await;
    answers.push(host.memory.send(event("2")).await.unwrap());
    host.host.pause(Part::Handler("held".into())).await.unwrap();
    answers.push(host.memory.send(event("3")).await.unwrap());
    // The call that runs goes on; the others wait behind it, and then in the store.
    inside.keep_for(Duration::ZERO);
    for answer in answers {
        assert!(matches!(answer.answer().await, Answer::Done { .. }));
    }
    assert_eq!(list(&host.folder, "all"), ["1"]);
    until("the other handler", async || (list(&host.folder, "other").len() == 3).then_some(())).await;
    assert!(matches!(host.handle(event("4")).await, Answer::Done { .. }));
    assert_eq!(host.host.paused(), [Part::Handler("held".into())]);
    assert!(host.host.resume(Part::Handler("held".into())).await.unwrap());
    host.settled().await;
    assert_eq!(list(&host.folder, "all"), ["1", "2", "3", "4"]);
    assert_eq!(inside.most(), 1);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_waits_for_a_paused_handler_is_told_to_come_again() {
    let folder = Folder::new().toml("[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\nreply = \"handler\"\n").script(
        "one",
        "one.js",
        &listing("one"),
        "on = [{ source = \"hook\" }]\ngrants = { keyvalue = true }",
    );
    let host = TestHost::start(folder).await;
    host.host.pause(Part::Handler("one".into())).await.unwrap();
    let reply = host.post("/hook", &[], r#"{"id": "1"}"#).await;
    assert_eq!((reply.status, reply.headers["retry-after"].to_str().unwrap()), (503, "10"));
    assert_eq!(reply.json()["detail"], "the handler takes no calls now; send it again later");
    host.host.resume(Part::Handler("one".into())).await.unwrap();
    assert_eq!(host.post("/hook", &[], r#"{"id": "1"}"#).await.status, 204);
    let (folder, stopped) = host.stop().await;
    assert_eq!((stopped.ledger.total.returned, tasks(&folder)), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_parts_are_paused_is_clean_though_senders_wait() {
    let folder = Folder::new().script("one", "one.js", &listing("one"), "on = [{ source = \"memory\" }]\ngrants = { keyvalue = true }");
    let host = TestHost::start(folder).await;
    host.host.pause(Part::Source("memory".into())).await.unwrap();
    let (memory, waiting) = (host.memory.clone(), Event::new("order", r#"{"id": "1"}"#));
    let sending = tokio::spawn(async move { memory.send(waiting).await.map(drop) });
    let (folder, stopped) = host.stop().await;
    assert!(sending.await.unwrap().is_err(), "it was not taken");
    assert_eq!((stopped.exit_code(), stopped.ledger.total.received, stopped.aborted.len()), (0, 0, 0));
    assert_eq!(list(&folder, "one").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_kafka_source_stays_in_its_group_and_takes_nothing() {
    let (topic, group) = (Topic::create("paused", 2).await, unique("g"));
    let source = format!(
        "[sources.orders]\nkind = \"kafka\"\nbrokers = \"{BROKERS}\"\ngroup = \"{group}\"\ntopics = [\"{}\"]\n\
         [sources.orders.settings]\n\"session.timeout.ms\" = 6000\n\"max.poll.interval.ms\" = 6000\n",
        topic.name
    );
    let folder = Folder::new().toml(&source).script(
        "all",
        "all.js",
        &listing("all"),
        "on = [{ source = \"orders\" }]\ngrants = { keyvalue = true }",
    );
    let host = Process::start(&folder).await;
    topic.produce([("k", r#"{"id": "1"}"#)]).await;
    until("the first", async || (list(&folder, "all") == ["1"]).then_some(())).await;
    says(&folder, &["pause", "source", "orders"]).await;
    topic.produce((2..100).map(|n| ("k", format!("{{\"id\": \"{n}\"}}")))).await;
    until("the reason", async || {
        let report = host.admin("/readyz").await.json();
        (report["sources"]["default/orders"]["held_back"] == "all 2 partitions are paused: the source is paused").then_some(())
    })
    .await;
    // A member that did not poll would be out of the group by then.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(list(&folder, "all"), ["1"]);
    says(&folder, &["resume", "source", "orders"]).await;
    until("the rest", async || (list(&folder, "all").len() == 99).then_some(())).await;
    let assigned = host.log().iter().filter(|line| line.contains("partitions assigned")).count();
    assert_eq!(assigned, 1, "it never left its group: {}", host.log().join("\n"));
    says(&folder, &["pause", "source", "orders"]).await;
    let ledger = host.stops_well().await;
    assert_eq!((&ledger["done"], topic.committed(&group).await), (&json!(99), topic.ends().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_rabbitmq_source_has_no_consumer_and_leaves_its_messages_to_others() {
    let (broker, queue) = (Rabbitmq::connect().await, rabbitmq::name("paused"));
    broker.queue(&queue, &[("x-queue-type", rabbitmq::text("classic"))]).await;
    let source = format!("[sources.orders]\nkind = \"rabbitmq\"\nurl = \"{}\"\nqueue = \"{queue}\"\n", rabbitmq::URL);
    let folder = Folder::new().toml(&source).script(
        "all",
        "all.js",
        &listing("all"),
        "on = [{ source = \"orders\" }]\ngrants = { keyvalue = true }",
    );
    let body = |n: usize| format!("{{\"id\": \"{n}\"}}");
    let host = Process::start(&folder).await;
    broker.publish_bodies(&queue, "a", 3, body).await;
    until("the first", async || (list(&folder, "all").len() == 3).then_some(())).await;
    says(&folder, &["pause", "source", "orders"]).await;
    until("the consumer to go", async || (broker.consumers(&queue).await == 0).then_some(())).await;
    broker.publish_bodies(&queue, "b", 3, body).await;
    assert_eq!(broker.count(&queue).await, 3);
    host.stops_well().await;

    let host = Process::start(&folder).await;
    assert_eq!((broker.consumers(&queue).await, broker.count(&queue).await), (0, 3));
    says(&folder, &["resume", "source", "orders"]).await;
    until("the rest", async || (list(&folder, "all").len() == 6).then_some(())).await;
    host.stops_well().await;
    assert_eq!(broker.count(&queue).await, 0);
    broker.delete(&queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_on_one_host_is_paused_on_all_that_share_its_store() {
    let database = Server::Postgres.database("paused").await;
    let folder = || {
        Folder::new().host("store = \"file:store-url\"").file("store-url", database.url()).queue("q").script(
            "one",
            "one.js",
            "import { keyvalue } from \"koksmat\";\nexport function handle() { keyvalue.add(\"n\", 1); }\n",
            "on = [{ source = \"q\" }]\ngrants = { keyvalue = true }",
        )
    };
    let (a, b) = (folder(), folder());
    let (mut one, mut other) = (Process::start(&a).await, Process::start(&b).await);
    says(&a, &["pause", "handler", "one"]).await;
    one.line("the handler `one` is paused").await;
    other.line("the handler `one` is paused").await;
    publish(&other, &b, "", "{}").await;
    assert_eq!(lists(&a, &["queues", "--json"]).await[0]["paused"], true);
    let status = says(&b, &["status"]).await;
    assert_eq!(status.matches("(this one)").count(), 1, "{status}");
    assert_eq!(status.lines().skip_while(|line| !line.starts_with("hosts that share the store")).count(), 3, "{status}");
    one.stops_well().await;
    // Without a host on this machine the store is asked.
    says(&a, &["resume", "handler", "one"]).await;
    other.line("the handler `one` goes on").await;
    let mut connection = database.connect().await;
    connection.until("SELECT count(*) FROM koksmat.task", 0).await;
    other.stops_well().await;
    database.drop().await;
}
