//! What a script reaches through `"koksmat"`: keys, events, configuration, requests, the log; and what it answers.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::{Router, body::Bytes, extract::Path, http::HeaderMap, routing::any};
use koksmat::Event;
use koksmat_tests::{TestHost, log};
use serde_json::{Value, json};

use super::{FROM_MEMORY, New, SNAPSHOT_SERVES, failure, in_both_tiers, json_response, new_handler, response};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_returns_is_the_response() {
    let script = r#"import { http, Response as Imported } from "koksmat";
const answers = {
  object: () => ({ status: 404, headers: {}, body: "only keys" }),
  list: () => [1, "two"],
  number: () => 7,
  yes: () => true,
  text: () => "plain ☃",
  empty: () => "",
  nothing: () => undefined,
  nil: () => null,
  bytes: () => Uint8Array.of(0, 255, 10),
  buffer: () => Uint8Array.of(1, 2).buffer,
  view: () => new Uint8Array([0, 1, 2, 3]).subarray(1, 3),
  async promised() { await null; return { later: true }; },
  thenable: () => ({ then(resolve) { resolve("from a thenable"); } }),
  response: () => new Response("made", { status: 201, headers: { "X-One": "1", "set-cookie": ["a=1", "b=2"] } }),
  responseJson: () => Response.json({ a: 1 }, { status: 422 }),
  responseObject: () => new Response({ a: 1 }),
  responseNothing: () => new Response(null, { status: 204 }),
  responseBytes: () => new Response(Uint8Array.of(0, 255)),
  redirect: () => Response.redirect("https://example.com/next", 303),
  own: () => new Response("mine", { headers: { "content-type": "text/csv" } }),
  imported: () => new Imported("the same class"),
  toJSON: () => ({ toJSON: () => ({ shown: 1 }) }),
};
export function handle(event) { return answers[event.type](event); }
"#;
    const JSON: &str = "application/json";
    const TEXT: &str = "text/plain; charset=utf-8";
    const BYTES: &str = "application/octet-stream";
    let expected: &[(&str, u16, &str, &[u8])] = &[
        ("object", 200, JSON, br#"{"status":404,"headers":{},"body":"only keys"}"#),
        ("list", 200, JSON, br#"[1,"two"]"#),
        ("number", 200, JSON, b"7"),
        ("yes", 200, JSON, b"true"),
        ("text", 200, TEXT, "plain ☃".as_bytes()),
        ("empty", 200, TEXT, b""),
        ("nothing", 204, "", b""),
        ("nil", 204, "", b""),
        ("bytes", 200, BYTES, b"\0\xff\n"),
        ("buffer", 200, BYTES, b"\x01\x02"),
        ("view", 200, BYTES, b"\x01\x02"),
        ("promised", 200, JSON, br#"{"later":true}"#),
        ("thenable", 200, TEXT, b"from a thenable"),
        ("response", 201, TEXT, b"made"),
        ("responseJson", 422, JSON, br#"{"a":1}"#),
        ("responseObject", 200, JSON, br#"{"a":1}"#),
        ("responseNothing", 204, "", b""),
        ("responseBytes", 200, BYTES, b"\0\xff"),
        ("redirect", 303, "", b""),
        ("own", 200, "text/csv", b"mine"),
        ("imported", 200, TEXT, b"the same class"),
        ("toJSON", 200, JSON, br#"{"shown":1}"#),
    ];
    let settings = format!("{FROM_MEMORY}\ngrants = {{ http = [\"127.0.0.1:1\"] }}");
    in_both_tiers(&[("answers.js", script)], &settings, async |host| {
        for (way, status, content_type, body) in expected {
            let got = response(host, Event::new(*way, "")).await;
            let header = |name: &str| {
                let values = got.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
                values.collect::<Vec<_>>().join("|")
            };
            assert_eq!((got.status, header("content-type").as_str(), &*got.body), (*status, *content_type, *body), "{way}");
            match *way {
                "response" => assert_eq!((header("x-one"), header("set-cookie")), ("1".into(), "a=1|b=2".into())),
                "redirect" => assert_eq!(header("location"), "https://example.com/next"),
                _ => {}
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_and_its_context_are_all_there() {
    let script = r#"
        export function handle(event, ctx) {
          const { json, text } = event;                  // they need no `this`
          return { event, text: text(), json: json(), bytes: Array.from(event.bytes().subarray(0, 3)), ctx,
            left: ctx.deadline - Date.now(), keys: Object.keys(event) };
        }
    "#;
    let settings = format!("{FROM_MEMORY}\natomic = true\ntimeout = \"10s\"");
    in_both_tiers(&[("event.js", script)], &settings, async |host| {
        let event = Event {
            source: "/shop".into(),
            subject: Some("42".into()),
            time: Some("2026-01-02T03:04:05Z".into()),
            datacontenttype: Some("application/json".into()),
            dataschema: Some("https://example.com/s".into()),
            attributes: [
                ("partitionkey".to_owned(), "k".to_owned()),
                ("traceparent".to_owned(), format!("00-{}-{}-01", "a".repeat(32), "b".repeat(16))),
            ]
            .into(),
            headers: vec![("x-one".into(), "1".into()), ("x-one".into(), "2".into()), ("__proto__".into(), "p".into())],
            ..Event::new("order.created", "\u{feff}{\"name\":\"Blåbær\"}")
        };
        let id = event.id.clone();
        let seen = json_response(host, event).await;
        assert_eq!(
            seen["event"],
            json!({
                "id": id, "type": "order.created", "source": "/shop", "subject": "42", "time": "2026-01-02T03:04:05Z",
                "datacontenttype": "application/json", "dataschema": "https://example.com/s",
                "attributes": { "partitionkey": "k", "traceparent": format!("00-{}-{}-01", "a".repeat(32), "b".repeat(16)) },
                "headers": { "x-one": "1, 2", "__proto__": "p" },
            })
        );
        assert_eq!((&seen["json"], &seen["bytes"]), (&json!({ "name": "Blåbær" }), &json!([0xef, 0xbb, 0xbf])));
        assert_eq!((&seen["ctx"]["tenant"], &seen["ctx"]["attempt"]), (&json!("default"), &json!(1)));
        assert!(seen["ctx"]["handler"].as_str().unwrap().starts_with("script-"));
        assert!(seen["ctx"]["idempotencyKey"].as_str().is_some_and(|key| key.len() >= 16), "{seen}");
        assert!(seen["ctx"]["fencingToken"].as_u64().is_some(), "an atomic call has one: {seen}");
        assert!((1_000.0..=10_000.0).contains(&seen["left"].as_f64().unwrap()), "{seen}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_values_of_every_kind() {
    let script = r#"
        import { keyvalue } from "koksmat";
        const is = (what, actual, expected) => {
          const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
          if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
        };
        const message = (run) => { try { run(); return "nothing was thrown"; } catch (error) { return `${error.name}: ${error.message}`; } };
        export function handle(event) {
          const p = event.text();                                   // each event its own keys
          is("absent", [keyvalue.get(p), keyvalue.getBytes(p), keyvalue.getJSON(p), keyvalue.exists(p)], [undefined, undefined, undefined, false]);
          for (const [value, text] of [["text ☃", "text ☃"], ["", ""], [7, "7"], [1.5, "1.5"], [10n ** 20n, "100000000000000000000"], [true, "true"],
              [{ a: [1] }, '{"a":[1]}'], [[1, 2], "[1,2]"], [Uint8Array.of(65, 66), "AB"], [Uint8Array.of(1, 65, 66).subarray(1).buffer.slice(1), "AB"]]) {
            keyvalue.set(`${p}/value`, value);
            is("set and get", keyvalue.get(`${p}/value`), text);
          }
          keyvalue.set(`${p}/bytes`, Uint8Array.of(0, 255, 128));
          is("bytes", Array.from(keyvalue.getBytes(`${p}/bytes`)), [0, 255, 128]);
          is("bytes that are no text", keyvalue.get(`${p}/bytes`), "\0\uFFFD\uFFFD");
          keyvalue.set(`${p}/json`, { deep: { é: null } });
          is("JSON", keyvalue.getJSON(`${p}/json`), { deep: { é: null } });
          is("keys", keyvalue.keys(`${p}/`).sort(), [`${p}/bytes`, `${p}/json`, `${p}/value`]);
          is("no keys", keyvalue.keys(`${p}/none`), []);
          is("exists", keyvalue.exists(`${p}/json`), true);
          keyvalue.delete(`${p}/json`);
          keyvalue.delete(`${p}/never there`);
          is("deleted", [keyvalue.exists(`${p}/json`), keyvalue.keys(`${p}/`).length], [false, 2]);
          is("increment", [keyvalue.increment(`${p}/n`), keyvalue.increment(`${p}/n`, 41), keyvalue.increment(`${p}/n`, 0n)], [1, 42, 42]);
          keyvalue.add(`${p}/sum`, 5); keyvalue.add(`${p}/sum`, -7); keyvalue.add(`${p}/sum`, 1n);
          is("a number", keyvalue.get(`${p}/n`), "42");
          is("what cannot be", [
            message(() => keyvalue.set(`${p}/x`, undefined)), message(() => keyvalue.set(`${p}/x`, null)), message(() => keyvalue.set(`${p}/x`, () => {})),
            message(() => keyvalue.set(`${p}/x`, Promise.resolve(1))), message(() => keyvalue.get()), message(() => keyvalue.get(7)),
            message(() => keyvalue.increment(`${p}/n`, -1)), message(() => keyvalue.add(`${p}/n`, 0.5)), message(() => keyvalue.getJSON(`${p}/bytes`)),
          ].map((text) => text.split(":")[0]), ["TypeError", "TypeError", "TypeError", "TypeError", "TypeError", "TypeError", "TypeError", "TypeError", "Error"]);
          is("nothing of that is there", keyvalue.exists(`${p}/x`), false);
          is("nobody replaces it", message(() => { keyvalue.get = () => "mine"; }).split(":")[0], "TypeError");
          keyvalue.set(`${p}/value`, "last");
          return "all is well";
        }
    "#;
    let settings = format!("{FROM_MEMORY}\nretry = {{ attempts = 1 }}\ngrants = {{ keyvalue = true }}");
    let asked = AtomicUsize::new(0);
    in_both_tiers(&[("keys.js", script)], &settings, async |host| {
        let p = format!("k{}", asked.fetch_add(1, Ordering::Relaxed));
        assert_eq!(response(host, Event::new("go", p.clone())).await.body, "all is well");
        let value = |key: &str| host.folder.value(&format!("{p}/{key}"));
        assert_eq!((value("value"), value("n"), value("sum")), (Some("last".into()), Some("42".into()), Some("-1".into())));
        assert_eq!((value("json"), value("x")), (None, None));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_emitted_in_every_form() {
    let script = r#"
        import { emit, keyvalue } from "koksmat";
        const forms = {
          object: { type: "out.object", data: { a: 1 } },
          text: { type: "out.text", data: "plain ☃", subject: "s" },
          bytes: { type: "out.bytes", data: Uint8Array.of(0, 255) },
          none: { type: "out.none" },
          about: { type: "out.about", data: "<a/>", datacontenttype: "text/xml", dataschema: "https://example.com/s",
            attributes: { partitionkey: "k", count: 7, yes: true, absent: undefined } },
          queued: { type: "out.queued", data: 1, queue: "work" },
          later: { type: "out.later", data: "later", after: "50ms" },
        };
        export function handle(event) {
          if (event.type.startsWith("out.")) {
            keyvalue.set(`seen/${event.type}/${event.id}`, { ...event, at: Date.now() });
            keyvalue.set(`data/${event.type}/${event.id}`, event.bytes());
            return;
          }
          const sent = Date.now();
          const ids = Object.fromEntries(Object.entries(forms).map(([form, event]) => [form, emit(event)]));
          const given = [emit({ type: "out.given", id: "mine", data: "first" }), emit({ type: "out.given", id: "mine", data: "first" })];
          const errors = [{ type: "other" }, {}, undefined, { type: "out.x", after: "soon" }, { type: "out.x", queue: "nowhere" }, { type: "out.x", data() {} },
            { type: "out.x", attributes: { UPPER: "x" } }, { type: "out.x", attributes: { a: {} } }].map((wrong) => {
            try { emit(wrong); return "no error"; } catch (error) { return error.message; }
          });
          return { sent, ids, given, errors };
        }
    "#;
    let settings = "on = [{ source = \"memory\" }, { type = \"out.*\" }]\ngrants = { keyvalue = true, emit = [\"out.*\"] }";
    let New { folder, name } = new_handler(&[("emits.js", script)], settings).await;
    let host = TestHost::start(folder.queue("work")).await;
    for tier in ["first", "second"] {
        if tier == "second" {
            log::line(&name, SNAPSHOT_SERVES).await;
        }
        let answer = json_response(&host, Event::new("go", "")).await;
        host.settled().await;
        let value = |kind: &str, form: &str| host.folder.value(&format!("{kind}/out.{form}/{}", answer["ids"][form].as_str().unwrap()));
        let event =
            |form: &str| serde_json::from_str::<Value>(&value("seen", form).unwrap_or_else(|| panic!("{form} did not arrive"))).unwrap();
        let about = |form: &str| {
            let event = event(form);
            (value("data", form).unwrap(), event["datacontenttype"].as_str().map(str::to_owned))
        };
        assert_eq!(about("object"), (r#"{"a":1}"#.into(), Some("application/json".into())));
        assert_eq!(about("text"), ("plain ☃".into(), Some("text/plain; charset=utf-8".into())));
        assert_eq!(event("text")["subject"], "s");
        assert_eq!(about("none"), (String::new(), None));
        assert_eq!(about("about"), ("<a/>".into(), Some("text/xml".into())));
        assert_eq!(event("about")["attributes"], json!({ "partitionkey": "k", "count": "7", "yes": "true" }));
        assert_eq!(event("about")["dataschema"], "https://example.com/s");
        assert_eq!(about("queued"), ("1".into(), Some("application/json".into())));
        let waited = event("later")["at"].as_u64().unwrap() - answer["sent"].as_u64().unwrap();
        assert!(waited >= 50, "it came after {waited} ms");
        assert_eq!(answer["given"], json!(["mine", "mine"]));
        assert_eq!(host.folder.count("select count(*) from kv where key = 'seen/out.given/mine'"), 1);
        let errors: Vec<&str> = answer["errors"].as_array().unwrap().iter().map(|error| error.as_str().unwrap()).collect();
        let parts = [
            "is not allowed by this handler's grants",
            "has no `type`",
            "emit takes an event",
            "the `after` of emit",
            "nowhere",
            "the `data` of emit",
            "UPPER",
            "the attribute `a` of emit",
        ];
        for (error, part) in errors.iter().zip(parts) {
            assert!(error.contains(part), "{error:?} without {part:?}");
        }
    }
    let (folder, stopped) = host.stop().await;
    assert_eq!(stopped.ledger.sources["work"].received, 2, "what was emitted to the queue came out of it");
    assert_eq!(folder.count("select count(*) from dead_letter"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_what_the_handlers_table_says() {
    let script = r#"
        import { config } from "koksmat";
        export const handle = () => ({ all: config.all(), one: config.get("currency"), none: config.get("absent") ?? "not there" });
    "#;
    let settings = format!("{FROM_MEMORY}\nconfig = {{ currency = \"SEK\", limit = 7, \"é\" = \"ü\" }}");
    in_both_tiers(&[("config.js", script)], &settings, async |host| {
        let answer = json_response(host, Event::new("go", "")).await;
        assert_eq!(answer, json!({ "all": { "currency": "SEK", "limit": "7", "é": "ü" }, "one": "SEK", "none": "not there" }));
    })
    .await;
}

/// A server that says what it was sent.
async fn mirror() -> std::net::SocketAddr {
    let reflect = |method: http::Method, Path(path): Path<String>, headers: HeaderMap, body: Bytes| async move {
        let headers: std::collections::BTreeMap<_, _> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        let seen = json!({ "method": method.as_str(), "path": path, "headers": headers, "body": body.to_vec() }).to_string();
        match &*path {
            "missing" => (http::StatusCode::NOT_FOUND, HeaderMap::new(), seen.into_bytes()),
            "bytes" => (http::StatusCode::OK, HeaderMap::new(), vec![0, 255, 10]),
            "moved" => (http::StatusCode::FOUND, HeaderMap::from_iter([(http::header::LOCATION, "/arrived".parse().unwrap())]), Vec::new()),
            "slow" => {
                tokio::time::sleep(std::time::Duration::from_secs(30)).await;
                (http::StatusCode::OK, HeaderMap::new(), Vec::new())
            }
            _ => (http::StatusCode::OK, HeaderMap::from_iter([("x-mirror".parse().unwrap(), "yes".parse().unwrap())]), seen.into_bytes()),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/{*path}", any(reflect));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_synchronous_and_any_status_is_an_answer() {
    let script = r#"
        import { http } from "koksmat";
        const code = (run) => { try { return run().status; } catch (error) { return error.code ?? error.name; } };
        export function handle(event) {
          const base = event.text();
          const get = http.fetch(`${base}/get?q=1`, { headers: { "X-Mine": "1" } });
          const post = http.fetch(new URL("/post", base), { method: "post", body: { a: "☃" } });
          const missing = http.fetch(`${base}/missing`);
          return {
            get: { ok: get.ok, status: get.status, mirror: get.headers.get("X-Mirror"), body: get.json(), again: get.json().method, url: get.url },
            post: post.json(),
            text: http.fetch(`${base}/text`, { method: "PUT", body: "plain" }).json(),
            bytes: http.fetch(`${base}/raw`, { method: "POST", body: Uint8Array.of(0, 255), headers: { "content-type": "image/png" } }).json(),
            form: http.fetch(`${base}/form`, { method: "POST", body: new URLSearchParams({ a: "b c" }) }).json(),
            own: http.fetch(`${base}/own`, { method: "POST", headers: { "Idempotency-Key": "mine" } }).json().headers["idempotency-key"],
            missing: [missing.ok, missing.status, missing.json().path],
            raw: Array.from(http.fetch(`${base}/bytes`).bytes()),
            moved: [http.fetch(`${base}/moved`).url.slice(base.length), http.fetch(`${base}/moved`, { redirect: "manual" }).status],
            codes: [
              code(() => http.fetch(`${base}/slow`, { timeout: "50ms" })), code(() => http.fetch("http://example.com/")), code(() => http.fetch("/relative")),
              code(() => http.fetch(`${base}/get`, { body: "x" })), code(() => http.fetch("ftp://example.com/")), code(() => http.fetch(base.replace("http://", "http://u:p@"))),
            ],
          };
        }
    "#;
    let address = mirror().await;
    let settings = format!("{FROM_MEMORY}\nretry = {{ attempts = 1 }}\ngrants = {{ http = [\"{address}\"] }}");
    in_both_tiers(&[("requests.js", script)], &settings, async |host| {
        let seen = json_response(host, Event::new("go", format!("http://{address}"))).await;
        let get = &seen["get"];
        assert_eq!((&get["ok"], &get["status"], &get["mirror"], &get["again"]), (&json!(true), &json!(200), &json!("yes"), &json!("GET")));
        assert_eq!(get["url"], format!("http://{address}/get?q=1"));
        assert_eq!(get["body"]["headers"]["x-mine"], "1");
        assert_eq!(get["body"]["headers"]["idempotency-key"], Value::Null, "a GET has none");
        let post = &seen["post"];
        let body = json!({ "a": "☃" }).to_string();
        assert_eq!((&post["method"], &post["body"]), (&json!("POST"), &json!(body.as_bytes())));
        assert_eq!(post["headers"]["content-type"], "application/json");
        assert_eq!(post["headers"]["content-length"], body.len().to_string());
        assert!(post["headers"]["idempotency-key"].as_str().is_some_and(|key| !key.is_empty()), "{post}");
        assert_ne!(post["headers"]["idempotency-key"], seen["text"]["headers"]["idempotency-key"]);
        assert_eq!(seen["text"]["headers"]["content-type"], "text/plain; charset=utf-8");
        assert_eq!((&seen["bytes"]["headers"]["content-type"], &seen["bytes"]["body"]), (&json!("image/png"), &json!([0, 255])));
        assert_eq!(seen["form"]["body"], json!(b"a=b+c"));
        assert_eq!(seen["own"], "mine");
        assert_eq!(seen["missing"], json!([false, 404, "missing"]));
        assert_eq!(seen["raw"], json!([0, 255, 10]));
        assert_eq!(seen["moved"], json!(["/arrived", 302]));
        assert_eq!(seen["codes"], json!(["timeout", "HTTP-request-denied", "TypeError", "TypeError", "TypeError", "TypeError"]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_has_its_level_its_fields_and_its_event() {
    let script = r#"
        import { log } from "koksmat";
        export function handle(event) {
          log.trace("a trace"); log.debug("a debug"); log.info("reserved", { sku: "tea", left: 3, at: new Map([["k", [1n]]]) });
          log.warn("a warning", new Error("broken")); log.error({ only: "an object" });
          console.log("%s has %d, %j", "tea", "3", { a: 1 }, [2], undefined); console.error(new TypeError("shown"));
          console.debug("quiet"); console.assert(1 === 1, "not shown"); console.assert(false, "shown too");
          const circle = { name: "c" }; circle.circle = circle; console.info(circle);
        }
    "#;
    let New { folder, name } = new_handler(&[("logs.js", script)], FROM_MEMORY).await;
    let host = TestHost::start(folder).await;
    for tier in 1..=2 {
        if tier == 2 {
            log::line(&name, SNAPSHOT_SERVES).await;
        }
        let event = Event::new("go", "");
        let id = event.id.clone();
        assert_eq!(response(&host, event).await.status, 204);
        let lines: Vec<_> = log::of_handler(&name).into_iter().filter(|line| line.fields.get("event") == Some(&id)).collect();
        let found: Vec<_> = lines.iter().map(|line| (line.level.as_str(), line.message.as_str())).collect();
        let expected = [
            ("trace", "a trace"),
            ("debug", "a debug"),
            ("info", "reserved"),
            ("warn", "a warning"),
            ("error", r#"{"only":"an object"}"#),
            ("info", r#"tea has 3, {"a":1} [2] undefined"#),
            ("debug", "quiet"),
            ("error", "Assertion failed: shown too"),
            ("info", r#"{"name":"c","circle":"[circular]"}"#),
        ];
        for line in expected {
            assert!(found.contains(&line), "no {line:?} among {found:#?}");
        }
        let reserved = lines.iter().find(|line| line.message == "reserved").unwrap();
        assert_eq!(reserved.fields["context"], r#"{"sku":"tea","left":3,"at":{"k":["1"]}}"#);
        assert_eq!((reserved.fields["tenant"].as_str(), reserved.fields["attempt"].as_str()), ("default", "1"));
        let broken = lines.iter().find(|line| line.message == "a warning").unwrap();
        assert!(broken.fields["context"].contains("Error: broken") && broken.fields["context"].contains("logs.js:5:"), "{broken:?}");
        let shown = lines.iter().find(|line| line.message.starts_with("TypeError: shown")).unwrap();
        assert!(shown.message.contains("logs.js:6:") && shown.level == "error", "{shown:?}");
        assert!(!found.iter().any(|(_, message)| message.contains("not shown")));
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_confines_what_a_handler_reaches() {
    let script = r#"
        import { keyvalue, http, emit } from "koksmat";
        export function handle(event) {
          switch (event.type) {
            case "key": return keyvalue.set("other/key", 1);
            case "http": return http.fetch("http://127.0.0.1:2/");
            case "emit": return emit({ type: "secret.event" });
            default: keyvalue.set("stock/tea", 1); return keyvalue.keys();
          }
        }
    "#;
    let settings = format!(
        "{FROM_MEMORY}\nretry = {{ attempts = 1 }}\ngrants = {{ keyvalue = \"stock/\", http = [\"127.0.0.1:1\"], emit = [\"out.*\"] }}"
    );
    in_both_tiers(&[("confined.js", script)], &settings, async |host| {
        assert_eq!(json_response(host, Event::new("own", "")).await, json!(["stock/tea"]));
        for (way, part) in [("key", "keyvalue.set(\"other/key\")"), ("http", "127.0.0.1:2"), ("emit", "secret.event")] {
            let reason = failure(host, Event::new(way, "")).await;
            assert!(reason.contains(part) && reason.contains("grant"), "{way}: {reason}");
        }
    })
    .await;
}
