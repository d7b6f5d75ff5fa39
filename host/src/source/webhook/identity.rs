//! From a verified request to events: what each is called, and what it is recognised by when it comes again.

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE, request::Parts};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    config::{Scheme, WebhookConfig},
    event::{Event, is_credential},
    listener::problem::Problem,
    source::http::{Posted, cloudevents, text, trace},
};

const DEFAULT_TYPE: &str = "koksmat.webhook.request";

/// The events of a request, each with its key.
pub(super) fn posted(config: &WebhookConfig, head: &Parts, body: Bytes) -> Result<Posted, Problem> {
    let message = cloudevents(&head.headers, &body)?;
    let Identity { delivery, ty } = Identity::of(config, &head.headers, &body);
    let plain = || Event {
        id: delivery.clone().unwrap_or_default(),
        ty,
        subject: Some(head.uri.path().to_owned()),
        datacontenttype: text(&head.headers, CONTENT_TYPE.as_str()).map(str::to_owned),
        data: body,
        ..Event::default()
    };
    let mut posted = Posted::new(message, delivery.clone(), plain)?;
    let headers = shown(config, &head.headers);
    for request in &mut posted.requests {
        request.backlog = Some(config.backlog);
        request.event.headers.clone_from(&headers);
        trace(&mut request.event, &head.headers);
    }
    Ok(posted)
}

/// The challenge of Slack's `url_verification`.
pub(super) fn slack_challenge(body: &[u8]) -> Option<String> {
    let envelope = Envelope::of(body);
    if envelope.ty.as_ref()?.as_str()? != "url_verification" {
        return None;
    }
    envelope.challenge?.as_str().map(str::to_owned)
}

/// What the scheme says about a delivery.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    /// Stays the same when the sender tries again.
    delivery: Option<String>,
    ty: String,
}

impl Identity {
    fn of(config: &WebhookConfig, headers: &HeaderMap, body: &[u8]) -> Self {
        let header = |name: &str| text(headers, name).map(str::to_owned);
        let (delivery, ty) = match config.verify.as_ref().map(|verify| &verify.scheme) {
            Some(Scheme::StandardWebhooks) => (header("webhook-id"), word(Envelope::of(body).ty)),
            Some(Scheme::Github) => (header("x-github-delivery"), text(headers, "x-github-event").and_then(github_type)),
            Some(Scheme::Stripe) => {
                let envelope = Envelope::of(body);
                (word(envelope.id), word(envelope.ty))
            }
            // Slack's retries carry the same event id; its commands have none.
            Some(Scheme::Slack) => (word(Envelope::of(body).event_id), None),
            Some(Scheme::Hmac { .. } | Scheme::Bearer) | None => (None, None),
        };
        let delivery = delivery.or_else(|| header(config.id_header.as_deref()?));
        Self { delivery, ty: ty.unwrap_or_else(|| DEFAULT_TYPE.to_owned()) }
    }
}

/// What senders put around their events in JSON. Anything else is an envelope with nothing in it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope {
    id: Option<Value>,
    #[serde(rename = "type")]
    ty: Option<Value>,
    event_id: Option<Value>,
    challenge: Option<Value>,
}

impl Envelope {
    fn of(body: &[u8]) -> Self {
        // An array would be read as the fields in their order.
        let is_object = body.trim_ascii_start().starts_with(b"{");
        is_object.then(|| serde_json::from_slice(body).ok()).flatten().unwrap_or_default()
    }
}

/// A member that can name something: a string, neither empty nor with control characters in it.
fn word(value: Option<Value>) -> Option<String> {
    let Value::String(word) = value? else { return None };
    (!word.is_empty() && !word.chars().any(char::is_control)).then_some(word)
}

/// `push` is `com.github.push`.
fn github_type(event: &str) -> Option<String> {
    let named = event.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    named.then(|| format!("com.github.{event}"))
}

