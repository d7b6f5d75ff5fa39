//! What is wrong never serves: the old version goes on, and one message says why.

use koksmat_tests::{Folder, Process, TestHost, guests, process::koksmat};

use super::{ANSWERED, ON, append, applied, ask, kept_old, replace, says, write};

async fn start() -> TestHost {
    TestHost::start(Folder::new().host("watch = false").toml(ANSWERED).script("answer", "answer.js", &says("old"), ON)).await
}

#[tokio::test]
async fn a_script_with_a_mistake() {
    let host = start().await;
    write(host.folder.join("answer.js"), "export function handle() {\n  return }\n}\n");
    assert_eq!(kept_old(&host.host.reload(false).await), "handlers.answer: answer.js:3:1: Unexpected token");
    assert_eq!(ask(&host).await, "old");
    write(host.folder.join("answer.js"), &says("new"));
    applied(&host.host.reload(false).await);
    assert_eq!(ask(&host).await, "new");
    host.stop().await;
}

#[tokio::test]
async fn a_configuration_with_mistakes_is_told_whole() {
    let host = start().await;
    append(&host, "\n[handlers.more]\nplugin = \"nowhere.js\"\non = { source = \"asks\" }\n");
    let said = kept_old(&host.host.reload(false).await);
    assert!(said.contains("there is no") && said.contains("nowhere.js") && said.contains("did you mean `ask`?"), "{said}");
    assert_eq!(ask(&host).await, "old");
    host.stop().await;
}

#[tokio::test]
async fn a_component_that_is_cut_off_or_of_another_world_or_uses_what_it_was_not_granted() {
    let folder =
        Folder::new().host("watch = false").toml(ANSWERED).file("answer.wasm", guests::version(1)).handler("answer", "answer.wasm", ON);
    let host = TestHost::start(folder).await;
    let whole = guests::version(2);
    for (content, said) in [
        (whole[..whole.len() / 2].to_vec(), "answer.wasm"),
        (Vec::new(), "answer.wasm"),
        (std::fs::read(guests::odd("wrong-world")).unwrap(), "is no handler of koksmat:plugin@0.1.0"),
        (std::fs::read(guests::core_module("bank")).unwrap(), "which is not granted; add to [handlers.answer]:  grants = {"),
    ] {
        std::fs::write(host.folder.join("answer.wasm"), content).unwrap();
        let reason = kept_old(&host.host.reload(false).await);
        assert!(reason.contains(said), "{reason}");
        assert_eq!(ask(&host).await, "koksmat-version-00000001");
    }
    std::fs::write(host.folder.join("answer.wasm"), whole).unwrap();
    applied(&host.host.reload(false).await);
    assert_eq!(ask(&host).await, "koksmat-version-00000002");
    host.stop().await;
}

#[tokio::test]
async fn what_cannot_be_changed_while_the_host_runs() {
    let host = start().await;
    replace(&host, "watch = false", "watch = false\nconcurrency = 3");
    let said = kept_old(&host.host.reload(false).await);
    assert_eq!(said, "host.concurrency cannot be changed while the host runs: restart it, or set it back");
    host.stop().await;
}

#[tokio::test]
async fn a_handler_that_no_longer_takes_what_waits_for_it_is_kept_unless_forced() {
    let folder = Folder::new().host("watch = false").queue("q");
    let host = TestHost::start(folder.script("late", "late.js", "export function handle() {}\n", "on = { type = \"order.*\" }")).await;
    host.host.pause(koksmat::Part::Handler("late".into())).await.unwrap();
    host.publish("q", "order.made", &serde_json::json!({})).await;
    replace(&host, "order.*", "invoice.*");
    let said = kept_old(&host.host.reload(false).await);
    assert!(said.starts_with("1 event `order.made` from `q` wait for the handler `late`, which would not take them any more"), "{said}");
    applied(&host.host.reload(true).await);
    host.stop().await;
}

#[tokio::test]
async fn the_command_tells_what_came_of_it_by_its_status_and_so_does_a_signal_in_the_log() {
    let folder = Folder::new().host("watch = false").toml(ANSWERED).script("answer", "answer.js", &says("one"), ON);
    folder.write();
    let mut host = Process::start(&folder).await;
    let unchanged = koksmat(folder.path(), &["reload"]).await;
    assert_eq!((unchanged.code, unchanged.stdout.as_str()), (Some(0), "nothing has changed: generation 1 serves\n"));
    write(folder.join("answer.js"), &says("two"));
    let applied = koksmat(folder.path(), &["reload"]).await;
    assert!(applied.code == Some(0) && applied.stdout.contains("applied as generation 2 in "), "{}", applied.said());
    assert_eq!(host.post("/ask", &[], "").await.text(), "two");
    write(folder.join("answer.js"), "export function handle() {");
    let kept = koksmat(folder.path(), &["reload"]).await;
    assert!(
        kept.code == Some(2) && kept.said().contains("answer.js:1:27: ") && kept.said().trim_end().ends_with("kept old"),
        "{}",
        kept.said()
    );
    host.signal("HUP").await;
    host.line("reload: kept old: handlers.answer: answer.js:1:27").await;
    write(folder.join("answer.js"), &says("three"));
    host.signal("HUP").await;
    host.line("reload: applied generation=3").await;
    assert_eq!(host.post("/ask", &[], "").await.text(), "three");
    host.stops_well().await;
}

#[tokio::test]
async fn code_that_newly_wants_what_it_is_not_granted_is_told_with_the_line_to_add() {
    let host = start().await;
    write(
        host.folder.join("answer.js"),
        "import { http } from \"koksmat\";\nexport function handle() { return http.fetch(\"https://api.example.com/x\").text(); }\n",
    );
    let said = kept_old(&host.host.reload(false).await);
    assert!(
        said.contains(
            "uses `http` of \"koksmat\", which is not granted; add to [handlers.answer]:  grants = { http = [\"api.example.com\"] }"
        ),
        "{said}"
    );
    assert!(said.contains("that is new: version ") && said.ends_with(", which serves on, does not use it"), "{said}");
    assert_eq!(ask(&host).await, "old");
    host.stop().await;
}

#[tokio::test]
async fn code_that_fails_its_self_test() {
    let event = serde_json::json!({ "specversion": "1.0", "id": "1", "source": "/test", "type": "order", "data": { "quantity": 2 } });
    let script = |factor: &str| {
        format!(
            "export function handle(event) {{ if (event.json().quantity * {factor} !== 4) throw new Error(\"no double\"); return \"{factor}\"; }}\n"
        )
    };
    let folder = Folder::new().host("watch = false").toml(ANSWERED).file("order.json", event.to_string());
    let host = TestHost::start(folder.script("answer", "answer.js", &script("2"), &format!("{ON}\nself-test = \"order.json\""))).await;
    write(host.folder.join("answer.js"), &script("3"));
    let said = kept_old(&host.host.reload(false).await);
    assert!(
        said.starts_with("handlers.answer: it fails its self-test ") && said.contains("order.json: ") && said.contains("no double"),
        "{said}"
    );
    assert_eq!(host.host.plugins()[0].calls, 0, "a test is no call");
    write(host.folder.join("answer.js"), &script("2.0"));
    applied(&host.host.reload(false).await);
    host.stop().await;
}
