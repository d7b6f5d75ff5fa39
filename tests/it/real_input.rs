//! What real senders send: GitHub's deliveries, Standard Webhooks, Stripe and CloudEvents, made and signed by libraries that know nothing
//! of Koksmat. What handlers see is what was sent, byte for byte.

use std::collections::BTreeMap;

use koksmat_tests::{Folder, TestHost, clients};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Writes down all it sees of an event, and how often it saw it.
const WITNESS: &str = r#"
    import { keyvalue } from "koksmat";
    export function handle(event) {
      keyvalue.add(`times/${event.id}`, 1);
      keyvalue.set(`data/${event.id}`, event.bytes());
      keyvalue.set(`event/${event.id}`, { ...event });
    }
"#;

fn witness(folder: Folder, source: &str) -> Folder {
    folder.script("witness", "witness.js", WITNESS, &format!("on = [{{ source = {source:?} }}]\ngrants = {{ keyvalue = true }}"))
}

/// What the handler saw of each event, by its id.
struct Seen(BTreeMap<String, Sighting>);

struct Sighting {
    event: Value,
    sha256: String,
    times: String,
}

impl Seen {
    fn of(folder: &Folder) -> Self {
        let store = folder.store();
        let mut rows = store.prepare("select substr(key, 7), value from kv where key like 'event/%'").unwrap();
        let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
        let value = |key: String| store.query_row("select value from kv where key = ?1", [key], |row| row.get::<_, Vec<u8>>(0)).unwrap();
        let sighting = |row: rusqlite::Result<(String, Vec<u8>)>| {
            let (id, event) = row.unwrap();
            let sighting = Sighting {
                event: serde_json::from_slice(&event).unwrap(),
                sha256: hex::encode(Sha256::digest(value(format!("data/{id}")))),
                times: String::from_utf8(value(format!("times/{id}"))).unwrap(),
            };
            (id, sighting)
        };
        Self(rows.map(sighting).collect())
    }

    /// The one sighting of this event.
    fn once(&self, id: &str) -> &Sighting {
        let sighting = self.0.get(id).unwrap_or_else(|| panic!("no handler saw {id}"));
        assert_eq!(sighting.times, "1", "{id} was handled more than once");
        sighting
    }
}

/// A webhook of this scheme at `/hook`, with its secret in a file.
async fn webhook(scheme: &str, secret: &str, more: &str) -> TestHost {
    let folder = Folder::new().file("secret", secret).toml(&format!(
        "[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\nverify = {{ scheme = {scheme:?}, secret = \"file:secret\" }}\n{more}"
    ));
    TestHost::start(witness(folder, "hook")).await
}

fn url(host: &TestHost, path: &str) -> String {
    format!("http://{}{path}", host.host.listen_address())
}

fn of_kind<'a>(lines: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["kind"] == kind)
}

fn text<'a>(line: &'a Value, member: &str) -> &'a str {
    line[member].as_str().unwrap_or_else(|| panic!("no `{member}` in {line}"))
}

/// The id in the answer to one event.
fn answered_id(line: &Value) -> String {
    let answer: Value = serde_json::from_str(text(line, "answer")).unwrap();
    answer["id"].as_str().unwrap().to_owned()
}

