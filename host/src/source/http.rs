//! What the sources that are posted to have in common: a path that is served while the source runs, a body read within limits, and the
//! answer to a durable acceptance. What a request means is for its [`Endpoint`] to say.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ALLOW, CONTENT_ENCODING, EXPECT},
    request::Parts,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{SourceContext, SourceError};
use crate::{
    event::{
        Event,
        cloudevents::{self, CloudEventError, Message},
    },
    listener::problem::Problem,
    outcome::{HOPS_HEADER, MAX_HOPS},
    task,
};

mod accept;
mod body;
mod throttle;

pub(super) use accept::{MAX_KEY, Posted, accept, own_key};
pub(super) use throttle::Throttle;

/// How long a sender is asked to wait when the host cannot take its request now.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What stands behind a path.
pub(super) trait Endpoint: Send + Sync + 'static {
    /// The largest body, in bytes.
    fn max_body(&self) -> usize;

    /// Judge a request by its head, before its body is read.
    fn admit(&self, _head: &Parts) -> Result<(), Problem> {
        Ok(())
    }

    /// Handle a request. It runs to its end even when the sender goes away.
    fn handle(&self, head: Parts, body: Bytes) -> impl Future<Output = Result<Response, Problem>> + Send;
}

/// Serve `path` until the source is told to stop, then wait for the requests in progress.
pub(super) async fn serve(ctx: &SourceContext, path: &str, endpoint: impl Endpoint) -> Result<(), SourceError> {
    let (endpoint, requests, stopping) = (Arc::new(endpoint), TaskTracker::new(), ctx.stopping().clone());
    let router = Router::new().fallback({
        let (requests, stopping) = (requests.clone(), stopping.clone());
        move |request: Request| receive(endpoint.clone(), requests.clone(), stopping.clone(), request)
    });
    let mounted = ctx.routes().mount(path, router);
    let mounted = mounted.ok_or_else(|| SourceError(format!("another source already serves the path {path}; give one of them another")))?;
    ctx.ready();
    stopping.cancelled().await;
    drop(mounted);
    requests.close();
    requests.wait().await;
    Ok(())
}

async fn receive<E: Endpoint>(endpoint: Arc<E>, requests: TaskTracker, stopping: CancellationToken, request: Request) -> Response {
    // From here on the request is in progress, and a stop waits for it.
    let _progress = requests.token();
    let (head, mut body) = request.into_parts();
    let read = tokio::select! {
        biased;
        () = stopping.cancelled() => Err(Problem::unavailable("the host is stopping", RETRY_AFTER)),
        read = read(&*endpoint, &head, &mut body) => read,
    };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(problem) => {
            // Who waits for "100 Continue" has sent nothing yet, and must not be asked to.
            if !head.headers.contains_key(EXPECT) && !stopping.is_cancelled() {
                body::discard(body).await;
            }
            return problem.into_response();
        }
    };
    // A task of its own, because the server drops this future when the sender goes away.
    let handled = task::spawn("request", requests.track_future(async move { endpoint.handle(head, bytes).await.into_response() }));
    handled.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request could not be handled");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the host could not handle the request").into_response()
    })
}

async fn read(endpoint: &impl Endpoint, head: &Parts, body: &mut Body) -> Result<Bytes, Problem> {
    if head.method != Method::POST {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "events are posted here");
        return Err(problem.header(ALLOW, HeaderValue::from_static("POST")));
    }
    if hops(&head.headers) > MAX_HOPS {
        return Err(Problem::new(StatusCode::LOOP_DETECTED, "the request has gone round through handlers that call each other"));
    }
    endpoint.admit(head)?;
    body::read(body, body::Limits::of(endpoint.max_body())).await
}

/// How many handlers' outbound requests lie between this one and one from outside.
pub(super) fn hops(headers: &HeaderMap) -> u32 {
    text(headers, HOPS_HEADER).and_then(|hops| hops.parse().ok()).unwrap_or(0)
}

/// Refuse a body that is compressed: signatures and events are about bytes as they are.
pub(super) fn plain_body(headers: &HeaderMap) -> Result<(), Problem> {
    let plain = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(plain) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a Content-Encoding is not supported; send the body as it is"))
}

/// A header that may be there once at most, as text. Empty is "not there".
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|value| !value.is_empty())
}

/// Carry the sender's trace on, unless the event has one of its own.
pub(super) fn trace(event: &mut Event, headers: &HeaderMap) {
    if let Some(value) = text(headers, "traceparent") {
        event.continue_trace(value);
    }
}

/// What a request carries, if it is one of CloudEvents.
pub(super) fn cloudevents(headers: &HeaderMap, body: &Bytes) -> Result<Option<Message>, Problem> {
    cloudevents::from_http(headers, body).map_err(|error| match error {
        CloudEventError::TooMany(_) => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
        error => bad_request(error),
    })
}

pub(super) fn bad_request(detail: impl ToString) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail.to_string())
}
