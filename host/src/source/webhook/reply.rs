//! `reply = "handler"`: the sender waits for the handler's response.
//!
//! One attempt; a sender that did not like the answer tries again. A delivery that is repeated while its call runs waits for that call;
//! one that is repeated later gets the response that was kept.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::sync::watch;

use crate::{
    listener::problem::Problem,
    outcome,
    receipt::{Answer, Cause},
    source::{AcceptRequest, SourceContext},
};

const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where answers to calls in progress are waited for.
pub(super) struct Replies {
    handler: String,
    /// By key. There are no more than requests in progress, which the listener bounds.
    running: Mutex<HashMap<String, watch::Receiver<Option<Answer>>>>,
}

impl Replies {
    /// Replies by this handler.
    pub(super) fn new(handler: &str) -> Self {
        Self { handler: handler.to_owned(), running: Mutex::default() }
    }

    /// Have the event handled and answer with what came of it.
    pub(super) async fn ask(&self, ctx: &SourceContext, request: AcceptRequest) -> Result<Response, Problem> {
        let Some(key) = request.key.clone() else { return respond(call(ctx, request).await?) };
        let call_of_this = match self.join(&key) {
            Joined::First(call) => call,
            Joined::Later(mut call) => {
                let answer = call.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
                return respond(answer.ok_or_else(not_now)?);
            }
        };
        if let Some(answer) = self.settled(ctx, &key).await? {
            return respond(answer);
        }
        let answer = call(ctx, request).await?;
        call_of_this.answer.send_replace(Some(answer.clone()));
        respond(answer)
    }

    /// What an earlier delivery came to, if it was settled.
    async fn settled(&self, ctx: &SourceContext, key: &str) -> Result<Option<Answer>, Problem> {
        let settled = ctx.settled(key, &self.handler).await.map_err(|error| {
            tracing::error!(tenant = %ctx.origin().tenant, source = %ctx.origin().source, %error, "a delivery could not be looked up");
            not_now()
        })?;
        Ok(settled.map(|settled| match settled.outcome.as_str() {
            "dead" => Answer::Dead { reason: "the event was rejected before".to_owned() },
            _ => Answer::Done { response: settled.response },
        }))
    }

    fn join(&self, key: &str) -> Joined<'_> {
        let mut running = self.running();
        if let Some(call) = running.get(key) {
            return Joined::Later(call.clone());
        }
        let (answer, waiting) = watch::channel(None);
        running.insert(key.to_owned(), waiting);
        Joined::First(Running { replies: self, key: key.to_owned(), answer })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Option<Answer>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Joined<'a> {
    /// Nobody runs this delivery yet.
    First(Running<'a>),
    /// Somebody does.
    Later(watch::Receiver<Option<Answer>>),
}

/// A call in progress. Dropped without an answer it tells those who wait to come again.
struct Running<'a> {
    replies: &'a Replies,
    key: String,
    answer: watch::Sender<Option<Answer>>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.replies.running().remove(&self.key);
    }
}

async fn call(ctx: &SourceContext, request: AcceptRequest) -> Result<Answer, Problem> {
    let busy = || Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many requests are being handled").retry_after(RETRY_AFTER);
    let credit = ctx.credits().try_acquire().ok_or_else(busy)?;
    Ok(ctx.request(request.event, request.key, request.hops, credit).await.answer().await)
}

/// The HTTP side of an answer.
fn respond(answer: Answer) -> Result<Response, Problem> {
    match answer {
        Answer::Done { response: Some(response) } => handler_response(response),
        Answer::Done { response: None } => Ok(StatusCode::NO_CONTENT.into_response()),
        Answer::Dead { reason } => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, reason)),
        Answer::Again { after, cause } => Err(match cause {
            Cause::Retry => Problem::unavailable("the handler asks to try again", after.unwrap_or(RETRY_AFTER)),
            Cause::Host => Problem::unavailable("the event was not handled; send it again", after.unwrap_or(RETRY_AFTER)),
            Cause::Paused => Problem::unavailable("the handler takes no calls now; send it again later", after.unwrap_or(RETRY_AFTER)),
            Cause::Timeout => Problem::new(StatusCode::GATEWAY_TIMEOUT, "the handler took too long"),
            Cause::Crash => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the handler crashed"),
        }),
    }
}

/// The handler's response without what is the server's to say: framing, and fields for this connection only.
fn handler_response(answer: outcome::Response) -> Result<Response, Problem> {
    // 1xx would not end the exchange.
    let status = StatusCode::from_u16(answer.status).ok().filter(|status| (200..600).contains(&status.as_u16()));
    let status = status.ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the handler answered with an impossible status"))?;
    let mut headers = HeaderMap::new();
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    let named: Vec<String> = headers.get_all("connection").iter().filter_map(|v| v.to_str().ok()).flat_map(connection_options).collect();
    for name in OF_THE_SERVER.iter().copied().chain(named.iter().map(String::as_str)) {
        headers.remove(name);
    }
    let no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let mut response = Response::new(if no_body { Body::empty() } else { Body::from(answer.body) });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// RFC 9110 §7.6.1, and the length, which the server knows best.
const OF_THE_SERVER: [&str; 10] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn connection_options(value: &str) -> impl Iterator<Item = String> {
    value.split(',').map(|option| option.trim().to_ascii_lowercase())
}

fn not_now() -> Problem {
    Problem::unavailable("the event was not handled; send it again", RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::BodyExt;

    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)]) -> Answer {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Answer::Done { response: Some(outcome::Response { status, headers, body: Bytes::from_static(b"body") }) }
    }

    fn status(answer: Answer) -> u16 {
        respond(answer).into_response().status().as_u16()
    }

    #[test]
    fn every_answer_has_its_status() {
        let again = |cause| Answer::Again { after: None, cause };
        assert_eq!(status(answer(201, &[])), 201);
        assert_eq!(status(Answer::Done { response: None }), 204);
        assert_eq!(status(Answer::Dead { reason: "no".into() }), 422);
        assert_eq!(status(again(Cause::Retry)), 503);
        assert_eq!(status(again(Cause::Timeout)), 504);
        assert_eq!(status(again(Cause::Crash)), 500);
        assert_eq!(status(again(Cause::Host)), 503);
        assert_eq!(status(again(Cause::Paused)), 503);
        for impossible in [0, 99, 100, 199, 600, 65_535] {
            assert_eq!(status(answer(impossible, &[])), 500);
        }
    }

    #[test]
    fn the_handler_may_say_when_to_come_again() {
        let after = Some(Duration::from_millis(2_500));
        let response = respond(Answer::Again { after, cause: Cause::Retry }).into_response();
        assert_eq!(response.headers()["retry-after"], "3");
    }

    #[test]
    fn the_handler_cannot_frame_messages() {
        let fields = [
            ("Content-Type", "text/plain"),
            ("content-length", "9999"),
            ("Transfer-Encoding", "chunked"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "1"),
            ("upgrade", "h2c"),
            ("x-split", "a\r\nset-cookie: b"),
            ("bad name", "x"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ];
        let response = respond(answer(200, &fields)).unwrap();
        let mut names: Vec<_> = response.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        names.sort();
        assert_eq!(names, ["content-type: text/plain", "set-cookie: a", "set-cookie: b"]);
    }

    #[tokio::test]
    async fn what_may_not_have_a_body_has_none() {
        for (status, body) in [(200, "body"), (204, ""), (205, ""), (304, "")] {
            let response = respond(answer(status, &[])).unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body, "{status}");
        }
    }
}