/// The headers the configuration lists, never one that proves who the sender is.
fn shown(config: &WebhookConfig, headers: &HeaderMap) -> Vec<(String, String)> {
    let own = config.verify.as_ref().and_then(|verify| match &verify.scheme {
        Scheme::Hmac { header, .. } => Some(header.as_str()),
        _ => None,
    });
    let secret = |name: &String| is_credential(&name.to_ascii_lowercase()) || own.is_some_and(|own| own.eq_ignore_ascii_case(name));
    let listed = config.headers.iter().filter(|name| !secret(name));
    let values = |name: &String| {
        let values = headers.get_all(name.as_str()).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        values.map(|value| (name.to_ascii_lowercase(), value)).collect::<Vec<_>>()
    };
    listed.flat_map(values).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{DigestEncoding, Verify},
        source::{
            AcceptRequest,
            webhook::{tests::config, verify::test::headers},
        },
    };

    const BATCH: &str = crate::event::cloudevents::BATCH;

    fn by(scheme: Option<Scheme>) -> WebhookConfig {
        let verify = scheme.map(|scheme| Verify { scheme, secrets: Vec::new(), tolerance: std::time::Duration::ZERO });
        WebhookConfig { verify, ..config() }
    }

    fn head(fields: &[(&str, &str)]) -> Parts {
        let mut head = http::Request::post("/hook?x=1").body(()).unwrap().into_parts().0;
        head.headers = headers(fields);
        head
    }

    fn one(posted: Result<Posted, Problem>) -> AcceptRequest {
        let Posted { mut requests, batch } = posted.unwrap();
        assert_eq!((requests.len(), batch), (1, false));
        requests.remove(0)
    }

    fn identity(scheme: Option<Scheme>, fields: &[(&str, &str)], body: &str) -> (Option<String>, String) {
        let identity = Identity::of(&by(scheme), &headers(fields), body.as_bytes());
        (identity.delivery, identity.ty)
    }

    fn named(delivery: &str, ty: &str) -> (Option<String>, String) {
        (Some(delivery.to_owned()), ty.to_owned())
    }

    #[test]
    fn each_scheme_names_its_deliveries() {
        let github = [("x-github-delivery", "72d3162e"), ("x-github-event", "push")];
        assert_eq!(identity(Some(Scheme::Github), &github, "{}"), named("72d3162e", "com.github.push"));
        let standard = [("webhook-id", "msg_1")];
        assert_eq!(identity(Some(Scheme::StandardWebhooks), &standard, r#"{"type":"user.created"}"#), named("msg_1", "user.created"));
        assert_eq!(identity(Some(Scheme::StandardWebhooks), &standard, r#"{"type":7}"#), named("msg_1", DEFAULT_TYPE));
        assert_eq!(identity(Some(Scheme::StandardWebhooks), &standard, r#"["a","b"]"#), named("msg_1", DEFAULT_TYPE));
        let stripe = r#"{"id":"evt_1","type":"invoice.paid","data":{"object":{}}}"#;
        assert_eq!(identity(Some(Scheme::Stripe), &[], stripe), named("evt_1", "invoice.paid"));
        let slack = r#"{"type":"event_callback","event_id":"Ev08","event":{"type":"message"}}"#;
        assert_eq!(identity(Some(Scheme::Slack), &[], slack), named("Ev08", DEFAULT_TYPE));
        assert_eq!(identity(Some(Scheme::Bearer), &[("x-request-id", "r1")], "{}"), named("r1", DEFAULT_TYPE));
        assert_eq!(identity(None, &[], stripe), (None, DEFAULT_TYPE.to_owned()));
        assert_eq!(identity(Some(Scheme::Slack), &[], "command=%2Fdeploy"), (None, DEFAULT_TYPE.to_owned()));
    }

    #[test]
    fn a_name_that_is_none_is_not_taken() {
        let github = [("x-github-delivery", ""), ("x-github-event", "push or pull")];
        assert_eq!(identity(Some(Scheme::Github), &github, "{}"), (None, DEFAULT_TYPE.to_owned()));
        assert_eq!(identity(Some(Scheme::Stripe), &[], r#"{"id":"","type":"a\nb"}"#), (None, DEFAULT_TYPE.to_owned()));
    }

    #[test]
    fn a_plain_request_becomes_an_event() {
        let head = head(&[("content-type", "text/plain; charset=utf-8"), ("x-request-id", "r1")]);
        let request = one(posted(&by(None), &head, Bytes::from_static(b"\xff\n")));
        assert_eq!(request.key.as_deref(), Some("r1"));
        assert_eq!(request.backlog, Some(by(None).backlog));
        let event = request.event;
        assert_eq!((event.id.as_str(), event.ty.as_str(), event.subject.as_deref()), ("r1", DEFAULT_TYPE, Some("/hook")));
        assert_eq!(event.datacontenttype.as_deref(), Some("text/plain; charset=utf-8"));
        assert_eq!(event.data, b"\xff\n"[..]);
    }

    #[test]
    fn a_cloudevent_keeps_what_it_says_of_itself() {
        let fields = [
            ("ce-specversion", "1.0"),
            ("ce-id", "7"),
            ("ce-source", "/shop"),
            ("ce-type", "order.created"),
            ("webhook-id", "msg_1"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ];
        let request = one(posted(&by(None), &head(&fields), Bytes::new()));
        assert_eq!(request.key.as_deref(), Some("/shop|7"));
        assert_eq!((request.event.id.as_str(), request.event.ty.as_str(), request.event.subject), ("7", "order.created", None));
        assert_eq!(request.event.attributes["traceparent"], fields[5].1);
        let signed = one(posted(&by(Some(Scheme::StandardWebhooks)), &head(&fields), Bytes::new()));
        assert_eq!(signed.key.as_deref(), Some("msg_1"), "the scheme's id is the one that is signed");
        assert_eq!(signed.event.id, "7");
    }

    #[test]
    fn each_event_of_a_batch_has_a_key_of_its_own() {
        let batch = r#"[{"specversion":"1.0","id":"1","source":"/s","type":"t"},{"specversion":"1.0","id":"2","source":"/s","type":"t"}]"#;
        let keys = |scheme, id: &str| {
            let head = head(&[("content-type", BATCH), ("webhook-id", id)]);
            let posted = posted(&by(scheme), &head, Bytes::from(batch)).unwrap();
            assert!(posted.batch);
            posted.requests.into_iter().map(|request| request.key.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(keys(None, "m"), ["/s|1", "/s|2"]);
        assert_eq!(keys(Some(Scheme::StandardWebhooks), "m"), ["m/0", "m/1"]);
        assert!(posted(&by(Some(Scheme::StandardWebhooks)), &head(&[("webhook-id", &"m".repeat(1_025))]), Bytes::new()).is_err());
    }

    #[test]
    fn the_handler_sees_listed_headers_and_no_secret_ones() {
        let scheme = Scheme::Hmac { header: "x-signature".into(), prefix: String::new(), encoding: DigestEncoding::Hex };
        let mut config = by(Some(scheme));
        config.headers = ["x-shop", "x-signature", "authorization", "cookie", "x-absent"].map(str::to_owned).into();
        let fields =
            [("X-Shop", "a"), ("x-shop", "b"), ("x-signature", "00"), ("authorization", "Bearer s"), ("cookie", "c"), ("x-other", "o")];
        let request = one(posted(&config, &head(&fields), Bytes::new()));
        assert_eq!(request.event.headers, [("x-shop".to_owned(), "a".to_owned()), ("x-shop".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn slack_asks_with_a_challenge() {
        assert_eq!(slack_challenge(br#"{"token":"t","challenge":"3eZbrw1a","type":"url_verification"}"#).as_deref(), Some("3eZbrw1a"));
        assert_eq!(slack_challenge(br#"{"challenge":"3eZbrw1a","type":"event_callback"}"#), None);
        assert_eq!(slack_challenge(b"challenge=1"), None);
    }
}
