//! What goes wrong is said once, clearly: what, where and what to do. And nothing panics (every process is looked at for that).

mod disk;
mod requests;
mod store;

use koksmat_tests::{Folder, Process, guests, process::koksmat, until};
use serde_json::{Value, json};

const HANDLER: &str = "export function handle(event) { return { id: event.id }; }\n";

/// `koksmat check` must refuse it, `koksmat run` must not start, and both say the same, from which the folder's path is taken away.
async fn refused(folder: &Folder) -> String {
    folder.write();
    let check = koksmat(folder.path(), &["check"]).await;
    assert_eq!((check.code, check.stdout.as_str()), (Some(2), ""), "{}", check.said());
    let run = koksmat(folder.path(), &["run"]).await;
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{}", run.said());
    assert_eq!(run.said().trim_start_matches("plugins: "), check.said());
    let path = folder.path().canonicalize().unwrap();
    check.said().replace(&format!("{}/", path.display()), "").replace("./", "")
}

#[tokio::test]
async fn a_malformed_configuration_is_told_all_at_once_with_places() {
    let folder = Folder::new()
        .toml("[sources.q]\nkind = \"embeded\"\n")
        .toml("[sources.hook]\nkind = \"webhook\"\npath = \"hook\"\nverify = { scheme = \"github\", secret = \"hunter2hunter2\" }\n")
        .toml("[handlers.h]\nplugin = \"missing.js\"\non = [{ source = \"nowhere\" }]\ntimeout = \"5 parsecs\"\nattempts = 3\n");
    let said = refused(&folder).await;
    let expected = "\
        koksmat.toml:6:8: sources.q.kind: must be `kafka`, `rabbitmq`, `embedded`, `poller`, `webhook` or `timer`; did you mean `embedded`?\n\
        koksmat.toml:10:8: sources.hook.path: a path begins with `/`\n\
        koksmat.toml:11:40: sources.hook.verify.secret: a secret does not belong in this file; refer to it by `env:NAME` or `file:PATH`\n\
        koksmat.toml:14:10: handlers.h.plugin: there is no missing.js\n\
        koksmat.toml:15:18: handlers.h.on[0].source: no source is called `nowhere`; expected `q`, `hook` or `emit`\n\
        koksmat.toml:16:11: handlers.h.timeout: expected a duration with its unit, such as `200ms`, `5s`, `2m`, `1h` or `7d`\n\
        koksmat.toml:17:1: handlers.h.attempts: unknown key; here may stand `plugin`, `build`, `on`, `atomic`, `timeout`, `memory`, `concurrency`, \
        `order`, `retry`, `config`, `record`, `grants`, `self-test`, `canary` or `retry-on`";
    assert_eq!(said, expected);
    assert!(!said.contains("hunter2"));
}

#[tokio::test]
async fn a_file_that_is_no_toml_or_not_there_is_named() {
    let folder = Folder::new().toml("[sources.q\nkind = 1\n");
    assert!(refused(&folder).await.starts_with("koksmat.toml:5:11: not TOML: "), "{}", refused(&folder).await);
    let empty = tempfile::tempdir().unwrap();
    for command in ["check", "run", "build", "status"] {
        let ended = koksmat(empty.path(), &[command]).await;
        assert_eq!(ended.code, Some(2));
        assert!(ended.said().contains("cannot read the configuration: No such file or directory"), "{}", ended.said());
        assert!(ended.said().ends_with("name a configuration file or a folder with a koksmat.toml"), "{}", ended.said());
    }
}

