//! What a call asked of the outside and what it was answered, kept while the call runs: bounded, and without what proves who somebody is.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{CONTENT_LOCATION, LOCATION},
};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::{
    event::is_credential,
    plugin::{data::Part, trial::Asked},
};

/// The most that is kept of the requests of a call, in bytes.
const BYTES: usize = 1 << 20;
/// What a request costs besides what is kept of it.
const FRAME: usize = 512;

/// A request of a call, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The method.
    pub method: String,
    /// Where to; what its query holds under the name of a secret is left out.
    pub url: String,
    /// SHA-256 of the request's body, in hexadecimal; absent: it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_sha256: Option<String>,
    /// The status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Its header fields, without cookies and the like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Its body, as far as it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Part>,
    /// The body was read to its end.
    #[serde(default)]
    pub whole: bool,
    /// Why there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The requests of one call. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tape(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    exchanges: Vec<Running>,
    left: usize,
    /// Requests for which there was no room.
    missed: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self { exchanges: Vec::new(), left: BYTES, missed: 0 }
    }
}

/// An exchange that may still be under way.
#[derive(Debug, Default)]
struct Running {
    exchange: Exchange,
    /// What was sent so far.
    sent: Option<Sha256>,
    body: Vec<u8>,
    /// Bytes of the body, those that are not kept included.
    read: usize,
}

impl Kept {
    /// Take room. `false`: there is not so much.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.left;
        if fits {
            self.left -= bytes;
        }
        fits
    }
}

impl Tape {
    /// Keep a request that is about to be sent; its body is watched on its way.
    pub(crate) fn begin(&self, request: http::Request<WasiBody>) -> (http::Request<WasiBody>, Place) {
        let (method, url) = (request.method().to_string(), redacted(request.uri()));
        let place = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.take(method.len() + url.len() + FRAME) {
                kept.exchanges.push(Running { exchange: Exchange { method, url, ..Exchange::default() }, ..Running::default() });
                Some(kept.exchanges.len() - 1)
            } else {
                kept.missed += 1;
                None
            }
        };
        let place = Place { tape: self.clone(), place };
        let watched = place.clone();
        (request.map(|body| Watched { body, of: Of::Request(watched) }.boxed_unsync()), place)
    }

    /// What was kept, and how many requests were not.
    pub(crate) fn take(&self) -> (Vec<Exchange>, usize) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let exchanges = std::mem::take(&mut kept.exchanges).into_iter().map(|running| {
            let Running { mut exchange, sent, body, read } = running;
            exchange.body_sha256 = sent.map(|sent| hex::encode(sent.finalize()));
            let answered = exchange.status.is_some();
            exchange.body = answered.then(|| if body.len() == read { Part::whole(body.into()) } else { Part::Cut { cut: read } });
            exchange
        });
        (exchanges.collect(), kept.missed)
    }
}

/// The place of a request on the tape.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    tape: Tape,
    /// None: there was no room for it.
    place: Option<usize>,
}

impl Place {
    fn with(&self, f: impl FnOnce(&mut Running, &mut usize)) {
        let mut kept = self.tape.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { exchanges, left, .. } = &mut *kept;
        if let Some(running) = self.place.and_then(|place| exchanges.get_mut(place)) {
            f(running, left);
        }
    }

    /// There is an answer; its body is watched while it is read.
    pub(crate) fn answered(self, response: http::Response<WasiBody>) -> http::Response<WasiBody> {
        self.with(|running, left| {
            running.exchange.status = Some(response.status().as_u16());
            let headers = shown(response.headers());
            let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            if bytes <= *left {
                *left -= bytes;
                running.exchange.headers = headers;
            }
        });
        response.map(|body| {
            let empty = body.is_end_stream();
            if empty {
                self.with(|running, _| running.exchange.whole = true);
            }
            Watched { body, of: Of::Answer(self) }.boxed_unsync()
        })
    }

    /// There is none.
    pub(crate) fn failed(&self, error: &Error) {
        self.with(|running, _| running.exchange.error = Some(format!("{error:?}")));
    }

    fn read(&self, data: &[u8]) {
        self.with(|running, left| {
            let complete = running.body.len() == running.read;
            running.read += data.len();
            if complete && data.len() <= *left {
                *left -= data.len();
                running.body.extend_from_slice(data);
            } else {
                *left += running.body.len();
                running.body = Vec::new();
            }
        });
    }
}

fn shown(headers: &HeaderMap) -> Vec<(String, String)> {
    let shown = headers.iter().filter(|(name, _)| !is_credential(name.as_str()));
    let text = |name: &HeaderName, value: &HeaderValue| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if [LOCATION, CONTENT_LOCATION].contains(name) { without_secrets(value) } else { value }
    };
    shown.map(|(name, value)| (name.to_string(), text(name, value))).collect()
}

