//! What a handler throws, and what it makes of the event; where it says that something is wrong.

use koksmat::{Answer, Event};
use koksmat_tests::{Folder, Process, TestHost, within};

use super::{FROM_MEMORY, failure, in_both_tiers, new_handler};

/// Whatever goes wrong is a dead letter at once, with its reason.
fn one_attempt() -> String {
    format!("{FROM_MEMORY}\nretry = {{ attempts = 1 }}")
}

const QUEUED: &str = "on = [{ source = \"orders\" }]";

/// One way to fail for each type of event.
const WAYS: &str = r#"import { Reject, Retry } from "koksmat";

class OutOfStock extends Reject {}
class Busy extends Retry {}

const ways = {
  reject() { throw new Reject("out of stock"); },
  rejectByClass() { throw new OutOfStock("none left"); },
  rejectWithCause() { throw new Reject("no", { cause: new TypeError("why") }); },
  retry() { throw new Retry("busy", { after: "1h" }); },
  retryByClass() { throw new Busy("very busy"); },
  other() { throw new RangeError("too far"); },
  causes() { throw new Error("outer", { cause: new TypeError("inner", { cause: "the root" }) }); },
  object() { throw { code: 7, message: "like an error" }; },
  text() { throw "only text"; },
  nothing() { throw undefined; },
  aggregate() { throw new AggregateError([new Error("first"), new Error("second")], "both"); },
  async late() { await null; throw new Reject("later"); },
  async lateOther() { await null; null.property; },
  never() { return new Promise(() => {}); },
  async neverAwaited() { await new Promise(() => {}); },
  loose() { Promise.reject(new Error("nobody waits")); return "fine"; },
  microtask() { queueMicrotask(() => { throw new Error("in a microtask"); }); },
  json(event) { return event.json(); },
  jsonCaught(event) { try { event.json(); } catch (error) { return `caught ${error.name}`; } },
  badResponse() { return new Response("x", { status: 99 }); },
  notJson() { const circle = {}; circle.circle = circle; return circle; },
  recursion() { return ways.recursion() + 1; },
};
export function handle(event) { return ways[event.type](event); }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_thrown_decides_what_becomes_of_the_event() {
    in_both_tiers(&[("ways.js", WAYS)], &one_attempt(), async |host| {
        let reasons: &[(&str, &[&str])] = &[
            ("reject", &["out of stock"]),
            ("rejectByClass", &["none left"]),
            ("rejectWithCause", &["no\ncaused by: TypeError: why", "ways.js:9:"]),
            ("retry", &["failed 1 times; last: busy"]),
            ("retryByClass", &["failed 1 times; last: very busy"]),
            ("other", &["failed 1 times; last: RangeError: too far\n", "ways.js:12:"]),
            ("causes", &["last: Error: outer\n", "caused by: TypeError: inner\n", "caused by: thrown: \"the root\""]),
            ("object", &["last: thrown: {\"code\":7,\"message\":\"like an error\"}"]),
            ("text", &["last: thrown: \"only text\""]),
            ("nothing", &["last: thrown: undefined"]),
            ("aggregate", &["last: AggregateError: both", "error 1 of 2: Error: first", "error 2 of 2: Error: second"]),
            ("late", &["later"]),
            ("lateOther", &["last: TypeError: ", "ways.js:19:"]),
            ("never", &["last: the handler's promise never settles"]),
            ("neverAwaited", &["last: the handler's promise never settles"]),
            ("loose", &["nothing handled it (is an `await` missing?)\nError: nobody waits", "ways.js:22:"]),
            ("microtask", &["in a microtask", "ways.js:23:"]),
            ("json", &["the event's data is not JSON: "]),
            ("badResponse", &["last: RangeError: the status of a Response must be"]),
            ("notJson", &["last: TypeError: ", "circular"]),
            ("recursion", &["last: RangeError: Maximum call stack size exceeded", "ways.js:28:"]),
        ];
        for (way, parts) in reasons {
            let reason = failure(host, Event::new(*way, "{ no json")).await;
            for part in *parts {
                assert!(reason.contains(part), "{way} says {reason:?}, without {part:?}");
            }
            // What the handler said itself is the reason as it stands.
            if ["reject", "rejectByClass", "late"].contains(way) {
                assert_eq!(reason, parts[0]);
            }
        }
        let Answer::Done { response: Some(response) } = host.handle(Event::new("jsonCaught", "{ no json")).await else {
            panic!("not done")
        };
        assert_eq!(response.body, "caught Reject");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_throw_but_reject_is_another_attempt() {
    let script = r#"
        import { keyvalue, Retry } from "koksmat";
        export function handle(event, ctx) {
          keyvalue.set("attempt", ctx.attempt);      // what a failed attempt wrote is gone
          if (keyvalue.keys().length > 1) throw new Error("another attempt's key is here");
          if (ctx.attempt < 3) { keyvalue.set(`left by ${ctx.attempt}`, 1); throw new Retry("not yet", { after: "1ms" }); }
          if (ctx.attempt < 5) throw new Error("by accident");
          keyvalue.set("key", ctx.idempotencyKey);
        }
    "#;
    let settings = format!("{FROM_MEMORY}\nretry = {{ attempts = 5, backoff = \"1ms..2ms\" }}\ngrants = {{ keyvalue = true }}");
    let host = TestHost::start(new_handler(&[("again.js", script)], &settings).await.folder).await;
    drop(host.memory.send(Event::new("go", "")).await.unwrap());
    koksmat_tests::until("the fifth attempt", || async { host.folder.value("attempt") }).await;
    host.settled().await;
    let (folder, _) = host.stop().await;
    assert_eq!(folder.value("attempt").unwrap(), "5");
    assert_eq!(folder.count("select count(*) from dead_letter"), 0);
}

const TYPESCRIPT: &[(&str, &str)] = &[
    (
        "handlers/price.ts",
        r#"import { Reject, type Event } from "koksmat";
import { total } from "../lib/total";

/** Types take up lines here that are not in what runs. */
interface Order {
  items: Item[];
}
export type Item = { price: number; count: number };
enum Mode { Normal = "normal", Deep = "deep" }

export function handle(event: Event): { total: number } {
  const order = event.json() as Order;
  if ((event.type as Mode) === Mode.Deep) return { total: total(order.items!) };
  const price: number = (order.items as unknown as { missing: { price: number } }).missing.price;
  return { total: price };
}
"#,
    ),
    (
        "lib/total.ts",
        r#"import type { Item } from "../handlers/price";

type Sum<T extends object> = (all: readonly T[]) => number;

const one = (item: Item): number => {
  if (item.count < 0) throw new RangeError(`a count of ${item.count}` satisfies string);
  return item.price * item.count;
};

export const total: Sum<Item> = (all) => all.map((item: Item) => one(item)).reduce((a, b) => a + b, 0);
"#,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_error_at_run_time_is_shown_where_it_stands_in_the_typescript() {
    let seen = std::sync::Mutex::new(Vec::new());
    in_both_tiers(TYPESCRIPT, &one_attempt(), async |host| {
        let here = failure(host, Event::new("normal", r#"{ "items": [] }"#)).await;
        assert!(here.contains("TypeError: ") && here.contains("handlers/price.ts:14:26"), "{here}");
        let deep = failure(host, Event::new("deep", r#"{ "items": [{ "price": 1, "count": -1 }] }"#)).await;
        assert!(deep.starts_with("failed 1 times; last: RangeError: a count of -1\n"), "{deep}");
        let frames = ["lib/total.ts:6:", "lib/total.ts:10:", "handlers/price.ts:13:"];
        let places: Vec<_> = frames.iter().map(|frame| deep.find(frame).unwrap_or_else(|| panic!("no {frame} in {deep}"))).collect();
        assert!(places.is_sorted(), "{deep}");
        seen.lock().unwrap().push([here, deep]);
    })
    .await;
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen[0], seen[1], "the first tier says the same as the second");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_an_error_at_run_time_too() {
    let script = r#"
        const hidden = globalThis;
        export function handle(event) {
          switch (event.type) {
            case "bare": return new Function.prototype.constructor("return fetch")();
            case "fetch": return hidden["fetch"]("http://example.com/");
            case "timer": return hidden["setTimeout"](() => {}, 1);
            case "process": return hidden["process"].env.HOME;
            case "eval": return hidden["eval"]("1 + 1");
            case "import": return hidden["require"]("fs");
          }
        }
    "#;
    in_both_tiers(&[("hidden.js", script)], &one_attempt(), async |host| {
        for (kind, line) in [("fetch", 6), ("timer", 7), ("process", 8), ("import", 10)] {
            let reason = failure(host, Event::new(kind, "")).await;
            assert!(reason.contains("TypeError: ") && reason.contains(&format!("hidden.js:{line}:")), "{kind}: {reason}");
        }
        for kind in ["eval", "bare"] {
            let reason = failure(host, Event::new(kind, "")).await;
            assert!(reason.contains("EvalError: ") && reason.contains("only the code it was loaded with"), "{kind}: {reason}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_cannot_be_called_at_the_top_level_in_either_tier() {
    let calls = [
        ("keyvalue.get", "keyvalue.get(\"k\")"),
        ("emit", "emit({ type: \"t\" })"),
        ("log.info", "log.info(\"hello\")"),
        ("console.log", "console.log(\"hello\")"),
        ("config.get", "config.get(\"k\")"),
        ("http.fetch", "http.fetch(\"http://127.0.0.1:1/\")"),
        ("crypto.randomUUID", "crypto.randomUUID()"),
    ];
    for (name, call) in calls {
        let script = format!(
            "import {{ keyvalue, emit, log, config, http }} from \"koksmat\";\nconst early = {call};\nexport function handle() {{}}\n"
        );
        let settings = format!("{}\ngrants = {{ keyvalue = true, emit = [\"*\"], http = [\"127.0.0.1:1\"] }}", one_attempt());
        let expected = format!("`{name}` was called at the module's top level: host calls are only possible inside handle");
        // The second tier: it is not made, and the build says why.
        let new = new_handler(&[("early.js", &script)], &settings).await;
        let error = koksmat::host::build_handlers(&new.folder.config_with(&["memory"]), |_, _, _| {}).await.unwrap_err().to_string();
        assert!(error.contains(&expected) && error.contains("early.js:2:"), "{error}");
        // The first: each event says so.
        let host = TestHost::start(new.folder).await;
        let reason = failure(&host, Event::new("go", "")).await;
        assert!(reason.contains(&expected) && reason.contains("early.js:2:"), "{reason}");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_level_that_never_ends_is_cut_in_both_tiers() {
    let settings = format!("{}\ntimeout = \"200ms\"", one_attempt());
    let new = new_handler(&[("endless.js", "for (;;) {}\nexport function handle() {}")], &settings).await;
    let error = koksmat::host::build_handlers(&new.folder.config_with(&["memory"]), |_, _, _| {}).await.unwrap_err().to_string();
    assert!(error.contains("endless.js: the top level of its modules does not come to an end"), "{error}");
    let host = TestHost::start(new.folder).await;
    let reason = failure(&host, Event::new("go", "")).await;
    assert!(reason.contains("timeout: the call was cut after 200ms"), "{reason}");
    // Nor does it hold up the end of the host, which began to make a snapshot of it.
    let (folder, _) = host.stop().await;
    let folder = Folder::new().script("endless", "endless.js", &std::fs::read_to_string(folder.join("endless.js")).unwrap(), QUEUED);
    let ended = Process::start(&folder.queue("orders")).await.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fails_leaves_the_next_one_alone() {
    let script = r#"
        let calls = 0;
        export function handle(event) {
          calls += 1;
          globalThis.left = (globalThis.left ?? 0) + 1;
          if (event.type === "fail") throw new Error("no");
          return { calls, left: globalThis.left };
        }
    "#;
    in_both_tiers(&[("fresh.js", script)], &one_attempt(), async |host| {
        let mut pending = Vec::new();
        for n in 0..20 {
            pending.push(host.memory.send(Event::new(if n % 2 == 0 { "fail" } else { "go" }, "")).await.unwrap());
        }
        for pending in pending {
            match within("an answer", pending.answer()).await {
                Answer::Done { response: Some(response) } => assert_eq!(response.body, r#"{"calls":1,"left":1}"#),
                Answer::Dead { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}
