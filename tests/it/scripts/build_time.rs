//! What is said before anything runs: everything that is wrong at once, each with file, line and column, and the way out.

use koksmat::Event;
use koksmat_tests::{Folder, process::koksmat};

use super::{FROM_MEMORY, in_both_tiers, response};

/// `koksmat check` of a handler with these files: its exit code and what it says.
async fn check(files: &[(&str, &str)]) -> (Option<i32>, String) {
    let (entry, source) = files[0];
    let mut folder = Folder::new().script("broken", entry, source, "on = [{ source = \"orders\" }]").queue("orders");
    for (file, text) in &files[1..] {
        folder = folder.file(file, text);
    }
    folder.write();
    let ended = koksmat(folder.path(), &["check"]).await;
    (ended.code, ended.log.join("\n"))
}

/// The check fails and says each of these, in its own words and at its own place.
async fn is_refused(files: &[(&str, &str)], expected: &[&str]) {
    let (code, said) = check(files).await;
    assert_eq!(code, Some(2), "{said}");
    for line in expected {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_syntax_error_is_shown_with_its_place() {
    is_refused(&[("handlers/h.js", "export function handle(event) {\n  const x = ;\n}\n")], &["handlers/h.js:2:13: "]).await;
    is_refused(&[("h.ts", "export function handle(event: Event {\n}\n")], &["h.ts:1:37: "]).await;
    // In an imported file too; columns count characters.
    let files =
        [("h.ts", "import { x } from \"./lib\";\nexport const handle = () => x;"), ("lib.ts", "/* Blåbær ☃ */ export const x = = 1;")];
    is_refused(&files, &["lib.ts:1:33: "]).await;
    is_refused(&[("h.js", "let a = 1;\nlet a = 2;\nexport function handle() {}")], &["h.js:1:5: "]).await;
    is_refused(&[("h.js", "export function handle() { return await 1; }")], &["h.js:1:"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_refused_and_names_the_way_out() {
    let source = r#"import express from "express";
import { readFile } from "node:fs/promises";
import path from "path";
import "https://example.com/lib.js";
import { keyvlaue } from "koksmat";
export async function handle(event) {
  const answer = await fetch("https://example.com/");
  setTimeout(() => {}, 1000);
  const home = process.env.HOME;
  const fs = require("fs");
  const bytes = Buffer.from("x");
  eval("1 + 1");
  new Function("return 1");
  localStorage.setItem("a", "b");
  return import(event.text());
}
"#;
    is_refused(
        &[("h.js", source)],
        &[
            "h.js:1:21: `express` is an npm package and none is installed: bundle it first, for instance `npx esbuild",
            "h.js:2:26: `node:fs/promises` is Node's own and not here",
            "h.js:3:18: `path` is Node's own and not here",
            "h.js:4:8: \"https://example.com/lib.js\" cannot be followed",
            "h.js:5:10: \"koksmat\" has no `keyvlaue`: did you mean `keyvalue`?",
            "h.js:7:24: `fetch` is not here: import { http } from \"koksmat\" and use http.fetch(url)",
            "h.js:8:3: `setTimeout` is not here: nothing runs after the handler has answered: throw new Retry",
            "h.js:9:16: `process` is not here: there is no process and no environment: import { config } from \"koksmat\"",
            "h.js:10:14: `require` is not here: a handler is an ES module",
            "h.js:11:17: `Buffer` is not here: use Uint8Array",
            "h.js:12:3: `eval` is not here: a handler runs only the code it was built from",
            "h.js:13:7: `Function` is not here: a handler runs only the code it was built from",
            "h.js:14:3: `localStorage` is not here: import { keyvalue }",
            "h.js:15:10: import() needs its path as a literal string",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_that_lead_nowhere_are_refused() {
    is_refused(
        &[
            (
                "handlers/h.ts",
                "import { a } from \"./gone\";\nimport { b } from \"../../outside.js\";\nimport data from \"./data.json\";\nimport type { T } from \"./types\";\nexport const handle = (): T => [a, b, data];\n",
            ),
            ("handlers/data.json", "{}"),
            ("handlers/types.ts", "export type T = unknown;"),
        ],
        &[
            "handlers/h.ts:1:19: \"./gone\" is not there: looked for handlers/gone",
            "handlers/h.ts:2:19: ../../outside.js leads out of the project's folder",
            "handlers/h.ts:3:18: \"./data.json\" is JSON, which cannot be imported",
        ],
    )
    .await;
    is_refused(&[("h.js", "export const other = 1;")], &["h.js:1:1: the handler's file exports no `handle`"]).await;
    is_refused(
        &[("h.js", "import { missing } from \"./lib.js\";\nexport const handle = () => missing;"), ("lib.js", "export const there = 1;")],
        &["h.js:1:10: ", "lib.js has no export `missing`: it exports there"],
    )
    .await;
    is_refused(&[("h.js", "const early = null;\nearly.x;\nexport function handle() {}")], &["h.js:2:", "TypeError: "]).await;
    is_refused(&[("h.ts", "@decorated class A {}\nexport const handle = () => A;")], &["h.ts:1:1: decorators are not supported"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_missing_is_named_with_the_line_to_add() {
    let source = "import { keyvalue, log } from \"koksmat\";\nimport { send } from \"./send.js\";\nexport const handle = () => { send(keyvalue, log); };";
    is_refused(
        &[("h.js", source), ("send.js", "import { emit } from \"koksmat\";\nexport const send = () => emit({ type: \"t\" });")],
        &[
            "handlers.broken: ",
            "`keyvalue` of \"koksmat\"",
            "`emit` of \"koksmat\"",
            "add to [handlers.broken]:  grants = { keyvalue = true, emit = [\"order.*\"] }",
        ],
    )
    .await;
}

/// TypeScript of every kind that leaves code behind or takes it away, over several files.
const TYPESCRIPT: &[(&str, &str)] = &[
    (
        "src/handlers/entry.ts",
        r#"import { config, type Event, type Context } from "koksmat";
import type { Never } from "./declared-only";
import { Colour, Size, colours } from "../enums";
import { Money, type Currency } from "../money.js";
import * as text from "../text";
import shout, { whisper as quietly } from "./voices/index";
import plain from "../plain";
export { default as again } from "../plain.js";

declare const nothing: Never;
abstract class Base<T> {
  constructor(protected readonly value: T, public extra?: string) {}
  abstract show(): string;
}
class Shown extends Base<number> {
  declare absent: string;
  static #count = 0;
  override show(this: Shown): string { Shown.#count++; return `${this.value as number}${this.extra ?? ""}${Shown.#count}`; }
}
function pick<const T extends readonly unknown[]>(list: T, index: number): T[number];
function pick(list: readonly unknown[], index: number): unknown { return list[index]!; }
namespace Inner { export const deep = "namespace"; }
const settings = { a: 1 } satisfies Record<string, number>;
const [first, ...rest]: [string, ...number[]] = ["first", 2, 3];
let maybe: { x?: { y: number } } | undefined;

export async function handle(event: Event, ctx: Context): Promise<Record<string, unknown>> {
  const late = await import("../late.ts");
  const currency = <Currency>"SEK";
  return {
    enums: [Colour.Red, Colour[1], Size.Large, colours],
    money: new Money(5, currency).toString(),
    text: text.twice("ab"), shout: shout("hi"), quietly: quietly("HI"), plain,
    shown: new Shown(7, "!").show(), pick: pick(["a", "b"], 1), deep: Inner.deep,
    settings, first, rest, maybe: maybe?.x?.y ?? null, late: late.default,
    config: config.get("absent") === undefined, attempt: ctx.attempt,
  };
}
"#,
    ),
    ("src/handlers/declared-only.d.ts", "export interface Never { never: true }\n"),
    (
        "src/enums.ts",
        "export enum Colour { Red, Green }\nexport const enum Size { Small = 1, Large = Small << 3 }\nexport const colours: string[] = Object.values(Colour).filter((c): c is string => typeof c === \"string\");\n",
    ),
    (
        "src/money.ts",
        "export type Currency = \"SEK\" | \"EUR\";\nexport class Money {\n  constructor(private amount: number, readonly currency: Currency) {}\n  toString() { return `${this.amount} ${this.currency}`; }\n}\n",
    ),
    ("src/text/index.ts", "export * from \"./twice.js\";\n"),
    ("src/text/twice.ts", "export function twice(s: string): string { return s + s; }\n"),
    ("src/handlers/voices/index.js", "export default (s) => `${s.toUpperCase()}!`;\nexport const whisper = (s) => s.toLowerCase();\n"),
    ("src/plain.mjs", "export default \"not here\";\n"),
    ("src/plain.js", "export default \"plain JavaScript\";\n"),
    ("src/late.ts", "const late: string = \"dynamic\";\nexport default late;\n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn types_are_stripped_and_relative_imports_followed() {
    in_both_tiers(TYPESCRIPT, &format!("{FROM_MEMORY}\nretry = {{ attempts = 1 }}"), async |host| {
        let answer = response(host, Event::new("go", "")).await;
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            answer,
            serde_json::json!({
                "enums": [0, "Green", 8, ["Red", "Green"]], "money": "5 SEK", "text": "abab", "shout": "HI!", "quietly": "hi",
                "plain": "plain JavaScript", "shown": "7!1", "pick": "b", "deep": "namespace", "settings": { "a": 1 }, "first": "first",
                "rest": [2, 3], "maybe": null, "late": "dynamic", "config": true, "attempt": 1,
            })
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_export_a_handler_is_one() {
    for source in [
        "export function handle() { return \"yes\"; }",
        "export async function handle() { return \"yes\"; }",
        "export const handle = () => \"yes\";",
        "const handler = () => \"yes\";\nexport { handler as handle };",
        "export default () => \"yes\";",
        "export default async function () { return \"yes\"; }",
        "export { handle } from \"./other.js\";",
        "export * from \"./other.js\";",
        "const ready = await Promise.resolve(\"yes\");\nexport const handle = () => ready;",
    ] {
        let files = [("h.js", source), ("other.js", "export const handle = () => \"yes\";")];
        in_both_tiers(&files, FROM_MEMORY, async |host| {
            assert_eq!(response(host, Event::new("go", "")).await.body, "yes", "{source}");
        })
        .await;
    }
}