#[tokio::test]
async fn the_password_of_a_store_is_neither_written_nor_shown() {
    let folder = Folder::new().host("store = \"postgres://joe:hunter2@db.example/koksmat\"");
    let said = refused(&folder).await;
    assert_eq!(
        said,
        "koksmat.toml:4:9: host.store: a URL with a password does not belong in this file; refer to it by `env:NAME` or `file:PATH`"
    );

    // Nobody listens there.
    let folder = Folder::new().host("store = \"file:url\"").file("url", "postgres://joe:hunter2@127.0.0.1:1/koksmat");
    folder.write();
    let ended = koksmat(folder.path(), &["run", "."]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.said());
    assert!(ended.said().contains("store: cannot connect to the store of file:url: "), "{}", ended.said());
    assert!(!ended.said().contains("hunter2"), "{}", ended.said());
}

#[tokio::test]
async fn a_component_that_is_no_handler_of_ours_is_refused() {
    const NO_HANDLER: &str = "is no handler of koksmat:plugin@0.1.0: ";
    let nobody = |import: &str| format!("imports {import}, which no handler is given (see wit/README.md for what there is)");
    for (odd, what) in [
        ("wrong-world", format!("{NO_HANDLER}it does not export koksmat:plugin/handler@0.1.0")),
        (
            "wrong-type",
            format!(
                "{NO_HANDLER}its `handle` is func(event: u32) -> u32, where the contract (wit/handler.wit) says func(event: record {{ id: string, "
            ),
        ),
        ("future-version", format!("{NO_HANDLER}it exports koksmat:plugin/handler@9.0.0")),
        (
            "core-module",
            "this is a core module without a component-type section, so nothing says which interfaces it implements: build it with the SDK"
                .into(),
        ),
        ("unknown-import", nobody("example:weather/today@1.0.0")),
        ("sockets", nobody("wasi:sockets/network@0.2.12")),
        ("filesystem", nobody("wasi:filesystem/types@0.2.12")),
    ] {
        let plugin = guests::odd(odd);
        let folder = Folder::new().queue("q").handler("odd", plugin.to_str().unwrap(), "on = [{ source = \"q\" }]");
        let said = refused(&folder).await;
        assert!(said.starts_with("handlers.odd: ") && said.contains(&format!("{odd}.wasm")) && said.contains(&what), "{odd}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let folder = Folder::new().queue("q").file("text.wasm", "not wasm").handler("text", "text.wasm", "on = [{ source = \"q\" }]");
    let said = refused(&folder).await;
    assert!(said.starts_with("handlers.text: text.wasm: "), "{said}");
}

#[tokio::test]
async fn every_handler_is_told_what_is_wrong_with_it() {
    let folder = Folder::new()
        .queue("q")
        .handler("one", guests::odd("wrong-world").to_str().unwrap(), "on = [{ source = \"q\" }]")
        .script("two", "two.js", "export function handle() { return keyvalue.get('k'); }\n", "on = [{ source = \"q\" }]")
        .script(
            "three",
            "three.js",
            "import { emit } from 'koksmat';\nexport const handle = () => emit({ type: 'x' });\n",
            "on = [{ source = \"q\" }]",
        );
    let said = refused(&folder).await;
    assert!(said.contains("handlers.one: ") && said.contains("handlers.three: "), "{said}");
}

/// Adding the line that the message has makes the handler load.
#[tokio::test]
async fn a_missing_grant_comes_with_the_line_to_add() {
    let script = |import: &str, used: &str| {
        format!("import {{ {import} }} from \"koksmat\";\nexport function handle(event) {{ return String({used}); }}\n")
    };
    for (import, used, line) in [
        ("keyvalue", "keyvalue.get('k')", "grants = { keyvalue = true }"),
        ("emit", "emit({ type: 'order.made' })", "grants = { emit = [\"order.*\"] }"),
        ("http", "http.fetch('https://api.example.com')", "grants = { http = [\"api.example.com\"] }"),
        (
            "keyvalue, emit, http",
            "[keyvalue, emit, http]",
            "grants = { keyvalue = true, emit = [\"order.*\"], http = [\"api.example.com\"] }",
        ),
    ] {
        let folder = || Folder::new().queue("q").file("h.js", script(import, used));
        let said = refused(&folder().handler("h", "h.js", "on = [{ source = \"q\" }]")).await;
        let (what, advice) = said.split_once("; add to [handlers.h]:  ").unwrap_or_else(|| panic!("{said}"));
        assert!(what.starts_with("handlers.h: h.js uses `") && what.ends_with("which is not granted"), "{what}");
        assert_eq!(advice, line);
        let folder = folder().handler("h", "h.js", &format!("on = [{{ source = \"q\" }}]\n{advice}"));
        folder.write();
        let check = koksmat(folder.path(), &["check"]).await;
        assert_eq!(check.code, Some(0), "{}", check.said());
        assert!(check.stdout.ends_with("koksmat.toml: 1 source, 1 handler: all is well\n"), "{}", check.stdout);
    }
    // What is granted already stays in the line, for a component as for a script.
    let folder = |grants: &str| Folder::new().queue("q").guest("h", "behave", &format!("on = [{{ source = \"q\" }}]\n{grants}"));
    let said = refused(&folder("grants = { keyvalue = \"stock/\" }")).await;
    let (what, advice) = said.split_once("; add to [handlers.h]:  ").unwrap_or_else(|| panic!("{said}"));
    assert!(what.contains("behave.wasm uses koksmat:plugin/emit@0.1.0 and wasi:http/outgoing-handler@0.2"), "{what}");
    assert_eq!(advice, "grants = { keyvalue = \"stock/\", emit = [\"order.*\"], http = [\"api.example.com\"] }");
    let folder = folder(advice);
    folder.write();
    assert_eq!(koksmat(folder.path(), &["check"]).await.code, Some(0));
}

#[tokio::test]
async fn an_error_in_a_script_is_shown_at_its_place() {
    for (file, text, expected) in [
        ("h.js", "export function handle() {\n  return 1 +;\n}\n", "h.js:2:13: "),
        ("h.ts", "type A = string;\nexport function handle(e: A) {\n  return fetch(e);\n}\n", "h.ts:3:10: `fetch` is not here"),
        ("h.js", "import axios from \"axios\";\nexport function handle() {}\n", "h.js:1:19: "),
        (
            "h.js",
            "import { keyvlaue } from \"koksmat\";\nexport function handle() {}\n",
            "h.js:1:10: \"koksmat\" has no `keyvlaue`: did you mean `keyvalue`?",
        ),
        ("h.js", "import { x } from \"./gone.js\";\nexport function handle() {}\n", "h.js:1:19: "),
        ("h.js", "export function handel() {}\n", "h.js:1:1: the handler's file exports no `handle`"),
        (
            "h.ts",
            "const settings: any = null;\nconst n: number = settings.rate;\nexport function handle() { return n; }\n",
            "h.ts:2:19: TypeError: cannot read property 'rate' of null",
        ),
    ] {
        let folder = Folder::new().queue("q").script("h", file, text, "on = [{ source = \"q\" }]");
        folder.write();
        let check = koksmat(folder.path(), &["check"]).await;
        assert_eq!(check.code, Some(2), "{text}: {}", check.said());
        assert!(check.said().starts_with(&format!("handlers.h: {expected}")), "{text}: {}", check.said());
    }
}

#[tokio::test]
async fn commands_that_need_a_host_say_so_when_there_is_none() {
    let folder = Folder::new().queue("q");
    folder.write();
    for arguments in [&["send", "-d", "{}"][..], &["status"], &["dead-letters", "list"], &["dead-letters", "show", "1"]] {
        let ended = koksmat(folder.path(), arguments).await;
        let said = ended.said();
        assert_eq!(ended.code, Some(1), "{arguments:?}: {said}");
        assert!(
            said.starts_with("no host runs on this store (nothing answers at ") && said.ends_with("start it with `koksmat run`"),
            "{said}"
        );
    }
    let ended = koksmat(folder.path(), &["send", "--source", "p"]).await;
    assert_eq!((ended.code, ended.said().as_str()), (Some(2), "there is no embedded queue `p`; there is: q"));
    let ended = koksmat(folder.path(), &["frobnicate"]).await;
    assert!(ended.code == Some(2) && ended.said().starts_with("error: unrecognized subcommand 'frobnicate'"), "{}", ended.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_a_running_host_are_listed_shown_replayed_and_purged() {
    let script = "import { keyvalue } from \"koksmat\";\nexport function handle(event) {\n  if (keyvalue.get(\"mended\")) return;\n  if (event.type === \"mend\") return keyvalue.set(\"mended\", 1);\n  throw new Error(`no ${event.json().n}`);\n}\n";
    let settings = "on = [{ source = \"q\" }]\nretry = { attempts = 2, backoff = \"1ms..2ms\" }\ngrants = { keyvalue = true }";
    let folder = Folder::new().queue("q").script("h", "h.js", script, settings);
    let process = Process::start(&folder).await;
    for n in 1..=3 {
        let sent = koksmat(folder.path(), &["send", "--type", "order", "--subject", "s", "-d", &json!({ "n": n }).to_string()]).await;
        assert_eq!(sent.code, Some(0), "{}", sent.said());
    }
    until("three dead letters", || async { (folder.count("select count(*) from dead_letter") == 3).then_some(()) }).await;

    let list = koksmat(folder.path(), &["dead-letters", "list"]).await.stdout;
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 3, "{list}");
    assert!(lines[0].contains("q → h  order  failed 2 times; last: Error: no "), "{list}");

    let list = koksmat(folder.path(), &["dead-letters", "list", "--json"]).await.stdout;
    let letters: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(letters.len(), 3);
    let first = &letters[0];
    assert_eq!(
        (&first["source"], &first["handler"], &first["event"]["type"], &first["event"]["subject"]),
        (&json!("q"), &json!("h"), &json!("order"), &json!("s"))
    );
    let attempts = first["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert!(attempts[0]["error"].as_str().unwrap().contains("at handle (h.js:5:"), "{first}");

    let id = first["id"].to_string();
    let show = koksmat(folder.path(), &["dead-letters", "show", &id]).await;
    assert_eq!(serde_json::from_str::<Value>(&show.stdout).unwrap(), *first);
    let gone = koksmat(folder.path(), &["dead-letters", "show", "4711"]).await;
    assert_eq!((gone.code, gone.said().as_str()), (Some(2), "there is no dead letter 4711"));

    // Nothing has changed: it comes back, with a count of attempts of its own.
    let replay = koksmat(folder.path(), &["dead-letters", "replay", &id]).await;
    assert_eq!(replay.stdout, "1 go round again\n");
    until("it to come back", || async {
        (folder.count(&format!("select count(*) from dead_letter where id > {}", letters[2]["id"])) == 1).then_some(())
    })
    .await;
    assert_eq!(folder.count("select max(json_array_length(history)) from dead_letter"), 2);

    koksmat(folder.path(), &["send", "--type", "mend"]).await;
    until("the handler to be mended", || async { folder.value("mended") }).await;
    let replay = koksmat(folder.path(), &["dead-letters", "replay", &letters[1]["id"].to_string()]).await;
    assert_eq!(replay.stdout, "1 go round again\n");
    until("it to be handled", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
    assert_eq!(folder.count("select count(*) from dead_letter"), 2);

    let purge = koksmat(folder.path(), &["dead-letters", "purge", "--handler", "h"]).await;
    assert_eq!((purge.code, purge.stdout.as_str()), (Some(0), "2 forgotten\n"));
    assert_eq!(koksmat(folder.path(), &["dead-letters", "list"]).await.stdout, "");
    assert_eq!(koksmat(folder.path(), &["dead-letters", "purge"]).await.code, Some(2), "which?");
    assert_eq!(process.stop().await.code, Some(0));
}
