//! The webhook over HTTP: order of checks, statuses, duplicates, both ways to reply.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{verify::test::hex_mac, *};
use crate::{
    channel::Intake,
    config::{Secret, Verify},
    outcome,
    receipt::{Answer, Cause},
    source::test_host::{TestHost, body, json, send},
    store::{CallId, Settled},
};

const SECRET: &str = "It's a Secret to Everybody";

pub(super) fn config() -> WebhookConfig {
    WebhookConfig {
        path: "/hook".into(),
        verify: None,
        reply: Reply::Accepted,
        headers: Vec::new(),
        max_body: 1_024,
        backlog: 3,
        id_header: Some("x-request-id".into()),
    }
}

fn signed() -> WebhookConfig {
    let secrets = vec![Secret::new(SECRET, "env:SECRET")];
    WebhookConfig { verify: Some(Verify { scheme: Scheme::Github, secrets, tolerance: Duration::from_secs(300) }), ..config() }
}

fn replying() -> WebhookConfig {
    WebhookConfig { reply: Reply::Handler, ..config() }
}

async fn host(config: WebhookConfig) -> TestHost {
    let host = TestHost::new("webhook", 2);
    host.start(WebhookSource::new(config, Some("invoice".into()))).await;
    host
}

fn post(headers: &[(&str, &str)], body: &'static str) -> Request<Body> {
    let request = headers.iter().fold(Request::post("/hook"), |request, (name, value)| request.header(*name, *value));
    request.body(Body::from(body)).unwrap()
}

fn response(status: u16, body: &'static str) -> outcome::Response {
    outcome::Response { status, headers: vec![("content-type".into(), "text/plain".into())], body: Bytes::from_static(body.as_bytes()) }
}

fn done(response: outcome::Response) -> Answer {
    Answer::Done { response: Some(response) }
}

#[tokio::test]
async fn a_request_is_accepted_and_a_repeated_one_has_the_same_id() {
    let host = host(config()).await;
    let first = send(&host.router(), post(&[("x-request-id", "r1"), ("content-type", "application/json")], "{}")).await;
    assert_eq!((first.status().as_u16(), json(first).await), (202, serde_json::json!({ "id": "r1" })));
    let again = send(&host.router(), post(&[("x-request-id", "r1")], "{}")).await;
    assert_eq!((again.status().as_u16(), json(again).await), (200, serde_json::json!({ "id": "r1" })));
    let accepted = host.accepted();
    let [request] = accepted.as_slice() else { panic!("one event: {accepted:?}") };
    assert_eq!((request.event.source.as_str(), request.event.data.as_ref()), ("/default/orders", b"{}".as_slice()));
}

#[tokio::test]
async fn two_equal_requests_without_an_id_are_two_events() {
    let host = host(config()).await;
    for _ in 0..2 {
        assert_eq!(send(&host.router(), post(&[], "same")).await.status(), 202);
    }
    let accepted = host.accepted();
    assert_eq!(accepted.len(), 2);
    assert_ne!(accepted[0].event.id, accepted[1].event.id);
}

#[tokio::test]
async fn only_signed_requests_become_events() {
    let host = host(signed()).await;
    let signature = format!("sha256={}", hex_mac(SECRET, "{}"));
    let good = send(&host.router(), post(&[("x-hub-signature-256", &signature), ("x-github-delivery", "d1")], "{}")).await;
    assert_eq!(good.status(), 202);
    for (headers, body) in [(vec![], "{}"), (vec![("x-hub-signature-256", signature.as_str())], "{ }")] {
        let refused = send(&host.router(), post(&headers, body)).await;
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.headers()["content-type"], "application/problem+json");
        assert_eq!(json(refused).await["detail"], "the request could not be verified");
    }
    assert_eq!(host.accepted().len(), 1);
}

#[tokio::test]
async fn checks_come_in_their_order() {
    let host = host(signed()).await;
    let signature = format!("sha256={}", hex_mac(SECRET, "{}"));
    let get = send(&host.router(), Request::get("/hook").body(Body::empty()).unwrap()).await;
    assert_eq!((get.status().as_u16(), get.headers()["allow"].to_str().unwrap()), (405, "POST"));
    let large: &'static str = "x".repeat(1_025).leak();
    assert_eq!(send(&host.router(), post(&[], large)).await.status(), 413, "before the signature");
    assert_eq!(send(&host.router(), post(&[("content-encoding", "gzip")], "{}")).await.status(), 401, "the signature before the encoding");
    let headers = [("content-encoding", "gzip"), ("x-hub-signature-256", &signature)];
    assert_eq!(send(&host.router(), post(&headers, "{}")).await.status(), 415);
    let headers = [("ce-id", "1"), ("x-hub-signature-256", &signature)];
    let malformed = send(&host.router(), post(&headers, "{}")).await;
    assert_eq!(malformed.status(), 400);
    let detail = json(malformed).await["detail"].to_string();
    assert!(detail.contains("specversion"), "{detail}");
    assert_eq!(send(&host.router(), Request::post("/other").body(Body::empty()).unwrap()).await.status(), 404);
    assert!(host.accepted().is_empty());
}

