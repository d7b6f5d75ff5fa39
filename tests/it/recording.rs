//! Recordings: an event that failed is taken elsewhere, and its call made again on what its host calls gave it, by a changed handler, with
//! nothing asked of the world.

use std::time::Duration;

use koksmat_tests::{Folder, Inside, Process, guests, process::koksmat, until};
use serde_json::{Value, json};

/// Reads, lists, asks, emits, and fails over what it was answered.
fn failing(outside: &Inside) -> String {
    format!(
        r#"
import {{ keyvalue, config, http, emit }} from "koksmat";
export function handle(event) {{
  if (event.type === "stock") return keyvalue.set("stock/tea", event.text());
  const order = event.json();
  const stock = Number(keyvalue.get(`stock/${{order.sku}}`));
  const keys = [...keyvalue.keys()];
  const id = emit({{ type: "order.seen", data: order }});
  const answer = http.fetch({:?}, {{ method: "POST", body: JSON.stringify({{ order, secret: config.get("token") }}) }});
  const now = Date.now();
  {{END}}
}}
"#,
        outside.url()
    )
}

const FAILS: &str = "throw new Error(`${answer.text()} of ${stock}: ${id} at ${now}`);";
const MENDED: &str = "keyvalue.set(`stock/${order.sku}`, stock - 1); return { answer: answer.text(), stock, keys, id, now, currency: config.get(\"currency\") };";

fn folder(outside: &Inside, record: &str) -> Folder {
    let settings = format!(
        "on = [{{ source = \"q\" }}]\nretry = {{ attempts = 2, backoff = \"1ms..2ms\" }}\n{record}\nconfig = {{ currency = \"EUR\", token = \"${{SHOP_TOKEN}}\" }}\n\
         grants = {{ keyvalue = \"stock/\", emit = [\"order.*\"], http = [\"{}\"] }}",
        outside.address()
    );
    let script = failing(outside).replace("{END}", FAILS);
    Folder::new().queue("q").script("h", "h.js", &script, &settings)
}

const TOKEN: (&str, &str) = ("SHOP_TOKEN", "s3cret-token");

