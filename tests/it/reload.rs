//! Handlers, sources and grants change while the host runs: what is in flight does not notice, and what is wrong never serves.

mod dev;
mod figures;
mod saving;
mod sources;
mod versions;
mod wrong;

use std::{path::Path, time::Duration};

use koksmat::reload::Reloaded;
use koksmat_tests::{Folder, Inside, TestHost, guests, until};
use serde_json::json;

/// A webhook that is answered by what its handler returns.
const ANSWERED: &str = "[sources.ask]\nkind = \"webhook\"\npath = \"/ask\"\nreply = \"handler\"\n";
const ON: &str = "on = { source = \"ask\" }";

fn says(what: &str) -> String {
    format!("export function handle() {{ return {what:?}; }}\n")
}

async fn ask(host: &TestHost) -> String {
    host.post("/ask", &[], "").await.text()
}

/// Wait until the handler answers so.
async fn answers(host: &TestHost, what: &str) {
    until(&format!("the answer {what:?}"), async || (ask(host).await == what).then_some(())).await;
}

fn kept_old(reloaded: &Reloaded) -> String {
    match reloaded {
        Reloaded::KeptOld { reasons } => reasons.join("\n"),
        other => panic!("{other:?}"),
    }
}

fn applied(reloaded: &Reloaded) -> Vec<String> {
    match reloaded {
        Reloaded::Applied { changes, .. } => changes.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

/// Counts events under the name of its handler.
const COUNT: &str = "import { keyvalue } from \"koksmat\";\nexport function handle(event, ctx) { keyvalue.set(ctx.handler, Number(keyvalue.get(ctx.handler) ?? 0) + 1); }\n";

fn append(host: &TestHost, toml: &str) {
    let file = host.folder.join("koksmat.toml");
    write(&file, &(std::fs::read_to_string(&file).unwrap() + toml));
}

fn replace(host: &TestHost, old: &str, new: &str) {
    let file = host.folder.join("koksmat.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(old), "{text}");
    write(&file, &text.replace(old, new));
}

fn write(path: impl AsRef<Path>, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_script_that_is_saved_serves() {
    let host = TestHost::start(Folder::new().toml(ANSWERED).script("answer", "answer.js", &says("one"), ON)).await;
    assert_eq!(ask(&host).await, "one");
    write(host.folder.join("answer.js"), &says("two"));
    answers(&host, "two").await;
    // As editors do: beside it, and over it.
    write(host.folder.join("answer.js~"), &says("three"));
    std::fs::rename(host.folder.join("answer.js~"), host.folder.join("answer.js")).unwrap();
    answers(&host, "three").await;
    // Truncated, and written a while later.
    write(host.folder.join("answer.js"), "");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(ask(&host).await, "three");
    write(host.folder.join("answer.js"), &says("four"));
    answers(&host, "four").await;
    host.stop().await;
}

#[tokio::test]
async fn a_file_that_a_script_imports_is_watched_too() {
    let script = "import { what } from \"./lib/what.ts\";\nexport function handle() { return what; }\n";
    let folder = Folder::new().toml(ANSWERED).script("answer", "answer.js", script, ON);
    let host = TestHost::start(folder.file("lib/what.ts", "export const what: string = \"one\";\n")).await;
    assert_eq!(ask(&host).await, "one");
    write(host.folder.join("lib/what.ts"), "export const what: string = \"two\";\n");
    answers(&host, "two").await;
    host.stop().await;
}

#[tokio::test]
async fn a_component_that_is_replaced_serves() {
    let folder = Folder::new().toml(ANSWERED).file("answer.wasm", guests::version(1)).handler("answer", "answer.wasm", ON);
    let host = TestHost::start(folder).await;
    assert_eq!(ask(&host).await, "koksmat-version-00000001");
    std::fs::write(host.folder.join("new.wasm"), guests::version(2)).unwrap();
    std::fs::rename(host.folder.join("new.wasm"), host.folder.join("answer.wasm")).unwrap();
    answers(&host, "koksmat-version-00000002").await;
    host.stop().await;
}

#[tokio::test]
async fn what_a_command_is_made_from_is_watched_and_what_it_makes_serves() {
    let command = "[\"sh\", \"-c\", \"grep -q . from.wasm && cp from.wasm made.wasm || { echo from.wasm:1: nothing there >&2; false; }\"]";
    let build = format!("build = {{ command = {command}, output = \"source/made.wasm\" }}\n{ON}");
    let folder = Folder::new().toml(ANSWERED).file("source/from.wasm", guests::version(1)).handler("answer", "source", &build);
    let host = TestHost::start(folder).await;
    assert_eq!(ask(&host).await, "koksmat-version-00000001");
    std::fs::write(host.folder.join("source/from.wasm"), guests::version(2)).unwrap();
    answers(&host, "koksmat-version-00000002").await;
    // It fails: what was made before serves on, and the next save is tried.
    write(host.folder.join("source/from.wasm"), "");
    let reason = kept_old(&host.host.reload(false).await);
    assert!(reason.contains("from.wasm:1: nothing there"), "{reason}");
    assert_eq!(ask(&host).await, "koksmat-version-00000002");
    std::fs::write(host.folder.join("source/from.wasm"), guests::version(3)).unwrap();
    answers(&host, "koksmat-version-00000003").await;
    host.stop().await;
}

#[tokio::test]
async fn a_configuration_that_is_saved_while_the_host_boots_serves() {
    // The boot waits for what builds the handler, and that is when it is saved.
    let build = "cp from.wasm made.wasm\ngrep -q /later ../koksmat.toml || sed -i 's|/ask|/later|' ../koksmat.toml\n";
    let made = format!("build = {{ command = [\"sh\", \"build.sh\"], output = \"source/made.wasm\" }}\n{ON}");
    let folder = Folder::new().toml(ANSWERED).file("source/from.wasm", guests::version(1)).file("source/build.sh", build);
    let host = TestHost::start(folder.handler("answer", "source", &made)).await;
    until("the path that was saved", async || (host.post("/later", &[], "").await.status == 200).then_some(())).await;
    host.stop().await;
}

#[tokio::test]
async fn a_tool_that_writes_in_its_own_folder_is_not_run_for_ever() {
    let build = |writes: &str| {
        let script = format!("echo >> ../built; echo {writes} > bindings.txt; cp from.wasm made.wasm");
        format!("build = {{ command = [\"sh\", \"-c\", {script:?}], output = \"source/made.wasm\" }}\n{ON}")
    };
    let settings = build("the same");
    let folder = Folder::new().toml(ANSWERED).file("source/from.wasm", guests::version(1)).handler("answer", "source", &settings);
    let host = TestHost::start(folder).await;
    let built = || std::fs::read_to_string(host.folder.join("built")).unwrap().len();
    std::fs::write(host.folder.join("source/from.wasm"), guests::version(2)).unwrap();
    answers(&host, "koksmat-version-00000002").await;
    // It is known for what it is: what it writes is there already, and the same.
    let rests = async || {
        until("the tool to rest", async || {
            let before = built();
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            (built() == before).then_some(before)
        })
        .await
    };
    let before = rests().await;
    assert!(before <= 5, "{before} builds of two versions");
    std::fs::write(host.folder.join("source/from.wasm"), guests::version(3)).unwrap();
    answers(&host, "koksmat-version-00000003").await;
    assert!(rests().await <= before + 2);

    // Another file each time: it is built ever less often.
    replace(&host, "echo the same", "echo $(date +%N)");
    let changed = built();
    until("some builds", async || (built() >= changed + 6).then_some(())).await;
    let before = built();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(built() <= before + 2, "{} builds in five seconds", built() - before);
    host.stop().await;
}

#[tokio::test]
async fn no_two_tools_work_in_one_folder_at_once() {
    let script = "mkdir busy || echo >> ../overlaps; sleep 0.3; echo 1; cp from.wasm made.wasm; rmdir busy";
    let settings = format!("build = {{ command = [\"sh\", \"-c\", {script:?}], output = \"source/made.wasm\" }}\n{ON}");
    let folder = Folder::new().toml(ANSWERED).file("source/from.wasm", guests::version(1)).handler("answer", "source", &settings);
    let host = TestHost::start(folder).await;
    for version in 2..6 {
        // The command that makes it changes, and while that runs, what it is made from does.
        replace(&host, &format!("echo {}", version - 1), &format!("echo {version}"));
        until("the reload to begin", async || host.folder.join("source/busy").exists().then_some(())).await;
        std::fs::write(host.folder.join("source/from.wasm"), guests::version(version)).unwrap();
        answers(&host, &format!("koksmat-version-{version:08}")).await;
    }
    assert!(!host.folder.join("overlaps").exists());
    host.stop().await;
}

#[tokio::test]
async fn who_saves_again_and_again_waits_for_no_more_than_the_build() {
    let settings = format!("build = {{ command = [\"cp\", \"from.wasm\", \"made.wasm\"], output = \"source/made.wasm\" }}\n{ON}");
    let folder = Folder::new().toml(ANSWERED).file("source/from.wasm", guests::version(1)).handler("answer", "source", &settings);
    let host = TestHost::start(folder).await;
    // Builds that led to each other would wait for one another: two minutes in all.
    for version in 2..13 {
        std::fs::write(host.folder.join("source/from.wasm"), guests::version(version)).unwrap();
        answers(&host, &format!("koksmat-version-{version:08}")).await;
        // Nobody sees what came of it and saves anew within less.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    host.stop().await;
}

#[tokio::test]
async fn a_call_that_runs_ends_on_the_code_it_began_with() {
    let inside = Inside::start(Duration::from_secs(3600)).await;
    let slow = |what: &str| {
        format!(
            "import {{ http }} from \"koksmat\";\nexport function handle() {{ http.fetch(\"{}\", {{ method: \"POST\", body: \"x\" }}); return {what:?}; }}\n",
            inside.url()
        )
    };
    let settings = format!("{ON}\ngrants = {{ http = [\"{}\"] }}\ntimeout = \"60s\"", inside.address());
    let folder = Folder::new().host("watch = false").toml(ANSWERED);
    let host = TestHost::start(folder.script("answer", "answer.js", &slow("old"), &settings)).await;
    let running = ask(&host);
    let change = async {
        inside.reached(1).await;
        write(host.folder.join("answer.js"), &says("new"));
        applied(&host.host.reload(false).await);
        assert_eq!(ask(&host).await, "new");
        inside.keep_for(Duration::ZERO);
    };
    assert_eq!(tokio::join!(running, change).0, "old");
    host.stop().await;
}

#[tokio::test]
async fn what_is_changed_by_a_call_is_told_and_a_second_time_nothing_has() {
    let host = TestHost::start(Folder::new().host("watch = false").toml(ANSWERED).script("answer", "answer.js", &says("one"), ON)).await;
    write(host.folder.join("answer.js"), &says("two"));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(ask(&host).await, "one", "nobody watches");
    let changes = applied(&host.host.reload(false).await);
    assert!(matches!(&changes[..], [one] if one.starts_with("handler `answer`: version ") && one.contains(" serves (was ")), "{changes:?}");
    assert_eq!(ask(&host).await, "two");
    assert!(matches!(host.host.reload(false).await, Reloaded::Unchanged { generation: 2 }));
    host.stop().await;
}

#[tokio::test]
async fn handlers_routes_limits_and_grants_are_added_changed_and_removed() {
    let folder = Folder::new().host("watch = false").queue("q").script(
        "count",
        "count.js",
        COUNT,
        "on = { source = \"q\", type = \"a\" }\ngrants = { keyvalue = true }",
    );
    folder.write();
    let host = TestHost::start(folder).await;
    host.publish("q", "a", &json!({})).await;
    host.settled().await;
    let count = |name: &str| host.folder.value(name);
    assert_eq!((count("count").as_deref(), count("other")), (Some("1"), None));
    let more = "\n[handlers.other]\nplugin = \"count.js\"\non = { type = \"b\" }\ngrants = { keyvalue = \"other\" }\n";
    append(&host, more);
    let changes = applied(&host.host.reload(false).await);
    assert!(changes[0].starts_with("handler `other`: added, version "), "{changes:?}");
    host.publish("q", "b", &json!({})).await;
    host.settled().await;
    assert_eq!((count("count").as_deref(), count("other").as_deref()), (Some("1"), Some("1")));
    // Less is granted, and that holds.
    replace(&host, "keyvalue = \"other\"", "keyvalue = \"elsewhere\"");
    let changes = applied(&host.host.reload(false).await);
    assert_eq!(changes, ["handler `other`: grant `keyvalue`: +elsewhere* -other*"]);
    replace(&host, more.replace("\"other\"", "\"elsewhere\"").as_str(), "");
    let changes = applied(&host.host.reload(false).await);
    assert_eq!(changes, ["handler `other`: removed"]);
    host.publish("q", "a", &json!({})).await;
    host.settled().await;
    assert_eq!((count("count").as_deref(), count("other").as_deref()), (Some("2"), Some("1")));
    host.stop().await;
}

#[tokio::test]
async fn the_fix_of_a_handler_reaches_the_events_that_wait_for_their_retry_and_so_does_a_grant_that_is_taken_away() {
    let settings = "on = { source = \"q\" }\nretry = { attempts = 9, backoff = \"300ms..300ms\" }\ngrants = { emit = [\"*\"] }";
    let bad = "import { emit } from \"koksmat\";\nexport function handle() { throw new Error(\"not yet\"); }\n";
    let host = TestHost::start(Folder::new().queue("q").script("fixed", "fixed.js", bad, settings)).await;
    host.publish("q", "a", &json!({})).await;
    until("the first attempt", async || (host.host.ledger().total.parked > 0).then_some(())).await;
    // It tells what it may: a refused emit throws.
    let fixed = "import { emit, keyvalue } from \"koksmat\";\nexport function handle() {\n  let may = \"yes\";\n  \
                 try { emit({ type: \"order.made\", data: 1 }); } catch (error) { may = \"no\"; }\n  keyvalue.set(\"may\", may);\n}\n";
    write(host.folder.join("fixed.js"), fixed);
    replace(&host, "emit = [\"*\"]", "emit = [\"other.*\"], keyvalue = true");
    until("the retry by the fixed code", async || host.folder.value("may")).await;
    assert_eq!(host.folder.value("may").as_deref(), Some("no"));
    host.stop().await;
}

#[tokio::test]
async fn what_takes_long_to_compile_holds_nobody_up_and_what_it_is_to_handle_waits_for_it() {
    let number =
        u32::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() % 100_000_000).unwrap();
    let folder = Folder::new().host("watch = false").toml(ANSWERED).queue("q").script("answer", "answer.js", &says("quick"), ON);
    // What the others need is compiled.
    TestHost::start(Folder::new().toml(ANSWERED).script("answer", "answer.js", &says("quick"), ON)).await.stop().await;
    let folder = folder.file("large.wasm", guests::large_stock(number)).handler("large", "large.wasm", "on = { source = \"q\" }");
    let host = TestHost::start(folder).await;
    let late = || host.host.health().report().late_handlers.contains_key("default/large");
    assert!(late(), "it is being compiled");
    let movement = json!({ "id": "1", "sku": "tea", "name": "tea", "warehouse": "w", "quantity": 1, "price": 1.5, "tags": [] });
    host.publish("q", "t", &movement).await;
    assert_eq!(ask(&host).await, "quick");
    host.settled().await;
    assert!(!late());
    assert_eq!(host.host.ledger().total.dead, 0);
    let plugin = host.host.plugins().into_iter().find(|plugin| plugin.handler == "large").unwrap();
    assert_eq!((plugin.calls, plugin.errors), (1, 0));
    host.stop().await;
}
