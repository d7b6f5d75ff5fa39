//! Versions: which serve and served, back by one command, and new code that has a share of the calls until it is known to be as good.

use koksmat_tests::{Folder, Process, TestHost, guests, process::koksmat, until};

use super::{ANSWERED, ON, applied, ask, kept_old, says, write};

async fn reload(host: &TestHost) -> Vec<String> {
    applied(&host.host.reload(false).await)
}

#[tokio::test]
async fn an_operator_goes_back_by_one_command_until_the_file_says_something_else_and_the_next_start_knows() {
    let folder =
        Folder::new().host("watch = false").toml(ANSWERED).file("answer.wasm", guests::version(1)).handler("answer", "answer.wasm", ON);
    folder.write();
    let host = Process::start(&folder).await;
    let answer = async |host: &Process| host.post("/ask", &[], "").await.text();
    std::fs::write(folder.join("answer.wasm"), guests::version(2)).unwrap();
    assert_eq!(koksmat(folder.path(), &["reload"]).await.code, Some(0));
    assert_eq!(answer(&host).await, "koksmat-version-00000002");
    // Also when the configuration is wrong by then: that is when it is needed.
    let file = folder.join("koksmat.toml");
    let right = std::fs::read_to_string(&file).unwrap();
    write(&file, &format!("{right}\n[handlers.half"));
    let ended = koksmat(folder.path(), &["reload"]).await;
    assert!(ended.code == Some(2) && ended.said().contains("koksmat.toml:"), "{}", ended.said());
    let back = koksmat(folder.path(), &["rollback", "answer"]).await;
    write(&file, &right);
    assert!(back.code == Some(0) && back.stdout.contains("handler `answer`: rolled back: version "), "{}", back.said());
    assert_eq!(answer(&host).await, "koksmat-version-00000001");
    // What the file says was rolled back.
    assert!(koksmat(folder.path(), &["reload"]).await.stdout.starts_with("nothing has changed"));
    // Said again it is not forth again.
    let again = koksmat(folder.path(), &["rollback", "answer"]).await;
    assert!(again.code == Some(2) && again.said().contains("there is no earlier version of `answer`"), "{}", again.said());
    host.stops_well().await;
    let host = Process::start(&folder).await;
    assert_eq!(answer(&host).await, "koksmat-version-00000001");
    let shown = koksmat(folder.path(), &["plugins"]).await.stdout;
    assert!(
        shown.contains(" serves since ") && shown.contains(": 1 calls, 0 failed") && shown.contains(": an operator rolled it back"),
        "{shown}"
    );
    std::fs::write(folder.join("answer.wasm"), guests::version(3)).unwrap();
    assert_eq!(koksmat(folder.path(), &["reload"]).await.code, Some(0));
    assert_eq!(answer(&host).await, "koksmat-version-00000003");
    host.stops_well().await;
}

#[tokio::test]
async fn there_is_no_way_back_to_what_never_served() {
    let host = TestHost::start(Folder::new().host("watch = false").toml(ANSWERED).script("answer", "answer.js", &says("one"), ON)).await;
    assert_eq!(kept_old(&host.host.roll_back("answer", None).await), "there is no earlier version of `answer`: see `koksmat plugins`");
    assert_eq!(kept_old(&host.host.roll_back("answer", Some("abc")).await), "there is no version abc of `answer`: see `koksmat plugins`");
    assert_eq!(kept_old(&host.host.roll_back("other", None).await), "there is no handler `other`");
    host.stop().await;
}

fn canary(more: &str) -> String {
    format!("{ON}\ncanary = {{ share = \"50%\", for = \"1ms\", min-calls = 20, {more} }}")
}

#[tokio::test]
async fn new_code_that_fails_is_rolled_back_and_its_events_are_handled_by_the_old() {
    let host =
        TestHost::start(Folder::new().host("watch = false").toml(ANSWERED).script("answer", "answer.js", &says("old"), &canary(""))).await;
    write(host.folder.join("answer.js"), "export function handle() { throw new Error(\"broken\"); }\n");
    let changes = reload(&host).await;
    assert!(changes[0].contains(" until it is known to be as good"), "{changes:?}");
    until("the new code to be rolled back", async || {
        let answer = host.post("/ask", &[], "").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "old"), "nobody notices");
        let plugin = host.host.plugins().remove(0);
        plugin
            .history
            .rejected
            .map(|rejected| assert!(rejected.why.contains("of its") && rejected.why.contains("calls failed"), "{}", rejected.why))
    })
    .await;
    assert!(host.host.plugins()[0].beside.is_none());
    host.stop().await;
}

#[tokio::test]
async fn new_code_that_is_as_good_is_promoted() {
    let settings = canary("max-slowdown = \"10000%\"");
    let host =
        TestHost::start(Folder::new().host("watch = false").toml(ANSWERED).script("answer", "answer.js", &says("old"), &settings)).await;
    assert_eq!(ask(&host).await, "old");
    write(host.folder.join("answer.js"), &says("new"));
    reload(&host).await;
    let both = std::cell::RefCell::new(std::collections::BTreeSet::new());
    until("the new code to be promoted", async || {
        let answer = ask(&host).await;
        both.borrow_mut().insert(answer);
        host.host.plugins().remove(0).beside.is_none().then_some(())
    })
    .await;
    assert_eq!(both.into_inner().into_iter().collect::<Vec<_>>(), ["new", "old"]);
    for _ in 0..10 {
        assert_eq!(ask(&host).await, "new");
    }
    host.stop().await;
}

