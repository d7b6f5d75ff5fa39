//! What the host calls of a failed call gave it, so that it can be made again elsewhere; and playing that back.
//!
//! Key-value needs nothing beyond what a call keeps anyway: what it read is checked at its commit. Requests are kept by the tape.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::{
    config::Grants,
    plugin::{
        data::{Data, Part},
        tape::{Exchange, redacted},
    },
    store::{Millis, StoreError},
};

/// The most that a recording has as JSON, in bytes; what goes beyond is cut, and says so.
const BYTES: usize = 1 << 20;
/// A recording that is longer all the same is not kept.
const MOST: usize = 8 * BYTES;
/// What is shorter is no secret, and may stand in any text by chance.
const SECRET: usize = 6;

/// What a call's host calls gave it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// When the call began: its clock starts here again.
    pub at: Millis,
    /// With what the handler was set up.
    pub setup: Setup,
    /// The keys it read, and what they held; null: they were absent.
    #[serde(default)]
    pub keyvalue: BTreeMap<String, Option<Part>>,
    /// The pages of keys it listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<Page>,
    /// The ids of what it emitted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emitted: Vec<String>,
    /// Its requests, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Exchange>,
    /// Requests that are not among them, because there were too many.
    #[serde(default)]
    pub missed_requests: usize,
}

/// With what a handler was set up, as far as a call can tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// What it may do.
    pub grants: Grants,
    /// The embedded queues there are.
    #[serde(default)]
    pub queues: BTreeSet<String>,
    /// What `wasi:config` shows, without values that came from the environment.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Those that did.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub withheld: BTreeSet<String>,
    /// When a call is cut.
    pub timeout_ms: u64,
    /// The most memory it has, in bytes.
    pub memory: usize,
}

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Behind this one.
    pub after: Option<String>,
    /// They; absent: there was no room for them.
    pub keys: Option<Vec<String>>,
}

impl Recording {
    /// As JSON of at most [`BYTES`], more or less, in which these secrets are not. None: what there is beside bodies and values is more.
    pub(crate) fn encode<'a>(mut self, secrets: impl IntoIterator<Item = &'a str>) -> Option<String> {
        let mut left = BYTES;
        let mut fits = |bytes: usize| {
            let fits = bytes <= left;
            if fits {
                left -= bytes;
            }
            fits
        };
        for (key, value) in &mut self.keyvalue {
            if let Some(part) = value.as_mut().filter(|part| !fits(key.len() + part.cost())) {
                *part = part.cut();
            }
        }
        for page in &mut self.lists {
            let bytes = page.keys.iter().flatten().map(|key| key.len() + 3).sum();
            if !fits(bytes) {
                page.keys = None;
            }
        }
        for exchange in &mut self.requests {
            if let Some(part) = exchange.body.as_mut().filter(|part| !fits(part.cost())) {
                *part = part.cut();
            }
        }
        let mut json = serde_json::to_string(&self).ok()?;
        for secret in secrets.into_iter().filter(|secret| secret.len() >= SECRET) {
            // As it stands in the JSON.
            let written = serde_json::to_string(secret).ok()?;
            json = json.replace(&written[1..written.len() - 1], "…");
        }
        (json.len() <= MOST).then_some(json)
    }
}

/// A recording that answers the host calls of another call: nothing leaves the machine.
#[derive(Debug)]
pub(crate) struct Playback {
    /// None: there is only an event. Nothing is there then.
    recording: Option<Recording>,
    /// Which requests were answered.
    used: Mutex<Vec<bool>>,
    emitted: AtomicUsize,
    diverged: Mutex<Vec<String>>,
}

impl Playback {
    pub(crate) fn new(recording: Option<Recording>) -> Self {
        let used = Mutex::new(vec![false; recording.as_ref().map_or(0, |recording| recording.requests.len())]);
        Self { recording, used, emitted: AtomicUsize::new(0), diverged: Mutex::default() }
    }

    /// When the recorded call began.
    pub(crate) fn at(&self) -> Option<Millis> {
        self.recording.as_ref().map(|recording| recording.at)
    }

    /// Where the call went another way than the recorded one.
    pub(crate) fn diverged(&self) -> Vec<String> {
        let mut diverged = std::mem::take(&mut *self.diverged.lock().unwrap_or_else(PoisonError::into_inner));
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = self.recording.iter().flat_map(|recording| &recording.requests);
        let unasked = requests.zip(&*used).filter(|(_, used)| !**used);
        diverged.extend(unasked.map(|(exchange, _)| format!("it did not ask {} {}", exchange.method, exchange.url)));
        diverged
    }

