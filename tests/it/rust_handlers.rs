//! Handlers that are compiled elsewhere: a Rust crate with the user's toolchain, core modules and components as they are; each built once.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Stdio, time::Duration};

use koksmat::{Answer, Event};
use koksmat_tests::{
    Folder, Process, TestHost, guests,
    process::{self, Ended},
    repository, until,
};
use serde_json::json;
use tokio::process::Command;

/// `koksmat ARGUMENTS` in this environment; compilers take their time.
async fn koksmat(folder: &Folder, arguments: &[&str], environment: &[(String, String)]) -> Ended {
    folder.write();
    let mut command = Command::new(process::binary());
    command.args(arguments).current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let output = tokio::time::timeout(Duration::from_secs(600), command.output()).await.expect("a compiler ends").unwrap();
    let lines = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: lines(output.stdout), log: lines(output.stderr).lines().map(str::to_owned).collect() }
}

/// What `koksmat build` says of the one handler: `built`, or `was built before`.
async fn build(folder: &Folder, environment: &[(String, String)]) -> String {
    let ended = koksmat(folder, &["build"], environment).await;
    assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
    let (_, said) = ended.stdout.trim().split_once(": ").unwrap();
    said.split_once(" (").unwrap().0.to_owned()
}

/// `examples/rust-handler`, copied to where the user would have it; what it rejects with is new each time, so nobody built it before.
fn rust_handler(rejects_with: &str) -> Folder {
    let example = repository().join("examples/rust-handler");
    let read = |name: &str| std::fs::read_to_string(example.join(name)).unwrap();
    let manifest = read("Cargo.toml").replace("../../sdk/rust", repository().join("sdk/rust").to_str().unwrap());
    let source = read("src/lib.rs").replace("out of stock", rejects_with);
    assert!(source.contains(rejects_with) && manifest.contains(repository().to_str().unwrap()));
    // Its dependencies are compiled once for all runs of the tests.
    let target = format!("[build]\ntarget-dir = {:?}\n", repository().join("target/test-rust-handler"));
    Folder::new()
        .file("handler/Cargo.toml", manifest)
        .file("handler/Cargo.lock", read("Cargo.lock"))
        .file("handler/src/lib.rs", source)
        .file("handler/.cargo/config.toml", target)
        .queue("orders")
        .handler(
            "stock",
            "handler",
            "on = [{ source = \"orders\" }, { type = \"order.reserved\" }]\ngrants = { keyvalue = \"stock/\", emit = [\"order.reserved\"] }",
        )
}

