//! From a file to an answer: scripts are built, compiled and called.

use std::{fs, sync::LazyLock};

use tempfile::TempDir;
use wasmtime::{
    Store,
    component::{Instance, Linker, Val},
};

use super::*;
use crate::plugin::Capacity;

/// Ticks that a top level may take: nearly a minute.
const TICKS: u64 = 10_000;

/// As the host has it.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(Capacity { instances: 64, memory: 256 << 20 }).unwrap());

/// Kept between test runs, beside the test's own binary: the runtime takes a second to compile.
fn cache() -> Cache {
    Cache::open(&std::env::current_exe().unwrap().with_file_name("koksmat-test-cache")).unwrap()
}

fn builder() -> Builder {
    Builder::new(ENGINE.clone(), cache(), TICKS)
}

/// A script in a folder of its own.
fn script(name: &str, text: &str) -> (TempDir, PluginRef) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    let plugin = PluginRef::Script(folder.path().join(name));
    (folder, plugin)
}

async fn build_script(name: &str, text: &str) -> Result<Built, BuildError> {
    let (_folder, plugin) = script(name, text);
    let builder = builder();
    let PluginRef::Script(path) = plugin else { unreachable!() };
    let script = builder.script(&path).await?;
    builder.snapshot(&script).await
}

/// An instance whose imports all trap but for the clocks.
async fn instance(component: &Component) -> (Store<()>, Instance) {
    let mut linker = Linker::new(ENGINE.wasmtime());
    let mut clock = linker.instance("wasi:clocks/wall-clock@0.2.12").unwrap();
    clock
        .func_new("now", |_, _, _, results| {
            results[0] = Val::Record(vec![("seconds".into(), Val::U64(1_800_000_000)), ("nanoseconds".into(), Val::U32(0))]);
            Ok(())
        })
        .unwrap();
    linker.instance("wasi:clocks/monotonic-clock@0.2.12").unwrap().func_wrap("now", |_, ()| Ok((0_u64,))).unwrap();
    linker.instance("wasi:random/random@0.2.12").unwrap().func_wrap("get-random-u64", |_, ()| Ok((4_u64,))).unwrap();
    linker.define_unknown_imports_as_traps(component).unwrap();
    let mut store = Store::new(ENGINE.wasmtime(), ());
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = linker.instantiate_async(&mut store, component).await.unwrap();
    (store, instance)
}

/// What `handle` answers to an event with this JSON: the body of the response, or the failure.
async fn handle(store: &mut Store<()>, instance: &Instance, data: &str) -> Result<String, String> {
    let interface = instance.get_export_index(&mut *store, None, "koksmat:plugin/handler@0.1.0").unwrap();
    let function = instance.get_export_index(&mut *store, Some(&interface), "handle").unwrap();
    let function = instance.get_func(&mut *store, function).unwrap();
    let text = |text: &str| Val::String(text.into());
    let record = |fields: Vec<(&str, Val)>| Val::Record(fields.into_iter().map(|(name, value)| (name.into(), value)).collect());
    let none = || Val::Option(None);
    let event = record(vec![
        ("id", text("1")),
        ("source", text("/test")),
        ("type", text("test")),
        ("subject", none()),
        ("time", none()),
        ("datacontenttype", Val::Option(Some(Box::new(text("application/json"))))),
        ("dataschema", none()),
        ("attributes", Val::List(vec![])),
        ("headers", Val::List(vec![])),
        ("data", Val::List(data.bytes().map(Val::U8).collect())),
    ]);
    let context = record(vec![
        ("tenant", text("default")),
        ("handler", text("test")),
        ("attempt", Val::U32(1)),
        ("idempotency-key", text("key")),
        ("deadline", Val::U64(0)),
        ("fencing-token", none()),
        ("traceparent", none()),
    ]);
    let mut results = [Val::Bool(false)];
    function.call_async(&mut *store, &[event, context], &mut results).await.map_err(|error| format!("{error:#}"))?;
    let [Val::Result(result)] = results else { panic!("handle returns a result") };
    match result {
        Ok(Some(response)) => {
            let Val::Record(fields) = *response else { panic!("a response is a record") };
            let Some((_, Val::List(body))) = fields.into_iter().find(|(name, _)| name == "body") else { panic!("a response has a body") };
            Ok(body.into_iter().map(|byte| if let Val::U8(byte) = byte { char::from(byte) } else { '?' }).collect())
        }
        other => Err(format!("{other:?}")),
    }
}

async fn answer(builder: &Builder, built: &Built, data: &str) -> Result<String, String> {
    let component = builder.compile(built).await.unwrap();
    let (mut store, instance) = instance(&component).await;
    handle(&mut store, &instance, data).await.map_err(|error| built.says.positions.rewrite(&error))
}

