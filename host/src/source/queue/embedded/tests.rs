//! Publishing over HTTP.

use axum::body::Body;
use http::Request;
use serde_json::json;

use super::*;
use crate::{
    event::cloudevents,
    source::test_host::{TestHost, json, send},
};

async fn host() -> TestHost {
    let host = TestHost::new("embedded", 2);
    let config = EmbeddedConfig { backlog: 3, max_body: 1_024 };
    host.start(EmbeddedQueue::new(config, Secret::new("t0ken", "file:admin-token"))).await;
    host
}

fn publish(query: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(format!("/queues/orders{query}")).header("authorization", "Bearer t0ken");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(body.into()).unwrap()
}

async fn status_and_id(host: &TestHost, request: Request<Body>) -> (u16, String) {
    let response = send(&host.router(), request).await;
    (response.status().as_u16(), json(response).await["id"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn publishing_needs_the_token() {
    let host = host().await;
    for request in [Request::post("/queues/orders"), Request::post("/queues/orders").header("authorization", "Bearer token")] {
        let refused = send(&host.router(), request.body(Body::from("{}")).unwrap()).await;
        assert_eq!((refused.status().as_u16(), refused.headers()["www-authenticate"].to_str().unwrap()), (401, "Bearer"));
    }
    assert!(host.accepted().is_empty());
}

#[tokio::test]
async fn a_plain_body_is_what_the_query_says() {
    let host = host().await;
    let query = "?type=order.created&subject=a%20b&id=A1";
    let request = publish(query, &[("content-type", "application/octet-stream")], b"\xff\x00".as_slice());
    assert_eq!(status_and_id(&host, request).await, (202, "A1".to_owned()));
    let accepted = host.accepted();
    let event = &accepted[0].event;
    assert_eq!((event.ty.as_str(), event.subject.as_deref(), event.data.as_ref()), ("order.created", Some("a b"), b"\xff\x00".as_slice()));
    assert_eq!(event.datacontenttype.as_deref(), Some("application/octet-stream"));
    assert_eq!((accepted[0].key.as_deref(), accepted[0].due, accepted[0].backlog), (Some("A1"), None, Some(3)));
    assert_eq!(status_and_id(&host, publish("?id=A1", &[], "other")).await, (200, "A1".to_owned()));
}

#[tokio::test]
async fn without_an_id_every_message_is_a_new_one() {
    let host = host().await;
    let (first, second) = (status_and_id(&host, publish("", &[], "m")).await, status_and_id(&host, publish("", &[], "m")).await);
    assert_eq!((first.0, second.0), (202, 202));
    assert_ne!(first.1, second.1);
    let accepted = host.accepted();
    assert_eq!((accepted[0].event.ty.as_str(), &accepted[0].key), (DEFAULT_TYPE, &None));
}

#[tokio::test]
async fn an_idempotency_key_recognises_a_message() {
    let host = host().await;
    let first = status_and_id(&host, publish("", &[("idempotency-key", "k1")], "m")).await;
    let again = status_and_id(&host, publish("", &[("idempotency-key", "k1")], "m")).await;
    assert_eq!((first.0, again.0), (202, 200));
    assert_eq!(first.1, again.1);
}

#[tokio::test]
async fn cloudevents_keep_what_they_say_of_themselves() {
    let host = host().await;
    let binary = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/shop"), ("ce-type", "order.created")];
    assert_eq!(status_and_id(&host, publish("", &binary, "m")).await, (202, "1".to_owned()));
    let other_source = r#"{"specversion":"1.0","id":"1","source":"/stock","type":"t","data":[1, 2]}"#;
    let structured = [("content-type", cloudevents::STRUCTURED)];
    assert_eq!(status_and_id(&host, publish("", &structured, other_source)).await.0, 202, "an id is unique within its source only");
    let accepted = host.accepted();
    assert_eq!((accepted[0].key.as_deref(), accepted[1].key.as_deref()), (Some("/shop|1"), Some("/stock|1")));
    assert_eq!(accepted[1].event.data, b"[1, 2]"[..]);
    assert_eq!(status_and_id(&host, publish("?type=x", &structured, other_source)).await.0, 400);
}

#[tokio::test]
async fn a_batch_is_valid_as_a_whole() {
    let host = host().await;
    let event = |id: &str| format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t"}}"#);
    let headers = [("content-type", cloudevents::BATCH), ("idempotency-key", "k")];
    let bad = send(&host.router(), publish("", &headers, format!("[{}, {{}}]", event("1")))).await;
    assert_eq!(bad.status(), 400);
    assert!(json(bad).await["detail"].as_str().unwrap().starts_with("event 1 of the batch"));
    assert!(host.accepted().is_empty());
    let good = send(&host.router(), publish("", &headers, format!("[{}, {}]", event("1"), event("2")))).await;
    assert_eq!((good.status().as_u16(), json(good).await), (202, json!({ "ids": ["1", "2"] })));
    assert_eq!(host.accepted()[1].key.as_deref(), Some("k/1"));
}

#[tokio::test]
async fn a_message_can_be_delayed() {
    let host = host().await;
    let before = Timestamp::now().as_millisecond();
    assert_eq!(status_and_id(&host, publish("?after=90s", &[], "m")).await.0, 202);
    assert_eq!(status_and_id(&host, publish("?after=1d", &[], "m")).await.0, 202);
    let due: Vec<_> = host.accepted().iter().map(|request| request.due.unwrap() - before).collect();
    assert!((90_000..150_000).contains(&due[0]) && (86_400_000..86_460_000).contains(&due[1]), "{due:?}");
    for nonsense in ["", "5", "-5s", "soon", "2y", "400d", "1mo", "9999999999999999h"] {
        assert_eq!(status_and_id(&host, publish(&format!("?after={nonsense}"), &[], "m")).await.0, 400, "{nonsense}");
    }
}

#[tokio::test]
async fn what_is_not_understood_is_refused() {
    let host = host().await;
    for query in ["?afer=5s", "?type=", "?id=a%00b"] {
        assert_eq!(status_and_id(&host, publish(query, &[], "m")).await.0, 400, "{query}");
    }
    assert_eq!(status_and_id(&host, publish("", &[("content-encoding", "gzip")], "m")).await.0, 415);
    assert_eq!(status_and_id(&host, publish("", &[], "x".repeat(1_025))).await.0, 413);
    assert_eq!(status_and_id(&host, publish(&format!("?id={}", "x".repeat(1_025)), &[], "m")).await.0, 400);
    assert!(host.accepted().is_empty());
}