fn unheard_of() -> String {
    format!("out of stock {}", uuid::Uuid::now_v7())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crate_is_built_and_serves_and_what_did_not_change_is_not_compiled_again() {
    let toolchain = guests::toolchain();
    let (first, second) = (unheard_of(), unheard_of());
    let folder = rust_handler(&first);
    assert_eq!(build(&folder, &toolchain).await, "built");
    assert_eq!(build(&folder, &toolchain).await, "was built before");
    // cargo looks at times and compiles once more; what comes out is the same, and that is what counts.
    let source = folder.join("handler/src/lib.rs");
    std::fs::File::options().write(true).open(&source).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(build(&folder, &toolchain).await, "was built before");
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, text.replace(&first, &second)).unwrap();
    assert_eq!(build(&folder, &toolchain).await, "built");

    let environment: Vec<_> = toolchain.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut process = Process::start_with(&folder, &environment).await;
    let authorization = format!("Bearer {}", folder.token());
    for (ty, quantity) in [("stock.delivered", 5), ("order.created", 2), ("order.created", 9)] {
        let order = json!({ "sku": "tea", "quantity": quantity }).to_string();
        let path = format!("/queues/orders?type={ty}");
        let reply = process.post(&path, &[("authorization", &authorization), ("content-type", "application/json")], order).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        until("the event to be handled", || async {
            (folder.count("select count(*) from task where kind = 'embedded'") == 0).then_some(())
        })
        .await;
    }
    assert!(process.line("2 of tea reserved, attempt 1").await.contains("handler=\"stock\""));
    let ended = process.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
    assert_eq!(folder.value("stock/tea").unwrap(), "3");
    let reason: String = folder.store().query_row("select reason from dead_letter", [], |row| row.get(0)).unwrap();
    assert_eq!(reason, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_wasm_target_the_command_that_adds_it_is_named() {
    let folder = rust_handler("out of stock").file("bin/rustc", "#!/bin/sh\necho /nowhere/lib\n");
    let rustc = folder.join("bin/rustc");
    std::fs::set_permissions(&rustc, PermissionsExt::from_mode(0o755)).unwrap();
    // As in a toolchain without the target: it is asked, and says that its libraries are where there is nothing.
    let environment = [("RUSTC".to_owned(), rustc.to_str().unwrap().to_owned())];
    for command in ["build", "check", "run"] {
        let ended = koksmat(&folder, &[command], &environment).await;
        let said = ended.log.join("\n");
        assert_eq!(ended.code, Some(2), "koksmat {command}: {said}");
        let expected = "the Rust target wasm32-unknown-unknown is not installed";
        assert!(said.contains("handlers.stock: ") && said.contains(expected), "{said}");
        assert!(said.contains("`rustup target add wasm32-unknown-unknown`"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_compiler_says_is_shown() {
    let manifest = "[package]\nname = \"broken\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n[workspace]\n";
    let folder = Folder::new().file("handler/Cargo.toml", manifest).file("handler/src/lib.rs", "fn broken( {\n").queue("orders").handler(
        "broken",
        "handler",
        "on = [{ source = \"orders\" }]",
    );
    let ended = koksmat(&folder, &["build"], &guests::toolchain()).await;
    let said = ended.log.join("\n");
    assert_eq!(ended.code, Some(2), "{said}");
    assert!(said.contains("cargo build") && said.contains("src/lib.rs:1:"), "{said}");
}

/// A core module that does what another does and is not the same file: with a section of its own at the end.
fn variant(module: &[u8], name: &str) -> Vec<u8> {
    let mut module = module.to_vec();
    let size = u8::try_from(name.len()).unwrap();
    assert!(size < 127);
    module.extend([0, size + 1, size]);
    module.extend(name.as_bytes());
    module
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_module_becomes_a_component_in_the_host_and_is_known_by_its_content() {
    let stock = std::fs::read(guests::core_module("stock")).unwrap();
    let module = variant(&stock, &unheard_of());
    let folder = Folder::new().file("plugins/stock.wasm", &module).queue("orders").handler(
        "stock",
        "plugins/stock.wasm",
        "on = [{ source = \"orders\" }]",
    );
    let build = async || build(&folder, &[]).await;
    assert_eq!(build().await, "built");
    assert_eq!(build().await, "was built before");
    std::fs::write(folder.join("plugins/stock.wasm"), &module).unwrap();
    assert_eq!(build().await, "was built before", "a touch changes nothing");
    std::fs::write(folder.join("plugins/stock.wasm"), variant(&stock, &unheard_of())).unwrap();
    assert_eq!(build().await, "built", "a change does");
    std::fs::write(folder.join("plugins/stock.wasm"), &module).unwrap();
    assert_eq!(build().await, "was built before", "what was there earlier is still known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_module_and_the_component_it_becomes_do_the_same() {
    let module = std::fs::read(guests::core_module("behave")).unwrap();
    assert_eq!(&module[4..8], b"\x01\0\0\0", "a core module");
    let component = koksmat::plugin::encode(module.clone()).unwrap();
    assert_eq!(&component[4..8], b"\x0d\0\x01\0", "a component");
    assert_eq!(koksmat::plugin::encode(component.clone()).unwrap(), component, "which stays as it is");
    for bytes in [module, component] {
        let settings = "on = [{ source = \"memory\" }]\ngrants = { keyvalue = true, emit = [\"*\"], http = [\"127.0.0.1:1\"] }";
        let folder = Folder::new().file("plugin.wasm", bytes).handler("behave", "plugin.wasm", settings);
        let host = TestHost::start(folder).await;
        let answer = host.handle(Event::json("go", &json!({ "do": "ok", "status": 201, "body": "the same" })).unwrap()).await;
        let Answer::Done { response: Some(response) } = answer else { panic!("{answer:?}") };
        assert_eq!((response.status, &*response.body), (201, b"\"the same\"".as_slice()));
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handler_is_refused_by_name() {
    let refused = async |name: &str, bytes: &[u8], part: &str| {
        let folder = Folder::new().file(name, bytes).queue("orders").handler("h", name, "on = [{ source = \"orders\" }]");
        let ended = koksmat(&folder, &["check"], &[]).await;
        let said = ended.log.join("\n");
        assert_eq!(ended.code, Some(2), "{said}");
        assert!(said.contains("handlers.h: ") && said.contains(name) && said.contains(part), "no {part:?} in {said}");
    };
    refused("text.wasm", b"not a component", "this is not WebAssembly").await;
    refused("empty.wasm", b"", "this is not WebAssembly").await;
    refused("half.wasm", &std::fs::read(guests::core_module("stock")).unwrap()[..5_000], "this is not valid WebAssembly").await;
    refused("plain.wasm", b"\0asm\x01\0\0\0", "nothing says which interfaces it implements: build it with the SDK").await;
    let missing = Folder::new().queue("orders").handler("h", "gone.wasm", "on = [{ source = \"orders\" }]");
    let ended = koksmat(&missing, &["check"], &[]).await;
    assert!(ended.code == Some(2) && ended.log.join("\n").contains("gone.wasm"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_command_makes_the_component() {
    let module = guests::core_module("stock");
    let command = json!(["cp", module.to_str().unwrap(), "made.wasm"]);
    let toml = format!(
        "[handlers.stock]\nplugin = \"source\"\nbuild = {{ command = {command}, output = \"source/made.wasm\" }}\non = [{{ source = \"memory\" }}]\n"
    );
    let folder = Folder::new().file("source/readme", "").toml(&toml);
    let host = TestHost::start(folder).await;
    let data = json!({ "id": "1", "sku": "TEA", "name": "tea", "warehouse": "w", "quantity": 1, "price": 1.5, "tags": [] });
    let answer = host.handle(Event::json("go", &data).unwrap()).await;
    let Answer::Done { response: Some(response) } = answer else { panic!("{answer:?}") };
    assert!(String::from_utf8_lossy(&response.body).contains("TEA"), "{response:?}");
    let (folder, _) = host.stop().await;
    assert!(Path::new(&folder.join("source/made.wasm")).is_file());
}
