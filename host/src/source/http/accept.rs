//! From posted events to a durable acceptance to the answer its sender gets.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use serde_json::json;

use super::{RETRY_AFTER, Throttle, bad_request};
use crate::{
    event::{Event, cloudevents::Message},
    listener::problem::Problem,
    source::{AcceptRequest, SourceContext},
    store::Accepted,
};

/// What one request posted.
#[derive(Debug)]
pub(in crate::source) struct Posted {
    /// Its events, in their order.
    pub(in crate::source) requests: Vec<AcceptRequest>,
    /// Whether it was a batch, be it of one: the answer has the form of the question.
    pub(in crate::source) batch: bool,
}

/// The longest key an event is recognised by, in bytes: it stands in an index of the store.
pub(in crate::source) const MAX_KEY: usize = 1_024;

impl Posted {
    /// Its events come from as many requests of handlers.
    pub(in crate::source) fn after_hops(mut self, hops: u32) -> Self {
        self.requests.iter_mut().for_each(|request| request.hops = hops);
        self
    }

    /// The events of a request: those of `message`, or the `plain` one where it is none of CloudEvents.
    ///
    /// They are recognised by `key`, to which a batch adds the place of each; without it a CloudEvent by what it says of itself, and
    /// anything else never.
    pub(in crate::source) fn new(message: Option<Message>, key: Option<String>, plain: impl FnOnce() -> Event) -> Result<Self, Problem> {
        match message {
            None => Ok(Self { requests: vec![keyed(plain(), key)?], batch: false }),
            Some(Message::One(event)) => {
                let key = key.unwrap_or_else(|| own_key(&event));
                Ok(Self { requests: vec![keyed(event, Some(key))?], batch: false })
            }
            Some(Message::Batch(events)) => {
                let each = |(index, event): (usize, Event)| {
                    let key = key.as_ref().map_or_else(|| own_key(&event), |key| format!("{key}/{index}"));
                    keyed(event, Some(key))
                };
                Ok(Self { requests: events.into_iter().enumerate().map(each).collect::<Result<_, _>>()?, batch: true })
            }
        }
    }
}

fn keyed(event: Event, key: Option<String>) -> Result<AcceptRequest, Problem> {
    if key.as_ref().is_some_and(|key| key.len() > MAX_KEY) {
        return Err(bad_request(format!("what the event is recognised by is longer than {MAX_KEY} bytes")));
    }
    Ok(AcceptRequest { event, key, ..AcceptRequest::default() })
}

/// A CloudEvent's id is unique within its source only.
pub(in crate::source) fn own_key(event: &Event) -> String {
    format!("{}|{}", event.source, event.id)
}

/// Accept durably, then say so: 202 with `{"id": …}` or `{"ids": […]}`, 200 when all of it was accepted before.
///
/// A batch is written event by event, and a stop waits for no more than the one at hand. When it fails part way, the problem says which events were accepted; they are recognised when the batch is sent again.
pub(in crate::source) async fn accept(ctx: &SourceContext, posted: Posted) -> Result<Response, Problem> {
    let Posted { requests, batch } = posted;
    let (mut ids, mut any_new) = (Vec::with_capacity(requests.len()), requests.is_empty());
    for request in requests {
        let accepted = match ctx.stopping().is_cancelled() {
            true => Err(Problem::unavailable("the host is stopping", RETRY_AFTER)),
            false => accept_one(ctx, request).await,
        };
        match accepted {
            Ok((id, new)) => {
                ids.push(id);
                any_new |= new;
            }
            Err(problem) if batch => return Err(problem.member("accepted", ids)),
            Err(problem) => return Err(problem),
        }
    }
    let status = if any_new { StatusCode::ACCEPTED } else { StatusCode::OK };
    let document = if batch { json!({ "ids": ids }) } else { json!({ "id": ids.first() }) };
    Ok((status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], document.to_string()).into_response())
}

/// The id of the event, and whether it is new.
async fn accept_one(ctx: &SourceContext, request: AcceptRequest) -> Result<(String, bool), Problem> {
    match ctx.accept(request).await {
        Ok(Accepted::New { id }) => Ok((id, true)),
        Ok(Accepted::Duplicate { id }) => Ok((id, false)),
        Ok(Accepted::Full) => Err(Problem::unavailable("too many events wait to be handled; send it again later", RETRY_AFTER)),
        Err(error) => {
            static REFUSED: Throttle = Throttle::new();
            if let Some(unsaid) = REFUSED.pass() {
                let origin = ctx.origin();
                tracing::error!(tenant = %origin.tenant, source = %origin.source, %error, unsaid, "an event could not be accepted");
            }
            Err(Problem::unavailable("the event could not be stored; send it again later", RETRY_AFTER))
        }
    }
}