#[tokio::test]
async fn an_operator_promotes_or_rolls_back_new_code_without_waiting() {
    let settings = format!("{ON}\ncanary = {{ share = \"50%\", for = \"1h\" }}");
    let host =
        TestHost::start(Folder::new().host("watch = false").toml(ANSWERED).script("answer", "answer.js", &says("one"), &settings)).await;
    assert_eq!(kept_old(&host.host.promote("answer")), "there is no new version of `answer` beside what serves");
    write(host.folder.join("answer.js"), &says("two"));
    reload(&host).await;
    applied(&host.host.promote("answer"));
    for _ in 0..10 {
        assert_eq!(ask(&host).await, "two");
    }
    write(host.folder.join("answer.js"), &says("three"));
    reload(&host).await;
    // First what stands beside, then what served before.
    for serves in ["two", "one"] {
        applied(&host.host.roll_back("answer", None).await);
        for _ in 0..10 {
            assert_eq!(ask(&host).await, serves);
        }
    }
    host.stop().await;
}

#[tokio::test]
async fn a_retry_that_is_pinned_runs_on_the_code_it_failed_on_and_any_other_on_what_serves() {
    let script = |version: u32| {
        format!(
            "import {{ keyvalue }} from \"koksmat\";\nexport function handle(event, ctx) {{\n  if (ctx.attempt === 1) throw new Error(\"again\");\n  \
             keyvalue.set(ctx.handler, \"{version}\");\n}}\n"
        )
    };
    let settings =
        |more: &str| format!("on = {{ source = \"q\" }}\ngrants = {{ keyvalue = true }}\nretry = {{ backoff = \"500ms..500ms\" }}\n{more}");
    let folder = Folder::new().host("watch = false").queue("q").script("pinned", "h.js", &script(1), &settings("retry-on = \"same\""));
    let host = TestHost::start(folder.handler("current", "h.js", &settings(""))).await;
    host.publish("q", "t", &serde_json::json!({})).await;
    until("both first attempts", async || (host.host.ledger().total.parked == 2).then_some(())).await;
    write(host.folder.join("h.js"), &script(2));
    reload(&host).await;
    host.settled().await;
    let told = |name: &str| host.folder.value(name);
    assert_eq!((told("pinned").as_deref(), told("current").as_deref()), (Some("1"), Some("2")));
    host.stop().await;
}

#[tokio::test]
async fn new_code_in_the_shadow_changes_nothing_and_is_compared_with_what_serves() {
    let script = |change: &str| {
        format!(
            "import {{ keyvalue, emit }} from \"koksmat\";\nexport function handle(event) {{\n  const {{ n }} = event.json();\n  \
             const sum = Number(keyvalue.get(\"sum\") ?? 0) + n;\n  keyvalue.set(\"sum\", sum);\n  emit({{ type: \"summed\", data: sum }});\n  {change}\n}}\n"
        )
    };
    let canary = "canary = { shadow = true, share = \"100%\" }";
    let settings = format!("on = {{ source = \"q\" }}\ngrants = {{ keyvalue = true, emit = [\"summed\"] }}\n{canary}");
    let folder = Folder::new().host("watch = false").queue("q").script("sum", "sum.js", &script(""), &settings);
    let folder = folder.script("seen", "seen.js", "export function handle() {}\n", "on = { type = \"summed\" }");
    let host = TestHost::start(folder).await;
    let publish = async |n: u32| {
        host.publish("q", "t", &serde_json::json!({ "n": n })).await;
        host.settled().await;
    };
    let compared = async |at_least: u64| {
        until("the comparison", async || {
            let compared = host.host.plugins().into_iter().find(|plugin| plugin.handler == "sum")?.beside?.compared?;
            (compared.same + compared.different >= at_least).then_some(compared)
        })
        .await
    };
    publish(1).await;
    write(host.folder.join("sum.js"), &script("// the same in other words"));
    reload(&host).await;
    publish(2).await;
    assert_eq!((compared(1).await.same, host.folder.value("sum").as_deref()), (1, Some("3")));
    write(host.folder.join("sum.js"), &script("if (sum > 5) keyvalue.set(\"sum\", 0);"));
    reload(&host).await;
    publish(3).await;
    let compared = compared(1).await;
    assert_eq!((compared.different, host.folder.value("sum").as_deref()), (1, Some("6")), "what serves alone counts");
    assert!(compared.differences[0].ends_with(": another value of the key `sum`"), "{:?}", compared.differences);
    // What is committed is counted a moment later.
    let done = until("the calls to be counted", async || Some(host.host.ledger().total.done).filter(|done| *done >= 6)).await;
    assert_eq!(done, 6, "a shadow is no call, and emits nothing");
    applied(&host.host.promote("sum"));
    publish(1).await;
    assert_eq!(host.folder.value("sum").as_deref(), Some("0"));
    host.stop().await;
}
