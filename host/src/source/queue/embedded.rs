//! The embedded queue: durable, in the store, published to by `POST /queues/NAME` with the host's token.
//!
//! A message is a CloudEvent (binary or structured), a batch of them, or a plain body that the query describes:
//! `?type=order.created&subject=42&id=A1`. `?after=5s` delays any of them.

use std::{borrow::Cow, future::Future, pin::Pin};

use axum::response::Response;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, WWW_AUTHENTICATE},
    request::Parts,
};
use jiff::{Span, SpanRelativeTo, Timestamp};

use super::DEFAULT_TYPE;
use crate::{
    config::{EmbeddedConfig, Secret},
    event::Event,
    listener::{bearer, problem::Problem},
    source::{
        Source, SourceContext, SourceError,
        http::{self as posting, Endpoint, Posted, Throttle, bad_request, cloudevents, text},
    },
    store::Millis,
};

/// `kind = "embedded"`.
pub struct EmbeddedQueue {
    config: EmbeddedConfig,
    token: Secret,
}

impl EmbeddedQueue {
    /// A queue that whoever has `token` may publish to.
    pub fn new(config: EmbeddedConfig, token: Secret) -> Self {
        Self { config, token }
    }
}

impl Source for EmbeddedQueue {
    fn kind(&self) -> &str {
        "embedded"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        let path = format!("/queues/{}", ctx.origin().source);
        let publisher = Publisher { ctx: ctx.clone(), config: self.config.clone(), tokens: [self.token.clone()], refused: Throttle::new() };
        Box::pin(async move { posting::serve(&ctx, &path, publisher).await })
    }
}

/// What stands behind the path while the source runs.
struct Publisher {
    ctx: SourceContext,
    config: EmbeddedConfig,
    tokens: [Secret; 1],
    refused: Throttle,
}

impl Endpoint for Publisher {
    fn max_body(&self) -> usize {
        self.config.max_body
    }

    fn admit(&self, head: &Parts) -> Result<(), Problem> {
        if bearer::matches(&head.headers, &self.tokens) {
            return Ok(());
        }
        if let Some(unsaid) = self.refused.pass() {
            let origin = self.ctx.origin();
            tracing::warn!(tenant = %origin.tenant, source = %origin.source, unsaid, "a message came without the right token");
        }
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "publishing needs the host's token: Authorization: Bearer TOKEN");
        Err(problem.header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
    }

    async fn handle(&self, head: Parts, body: Bytes) -> Result<Response, Problem> {
        posting::plain_body(&head.headers)?;
        let posted = posted(&self.config, &head, body)?;
        posting::accept(&self.ctx, posted.after_hops(posting::hops(&head.headers))).await
    }
}

/// The messages of a request, each with its key: the publisher's `Idempotency-Key`, else the id it gave.
fn posted(config: &EmbeddedConfig, head: &Parts, body: Bytes) -> Result<Posted, Problem> {
    let about = Parameters::of(head.uri.query().unwrap_or_default())?;
    let due = about.after.map(due).transpose()?;
    let message = cloudevents(&head.headers, &body)?;
    if message.is_some() && (about.ty.is_some() || about.subject.is_some() || about.id.is_some()) {
        return Err(bad_request("a CloudEvent says its type, subject and id itself; leave them out of the query"));
    }
    let key = text(&head.headers, "idempotency-key").map(str::to_owned).or_else(|| about.id.clone());
    let mut posted = Posted::new(message, key, || plain(about, &head.headers, body))?;
    for request in &mut posted.requests {
        request.backlog = Some(config.backlog);
        request.due = due;
        posting::trace(&mut request.event, &head.headers);
    }
    Ok(posted)
}

fn plain(about: Parameters, headers: &HeaderMap, body: Bytes) -> Event {
    Event {
        id: about.id.unwrap_or_default(),
        ty: about.ty.unwrap_or_else(|| DEFAULT_TYPE.to_owned()),
        subject: about.subject,
        datacontenttype: text(headers, CONTENT_TYPE.as_str()).map(str::to_owned),
        data: body,
        ..Event::default()
    }
}

/// What the query says about a message.
#[derive(Default)]
struct Parameters {
    ty: Option<String>,
    subject: Option<String>,
    id: Option<String>,
    after: Option<Span>,
}

impl Parameters {
    fn of(query: &str) -> Result<Self, Problem> {
        let mut about = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "type" => &mut about.ty,
                "subject" => &mut about.subject,
                "id" => &mut about.id,
                "after" => {
                    about.after = Some(value.parse().map_err(|_| bad_request(NO_DURATION))?);
                    continue;
                }
                other => return Err(bad_request(format!("the query has no parameter {other:?}: it has type, subject, id and after"))),
            };
            *place = Some(said(&name, value)?);
        }
        Ok(about)
    }
}

const NO_DURATION: &str = "after is a duration with a unit, at most a year: 500ms, 5s, 2h, 7d";

fn said(name: &str, value: Cow<'_, str>) -> Result<String, Problem> {
    if value.is_empty() || value.chars().any(char::is_control) {
        return Err(bad_request(format!("{name} is empty or has control characters in it")));
    }
    Ok(value.into_owned())
}

/// When something that is delayed by `after` becomes due.
fn due(after: Span) -> Result<Millis, Problem> {
    const YEAR: i128 = 366 * 24 * 60 * 60 * 1_000;
    let after = after.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| bad_request(NO_DURATION))?.as_millis();
    let after = Millis::try_from(after).ok().filter(|millis| (0..=YEAR).contains(&i128::from(*millis)));
    Ok(Timestamp::now().as_millisecond() + after.ok_or_else(|| bad_request(NO_DURATION))?)
}

#[cfg(test)]
mod tests;
