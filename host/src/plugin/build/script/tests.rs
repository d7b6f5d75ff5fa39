use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::*;

/// A project folder with these files.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, entry: &str) -> Result<Script, BuildError> {
        Script::read(&self.path(entry))
    }
}

/// A handler of one file: `text` and an export.
fn read_one(name: &str, text: &str) -> Result<Script, BuildError> {
    Files::new(&[(name, &format!("{text}\nexport function handle() {{}}\n"))]).read(name)
}

fn complaint(name: &str, text: &str) -> String {
    read_one(name, text).unwrap_err().to_string()
}

#[test]
fn javascript_goes_in_unchanged() {
    let text = "import { log } from \"koksmat\";\nexport function handle(event) {\n  log.info('x')   // é\n}\n";
    let script = Files::new(&[("a.js", text)]).read("a.js").unwrap();
    assert_eq!(script.entry, "a.js");
    assert_eq!(script.modules, [("a.js".to_owned(), text.to_owned())]);
    assert!(script.needs.is_empty());
    assert_eq!(script.positions, Positions::default());
}

#[test]
fn a_byte_order_mark_is_not_part_of_the_text() {
    let script = Files::new(&[("a.js", "\u{feff}export function handle() {}")]).read("a.js").unwrap();
    assert!(script.modules[0].1.starts_with("export"));
}

#[test]
fn relative_imports_are_followed_and_spelt_out() {
    let files = Files::new(&[
        ("koksmat.toml", ""),
        (
            "handlers/a.ts",
            "import { one } from '../lib/one';\nimport two from './two.js';\nimport './three';\nexport function handle() { return one + two }",
        ),
        ("lib/one.js", "export * from './deep'; export const one = 1;"),
        ("lib/deep/index.mjs", "export const deep = 2; export const late = () => import('../late');"),
        ("lib/late.mts", "export const late: number = 3;"),
        ("handlers/two.ts", "const two: number = 2; export default two;"),
        ("handlers/three/index.ts", "export {};"),
    ]);
    let script = files.read("handlers/a.ts").unwrap();
    let names: Vec<_> = script.modules.iter().map(|(name, _)| name.as_str()).collect();
    let expected = ["handlers/a.ts", "lib/one.js", "handlers/two.ts", "handlers/three/index.ts", "lib/deep/index.mjs", "lib/late.mts"];
    assert_eq!(names, expected);
    let source = |name: &str| script.modules.iter().find(|(module, _)| module == name).unwrap().1.as_str();
    assert!(source("handlers/a.ts").contains("\"../lib/one.js\""), "{}", source("handlers/a.ts"));
    assert!(source("handlers/a.ts").contains("\"./two.ts\""));
    assert!(source("handlers/a.ts").contains("\"./three/index.ts\""));
    assert_eq!(source("lib/one.js"), "export * from \"./deep/index.mjs\"; export const one = 1;");
    assert!(source("lib/deep/index.mjs").ends_with("import(\"../late.mts\");"));
}

#[test]
fn modules_may_import_each_other() {
    let files = Files::new(&[("a.js", "import './b.js'; export function handle() {}"), ("b.js", "import './a.js'; import './b.js';")]);
    assert_eq!(files.read("a.js").unwrap().modules.len(), 2);
}

#[test]
fn syntax_errors_of_all_files_are_reported_together() {
    let files = Files::new(&[
        ("a.js", "import './b.ts';\nimport './c.js';\nexport function handle() {}\n"),
        ("b.ts", "const x: number = ;\n"),
        ("c.js", "// one\nlet a = 1;\nlet a = 2;\n"),
    ]);
    let text = files.read("a.js").unwrap_err().to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("b.ts:1:19: "), "{text}");
    assert!(lines[1].starts_with("c.js:2:5: "), "{text}");
}

#[test]
fn every_global_that_is_not_here_names_the_way_out() {
    let ways_out = [
        ("fetch('x')", "http.fetch(url)"),
        ("new XMLHttpRequest()", "http.fetch(url)"),
        ("setTimeout(() => {}, 5)", "throw new Retry(reason"),
        ("setInterval(() => {}, 5)", "emit({ type, data, after"),
        ("setImmediate(() => {})", "throw new Retry(reason"),
        ("process.env.X", "config.get(name)"),
        ("require('x')", "ES module"),
        ("module.exports = {}", "ES module"),
        ("Buffer.from('x')", "Uint8Array"),
        ("localStorage.getItem('x')", "keyvalue"),
        ("window.x", "globalThis"),
        ("document.title", "browser"),
        ("eval('1')", "only the code it was built from"),
        ("new Function('1')", "only the code it was built from"),
        ("Function('1')", "only the code it was built from"),
    ];
    for (code, way_out) in ways_out {
        let text = complaint("a.js", &format!("\nexport const x = () => {{ {code} }};"));
        assert!(text.starts_with("a.js:2:") && text.contains("is not here") && text.contains(way_out), "{code}: {text}");
    }
}