#[tokio::test]
async fn a_full_backlog_and_a_failing_store_are_503() {
    let host = host(config()).await;
    for _ in 0..3 {
        assert_eq!(send(&host.router(), post(&[], "")).await.status(), 202);
    }
    let full = send(&host.router(), post(&[], "")).await;
    assert_eq!((full.status().as_u16(), full.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    *host.ledger.fails_after.lock().unwrap() = Some(0);
    let failed = send(&host.router(), post(&[], "")).await;
    assert_eq!((failed.status().as_u16(), failed.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(!json(failed).await["detail"].to_string().contains("no space"), "the store's trouble is the operator's");
}

#[tokio::test]
async fn a_batch_is_accepted_one_by_one() {
    let host = host(config()).await;
    let batch = |ids: [&str; 2]| {
        let event = |id| format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t"}}"#);
        let body: &'static str = format!("[{},{}]", event(ids[0]), event(ids[1])).leak();
        post(&[("content-type", "application/cloudevents-batch+json")], body)
    };
    let first = send(&host.router(), batch(["1", "2"])).await;
    assert_eq!((first.status().as_u16(), json(first).await), (202, serde_json::json!({ "ids": ["1", "2"] })));
    let overlap = send(&host.router(), batch(["2", "3"])).await;
    assert_eq!((overlap.status().as_u16(), json(overlap).await), (202, serde_json::json!({ "ids": ["2", "3"] })));
    assert_eq!(send(&host.router(), batch(["1", "2"])).await.status(), 200, "nothing new");
    *host.ledger.fails_after.lock().unwrap() = Some(1);
    let part = send(&host.router(), batch(["3", "4"])).await;
    assert_eq!((part.status().as_u16(), json(part).await["accepted"].clone()), (503, serde_json::json!(["3"])));
    assert_eq!(host.accepted().len(), 3);
}

#[tokio::test]
async fn slack_gets_its_challenge_back_when_it_signed_it() {
    let mut config = signed();
    config.verify.as_mut().unwrap().scheme = Scheme::Slack;
    let host = host(config).await;
    let body_text = r#"{"type":"url_verification","challenge":"3eZbrw1a"}"#;
    let now = Timestamp::now().as_second().to_string();
    let signature = format!("v0={}", hex_mac(SECRET, &format!("v0:{now}:{body_text}")));
    let headers = [("x-slack-request-timestamp", now.as_str()), ("x-slack-signature", signature.as_str())];
    let answer = send(&host.router(), post(&headers, body_text)).await;
    assert_eq!(answer.headers()["content-type"], "text/plain");
    assert_eq!(body(answer).await, "3eZbrw1a");
    assert_eq!(send(&host.router(), post(&[], body_text)).await.status(), 401);
    assert!(host.accepted().is_empty());
}

#[tokio::test]
async fn the_handler_answers_where_the_sender_waits() {
    let mut host = host(replying()).await;
    let router = host.router();
    let answers = [
        (done(response(201, "made")), 201),
        (Answer::Dead { reason: "out of stock".into() }, 422),
        (Answer::Again { after: Some(Duration::from_secs(7)), cause: Cause::Retry }, 503),
        (Answer::Again { after: None, cause: Cause::Timeout }, 504),
        (Answer::Again { after: None, cause: Cause::Crash }, 500),
    ];
    for (answer, status) in answers {
        let (response, ()) = tokio::join!(send(&router, post(&[], "ask")), async {
            let delivery = host.delivery().await;
            assert!(matches!(delivery.intake, Intake::Reply { .. }));
            assert_eq!(delivery.event.data, b"ask"[..]);
            delivery.receipt.answer(answer);
        });
        assert_eq!(response.status(), status);
    }
}

#[tokio::test]
async fn a_duplicate_waits_for_the_running_call_and_gets_its_response() {
    let mut host = host(replying()).await;
    let router = host.router();
    let ask = || send(&router, post(&[("x-request-id", "r1")], "ask"));
    let (first, second, ()) = tokio::join!(ask(), ask(), async {
        let delivery = host.delivery().await;
        assert_eq!(delivery.key.as_deref(), Some("r1"));
        delivery.receipt.answer(done(response(201, "made")));
    });
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (201, 201));
    assert_eq!(body(first).await, body(second).await);
    assert!(host.control.try_recv().is_none(), "one call");
}

#[tokio::test]
async fn what_was_settled_before_is_answered_from_the_store() {
    let mut host = host(replying()).await;
    let settle = |key: &str, outcome: &str, response: Option<outcome::Response>| {
        let call = CallId { tenant: Default::default(), source: "orders".into(), key: Some(key.into()), handler: "invoice".into() };
        host.ledger.settled.lock().unwrap().insert(call, Settled { outcome: outcome.into(), response, plugin: None });
    };
    settle("kept", "done", Some(response(201, "made")));
    settle("bare", "done", None);
    settle("dead", "dead", None);
    for (key, status) in [("kept", 201), ("bare", 204), ("dead", 422)] {
        assert_eq!(send(&host.router(), post(&[("x-request-id", key)], "ask")).await.status(), status, "{key}");
    }
    assert!(host.control.try_recv().is_none(), "nothing runs again");
}

#[tokio::test]
async fn without_a_credit_the_sender_is_asked_to_wait() {
    let host = host(replying()).await;
    let _all = (host.ctx.credits.acquire().await, host.ctx.credits.acquire().await);
    let busy = send(&host.router(), post(&[("x-request-id", "r1")], "ask")).await;
    assert_eq!((busy.status().as_u16(), busy.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    let batch = send(&host.router(), post(&[("content-type", "application/cloudevents-batch+json")], "[]")).await;
    assert_eq!(batch.status(), 415, "a batch has no single response");
}

#[tokio::test]
async fn a_sender_that_goes_away_cancels_nothing() {
    let mut host = host(replying()).await;
    let (address, _stop, _served) = host.listen().await;
    let mut sender = tokio::net::TcpStream::connect(address).await.unwrap();
    sender.write_all(b"POST /hook HTTP/1.1\r\nhost: h\r\nx-request-id: r1\r\ncontent-length: 3\r\n\r\nask").await.unwrap();
    let delivery = host.delivery().await;
    drop(sender);
    let router = host.router();
    let again = send(&router, post(&[("x-request-id", "r1")], "ask"));
    let (again, ()) = tokio::join!(again, async { delivery.receipt.answer(done(response(200, "made"))) });
    assert_eq!(body(again).await, "made");
    assert!(host.control.try_recv().is_none(), "the call went on, and the duplicate found it");
}

#[tokio::test]
async fn a_stop_waits_for_requests_in_progress_and_takes_no_more() {
    let mut host = TestHost::new("webhook", 2);
    let source = host.start(WebhookSource::new(replying(), Some("invoice".into()))).await;
    let router = host.router();
    let asking = send(&router, post(&[], "ask"));
    let (asked, ()) = tokio::join!(asking, async {
        let delivery = host.delivery().await;
        host.ctx.stopping.cancel();
        assert_eq!(send(&host.router(), post(&[], "late")).await.status(), 503);
        assert!(!source.is_finished());
        delivery.receipt.answer(done(response(200, "made")));
        source.await.unwrap().unwrap();
    });
    assert_eq!(asked.status(), 200);
}

#[tokio::test]
async fn the_path_is_away_while_its_source_is_and_comes_back() {
    let host = TestHost::new("webhook", 2);
    let source = Arc::new(WebhookSource::new(config(), None));
    let run = |ctx: SourceContext| {
        let source = source.clone();
        crate::task::spawn("source", async move { source.run(ctx).await })
    };
    let mut ctx = host.ctx.clone();
    ctx.stopping = host.ctx.stopping.child_token();
    let first = run(ctx.clone());
    host.ctx.health.wait_for(|report| report.ready).await;
    let taken = source.run(host.ctx.clone()).await.unwrap_err();
    assert_eq!(taken.to_string(), "another source already serves the path /hook; give one of them another");
    ctx.stopping.cancel();
    first.await.unwrap().unwrap();
    let away = send(&host.router(), post(&[], "")).await;
    assert_eq!((away.status().as_u16(), away.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    ctx.unready("restarted");
    run(host.ctx.clone());
    host.ctx.health.wait_for(|report| report.ready).await;
    assert_eq!(send(&host.router(), post(&[], "")).await.status(), 202);
}

#[tokio::test]
async fn a_source_that_cannot_work_says_why() {
    let host = TestHost::new("webhook", 2);
    let mut unverifiable = signed();
    unverifiable.verify.as_mut().unwrap().secrets.clear();
    let error = WebhookSource::new(unverifiable, None).run(host.ctx.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), "no secret is given to verify requests with");
    let error = WebhookSource::new(replying(), None).run(host.ctx.clone()).await.unwrap_err();
    assert!(error.to_string().contains("exactly one handler"), "{error}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_while_it_still_comes() {
    let host = host(config()).await;
    let (address, ..) = host.listen().await;
    let mut sender = tokio::net::TcpStream::connect(address).await.unwrap();
    sender.write_all(b"POST /hook HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    for _ in 0..3 {
        sender.write_all(format!("200\r\n{}\r\n", "x".repeat(512)).as_bytes()).await.unwrap();
    }
    let mut answer = [0; 12];
    sender.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}
