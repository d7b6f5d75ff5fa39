//! From posted events to a durable acceptance to the answer its sender gets.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::{RETRY_AFTER, Throttle};
use crate::{
    listener::problem::Problem,
    source::{AcceptRequest, SourceContext},
    store::Accepted,
};

/// What one request posted.
pub(in crate::source) enum Posted {
    /// An event.
    One(AcceptRequest),
    /// A batch, accepted one by one in its order.
    Batch(Vec<AcceptRequest>),
}

/// The most events in a batch: each is a durable write, and a stop waits for the request they came with.
const MAX_BATCH: usize = 1_000;

/// Accept durably, then say so: 202 with `{"id": …}` or `{"ids": […]}`, 200 when all of it was accepted before.
///
/// When a batch fails part way, the problem says which events were accepted; they are recognised when the batch is sent again.
pub(in crate::source) async fn accept(ctx: &SourceContext, posted: Posted) -> Result<Response, Problem> {
    match posted {
        Posted::One(request) => accept_one(ctx, request).await.map(|(id, new)| taken(json!({ "id": id }), new)),
        Posted::Batch(requests) => accept_batch(ctx, requests).await,
    }
}

async fn accept_batch(ctx: &SourceContext, requests: Vec<AcceptRequest>) -> Result<Response, Problem> {
    if requests.len() > MAX_BATCH {
        let detail = format!("the batch has {} events; send at most {MAX_BATCH} at once", requests.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
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
            Err(problem) => return Err(problem.member("accepted", ids)),
        }
    }
    Ok(taken(json!({ "ids": ids }), any_new))
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

fn taken(document: Value, new: bool) -> Response {
    let status = if new { StatusCode::ACCEPTED } else { StatusCode::OK };
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], document.to_string()).into_response()
}
