//! Outbound requests: only to whom the handler may, and recognisable when they are repeated.

use axum::{Router, http::HeaderMap, response::Redirect, routing::any};
use std::sync::{Arc, Mutex};

use super::*;

/// A server that writes down what it is asked for.
struct Server {
    address: std::net::SocketAddr,
    /// Method, path, idempotency key.
    asked: Arc<Mutex<Vec<(String, String, Option<String>)>>>,
}

impl Server {
    /// `/redirect/PORT` sends on to that port, `/big/BYTES` answers with so many, anything else with its path.
    fn start() -> Self {
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let note = asked.clone();
        let write_down = move |request: axum::extract::Request, next: axum::middleware::Next| {
            let key = |headers: &HeaderMap| headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
            note.lock().unwrap().push((request.method().to_string(), request.uri().path().to_owned(), key(request.headers())));
            next.run(request)
        };
        let redirect =
            |axum::extract::Path(port): axum::extract::Path<u16>| async move { Redirect::to(&format!("http://127.0.0.1:{port}/secret")) };
        let big = |axum::extract::Path(bytes): axum::extract::Path<usize>| async move { vec![b'x'; bytes] };
        let router = Router::new()
            .route("/redirect/{port}", any(redirect))
            .route("/big/{bytes}", any(big))
            // A server that does not read a body closes the connection.
            .fallback(|uri: axum::http::Uri, _body: String| async move { uri.path().to_owned() })
            .layer(axum::middleware::from_fn(write_down));
        // On a thread of its own: what it does is not the host's time.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let serve = async { axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router).await };
            let _ = runtime.block_on(serve);
        });
        Self { address, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn keys(&self) -> Vec<Option<String>> {
        self.asked.lock().unwrap().iter().map(|(_, _, key)| key.clone()).collect()
    }
}

const NOT_LISTED: &str = "the handler's grants do not allow it";
const PRIVATE: &str = "DestinationIpProhibited";

fn get(url: &str) -> Value {
    json!({ "do": "fetch", "url": url })
}

fn post(url: &str) -> Value {
    json!({ "do": "fetch", "url": url, "method": "POST", "body": "b" })
}

async fn fetched(host: &TestHost, step: &Value) -> Value {
    serde_json::from_slice(&response(host.handle(attack(step)).await).body).unwrap()
}

