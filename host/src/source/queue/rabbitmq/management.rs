//! What only the management interface can say of a queue: its type, its arguments and the policies that work on it.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use lapin::uri::AMQPUri;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::connect::{BrokerError, certificates};
use crate::config::{AmqpConfig, Secret, TlsConfig};

const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BODY: usize = 1 << 20;

/// What it says of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) quorum: bool,
    /// By its argument or by a policy.
    pub(super) dead_letter_exchange: bool,
    pub(super) single_active_consumer: bool,
}

/// Ask for a queue of the broker's virtual host.
pub(super) async fn ask(management: &Secret, broker: &AmqpConfig, queue: &str) -> Result<Found, BrokerError> {
    let failed = |why: String| {
        BrokerError(format!(
            "RabbitMQ's management interface ({}) cannot say whether the queue {queue:?} has a dead-letter exchange: {why}",
            management.reference()
        ))
    };
    match tokio::time::timeout(TIMEOUT, answer(management, broker, queue)).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(failed("it does not answer".into())),
    }
}

async fn answer(management: &Secret, broker: &AmqpConfig, queue: &str) -> Result<Found, String> {
    // Neither error is told: it might hold the URL.
    let mut url = Url::parse(management.expose()).map_err(|_| "it is no URL".to_owned())?;
    let vhost = broker.url.expose().parse::<AMQPUri>().map(|uri| uri.vhost).unwrap_or_default();
    let vhost = if vhost.is_empty() { "/" } else { &vhost };
    url.path_segments_mut().map_err(|()| "it is no URL".to_owned())?.pop_if_empty().extend(["api", "queues", vhost, queue]);
    let credentials = format!("{}:{}", percent_decoded(url.username()), percent_decoded(url.password().unwrap_or_default()));
    let anonymous = url.username().is_empty();
    let _ = (url.set_username(""), url.set_password(None));
    let mut request = Request::get(url.as_str()).body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    if !anonymous {
        let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64.encode(credentials))).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls(&broker.tls).await?).https_or_http().enable_http1().build();
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let response = client.request(request).await.map_err(|error| root_cause(&error))?;
    let status = response.status();
    if status != StatusCode::OK {
        let advice = match status {
            StatusCode::UNAUTHORIZED => ": check the user and the password, and that the user has the tag `management`",
            StatusCode::NOT_FOUND => ": is it the same broker?",
            _ => "",
        };
        return Err(format!("it answers {status}{advice}"));
    }
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|error| error.to_string())?.to_bytes();
    serde_json::from_slice::<Description>(&body)
        .map(|description| description.found())
        .map_err(|error| format!("it answers what is no description of a queue: {error}"))
}

async fn tls(config: &TlsConfig) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let Some(ca) = &config.ca else { return Ok(builder.with_webpki_roots().with_no_client_auth()) };
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(certificates(ca).await?);
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The last of an error's causes: the ones before it only say that something failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn percent_decoded(text: &str) -> String {
    // As a query is decoded, but for the signs that stand for themselves here.
    let query = text.replace('+', "%2B").replace('&', "%26");
    url::form_urlencoded::parse(format!("x={query}").as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// The answer of `GET /api/queues/VHOST/NAME`, as far as it matters.
#[derive(Deserialize)]
struct Description {
    #[serde(rename = "type")]
    ty: Option<String>,
    #[serde(default)]
    arguments: Map<String, Value>,
    /// An empty list where there is none.
    #[serde(default)]
    effective_policy_definition: Value,
}

impl Description {
    fn found(&self) -> Found {
        let by_policy = self.effective_policy_definition.get("dead-letter-exchange").is_some();
        Found {
            quorum: self.ty.as_deref() == Some("quorum"),
            dead_letter_exchange: by_policy || self.arguments.contains_key("x-dead-letter-exchange"),
            single_active_consumer: self.arguments.get("x-single-active-consumer") == Some(&Value::Bool(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> (bool, bool, bool) {
        let Found { quorum, dead_letter_exchange, single_active_consumer } = serde_json::from_str::<Description>(json).unwrap().found();
        (quorum, dead_letter_exchange, single_active_consumer)
    }

    #[test]
    fn a_dead_letter_exchange_is_an_argument_or_a_policy() {
        assert_eq!(
            found(r#"{"type":"quorum","arguments":{"x-queue-type":"quorum"},"effective_policy_definition":[]}"#),
            (true, false, false)
        );
        assert_eq!(
            found(r#"{"type":"quorum","arguments":{"x-dead-letter-exchange":"d","x-single-active-consumer":true}}"#),
            (true, true, true)
        );
        assert_eq!(found(r#"{"type":"quorum","effective_policy_definition":{"dead-letter-exchange":"d"}}"#), (true, true, false));
        assert_eq!(found(r#"{"type":"classic"}"#), (false, false, false));
    }

    #[test]
    fn a_password_in_the_url_may_hold_anything() {
        assert_eq!(percent_decoded("a%40b+c%2Fd&e=f"), "a@b+c/d&e=f");
    }

    #[tokio::test]
    async fn who_does_not_answer_is_named_without_a_secret() {
        let management = Secret::new("http://user:hunter2@127.0.0.1:1", "env:MANAGEMENT_URL");
        let broker = AmqpConfig { url: Secret::new("amqp://127.0.0.1", "amqp://127.0.0.1"), tls: TlsConfig::default() };
        let error = ask(&management, &broker, "orders").await.unwrap_err().to_string();
        assert!(error.contains("env:MANAGEMENT_URL") && error.contains("Connection refused") && !error.contains("hunter2"), "{error}");
    }
}