    fn note(&self, what: String) -> String {
        self.diverged.lock().unwrap_or_else(PoisonError::into_inner).push(what.clone());
        what
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let Some(recording) = &self.recording else { return Ok(None) };
        match recording.keyvalue.get(key) {
            Some(None) => Ok(None),
            Some(Some(Part::Whole(Data(value)))) => Ok(Some(value.clone())),
            Some(Some(Part::Cut { cut })) => {
                Err(StoreError::Other(self.note(format!("the recording was cut: `{key}` held {cut} bytes, which are not in it"))))
            }
            None => Err(StoreError::Other(self.note(format!("the recorded call did not read `{key}`, and what it held is not known")))),
        }
    }

    /// A page of keys.
    pub(crate) fn list(&self, after: Option<&str>) -> Result<Vec<String>, StoreError> {
        let Some(recording) = &self.recording else { return Ok(Vec::new()) };
        match recording.lists.iter().find(|page| page.after.as_deref() == after) {
            Some(Page { keys: Some(keys), .. }) => Ok(keys.clone()),
            Some(Page { keys: None, .. }) => Err(StoreError::Other(self.note("the recording was cut: a list of keys is not in it".into()))),
            None => {
                Err(StoreError::Other(self.note("the recorded call did not list these keys, and which there were is not known".into())))
            }
        }
    }

    /// The error of a configuration value that is not in the recording.
    pub(crate) fn withheld(&self, key: &str) -> Option<String> {
        let withheld = &self.recording.as_ref()?.setup.withheld;
        withheld.contains(key).then(|| {
            self.note(format!("the value of `{key}` came from the environment and is not in the recording: give it by --config {key}=…"))
        })
    }

    /// The id of the next event that is emitted without one.
    pub(crate) fn next_id(&self) -> Option<String> {
        self.recording.as_ref()?.emitted.get(self.emitted.fetch_add(1, Ordering::Relaxed)).cloned()
    }

    /// What a request was answered.
    pub(crate) async fn answer(&self, request: http::Request<WasiBody>) -> Result<http::Response<WasiBody>, Error> {
        let (method, url) = (request.method().to_string(), redacted(request.uri()));
        let body = request.into_body().collect().await?.to_bytes();
        let Some(recording) = &self.recording else {
            return Err(Error::InternalError(Some(format!("there is no recording that could answer {method} {url}"))));
        };
        let Some(exchange) = self.next(recording, &method, &url) else {
            let missed = match recording.missed_requests {
                0 => String::new(),
                missed => format!(" (it was cut: {missed} requests are not in it)"),
            };
            return Err(Error::InternalError(Some(self.note(format!("the recording has no answer to {method} {url}{missed}")))));
        };
        let digest = (!body.is_empty()).then(|| hex::encode(Sha256::digest(&body)));
        if digest != exchange.body_sha256 {
            self.note(format!("{method} {url}: its body is another than the recorded one, and the answer is the recorded one"));
        }
        respond(exchange)
    }

    /// The next exchange with this request that was not used yet.
    fn next<'a>(&self, recording: &'a Recording, method: &str, url: &str) -> Option<&'a Exchange> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fitting = recording.requests.iter().zip(used.iter_mut());
        let (exchange, used) = fitting.find(|(exchange, used)| !**used && exchange.method == method && exchange.url == url)?;
        *used = true;
        Some(exchange)
    }
}