/// A host on which the event `A1` failed for good; it has stopped. The exported letter.
async fn failed(folder: &Folder) -> String {
    let process = Process::start_with(folder, &[TOKEN]).await;
    let post = async |query: &str, body: &str| {
        let authorization = format!("Bearer {}", folder.token());
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json"), ("x-request-id", "r7")];
        let posted = process.post(&format!("/queues/q?{query}"), &headers, body.to_owned()).await;
        assert_eq!(posted.status, 202, "{}", posted.text());
    };
    post("type=stock", "7").await;
    until("the stock", || async { folder.value("stock/tea") }).await;
    post("type=order&id=A1", r#"{"sku":"tea",  "n":1}"#).await;
    until("a dead letter", || async { (folder.count("select count(*) from dead_letter") == 1).then_some(()) }).await;
    process.stops_well().await;
    // No secret is needed to look at it.
    std::fs::write(folder.join("koksmat.toml"), std::fs::read_to_string(folder.join("koksmat.toml")).unwrap().replace("${SHOP_TOKEN}", ""))
        .unwrap();
    let exported = koksmat(folder.path(), &["dead-letters", "export", "1"]).await;
    assert_eq!(exported.code, Some(0), "{}", exported.said());
    exported.stdout
}

async fn test(folder: &Folder, arguments: &[&str]) -> (Option<i32>, Value) {
    let ended = koksmat(folder.path(), &[&["test", "--json"], arguments].concat()).await;
    let trial = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}\n{}", ended.stdout, ended.said()));
    (ended.code, trial)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mended_handler_passes_on_what_the_failed_one_saw_and_asks_nobody() {
    let outside = Inside::start(Duration::ZERO).await;
    let folder = folder(&outside, "");
    let exported = failed(&folder).await;
    let asked = outside.entered().len();
    assert_eq!(asked, 2, "once for each attempt");
    assert!(!exported.contains(TOKEN.1), "what came from the environment is not in it: {exported}");
    let document: Value = serde_json::from_str(&exported).unwrap();
    assert_eq!((&document["call"]["handler"], &document["call"]["attempt"]), (&json!("h"), &json!(2)));
    assert_eq!(document["host_calls"]["keyvalue"], json!({ "stock/tea": "7" }));
    assert_eq!(document["host_calls"]["requests"][0]["body"], "out");
    let failed_with = document["call"]["attempts"][1]["error"].as_str().unwrap().to_owned();

    let folder = folder.file("failed.json", &exported).file("mended.js", failing(&outside).replace("{END}", MENDED));
    let withheld = koksmat(folder.path(), &["test", "--event", "failed.json", "--plugin", "mended.js"]).await;
    assert_eq!(withheld.code, Some(1));
    assert!(withheld.stdout.contains("give it by --config token=…"), "{}", withheld.stdout);

    let token = format!("token={}", TOKEN.1);
    let (code, same) = test(&folder, &["--event", "failed.json", "--plugin", "h.js", "--config", &token]).await;
    assert_eq!((code, &same["outcome"], &same["diverged"]), (Some(1), &json!("retry"), &Value::Null), "{same}");
    // The same answers, the same id; only the clock went on.
    let before = |text: &str| text.split(" at ").next().unwrap().to_owned();
    assert_eq!(before(same["reason"].as_str().unwrap()), before(&failed_with));

    let (code, mended) = test(&folder, &["--event", "failed.json", "--plugin", "mended.js", "--config", &token]).await;
    assert_eq!((code, &mended["outcome"], &mended["diverged"]), (Some(0), &json!("done"), &Value::Null), "{mended}");
    let answer: Value = serde_json::from_str(mended["response"]["body"].as_str().unwrap()).unwrap();
    assert_eq!((&answer["answer"], &answer["stock"], &answer["keys"]), (&json!("out"), &json!(7), &json!(["stock/tea"])));
    assert_eq!(answer["currency"], "EUR");
    assert!(
        (answer["now"].as_i64().unwrap() - document["host_calls"]["at"].as_i64().unwrap()).abs() < 60_000,
        "its clock was set back: {answer}"
    );
    assert_eq!(mended["writes"], json!({ "stock/tea": { "set": "6" } }));
    assert_eq!(mended["emits"][0]["event"]["id"], answer["id"]);
    assert_eq!(outside.entered().len(), asked, "nobody was asked");
    assert_eq!(folder.value("stock/tea").as_deref(), Some("7"), "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_failed_call_did_not_ask_has_no_answer() {
    let outside = Inside::start(Duration::ZERO).await;
    let folder = folder(&outside, "");
    let exported = failed(&folder).await;
    let script = |body: &str| format!("import {{ keyvalue, http }} from \"koksmat\";\nexport function handle(event) {{ {body} }}\n");
    let url = outside.url();
    let folder = folder
        .file("failed.json", &exported)
        .file("key.js", script("return keyvalue.get(\"stock/coffee\");"))
        .file("ask.js", script(&format!("return http.fetch(\"{url}?again\", {{ method: \"PUT\", body: \"x\" }}).text();")))
        .file("other.js", script(&format!("return http.fetch(\"{url}\", {{ method: \"POST\", body: \"another\" }}).text();")));
    let asked = outside.entered().len();
    let (code, key) = test(&folder, &["--event", "failed.json", "--plugin", "key.js"]).await;
    assert_eq!((code, &key["outcome"]), (Some(1), &json!("failure")));
    assert!(key["reason"].as_str().unwrap().contains("did not read `stock/coffee`"), "{key}");
    let (code, ask) = test(&folder, &["--event", "failed.json", "--plugin", "ask.js"]).await;
    assert_eq!(code, Some(1));
    assert!(ask["diverged"][0].as_str().unwrap().contains(&format!("the recording has no answer to PUT {url}?again")), "{ask}");
    let (code, other) = test(&folder, &["--event", "failed.json", "--plugin", "other.js"]).await;
    assert_eq!((code, &other["response"]["body"]), (Some(0), &json!("out")));
    assert!(other["diverged"][0].as_str().unwrap().contains("its body is another than the recorded one"), "{other}");
    assert_eq!(outside.entered().len(), asked, "nobody was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_of_the_configuration_is_tested_as_it_is_now() {
    let outside = Inside::start(Duration::ZERO).await;
    let folder = folder(&outside, "");
    let exported = failed(&folder).await;
    let folder = folder.file("failed.json", &exported).file("h.js", failing(&outside).replace("{END}", MENDED));
    let text = koksmat(folder.path(), &["test", "--event", "failed.json"]).await;
    assert_eq!(text.code, Some(0), "{}\n{}", text.stdout, text.said());
    assert!(text.stdout.starts_with("h: done: 200 {") && text.stdout.contains("  write    stock/tea = 6"), "{}", text.stdout);
    let nobody = koksmat(folder.path(), &["test", "--event", "failed.json", "--handler", "nobody"]).await;
    assert!(nobody.code == Some(2) && nobody.said().contains("there is no handler `nobody`"), "{}", nobody.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_recorded_and_played_back_alike() {
    let outside = Inside::start(Duration::ZERO).await;
    let settings = format!(
        "on = [{{ source = \"q\" }}]\nretry = {{ attempts = 1 }}\ngrants = {{ keyvalue = true, emit = [\"*\"], http = [\"{}\"] }}",
        outside.address()
    );
    let folder = Folder::new().queue("q").guest("h", "behave", &settings);
    let process = Process::start(&folder).await;
    let steps = json!({ "do": "steps", "steps": [
        { "do": "increment", "key": "n", "by": 2 },
        { "do": "fetch", "url": outside.url(), "method": "POST", "body": "tea" },
        { "do": "keys" },
        { "do": "emit", "type": "t" },
        { "do": "reject", "reason": "no more" },
    ] });
    let sent = koksmat(folder.path(), &["send", "-d", &steps.to_string()]).await;
    assert_eq!(sent.code, Some(0), "{}", sent.said());
    until("a dead letter", || async { (folder.count("select count(*) from dead_letter") == 1).then_some(()) }).await;
    // From a running host too.
    let exported = koksmat(folder.path(), &["dead-letters", "export", "1"]).await.stdout;
    process.stops_well().await;
    let asked = outside.entered().len();
    let folder = folder.file("failed.json", &exported);
    let plugin = guests::core_module("behave");
    let (code, again) = test(&folder, &["--event", "failed.json", "--plugin", plugin.to_str().unwrap()]).await;
    assert_eq!(
        (code, &again["outcome"], &again["reason"], &again["diverged"]),
        (Some(1), &json!("reject"), &json!("no more"), &Value::Null),
        "{again}"
    );
    assert_eq!((&again["requests"][0]["status"], &again["writes"]), (&json!(200), &json!({ "n": { "set": "2" } })));
    assert_eq!(outside.entered().len(), asked, "nobody was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_no_recording_has_none_and_a_cloudevent_alone_works_without() {
    let outside = Inside::start(Duration::ZERO).await;
    let folder = folder(&outside, "record = false");
    let exported = failed(&folder).await;
    assert_eq!(serde_json::from_str::<Value>(&exported).unwrap()["host_calls"], Value::Null);
    assert_eq!(folder.count("select count(*) from dead_letter where recording is null"), 1);
    let event = json!({ "specversion": "1.0", "id": "7", "source": "/s", "type": "t", "data": { "n": 7 } });
    let script = "import { keyvalue } from \"koksmat\";\nexport function handle(event) {\n  if (keyvalue.get(\"x\") !== undefined && keyvalue.get(\"x\") !== null) throw new Error(\"a value\");\n  return event.json().n;\n}\n";
    let folder = folder.file("event.json", event.to_string()).file("n.js", script).file("text.txt", "hello");
    let text = koksmat(folder.path(), &["test", "--event", "event.json", "--plugin", "n.js"]).await;
    assert_eq!(text.code, Some(0), "{}\n{}", text.stdout, text.said());
    assert!(text.stdout.starts_with("test: done: 200 7 (") && text.stdout.contains("there is no recording"), "{}", text.stdout);
    for (file, plugin, why) in
        [("text.txt", "n.js", "neither an exported dead letter nor a CloudEvent"), ("event.json", "gone.js", "there is no gone.js")]
    {
        let refused = koksmat(folder.path(), &["test", "--event", file, "--plugin", plugin]).await;
        assert!(refused.code == Some(2) && refused.said().contains(why), "{}", refused.said());
    }
}