async fn refused(host: &TestHost, step: &Value, why: &str) {
    let answer = host.handle(attack(step)).await;
    assert!(matches!(&answer, Answer::Dead { reason } if reason.contains(why)), "{step}: {answer:?}, not {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_hosts_are_reached_whatever_they_are_called() {
    let (allowed, other) = (Server::start(), Server::start());
    let port = other.address.port();
    // These names are allowed, but of the addresses inside only one.
    let names = r#""0x7f000001", "0xa000001", "*.example.com""#;
    let grants = format!("grants = {{ keyvalue = true, emit = [\"*\"], http = [\"{}\", {names}] }}", allowed.address);
    let host = host_of_behave(&grants).await;
    assert_eq!(fetched(&host, &get(&allowed.url("/hello"))).await["text"], "/hello");
    for resolves_to_inside in ["0x7f000001", "0xa000001"] {
        refused(&host, &get(&format!("http://{resolves_to_inside}:{port}/secret")), PRIVATE).await;
    }
    for not_listed in
        ["127.0.0.1", "localhost", "2130706433", "127.1", "0.0.0.0", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[::]"]
    {
        refused(&host, &get(&format!("http://{not_listed}:{port}/secret")), NOT_LISTED).await;
    }
    // A redirect is not followed by the host, and by the guest it would be a request like any other.
    let redirect = fetched(&host, &get(&allowed.url(&format!("/redirect/{port}")))).await;
    assert_eq!(redirect["status"], 303);
    refused(&host, &get(redirect["headers"][0][1].as_str().unwrap()), NOT_LISTED).await;
    host.stop().await;
    assert_eq!(*other.asked.lock().unwrap(), [], "nobody reached the other server");

    let host = host_of_behave(&granted("api.example.com")).await;
    for url in [allowed.url("/"), "http://example.com/".into(), "http://api.example.com.evil.test/".into()] {
        refused(&host, &get(&url), NOT_LISTED).await;
    }
    refused(&host, &get("http://api.example.com@127.0.0.1/"), "a URL with a user name").await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_no_way_around_the_memory_limit() {
    let server = Server::start();
    let host = host_of_behave(&granted(server.address)).await;
    assert_eq!(fetched(&host, &get(&server.url("/big/1000"))).await["text"].as_str().unwrap().len(), 1000);
    dies_in_time(&host, get(&server.url(&format!("/big/{}", 64 << 20))), "").await;
    let answer = host.handle(attack(&get(&server.url(&format!("/big/{}", 64 << 20))))).await;
    assert!(matches!(&answer, Answer::Dead { reason } if reason.contains(OUT_OF_MEMORY) || reason.contains(CUT)), "{answer:?}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_idempotency_key_is_that_of_the_request_and_not_of_the_attempt() {
    let server = Server::start();
    let settings = format!(
        "on = [{{ source = \"memory\" }}]\ntimeout = \"3s\"\nretry = {{ attempts = 3, backoff = \"1ms..2ms\" }}\n{}",
        granted(server.address)
    );
    let host = TestHost::start(Folder::new().guest("behave", "behave", &settings)).await;
    let own = json!({ "do": "fetch", "url": server.url("/own"), "method": "POST", "body": "b", "headers": [["Idempotency-Key", "mine"]] });
    let steps = json!({ "do": "steps", "steps": [
        post(&server.url("/a")), post(&server.url("/a")), post(&server.url("/b")), get(&server.url("/a")), own,
        { "do": "fail-until-attempt", "attempt": 3 },
    ] });
    for _ in 0..2 {
        host.handle(attack(&steps)).await;
        host.settled().await;
    }
    assert_eq!(host.folder.count("select count(*) from dead_letter"), 0);
    host.stop().await;
    let keys = server.keys();
    assert_eq!(keys.len(), 2 * 3 * 5, "two events, three attempts, five requests");
    let attempts: Vec<&[Option<String>]> = keys.chunks(5).collect();
    assert!(attempts[..3].iter().all(|attempt| *attempt == attempts[0]), "the same for every attempt: {attempts:?}");
    assert!(attempts[3..].iter().all(|attempt| *attempt == attempts[3]), "the same for every attempt: {attempts:?}");
    let (get, own) = (attempts[0][3].clone(), attempts[0][4].clone());
    assert_eq!((get, own.as_deref()), (None, Some("mine")));
    let mut all: Vec<_> = attempts[0][..3].iter().chain(&attempts[3][..3]).map(|key| key.clone().unwrap()).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6, "another for every request of every event: {all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_of_emits_ends() {
    let emit = |ty: &str| json!({ "do": "emit", "type": ty });
    let script = r#"
        import { emit, keyvalue } from "koksmat";
        export function handle(event, ctx) {
          keyvalue.set(`seen/${event.id}`, event.type);
          emit({ type: event.type === "ping" ? "pong" : "ping" });
        }
    "#;
    let folder = Folder::new()
        .script("ring", "ring.js", script, "on = [{ type = \"ping\" }, { type = \"pong\" }]\ngrants = { keyvalue = true, emit = [\"p*\"] }")
        .guest("first", "behave", &format!("on = [{{ type = \"start\" }}]\n{}", granted("127.0.0.1:1")));
    let host = TestHost::start(folder).await;
    response(host.handle(Event::json("start", &emit("ping")).unwrap()).await);
    let folder = &host.folder;
    koksmat_tests::until("the dead letter", || async { (folder.count("select count(*) from dead_letter") == 1).then_some(()) }).await;
    host.settled().await;
    assert_eq!(folder.count("select count(*) from kv where key like 'seen/%'"), 16, "sixteen emits lie between the first and the last");
    let reason: String = folder.store().query_row("select reason from dead_letter", [], |row| row.get(0)).unwrap();
    assert!(reason.contains("16"), "{reason}");
    host.stop().await;
}
