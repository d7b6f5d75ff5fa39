//! Requests that are refused say why, as a problem document, and leave nothing behind.

use koksmat_tests::host::{Reply, request};

use super::*;

fn problem(reply: &Reply, status: u16, title: &str, detail: &str) {
    assert_eq!(reply.headers["content-type"], "application/problem+json");
    let expected = json!({ "type": "about:blank", "title": title, "status": status, "detail": detail });
    assert_eq!((reply.status, reply.json()), (status, expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sender_does_wrong_is_a_problem_document() {
    let folder = Folder::new()
        .toml("[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\nmax-body = \"1KiB\"\nverify = { scheme = \"github\", secret = \"env:HOOK_SECRET\" }\n")
        .toml("[sources.open]\nkind = \"webhook\"\npath = \"/open\"\nmax-body = \"1KiB\"\n")
        .queue("q")
        .script("h", "h.js", HANDLER, "on = [{ source = \"hook\" }, { source = \"open\" }, { source = \"q\" }]");
    let process = Process::start_with(&folder, &[("HOOK_SECRET", "0123456789abcdef")]).await;
    let url = |path: &str| format!("http://{}{path}", process.listen);

    problem(&process.post("/open", &[], vec![b'x'; 1025]).await, 413, "Payload Too Large", "the body is larger than 1024 bytes");
    let unsigned = process.post("/hook", &[("x-github-event", "push")], "{}").await;
    problem(&unsigned, 401, "Unauthorized", "the request could not be verified");
    let signed_by_another = [("x-hub-signature-256", "sha256=00000000000000000000000000000000000000000000000000000000deadbeef")];
    problem(&process.post("/hook", &signed_by_another, "{}").await, 401, "Unauthorized", "the request could not be verified");
    problem(&process.post("/nowhere", &[], "{}").await, 404, "Not Found", "nothing is served at this path");
    let get = request(&url("/open"), "GET", &[], Default::default()).await;
    problem(&get, 405, "Method Not Allowed", "events are posted here");
    assert_eq!(get.headers["allow"], "POST");
    let packed = process.post("/open", &[("content-encoding", "gzip")], "x").await;
    problem(&packed, 415, "Unsupported Media Type", "a Content-Encoding is not supported; send the body as it is");
    let broken = process.post("/open", &[("content-type", "application/cloudevents+json")], "{").await;
    assert_eq!((broken.status, broken.json()["title"].as_str()), (400, Some("Bad Request")), "{}", broken.text());
    let no_token = process.post("/queues/q?type=t", &[], "{}").await;
    assert_eq!((no_token.status, no_token.headers["www-authenticate"].to_str().unwrap()), (401, "Bearer"), "{}", no_token.text());
    let wrong_token = process.post("/queues/q?type=t", &[("authorization", "Bearer x")], "{}").await;
    assert_eq!(wrong_token.status, 401, "{}", wrong_token.text());

    let ended = process.stop().await;
    assert_eq!((ended.code, ended.ledger()["ledger"]["received"].as_u64()), (Some(0), Some(0)));
    // The operator learns why, the sender does not.
    let why = ended.log.iter().find(|line| line.contains("a request was refused")).unwrap();
    assert!(why.contains("source=hook") && why.contains("x-hub-signature-256") && !ended.said().contains("0123456789abcdef"), "{why}");
    assert_eq!(folder.count("select count(*) from accepted"), 0);
}