#[test]
fn the_place_is_that_of_the_use() {
    assert!(complaint("a.js", "export const x = 1,\n  y = () => fetch('x');").starts_with("a.js:2:13: `fetch` is not here"));
    assert!(complaint("a.ts", "type A = string;\nexport const y = (a: A) => fetch(a);").starts_with("a.ts:2:28: `fetch` is not here"));
}

#[test]
fn looking_before_leaping_is_no_error() {
    for fine in [
        "if (typeof process !== 'undefined') process.exit()",
        "const has = typeof fetch === 'function'",
        "function f(fetch) { fetch() }",
        "const Buffer = 1; Buffer",
        "({}).x instanceof Function",
        "({ process: 1 }).process",
        "globalThis.console.log()",
    ] {
        read_one("a.js", fine).unwrap_or_else(|error| panic!("{fine}: {error}"));
    }
    for fine in ["let f: typeof fetch", "let w: Window | Document", "function f(r: process.Env): Buffer { return r as any }"] {
        read_one("a.ts", fine).unwrap_or_else(|error| panic!("{fine}: {error}"));
    }
}

#[test]
fn declaring_a_global_does_not_make_it_be_there() {
    assert!(complaint("a.ts", "declare const process: any;\nexport const x = () => process.env;").starts_with("a.ts:2:24: `process`"));
}

#[test]
fn a_package_is_to_be_bundled() {
    let text = complaint("a.js", "import _ from 'lodash/fp';");
    assert_eq!(
        text,
        "a.js:1:15: `lodash/fp` is an npm package and none is installed: bundle it first, for instance `npx esbuild a.js --bundle --format=esm \
         --external:koksmat --outfile=a.bundle.js`, and name the bundle as the handler's plugin"
    );
}

#[test]
fn what_else_cannot_be_followed_says_why() {
    let reasons = [
        ("import fs from 'node:fs'", "`node:fs` is Node's own"),
        ("import fs from 'fs/promises'", "`fs/promises` is Node's own"),
        ("import x from 'https://x.example/y.js'", "download the module"),
        ("import x from '/y.js'", "relative path"),
        ("import x from '#y'", "package.json"),
        ("import x from './y'", "\"./y\" is not there: looked for y, y.js, y.ts, y.mjs, y.mts, y/index.js, "),
        ("const x = 'y'; import('./' + x)", "literal string"),
        ("class A { @dec x = 1 }; function dec() {}", "decorators"),
        ("const x = <div/>", "JSX is not supported"),
    ];
    for (code, reason) in reasons {
        let text = complaint("a.js", code);
        assert!(text.starts_with("a.js:1:") && text.contains(reason), "{code}: {text}");
    }
}

#[test]
fn json_is_to_be_written_as_a_module() {
    let files = Files::new(&[("a.js", "import x from './x.json' with { type: 'json' };\nexport function handle() {}"), ("x.json", "{}")]);
    let text = files.read("a.js").unwrap_err().to_string();
    assert!(text.starts_with("a.js:1:15: \"./x.json\" is JSON") && text.contains("export default"), "{text}");
}

#[test]
fn what_is_imported_from_koksmat_is_what_it_needs() {
    use Capability::{Emit, Http, Keyvalue};
    let needs = |text: &str| read_one("a.js", text).unwrap().needs.into_iter().collect::<Vec<_>>();
    assert_eq!(needs("import { log, config, Retry, Reject, Response } from 'koksmat'"), []);
    assert_eq!(needs("import { keyvalue as kv, log } from 'koksmat'"), [Keyvalue]);
    assert_eq!(needs("import { emit, http } from 'koksmat'"), [Emit, Http]);
    assert_eq!(needs("import * as koksmat from 'koksmat'"), [Keyvalue, Emit, Http]);
    assert_eq!(needs("const k = await import('koksmat')"), [Keyvalue, Emit, Http]);
    assert_eq!(needs("export * from 'koksmat'"), [Keyvalue, Emit, Http]);
    assert_eq!(needs("export { log } from 'koksmat'"), [Keyvalue, Emit, Http]);
}

