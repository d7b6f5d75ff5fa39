//! A stop is accounted for: nothing is lost, nothing is done twice, the ledger balances and the exit code says how it went.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use koksmat::{Answer, Event, Host, Source, SourceContext, SourceError};
use koksmat_tests::{
    Folder, Inside, Process, TestHost, Traffic,
    host::{request, try_request},
    process::koksmat,
    until, within,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio_util::sync::CancellationToken;

mod many;

/// Long enough never to be what ends a wait.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// Calls the outside resource, then counts the event.
const HELD: &str = r#"
    import { http, keyvalue } from "koksmat";
    export function handle(event, ctx) {
      const { url, id } = event.json();
      http.fetch(url, { method: "POST", body: id });
      keyvalue.add(id, 1);
      return { id };
    }
"#;

fn held(inside: &Inside) -> String {
    format!("timeout = \"120s\"\ngrants = {{ keyvalue = true, http = [\"{}\"] }}\n", inside.address())
}

async fn publish(host: &Process, folder: &Folder, data: &serde_json::Value) -> u16 {
    let bearer = format!("Bearer {}", folder.token());
    host.post("/queues/queue", &[("authorization", &bearer), ("content-type", "application/json")], data.to_string()).await.status
}

/// What is not listed is zero.
fn counts(ledger: &serde_json::Value) -> [u64; 5] {
    ["received", "done", "dead", "parked", "returned"].map(|name| ledger["ledger"][name].as_u64().unwrap())
}

fn assert_balanced(ledger: &serde_json::Value) {
    let [received, done, dead, parked, returned] = counts(ledger);
    assert_eq!(received, done + dead + parked + returned, "{ledger}");
    assert_eq!(ledger["ledger"]["balanced"], true, "{ledger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_from_all_sources_loses_nothing_and_does_nothing_twice() {
    let inside = Inside::start(Duration::from_millis(10)).await;
    let traffic = Traffic::new(&inside, "concurrency = 8");
    for signal in ["TERM", "INT", "TERM"] {
        let host = Process::start(&traffic.folder).await;
        let sending = traffic.send_to(&host);
        traffic.flows(20).await;
        host.signal(signal).await;
        let ended = host.ended().await;
        sending.stop().await;
        assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
        assert_balanced(&ended.ledger());
    }
    let host = Process::start(&traffic.folder).await;
    traffic.handled().await;
    let ended = host.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
    assert_balanced(&ended.ledger());
    traffic.check();
}

/// Calls of every kind of source that are held outside, and some that wait behind them: five run, three wait.
struct Held {
    folder: Folder,
    inside: Inside,
}

impl Held {
    fn folder(inside: &Inside, host: &str) -> Folder {
        let folder = Folder::new()
            .host(host)
            .queue("queue")
            .toml("[sources.ask]\nkind = \"webhook\"\npath = \"/ask\"\nreply = \"handler\"")
            .toml("[sources.rows]\nkind = \"poller\"\ndatabase = \"sqlite:rows.db\"\nevery = \"20ms\"\nclaim = { table = \"row\", key = \"id\" }")
            .script("held", "held.js", HELD, &format!("{}on = [{{ source = \"queue\", type = \"held\" }}, {{ source = \"rows\" }}]", held(inside)))
            .handler("lane", "held.js", &format!("{}atomic = true\non = [{{ source = \"queue\", type = \"lane\" }}]", held(inside)))
            .handler("answer", "held.js", &format!("{}on = [{{ source = \"ask\" }}]", held(inside)));
        let rows = rusqlite::Connection::open(folder.join("rows.db")).unwrap();
        rows.execute_batch("create table row (id text primary key, url text)").unwrap();
        rows.execute("insert into row values ('row', ?1)", [inside.url()]).unwrap();
        folder
    }

    /// Start, and bring all of them in. The answer to the webhook's sender is the last.
    async fn start(host: &str) -> (Self, Process, tokio::task::JoinHandle<u16>) {
        let inside = Inside::start(FOR_EVER).await;
        let folder = Self::folder(&inside, &format!("concurrency = 4\n{host}"));
        let process = Process::start(&folder).await;
        // Before anything else can take its permit.
        inside.reached_by("row").await;
        let (url, body) = (format!("http://{}/ask", process.listen), json!({ "url": inside.url(), "id": "answer" }).to_string());
        let asked = tokio::spawn(async move { request(&url, "POST", &[], body.into()).await.status });
        inside.reached_by("answer").await;
        for (ty, id) in
            [("lane", "lane-1"), ("lane", "lane-2"), ("held", "held-1"), ("held", "held-2"), ("held", "held-3"), ("held", "held-4")]
        {
            let bearer = format!("Bearer {}", folder.token());
            let data = json!({ "url": inside.url(), "id": id }).to_string();
            let reply = process.post(&format!("/queues/queue?type={ty}"), &[("authorization", &bearer)], data).await;
            assert_eq!(reply.status, 202);
        }
        inside.reached(5).await;
        // Those that wait are in the host too.
        until("all to be claimed", || async { (folder.count("select count(*) from task where state = 1") == 6).then_some(()) }).await;
        (Self { folder, inside }, process, asked)
    }

    /// Restart: what went back is handled now, what was answered with 503 is not.
    async fn check_restart(self) {
        self.inside.keep_for(Duration::ZERO);
        let folder = self.folder.replace_host("listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n");
        let process = Process::start(&folder).await;
        until("everything that went back to be handled", || async {
            (folder.count("select count(*) from kv") == 7 && folder.count("select count(*) from task") == 0).then_some(())
        })
        .await;
        let ended = process.stop().await;
        assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
        assert_eq!(counts(&ended.ledger()), [7, 7, 0, 0, 0]);
        assert_eq!(folder.count("select count(*) from kv where cast(value as text) = '1'"), 7);
        assert_eq!(folder.value("answer"), None, "its sender was told to try again, and has not");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_drain_deadline_goes_back_and_is_handled_after_the_restart() {
    let (held, process, asked) = Held::start("drain-deadline = \"300ms\"").await;
    let began = Instant::now();
    let ended = process.stop().await;
    assert_eq!(ended.code, Some(3), "{}", ended.log.join("\n"));
    assert!(began.elapsed() >= Duration::from_millis(300), "calls in flight have until the deadline");
    assert_eq!(counts(&ended.ledger()), [8, 0, 0, 0, 8]);
    assert_balanced(&ended.ledger());
    assert_eq!(asked.await.unwrap(), 503);
    held.check_restart().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_cuts_at_once() {
    let (held, mut process, asked) = Held::start("drain-deadline = \"none\"\ndrain-delay = \"10m\"").await;
    process.signal("TERM").await;
    process.line("stopping").await;
    let began = Instant::now();
    process.signal("INT").await;
    let ended = process.ended().await;
    assert_eq!(ended.code, Some(3), "{}", ended.log.join("\n"));
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    assert_eq!(counts(&ended.ledger()), [8, 0, 0, 0, 8]);
    assert_eq!(asked.await.unwrap(), 503);
    held.check_restart().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_finish_and_what_has_not_started_is_never_started() {
    let (held, mut process, asked) = Held::start("drain-deadline = \"none\"").await;
    process.signal("TERM").await;
    process.line("what has not started is returned").await;
    held.inside.keep_for(Duration::ZERO);
    let ended = process.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
    assert_eq!(counts(&ended.ledger()), [8, 5, 0, 0, 3]);
    assert_eq!(asked.await.unwrap(), 200);
    assert_eq!(held.inside.entered().len(), 5);
    let process = Process::start(&held.folder).await;
    held.inside.reached(8).await;
    until("the rest to be handled", || async { (held.folder.count("select count(*) from task") == 0).then_some(()) }).await;
    let ended = process.stop().await;
    assert_eq!((ended.code, counts(&ended.ledger())), (Some(0), [3, 3, 0, 0, 0]));
    assert_eq!(held.folder.count("select count(*) from kv where cast(value as text) = '1'"), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_turns_false_first_and_senders_are_served_until_the_stop_begins() {
    for signal in ["TERM", "INT"] {
        let inside = Inside::start(FOR_EVER).await;
        let folder = Folder::new()
            .host("drain-delay = \"1500ms\"")
            .queue("queue")
            .toml("[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"")
            .script("held", "held.js", HELD, &format!("{}on = [{{ source = \"queue\" }}, {{ source = \"hook\" }}]", held(&inside)));
        let mut process = Process::start(&folder).await;
        process.signal(signal).await;
        let readyz = format!("http://{}/readyz", process.admin);
        let ready = || async { request(&readyz, "GET", &[], Default::default()).await };
        until("readiness to turn false", || async { (ready().await.status == 503).then_some(()) }).await;
        assert!(!process.log().iter().any(|line| line.contains("sources stop taking")), "the delay was too short for this machine");
        assert_eq!(publish(&process, &folder, &json!({ "url": inside.url(), "id": "queue" })).await, 202);
        assert_eq!(process.post("/hook", &[], json!({ "url": inside.url(), "id": "hook" }).to_string()).await.status, 202);
        inside.reached(2).await;

        process.line("what has not started is returned").await;
        // Two calls are still held: the stop is not over, and nobody is served any more.
        let refused = try_request(&format!("http://{}/hook", process.listen), "POST", &[], "{}".into()).await;
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(ready().await.json()["phase"], "draining");
        inside.keep_for(Duration::ZERO);
        let ended = process.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
        assert_eq!(counts(&ended.ledger()), [2, 2, 0, 0, 0]);
        assert_eq!((folder.value("queue").as_deref(), folder.value("hook").as_deref()), (Some("1"), Some("1")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_nothing_to_do_is_quick_and_clean() {
    let folder = Folder::new().queue("queue").script(
        "held",
        "held.js",
        HELD,
        "on = [{ source = \"queue\" }]\ngrants = { keyvalue = true, http = [\"127.0.0.1:1\"] }",
    );
    let process = Process::start(&folder).await;
    // A connection without a request keeps nobody.
    let idle = tokio::net::TcpStream::connect(&process.listen).await.unwrap();
    let began = Instant::now();
    let ended = process.stop().await;
    assert!(began.elapsed() < Duration::from_secs(4), "it took {:?}", began.elapsed());
    assert_eq!((ended.code, counts(&ended.ledger())), (Some(0), [0; 5]));
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_nobody_reads_is_no_reason_to_end_badly() {
    let folder = Folder::new().queue("queue").script(
        "held",
        "held.js",
        HELD,
        "on = [{ source = \"queue\" }]\ngrants = { keyvalue = true, http = [\"127.0.0.1:1\"] }",
    );
    let mut process = Process::start(&folder).await;
    process.close_stdout();
    let ended = process.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
}

/// What one boot that fails says, and that the folder works when it is put right.
struct Failing {
    folder: Folder,
    code: i32,
    says: Vec<String>,
}

impl Failing {
    async fn check(self, put_right: impl FnOnce(Folder) -> Folder) {
        let Self { folder, code, says } = self;
        let ended = Process::spawn(&folder, &[]).ended().await;
        let log = ended.log.join("\n");
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{log}");
        for text in says {
            assert!(log.contains(&text), "`{text}` is not in:\n{log}");
        }
        assert!(!log.contains("panicked"), "{log}");
        let folder = put_right(folder);
        let ended = Process::start(&folder).await.stop().await;
        assert_eq!(ended.code, Some(0), "after it was put right: {}", ended.log.join("\n"));
    }
}

fn simple() -> Folder {
    Folder::new().queue("queue").script("ok", "ok.js", "export function handle() {}", "on = [{ source = \"queue\" }]")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_fails_says_why_and_leaves_nothing_behind() {
    let says = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();

    // Configuration.
    let ended = Process::spawn(&simple().toml("[sources.queue2]\nkind = \"embeded\""), &[]).ended().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{:?}", ended.log);
    assert!(ended.log.join("\n").contains("koksmat.toml:"), "{:?}", ended.log);

    // Store.
    let running_folder = simple();
    let running = Process::start(&running_folder).await;
    let second = Process::spawn(&running_folder, &[]).ended().await;
    assert_eq!((second.code, second.stdout.as_str()), (Some(1), ""));
    let text = second.log.join("\n");
    assert!(text.contains("store:") && text.contains(&format!("in use by the process {}", running.pid())), "{text}");
    assert_eq!(running.stop().await.code, Some(0), "the first is not disturbed");

    let folder = simple().host("store = \"sqlite:/proc/koksmat/koksmat.db\"");
    let ended = Process::spawn(&folder, &[]).ended().await;
    assert_eq!(ended.code, Some(1), "{:?}", ended.log);
    assert!(ended.log.join("\n").contains("/proc/koksmat"), "{:?}", ended.log);

    let folder = simple()
        .file("data/koksmat.db", "this is no database, and longer than the header of one would be: 0123456789 0123456789 0123456789");
    Failing { folder, code: 1, says: says(&["store:", "koksmat.db"]) }
        .check(|folder| {
            std::fs::remove_file(folder.join("data/koksmat.db")).unwrap();
            folder
        })
        .await;

    // Plugins.
    let folder = simple().file("ok.js", "export function handle( {");
    Failing { folder, code: 2, says: says(&["plugins:", "ok.js:1"]) }
        .check(|folder| folder.file("ok.js", "export function handle() {}"))
        .await;

    // Listeners.
    for what in ["listen", "admin"] {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let other = if what == "listen" { "admin" } else { "listen" };
        let folder = simple().replace_host(&format!("{what} = \"{address}\"\n{other} = \"127.0.0.1:0\"\n"));
        let phase = if what == "listen" { "listener:" } else { "admin listener:" };
        Failing { folder, code: 1, says: says(&[phase, &format!("cannot listen on {address}")]) }
            .check(|folder| {
                drop(taken);
                folder
            })
            .await;
    }

    // Token and control socket.
    let folder = simple().file("data/token", "short");
    Failing { folder, code: 1, says: says(&["token:", "data/token"]) }
        .check(|folder| {
            std::fs::remove_file(folder.join("data/token")).unwrap();
            folder
        })
        .await;
    let folder = simple().file("data/token/in-the-way", "");
    Failing { folder, code: 1, says: says(&["token:", "data/token"]) }
        .check(|folder| {
            std::fs::remove_dir_all(folder.join("data/token")).unwrap();
            folder
        })
        .await;
    let folder = simple().file("data/koksmat.sock/in-the-way", "");
    Failing { folder, code: 1, says: says(&["control socket:", "koksmat.sock"]) }
        .check(|folder| {
            std::fs::remove_dir_all(folder.join("data/koksmat.sock")).unwrap();
            folder
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_at_any_moment_of_the_boot_is_a_clean_stop() {
    let mut random = StdRng::seed_from_u64(4);
    let folder = simple();
    for round in 0..30 {
        let process = Process::spawn(&folder, &[]);
        process.arms_its_signals().await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        let signal = if round % 2 == 0 { "TERM" } else { "INT" };
        process.signal(signal).await;
        let began = Instant::now();
        let ended = process.ended().await;
        assert_eq!(ended.code, Some(0), "round {round}: {}", ended.log.join("\n"));
        assert!(began.elapsed() < Duration::from_secs(10), "round {round} took {:?}", began.elapsed());
        if !ended.stdout.is_empty() {
            assert_balanced(&ended.ledger());
        }
    }
    let process = Process::start(&folder).await;
    assert_eq!(publish(&process, &folder, &json!({})).await, 202);
    until("the event to be handled", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
    let ended = process.stop().await;
    assert_eq!((ended.code, counts(&ended.ledger())), (Some(0), [1, 1, 0, 0, 0]));
    assert!(koksmat(folder.path(), &["check"]).await.code == Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_host_stops_with_the_same_ledger() {
    let inside = Inside::start(FOR_EVER).await;
    let folder = Folder::new().host("concurrency = 1\ndrain-deadline = \"none\"").queue("queue").script(
        "held",
        "held.js",
        HELD,
        &format!("{}on = [{{ source = \"queue\" }}, {{ source = \"memory\" }}]", held(&inside)),
    );
    let host = TestHost::start(folder).await;
    let event = |id: &str| Event::json("held", &json!({ "url": inside.url(), "id": id })).unwrap();
    let first = host.memory.send(event("first")).await.unwrap();
    inside.reached(1).await;
    let second = host.memory.send(event("second")).await.unwrap();
    host.publish("queue", "held", &json!({ "url": inside.url(), "id": "third" })).await;
    until("all to be inside the host", || async { (host.host.ledger().total.received == 3).then_some(()) }).await;
    let (health, memory) = (host.host.health().clone(), host.memory.clone());
    let stop = tokio::spawn(host.stop());
    assert!(matches!(within("the second", second.answer()).await, Answer::Again { .. }), "it was never started");
    assert!(!health.report().ready);
    assert!(memory.send(event("late")).await.is_err());
    inside.keep_for(Duration::ZERO);
    assert!(matches!(within("the first", first.answer()).await, Answer::Done { .. }));
    let (folder, stopped) = within("the stop", stop).await.unwrap();
    let total = stopped.ledger.total;
    assert_eq!((total.received, total.done, total.returned), (3, 1, 2));
    assert_eq!((stopped.exit_code(), stopped.aborted.len()), (0, 0));
    assert_eq!(stopped.ledger.sources["queue"].returned, 1);
    assert_eq!(folder.value("first").as_deref(), Some("1"));
    let host = TestHost::start(folder).await;
    host.settled().await;
    let (folder, _) = host.stop().await;
    assert_eq!(folder.value("third").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_dropped_lets_go_of_its_store_at_once_and_everything_comes_again() {
    let inside = Inside::start(FOR_EVER).await;
    let mut folder = Held::folder(&inside, "drain-deadline = \"1h\"");
    for round in 0..3 {
        let host = TestHost::start(folder).await;
        if round == 0 {
            for id in ["one", "two"] {
                host.publish("queue", "held", &json!({ "url": inside.url(), "id": id })).await;
            }
            inside.reached_by("one").await;
            inside.reached_by("two").await;
        } else {
            inside.reached(1).await;
        }
        if round == 0 {
            // Later nothing runs beside a suspect.
            inside.reached_by("row").await;
        }
        let (listen, health) = (host.host.listen_address(), host.host.health().clone());
        let TestHost { folder: the_folder, host, memory } = host;
        folder = the_folder;
        match round {
            // Dropped as it runs, and while it stops.
            0 | 2 => drop(host),
            _ => {
                let stop = host.shutdown();
                tokio::pin!(stop);
                tokio::select! {
                    _ = &mut stop => panic!("calls are in flight"),
                    () = health.wait_for(|report| !report.ready) => {}
                }
            }
        }
        inside.forget();
        assert!(within("an answer", memory.send(Event::new("late", ""))).await.is_err(), "nothing takes events any more");
        until("its listener to be closed", || async { tokio::net::TcpStream::connect(listen).await.is_err().then_some(()) }).await;
        until("its calls to be gone", || async { (inside.now() == 0).then_some(()) }).await;
    }
    inside.keep_for(Duration::ZERO);
    let host = TestHost::start(folder).await;
    host.settled().await;
    until("the row to be handled", || async { host.folder.value("row") }).await;
    let (folder, _) = host.stop().await;
    for id in ["one", "two", "row"] {
        assert_eq!(folder.value(id).as_deref(), Some("1"), "{id}");
    }
}

/// A source that does what it should not.
struct Odd {
    runs: Arc<AtomicUsize>,
    gone: Arc<AtomicBool>,
    /// One that waits is ready only when the test lets it be.
    well: CancellationToken,
    does: fn(usize) -> Does,
}

enum Does {
    Ignore,
    Panic,
    Return,
    Fail,
    Wait,
}

struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Odd {
    fn new(does: fn(usize) -> Does) -> (Self, Arc<AtomicUsize>, Arc<AtomicBool>) {
        let (runs, gone) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        (Self { runs: runs.clone(), gone: gone.clone(), well: CancellationToken::new(), does }, runs, gone)
    }
}

impl Source for Odd {
    fn kind(&self) -> &str {
        "odd"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let _gone = Gone(self.gone.clone());
            match (self.does)(run) {
                Does::Ignore => {
                    ctx.ready();
                    std::future::pending().await
                }
                Does::Panic => panic!("out of sorts"),
                Does::Return => Ok(()),
                Does::Fail => Err(SourceError::new("nobody home")),
                Does::Wait => {
                    self.well.cancelled().await;
                    ctx.ready();
                    ctx.stopping().cancelled().await;
                    Ok(())
                }
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_ends_is_started_again_and_shown_and_disturbs_no_other() {
    let odd: [(&str, &str, fn(usize) -> Does); 3] = [
        ("panics", "it panicked: out of sorts", |run| if run < 2 { Does::Panic } else { Does::Wait }),
        ("returns", "it returned before the host stopped", |run| if run < 2 { Does::Return } else { Does::Wait }),
        ("fails", "nobody home", |run| if run < 2 { Does::Fail } else { Does::Wait }),
    ];
    let folder = simple();
    let mut builder = Host::builder().config(folder.config_with(&["panics", "returns", "fails"]));
    let mut runs = Vec::new();
    let well = CancellationToken::new();
    for (name, _, does) in odd {
        let (source, count, _) = Odd::new(does);
        builder = builder.source(name, 1, Odd { well: well.clone(), ..source });
        runs.push(count);
    }
    let host = builder.build().await.unwrap();
    for (name, problem, _) in odd {
        let is_shown = |report: &koksmat::health::Report| {
            let source = &report.sources[&format!("default/{name}")];
            !report.ready && source.problem.as_deref() == Some(problem) && source.restarts >= 1 && report.sources["default/queue"].ready
        };
        within("readiness to show the source", host.health().wait_for(is_shown)).await;
    }
    // The queue takes and handles events all the while.
    let bearer = format!("Bearer {}", folder.token());
    let url = format!("http://{}/queues/queue", host.listen_address());
    assert_eq!(request(&url, "POST", &[("authorization", &bearer)], "{}".into()).await.status, 202);
    until("the event to be handled", || async { (host.ledger().total.done == 1).then_some(()) }).await;
    well.cancel();
    within("the sources to be back", host.ready()).await;
    let report = host.health().report();
    for ((name, _, _), runs) in odd.iter().zip(runs) {
        assert_eq!((runs.load(Ordering::SeqCst), report.sources[&format!("default/{name}")].restarts), (3, 2), "{name}");
    }
    let stopped = within("the stop", host.shutdown()).await;
    assert_eq!((stopped.exit_code(), stopped.aborted), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_ignores_its_stop_is_aborted_and_named() {
    let folder = simple();
    let (source, _, gone) = Odd::new(|_| Does::Ignore);
    let host = Host::builder().config(folder.config_with(&["deaf"])).source("deaf", 1, source).build().await.unwrap();
    within("readiness", host.ready()).await;
    let bearer = format!("Bearer {}", folder.token());
    let url = format!("http://{}/queues/queue", host.listen_address());
    assert_eq!(request(&url, "POST", &[("authorization", &bearer)], "{}".into()).await.status, 202);
    until("the event to be handled", || async { (host.ledger().total.done == 1).then_some(()) }).await;
    let stopped = within("the stop", host.shutdown()).await;
    assert_eq!(stopped.aborted, ["deaf"]);
    assert!(gone.load(Ordering::SeqCst), "it runs no more");
    assert_eq!((stopped.exit_code(), stopped.ledger.total.done), (0, 1));
    assert_eq!(folder.count("select value from meta where name = 'clean'"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_besides_calls_does_not_outlast_the_deadline_by_more_than_a_second() {
    const DEADLINE: Duration = Duration::from_millis(300);
    let folder = simple().host(&format!("drain-deadline = \"{}ms\"", DEADLINE.as_millis()));
    let (source, _, _) = Odd::new(|_| Does::Ignore);
    let host = Host::builder().config(folder.config_with(&["deaf"])).source("deaf", 1, source).build().await.unwrap();
    within("readiness", host.ready()).await;
    let began = Instant::now();
    let stopped = within("the stop", host.shutdown()).await;
    assert_eq!(stopped.aborted, ["deaf"], "else this could not fail");
    assert!(began.elapsed() <= DEADLINE + Duration::from_secs(1), "it took {:?}", began.elapsed());
}