/// What holds for each scheme: new deliveries are accepted and handled as they are, repeated ones are recognised, forged ones refused.
/// Returns what handlers saw and the lines of the new deliveries.
async fn judged(host: TestHost, lines: Vec<Value>, expected_new: usize) -> (Seen, Vec<Value>) {
    host.settled().await;
    let (folder, stopped) = host.stop().await;
    let seen = Seen::of(&folder);
    let new: Vec<Value> = of_kind(&lines, "new").cloned().collect();
    assert!(new.len() >= expected_new, "only {} deliveries", new.len());
    for line in &new {
        assert_eq!(line["status"], 202, "{line}");
        assert_eq!(answered_id(line), text(line, "id"));
        let sighting = seen.once(text(line, "id"));
        assert_eq!(sighting.sha256, text(line, "sha256"), "the bytes of {line}");
    }
    for line in of_kind(&lines, "again") {
        assert_eq!(line["status"], 200, "{line}");
        assert_eq!(answered_id(line), text(line, "id"));
    }
    assert!(of_kind(&lines, "forged").count() >= 5);
    for line in of_kind(&lines, "forged") {
        assert_eq!(line["status"], 401, "{line}");
    }
    assert_eq!(seen.0.len(), new.len(), "nothing else was handled");
    assert_eq!(stopped.ledger.total.received, new.len() as u64);
    (seen, new)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_real_github_delivery_is_handled_as_it_was_sent() {
    let secret = "It's a Secret to Everybody";
    let host = webhook("github", secret, "headers = [\"x-github-event\", \"x-github-delivery\"]").await;
    let lines = clients::node("github.mjs", &[&url(&host, "/hook"), secret]).await;
    let (seen, new) = judged(host, lines, 300).await;
    for line in &new {
        let (id, event) = (text(line, "id"), &seen.once(text(line, "id")).event);
        assert_eq!(event["id"], id);
        assert_eq!(event["type"], format!("com.github.{}", text(line, "event")));
        assert_eq!(event["subject"], "/hook");
        assert_eq!(event["source"], "/default/hook");
        assert_eq!(event["datacontenttype"], line["type"]);
        assert_eq!(
            event["headers"],
            json!({ "x-github-event": line["event"], "x-github-delivery": id }),
            "those that are listed and no others"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_standard_webhooks_client_is_understood() {
    // 24 to 64 bytes, as the specification has it.
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let host = webhook("standard-webhooks", secret, "").await;
    let lines = clients::node("standard.mjs", &[&url(&host, "/hook"), secret]).await;
    let (seen, new) = judged(host, lines, 30).await;
    for line in &new {
        let event = &seen.once(text(line, "id")).event;
        assert_eq!(event["type"], line["type"].as_str().unwrap_or("koksmat.webhook.request"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stripes_own_library_signs_is_understood() {
    let secret = "whsec_test_secret";
    let host = webhook("stripe", secret, "").await;
    let lines = clients::node("stripe.mjs", &[&url(&host, "/hook"), secret]).await;
    let (seen, new) = judged(host, lines, 30).await;
    for line in &new {
        assert_eq!(seen.once(text(line, "id")).event["type"], line["type"], "{line}");
    }
}

/// Every event of `lines` was accepted once and recognised afterwards, and handlers saw what the SDK said of it.
fn cloudevents_arrived(lines: &[Value], seen: &Seen) {
    let mut modes = BTreeMap::<&str, usize>::new();
    for line in lines {
        let mode = text(line, "mode");
        let events = line["events"].as_array().unwrap();
        *modes.entry(mode).or_default() += events.len();
        let status = match mode {
            "broken" => 400,
            _ if mode.ends_with("again") => 200,
            _ => 202,
        };
        assert_eq!(line["status"], status, "{line}");
        for expected in events {
            let sighting = seen.once(text(expected, "id"));
            assert_eq!(sighting.sha256, text(expected, "sha256"), "the data of {expected}, sent as {mode}");
            for name in ["id", "source", "type", "subject", "time", "dataschema", "datacontenttype", "attributes"] {
                assert_eq!(sighting.event[name], expected[name], "`{name}` of {expected}, sent as {mode}");
            }
        }
    }
    assert_eq!(
        modes,
        BTreeMap::from([
            ("binary", 8),
            ("binary, again", 8),
            ("structured", 9),
            ("structured, again", 8),
            ("batch", 8),
            ("batch, again", 8),
            ("broken", 0),
        ])
    );
    assert_eq!(seen.0.len(), 8 + 9 + 8, "nothing of what was broken arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudevents_of_their_own_sdk_arrive_in_a_queue_in_every_mode() {
    let host = TestHost::start(witness(Folder::new().queue("orders"), "orders")).await;
    let lines = clients::node("cloudevents.mjs", &[&url(&host, "/queues/orders"), &host.folder.token()]).await;
    host.settled().await;
    let (folder, _) = host.stop().await;
    cloudevents_arrived(&lines, &Seen::of(&folder));
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudevents_of_their_own_sdk_arrive_by_webhook_in_every_mode() {
    let folder = Folder::new().toml("[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"");
    let host = TestHost::start(witness(folder, "hook")).await;
    let lines = clients::node("cloudevents.mjs", &[&url(&host, "/hook")]).await;
    host.settled().await;
    let (folder, _) = host.stop().await;
    cloudevents_arrived(&lines, &Seen::of(&folder));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_body_arrives_byte_for_byte() {
    let host = TestHost::start(witness(Folder::new().queue("orders"), "orders")).await;
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let bodies: [(&str, &str, &[u8]); 5] = [
        ("every-byte", "application/octet-stream", &every_byte),
        ("json", "application/json", b"{ \"a\" : 1.0,\r\n \"b\": \"\\u00e9\" }\n"),
        ("not-json", "application/json", b"{\"a\":"),
        ("mark", "text/plain", b"\xef\xbb\xbftext"),
        ("nothing", "text/plain", b""),
    ];
    for (id, content_type, body) in bodies {
        let reply = host.post(&format!("/queues/orders?id={id}&type=raw"), &[("content-type", content_type)], body.to_vec()).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
    }
    host.settled().await;
    let (folder, _) = host.stop().await;
    let seen = Seen::of(&folder);
    for (id, content_type, body) in bodies {
        let sighting = seen.once(id);
        assert_eq!(sighting.sha256, hex::encode(Sha256::digest(body)), "{id}");
        assert_eq!((&sighting.event["type"], &sighting.event["datacontenttype"]), (&json!("raw"), &json!(content_type)));
    }
}