#[test]
fn needs_of_all_files_count() {
    let files = Files::new(&[("a.js", "import './b.js'; export function handle() {}"), ("b.js", "import { emit } from 'koksmat';")]);
    assert_eq!(files.read("a.js").unwrap().needs, BTreeSet::from([Capability::Emit]));
}

#[test]
fn an_unknown_name_of_koksmat_gets_a_suggestion() {
    let text = complaint("a.js", "import { log,\n  keyvlaue } from 'koksmat'");
    assert_eq!(text, "a.js:2:3: \"koksmat\" has no `keyvlaue`: did you mean `keyvalue`?");
    assert!(complaint("a.js", "import koksmat from 'koksmat'").contains("no default export"));
}

#[test]
fn a_file_without_a_handler_is_refused() {
    let text = Files::new(&[("a.js", "export const other = 1;")]).read("a.js").unwrap_err().to_string();
    assert_eq!(text, "a.js:1:1: the handler's file exports no `handle`: write `export function handle(event, ctx) { … }`");
    for fine in [
        "export const handle = async () => {}",
        "export default () => {}",
        "const h = () => {}; export { h as handle }",
        "export { handle } from './b.js'",
        "export * from './b.js'",
        "export const { handle } = { handle() {} }",
    ] {
        Files::new(&[("a.js", fine), ("b.js", "export function handle() {}")])
            .read("a.js")
            .unwrap_or_else(|error| panic!("{fine}: {error}"));
    }
    assert!(Files::new(&[("a.ts", "export type handle = string;")]).read("a.ts").is_err());
}

#[test]
fn typescript_becomes_javascript() {
    let files = Files::new(&[
        (
            "a.ts",
            "import type { Order } from './types';\n\
             import { Unused, type Item } from './types';\n\
             import { keyvalue, Event } from 'koksmat';\n\
             enum Size { Small, Large = 5 }\n\
             const enum Fixed { One = 1 }\n\
             namespace Shop { export const name = 'x' }\n\
             class Stock { constructor(private readonly left: number, public item?: Item) {} get() { return this.left! } }\n\
             abstract class Base<T> { declare x: string; abstract y(): T; z = 1 as unknown as Order }\n\
             export function handle(event: Event): number { return new Stock(Size.Large).get() + (<number>Fixed.One) + Shop.name.length satisfies number }\n\
             keyvalue;\n",
        ),
        ("types.d.ts", "export interface Order {} export interface Item {} export interface Unused {}"),
    ]);
    let script = files.read("a.ts").unwrap();
    assert_eq!(script.modules.len(), 1, "imports of types alone are not followed");
    assert_eq!(script.needs, BTreeSet::from([Capability::Keyvalue]), "Event is a type and erased");
    let code = &script.modules[0].1;
    for gone in ["Order", "Item", "interface", "Event", "private", "abstract", "satisfies"] {
        assert!(!code.contains(gone), "{gone} in {code}");
    }
    assert!(code.contains("this.left = left"), "{code}");
    assert!(code.contains("Size[Size[\"Large\"] = 5] = \"Large\""), "{code}");
    oxc_parses(code);
}

fn oxc_parses(code: &str) {
    let allocator = oxc::allocator::Allocator::default();
    assert!(oxc::parser::Parser::new(&allocator, code, oxc::span::SourceType::mjs()).parse().diagnostics.is_empty(), "{code}");
}

#[test]
fn positions_in_typescript_lead_back_to_the_file() {
    let text = "interface Order {\n  sku: string;\n}\n\nexport function handle(event: { json(): Order }): void {\n    const order = event.json();   /* é */ throw new Error(order.sku);\n}\n";
    let script = Files::new(&[("a.ts", text)]).read("a.ts").unwrap();
    let code = &script.modules[0].1;
    let byte = code.find("new Error").unwrap();
    let Place { line, column } = Place::of(code, u32::try_from(byte).unwrap());
    assert_ne!(line, 6);
    let expected = Place::of(text, u32::try_from(text.find("new Error").unwrap()).unwrap());
    let rewritten = script.positions.rewrite(&format!("at handle (a.ts:{line}:{column})"));
    assert_eq!(rewritten, format!("at handle (a.ts:6:{})", expected.column));
}