/// A URL as it is kept: who asks, and what the query holds under a name that sounds like a secret, is left out.
pub(crate) fn redacted(uri: &Uri) -> String {
    without_secrets(uri.to_string())
}

fn without_secrets(mut text: String) -> String {
    if let Some(scheme) = text.find("://").map(|at| at + 3)
        && let Some(at) = text[scheme..].split(['/', '?', '#']).next().and_then(|authority| authority.rfind('@'))
    {
        text.replace_range(scheme..scheme + at, "…");
    }
    let Some((place, query)) = text.split_once('?') else { return text };
    let secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["key", "token", "secret", "pass", "pwd", "sig", "auth", "credential", "code", "sas", "jwt", "session"]
            .iter()
            .any(|word| name.contains(word))
    };
    let shown = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if secret(name) => format!("{name}=…"),
        _ => pair.to_owned(),
    });
    format!("{place}?{}", shown.collect::<Vec<_>>().join("&"))
}

/// A body, and who is told what passes.
struct Watched {
    body: WasiBody,
    of: Of,
}

enum Of {
    Request(Place),
    Answer(Place),
}

impl Of {
    fn data(&self, data: &Bytes) {
        match self {
            Self::Request(place) if !data.is_empty() => place.with(|running, _| running.sent.get_or_insert_default().update(data)),
            Self::Request(_) => {}
            Self::Answer(place) => place.read(data),
        }
    }

    fn end(&self) {
        if let Self::Answer(place) = self {
            place.with(|running, _| running.exchange.whole = true);
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref) {
            self.of.data(data);
        }
        let ended = match &frame {
            None => true,
            Some(Ok(_)) => self.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if ended {
            self.of.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Asked {
    /// What of an exchange is shown.
    pub(crate) fn of(exchange: &Exchange) -> Self {
        let Exchange { method, url, status, error, .. } = exchange.clone();
        Self { method, url, status, error }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn body(bytes: usize) -> WasiBody {
        Full::new(Bytes::from(vec![b'x'; bytes])).map_err(|never| match never {}).boxed_unsync()
    }

    async fn exchange(tape: &Tape, url: &str, sends: usize, answers: usize) {
        let request = http::Request::post(url).body(body(sends)).unwrap();
        let (request, place) = tape.begin(request);
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes().len(), sends);
        let answer = http::Response::builder().header("x-a", "1").header("set-cookie", "s").body(body(answers)).unwrap();
        assert_eq!(place.answered(answer).into_body().collect().await.unwrap().to_bytes().len(), answers);
    }

    #[tokio::test]
    async fn what_was_sent_and_answered_is_kept_without_credentials() {
        let tape = Tape::default();
        exchange(&tape, "http://a.example/v1?token=s3cret", 3, 5).await;
        let (exchanges, missed) = tape.take();
        let expected = Exchange {
            method: "POST".into(),
            url: "http://a.example/v1?token=…".into(),
            body_sha256: Some(hex::encode(Sha256::digest("xxx"))),
            status: Some(200),
            headers: vec![("x-a".into(), "1".into())],
            body: Some(Part::whole("xxxxx".into())),
            whole: true,
            error: None,
        };
        assert_eq!((exchanges, missed), (vec![expected], 0));
    }

    #[tokio::test]
    async fn what_is_kept_of_a_call_is_bounded() {
        let tape = Tape::default();
        exchange(&tape, "http://a.example/large", 0, BYTES + 1).await;
        exchange(&tape, "http://a.example/small", 0, 10).await;
        exchange(&tape, &format!("http://a.example/{}", "x".repeat(40_000)), 0, 0).await;
        let (exchanges, missed) = tape.take();
        assert_eq!((exchanges[0].body.clone(), missed), (Some(Part::Cut { cut: BYTES + 1 }), 0));
        assert_eq!(exchanges[1].body, Some(Part::whole("x".repeat(10).into())), "what was let go of makes room");
        let tape = Tape::default();
        for _ in 0..100 {
            exchange(&tape, &format!("http://a.example/{}", "x".repeat(40_000)), 0, 0).await;
        }
        let (exchanges, missed) = tape.take();
        assert_eq!((exchanges.len(), missed), (25, 75));
    }

    #[test]
    fn what_a_query_holds_under_the_name_of_a_secret_is_not_shown() {
        let shown = |uri: &str| redacted(&uri.parse().unwrap());
        assert_eq!(shown("https://a.example/v1?id=7&api_key=s3cret&Access-Token=x"), "https://a.example/v1?id=7&api_key=…&Access-Token=…");
        assert_eq!(shown("https://a.example/key?page=2"), "https://a.example/key?page=2");
        assert_eq!(shown("https://anna:s3cret@a.example/?to=b@c"), "https://…@a.example/?to=b@c");
    }
}