fn respond(exchange: &Exchange) -> Result<http::Response<WasiBody>, Error> {
    let Some(status) = exchange.status else {
        return Err(error(exchange.error.as_deref().unwrap_or("the recorded call ended before it was answered")));
    };
    let mut frames = Vec::new();
    match &exchange.body {
        Some(Part::Whole(Data(body))) => {
            frames.push(Ok(Frame::data(body.clone())));
            if !exchange.whole {
                frames.push(Err(Error::InternalError(Some("the recorded call read the answer no further".into()))));
            }
        }
        Some(Part::Cut { cut }) => {
            frames.push(Err(Error::InternalError(Some(format!("the recording was cut: the {cut} bytes of this answer are not in it")))));
        }
        None => {}
    }
    let mut response = http::Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    for (name, value) in &exchange.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

/// An error as it was recorded. What has no name of its own keeps its text.
fn error(text: &str) -> Error {
    match text {
        "HttpRequestDenied" => Error::HttpRequestDenied,
        "HttpRequestUriInvalid" => Error::HttpRequestUriInvalid,
        "HttpProtocolError" => Error::HttpProtocolError,
        "ConnectionLimitReached" => Error::ConnectionLimitReached,
        "ConnectionReadTimeout" => Error::ConnectionReadTimeout,
        "ConnectionRefused" => Error::ConnectionRefused,
        "ConnectionTimeout" => Error::ConnectionTimeout,
        "ConnectionTerminated" => Error::ConnectionTerminated,
        "DestinationIpProhibited" => Error::DestinationIpProhibited,
        "DestinationUnavailable" => Error::DestinationUnavailable,
        "TlsProtocolError" => Error::TlsProtocolError,
        other => Error::InternalError(Some(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn request(method: &str, url: &str, body: &'static str) -> http::Request<WasiBody> {
        let body = Full::new(Bytes::from_static(body.as_bytes())).map_err(|never| match never {}).boxed_unsync();
        http::Request::builder().method(method).uri(url).body(body).unwrap()
    }

    fn exchange(method: &str, url: &str, body: &str) -> Exchange {
        let body = Some(Part::whole(body.to_owned().into()));
        Exchange { method: method.into(), url: url.into(), status: Some(201), body, whole: true, ..Exchange::default() }
    }

    async fn text(response: http::Response<WasiBody>) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned())
    }

    #[tokio::test]
    async fn requests_are_answered_in_their_order_and_no_other_is() {
        let requests = vec![exchange("GET", "http://a.example/", "one"), exchange("GET", "http://a.example/", "two")];
        let playback = Playback::new(Some(Recording { requests, ..Recording::default() }));
        for expected in ["one", "two"] {
            let response = playback.answer(request("GET", "http://a.example/", "")).await.unwrap();
            assert_eq!((response.status().as_u16(), text(response).await.unwrap().as_str()), (201, expected));
        }
        let refused = playback.answer(request("GET", "http://a.example/", "")).await.unwrap_err();
        assert!(format!("{refused:?}").contains("the recording has no answer to GET http://a.example/"), "{refused:?}");
        assert_eq!(playback.diverged().len(), 1);
    }

    #[tokio::test]
    async fn another_body_is_said_and_what_was_not_asked_too() {
        let requests = vec![exchange("POST", "http://a.example/", "one"), exchange("POST", "http://b.example/", "two")];
        let playback = Playback::new(Some(Recording { requests, ..Recording::default() }));
        playback.answer(request("POST", "http://a.example/", "changed")).await.unwrap();
        let diverged = playback.diverged();
        assert!(diverged[0].contains("its body is another") && diverged[1] == "it did not ask POST http://b.example/", "{diverged:?}");
    }

    #[tokio::test]
    async fn an_answer_that_was_not_read_to_its_end_is_no_more_than_that() {
        let requests = vec![Exchange { whole: false, ..exchange("GET", "http://a.example/", "begin") }];
        let playback = Playback::new(Some(Recording { requests, ..Recording::default() }));
        let response = playback.answer(request("GET", "http://a.example/", "")).await.unwrap();
        assert!(text(response).await.is_err());
    }

    #[test]
    fn a_recording_is_cut_to_its_bound_and_says_what_is_missing() {
        let large = || Some(Part::whole(vec![b'x'; 400_000].into()));
        let keyvalue = ["a", "b", "c"].map(|key| (key.to_owned(), large())).into();
        let lists = vec![Page { after: None, keys: Some(vec!["k".repeat(1000); 1000]) }];
        let json = Recording { keyvalue, lists, ..Recording::default() }.encode([]).unwrap();
        assert!(json.len() < BYTES + 1000);
        let playback = Playback::new(serde_json::from_str(&json).unwrap());
        assert_eq!(playback.get("a").unwrap().unwrap().len(), 400_000);
        assert!(playback.get("c").unwrap_err().to_string().contains("`c` held 400000 bytes"));
        assert!(playback.get("d").unwrap_err().to_string().contains("did not read `d`"));
        assert!(playback.list(None).is_err());
    }
}