#[test]
fn a_file_outside_the_project_is_not_read() {
    let files = Files::new(&[
        ("secret.js", "export const x = 1;"),
        ("shop/koksmat.toml", ""),
        ("shop/lib/fine.js", "export {};"),
        ("shop/handlers/a.js", "import '../../secret.js';\nimport '../lib/fine.js';\nexport function handle() {}"),
        ("shop/handlers/b.js", "import './link.js';\nexport function handle() {}"),
        ("alone/a.js", "import '../secret.js';\nexport function handle() {}"),
    ]);
    let outside = "leads out of the project's folder";
    let text = files.read("shop/handlers/a.js").unwrap_err().to_string();
    assert!(text.starts_with("handlers/a.js:1:8: ../../secret.js") && text.contains(outside) && text.lines().count() == 1, "{text}");
    assert!(
        files.read("alone/a.js").unwrap_err().to_string().contains(outside),
        "without koksmat.toml the project is the script's own folder"
    );
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(files.path("secret.js"), files.path("shop/handlers/link.js")).unwrap();
        let text = files.read("shop/handlers/b.js").unwrap_err().to_string();
        assert!(text.starts_with("handlers/b.js:1:8: ") && text.contains(outside), "{text}");
        std::os::unix::fs::symlink(files.path("secret.js"), files.path("shop/entry.js")).unwrap();
        assert!(files.read("shop/entry.js").unwrap_err().to_string().contains(outside));
    }
}

#[test]
fn a_script_that_is_not_there_or_no_script_is_named() {
    let files = Files::new(&[("a.jsx", "")]);
    assert!(files.read("b.js").unwrap_err().to_string().ends_with("b.js: there is no such file"));
    assert!(files.read("a.jsx").unwrap_err().to_string().ends_with("a script handler is a .js, .mjs, .ts or .mts file"));
}

#[test]
fn sizes_are_bounded() {
    let big = format!("export function handle() {{}} //{}", "x".repeat(1 << 20));
    assert!(Files::new(&[("a.js", &big)]).read("a.js").unwrap_err().to_string().contains("larger than 1 MiB"));

    let part = format!("//{}", "x".repeat((1 << 20) - 100));
    let names: Vec<String> = (0..9).map(|index| format!("p{index}.js")).collect();
    let entry = names.iter().map(|name| format!("import './{name}';\n")).collect::<String>() + "export function handle() {}";
    let mut files = vec![("a.js", entry.as_str())];
    files.extend(names.iter().map(|name| (name.as_str(), part.as_str())));
    let text = Files::new(&files).read("a.js").unwrap_err().to_string();
    assert!(text.starts_with("p8.js: ") && text.contains("larger than 8 MiB") && text.lines().count() == 1, "{text}");

    let names: Vec<String> = (0..256).map(|index| format!("p{index}.js")).collect();
    let entry = names.iter().map(|name| format!("import './{name}';\n")).collect::<String>() + "export function handle() {}";
    let mut files = vec![("a.js", entry.as_str())];
    files.extend(names.iter().map(|name| (name.as_str(), "")));
    let text = Files::new(&files).read("a.js").unwrap_err().to_string();
    assert!(text.starts_with("a.js:256:8: ") && text.contains("file 257"), "{text}");
}

#[test]
fn the_digest_is_that_of_everything_that_matters() {
    let files = |text: &str, lib: &str| Files::new(&[("a.ts", text), ("b.js", lib)]).read("a.ts").unwrap().digest;
    let handler = "import './b.js'; export function handle(x: number) {}";
    let digest = files(handler, "export {}");
    assert_eq!(digest, files(handler, "export {}"), "the same in another folder");
    assert_ne!(digest, files(handler, "export {};"));
    assert_ne!(digest, files(&format!("\n{handler}"), "export {}"), "the same code from another line has other positions");
}

#[test]
fn typescript_that_has_no_javascript_is_refused() {
    for (code, reason) in [
        ("import fs = require('fs'); fs.x", "Import assignment cannot be used"),
        ("namespace N { export let x = 1 }", "Namespaces exporting non-const are not supported"),
        ("export = 3", "An export assignment cannot be used"),
    ] {
        let text = complaint("a.ts", code);
        assert!(text.starts_with("a.ts:1:") && text.contains(reason), "{code}: {text}");
    }
}
