//! Events that are posted by other systems: an HTTP endpoint with signatures, deduplication and two ways to reply.
//!
//! A sender gets its 202 only after a durable write, or, with `reply = "handler"`, the handler's response. What comes in is checked in this
//! order: size and time, signature over the raw bytes, encoding, identity, then the store or the handler.

use std::{future::Future, pin::Pin};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, WWW_AUTHENTICATE},
    request::Parts,
};
use jiff::Timestamp;

use super::{
    Source, SourceContext, SourceError,
    http::{self as posting, Endpoint, Throttle},
};
use crate::{
    config::{Reply, Scheme, WebhookConfig},
    listener::problem::Problem,
    receipt::RETRY_PAUSED,
};

mod identity;
mod reply;
pub(crate) mod verify;

use reply::Replies;
use verify::Verifier;

/// `kind = "webhook"`.
pub struct WebhookSource {
    config: WebhookConfig,
    reply_handler: Option<String>,
}

impl WebhookSource {
    /// A webhook. `reply_handler` is the one handler that answers where `config.reply` is [`Reply::Handler`].
    pub fn new(config: WebhookConfig, reply_handler: Option<String>) -> Self {
        Self { config, reply_handler }
    }

    fn receiver(&self, ctx: &SourceContext) -> Result<Receiver, SourceError> {
        let verifier = self.config.verify.clone().map(Verifier::new).transpose().map_err(SourceError::new)?;
        let replies = match (self.config.reply, &self.reply_handler) {
            (Reply::Accepted, _) => None,
            (Reply::Handler, Some(handler)) => Some(Replies::new(handler)),
            (Reply::Handler, None) => {
                return Err(SourceError("reply = \"handler\" needs exactly one handler that wants its events".into()));
            }
        };
        Ok(Receiver { ctx: ctx.clone(), config: self.config.clone(), verifier, replies, refused: Throttle::new() })
    }
}

impl Source for WebhookSource {
    fn kind(&self) -> &str {
        "webhook"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        Box::pin(async move {
            let receiver = self.receiver(&ctx)?;
            posting::serve(&ctx, &self.config.path, receiver).await
        })
    }
}

/// What stands behind the path while the source runs.
struct Receiver {
    ctx: SourceContext,
    config: WebhookConfig,
    verifier: Option<Verifier>,
    /// With `reply = "handler"`.
    replies: Option<Replies>,
    refused: Throttle,
}

impl Endpoint for Receiver {
    fn max_body(&self) -> usize {
        self.config.max_body
    }

    fn admit(&self, _: &Parts) -> Result<(), Problem> {
        match self.ctx.is_paused() {
            true => Err(Problem::unavailable("the source is paused; send it again later", RETRY_PAUSED)),
            false => Ok(()),
        }
    }

    async fn handle(&self, head: Parts, body: Bytes) -> Result<Response, Problem> {
        self.verify(&head, &body)?;
        posting::plain_body(&head.headers)?;
        let slack = self.scheme() == Some(&Scheme::Slack);
        if let Some(challenge) = slack.then(|| identity::slack_challenge(&body)).flatten() {
            // Slack asks whether someone is there before it sends events.
            return Ok(([(CONTENT_TYPE, HeaderValue::from_static("text/plain"))], challenge).into_response());
        }
        let posted = identity::posted(&self.config, &head, body)?.after_hops(posting::hops(&head.headers));
        let Some(replies) = &self.replies else { return posting::accept(&self.ctx, posted).await };
        match (posted.batch, posted.requests.into_iter().next()) {
            (false, Some(request)) => replies.ask(&self.ctx, request).await,
            _ => {
                let detail = "a batch has no single response; post its events one by one";
                Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
            }
        }
    }
}

impl Receiver {
    fn scheme(&self) -> Option<&Scheme> {
        self.config.verify.as_ref().map(|verify| &verify.scheme)
    }

    /// The sender learns that it was refused; why stands in the log, or forgers could learn from it.
    fn verify(&self, head: &Parts, body: &[u8]) -> Result<(), Problem> {
        let Some(verifier) = &self.verifier else { return Ok(()) };
        let Err(refusal) = verifier.verify(&head.headers, body, Timestamp::now()) else { return Ok(()) };
        if let Some(unsaid) = self.refused.pass() {
            let origin = self.ctx.origin();
            tracing::warn!(tenant = %origin.tenant, source = %origin.source, %refusal, unsaid, "a request was refused");
        }
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "the request could not be verified");
        Err(match self.scheme() {
            Some(Scheme::Bearer) => problem.header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            _ => problem,
        })
    }
}

#[cfg(test)]
mod tests;