const DOUBLE: &str = "import { keyvalue } from \"koksmat\";\nlet calls = 0;\n\
    export function handle(event) { calls += 1; return { double: 2 * event.json().n, calls }; }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_script_becomes_a_component_that_answers() {
    let built = build_script("double.js", DOUBLE).await.unwrap();
    assert_eq!(built.says.needs, Some([Capability::Keyvalue].into()));
    assert!(built.says.exports.iter().any(|name| name == "koksmat:plugin/handler@0.1.0"));
    let builder = builder();
    for _ in 0..2 {
        assert_eq!(answer(&builder, &built, "{\"n\":21}").await.unwrap(), "{\"double\":42,\"calls\":1}", "each instance is a fresh one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compiled_runtime_serves_new_code_without_a_snapshot() {
    let (_folder, plugin) = script("double.js", DOUBLE);
    let builder = builder();
    let script = builder.script(plugin.path()).await.unwrap();
    let runtime = builder.runtime().await.unwrap();
    let (mut store, instance) = instance(runtime.component()).await;
    let load = instance.get_typed_func::<(&str, &[(String, String)]), (Result<(), String>,)>(&mut store, runtime::LOAD).unwrap();
    load.call_async(&mut store, (&script.entry, &script.modules)).await.unwrap().0.unwrap();
    assert_eq!(handle(&mut store, &instance, "{\"n\":4}").await.unwrap(), "{\"double\":8,\"calls\":1}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_script_gives_the_same_bytes() {
    let text = "export const started = Date.now(), list = [...Array(100).keys()].map((n) => ({ n }));\n\
        export function handle() { return { started, sum: list.reduce((sum, { n }) => sum + n, 0) }; }\n";
    let one = build_script("same.ts", text).await.unwrap();
    let other = build_script("same.ts", text).await.unwrap();
    assert_eq!(one.digest, other.digest);
    assert_eq!(one.component, other.component);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_built_before_comes_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let (_script, plugin) = script("double.js", DOUBLE);
    let shared = builder();
    let fresh = || Builder { runtime: shared.runtime.clone(), ..Builder::new(ENGINE.clone(), Cache::open(folder.path()).unwrap(), TICKS) };
    shared.runtime().await.unwrap();
    let script = shared.script(plugin.path()).await.unwrap();
    assert!(fresh().prebuilt(&script).await.unwrap().is_none());
    let built = fresh().build(&plugin).await.unwrap();
    assert!(!built.from_cache);
    let again = fresh().build(&plugin).await.unwrap();
    assert!(again.from_cache);
    assert_eq!((again.digest, again.says), (built.digest, built.says));
    assert!(fresh().prebuilt(&script).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_top_level_throws_is_shown_at_its_place_in_the_file() {
    let text = "interface Unused {\n  x: string;\n}\n\nconst n: number = 1;\nthrow new Error(`no ${n}`);\nexport function handle() {}\n";
    let error = build_script("top.ts", text).await.unwrap_err().to_string();
    assert!(error.starts_with("top.ts:6:") && error.contains(": Error: no 1"), "{error}");
    let error = build_script("top.js", "\n\nundefined.x;\nexport function handle() {}\n").await.unwrap_err().to_string();
    assert!(error.starts_with("top.js:3:"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_handle_throws_is_shown_at_its_place_in_the_file() {
    let text = "interface Order {\n  sku: string;\n}\n\nenum Kind { A, B }\n\nexport function handle(event: { json(): Order }): void {\n  \
        const order: Order = event.json();\n  if (order.sku) throw new Error(`kind ${Kind.B}`);\n}\n";
    let built = build_script("late.ts", text).await.unwrap();
    let error = answer(&builder(), &built, "{\"sku\":\"x\"}").await.unwrap_err();
    assert!(error.contains("kind 1") && error.contains("late.ts:9:"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_top_level_cannot_call_the_host() {
    let text = "import { keyvalue } from \"koksmat\";\n\nkeyvalue.get(\"x\");\nexport function handle() {}\n";
    let error = build_script("host.js", text).await.unwrap_err().to_string();
    assert!(error.starts_with("host.js:3:10: ") && error.contains("top level"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_level_without_end_is_cut() {
    let (_folder, plugin) = script("loop.js", "for (;;) {}\nexport function handle() {}\n");
    let error = Builder { ticks: 20, ..builder() }.build(&plugin).await.unwrap_err().to_string();
    assert_eq!(error, "loop.js: the top level of its modules does not come to an end: what takes long belongs into handle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_level_that_eats_memory_is_stopped() {
    let text = "const a = []; for (;;) a.push(new Uint8Array(1 << 24).fill(1));\nexport function handle() {}\n";
    let error = build_script("memory.js", text).await.unwrap_err();
    assert!(matches!(error, BuildError::Script(_)), "{error}");
    assert!(error.to_string().contains("out of memory"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_name_what_is_wrong_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.wasm");
    let error = builder().build(&PluginRef::Wasm(path.clone())).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: No such file", path.display())), "{error}");
    fs::write(&path, "(component)").unwrap();
    let error = builder().build(&PluginRef::Wasm(path.clone())).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: this is WebAssembly text", path.display())), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_builds_a_component() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.wasm"), wasm_encoder::Component::new().finish()).unwrap();
    let command = ["cp", "in.wasm", "out.wasm"].map(str::to_owned).to_vec();
    let plugin = PluginRef::Command { folder: folder.path().into(), command, output: "out.wasm".into() };
    let built = builder().build(&plugin).await.unwrap();
    assert_eq!(&*built.component, wasm_encoder::Component::new().finish());
    assert_eq!(built.says, Inspection::default());
}
