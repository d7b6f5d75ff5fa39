//! `http.fetch`: wasi:http/outgoing-handler, waited for.

use std::cell::OnceCell;

use rquickjs::{Array, Ctx, Error, Function, Object, String as JsString, Value};
use url::Url;

use super::Methods;
use crate::bindings::wasi::clocks::monotonic_clock;
use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, HeaderError, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme, http_error_code,
};
use crate::bindings::wasi::io::poll::{Pollable, poll};
use crate::bindings::wasi::io::streams::{InputStream, OutputStream, StreamError};
use crate::errors::{Kind, throw, with_property};
use crate::phase::require_handling;
use crate::prelude;
use crate::values::{byte_array, bytes, text};

/// The object that handlers import. Its one function is the prelude's, behind one of ours: it is looked up when it is first called, and in
/// a stack it has the name users know.
pub fn object<'js>(ctx: &Ctx<'js>) -> Result<Object<'js>, Error> {
    Methods::of(ctx, "http")?.with("fetch", fetch)?.frozen()
}

fn fetch<'js>(ctx: Ctx<'js>, arguments: rquickjs::function::Rest<Value<'js>>) -> Result<Value<'js>, Error> {
    require_handling(&ctx, "http.fetch")?;
    let fetch: Function = prelude::part(&ctx, "http")?.get("fetch")?;
    fetch.call((arguments,))
}

pub fn natives<'js>(ctx: &Ctx<'js>, native: &Object<'js>) -> Result<(), Error> {
    native.set("request", Function::new(ctx.clone(), request)?)
}

/// How many redirects are followed.
const REDIRECTS: usize = 5;
/// What is read at once of a body.
const CHUNK: u64 = 64 * 1024;

/// request(url, method, [name, value, …], body, timeout, redirect) → { status, headers: [name, value, …], body, url }
fn request<'js>(
    ctx: Ctx<'js>,
    url: JsString<'js>,
    method: String,
    flat: Vec<JsString<'js>>,
    body: Value<'js>,
    timeout: Option<f64>,
    redirect: String,
) -> Result<Object<'js>, Error> {
    let url = text(&url)?;
    let url = absolute(&url).map_err(|why| throw(&ctx, Kind::Type, &format!("http.fetch: {url:?} {why}")))?;
    let mut headers = Vec::with_capacity(flat.len() / 2);
    for pair in flat.chunks_exact(2) {
        headers.push((text(&pair[0])?, text(&pair[1])?.into_bytes()));
    }
    let body = match body.as_string() {
        Some(string) => Some(text(string)?.into_bytes()),
        None => bytes(&body)?,
    };
    let mut exchange = Exchange { method, url, headers, body, timeout: Timeout::after(timeout) };
    let answer = exchange.run(&redirect).map_err(|failure| exchange.failed(&ctx, failure))?;

    let headers = Array::new(ctx.clone())?;
    for (index, (name, value)) in answer.headers.iter().enumerate() {
        headers.set(2 * index, name.to_ascii_lowercase())?;
        headers.set(2 * index + 1, &*String::from_utf8_lossy(value))?;
    }
    let object = Object::new(ctx.clone())?;
    object.set("status", answer.status)?;
    object.set("headers", headers)?;
    object.set("body", byte_array(&ctx, answer.body)?)?;
    object.set("url", exchange.url.as_str())?;
    Ok(object)
}

fn absolute(url: &str) -> Result<Url, String> {
    let url = Url::parse(url).map_err(|error| format!("is not an absolute URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("is neither http nor https".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or password in it: send an Authorization header instead".to_owned());
    }
    Ok(url)
}

type Headers = Vec<(String, Vec<u8>)>;

/// A request on its way, through its redirects.
struct Exchange {
    method: String,
    url: Url,
    headers: Headers,
    body: Option<Vec<u8>>,
    timeout: Timeout,
}

struct Answer {
    status: u16,
    headers: Headers,
    body: Vec<u8>,
}

enum Failure {
    /// What the host says of the transport.
    Transport(ErrorCode),
    /// The time given is over.
    TimedOut,
    /// Something we say ourselves.
    Other(String),
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self::Transport(code)
    }
}

impl Exchange {
    fn run(&mut self, redirect: &str) -> Result<Answer, Failure> {
        for _ in 0..=REDIRECTS {
            let answer = self.once().map_err(|failure| self.timeout.judged(failure))?;
            let Some(target) = self.target(&answer) else {
                return Ok(answer);
            };
            match redirect {
                "manual" => return Ok(answer),
                "error" => return Err(Failure::Other(format!("it was redirected to {target}, and `redirect` is \"error\""))),
                _ => {}
            }
            let next = self.url.join(&target).map_err(|error| error.to_string()).and_then(|next| absolute(next.as_str()));
            let next = next.map_err(|why| Failure::Other(format!("it was redirected to {target:?}, which {why}")))?;
            if next.origin() != self.url.origin() {
                // What was meant for one site is not shown to another.
                self.headers.retain(|(name, _)| !matches!(name.as_str(), "authorization" | "cookie" | "proxy-authorization"));
            }
            self.url = next;
        }
        Err(Failure::Other(format!("it was redirected more than {REDIRECTS} times")))
    }

    /// Where the answer redirects to. Only requests that ask for something are repeated elsewhere, never those that change something.
    fn target(&self, answer: &Answer) -> Option<String> {
        if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) || !matches!(self.method.as_str(), "GET" | "HEAD") {
            return None;
        }
        let (_, location) = answer.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("location"))?;
        Some(String::from_utf8_lossy(location).into_owned())
    }

    fn once(&self) -> Result<Answer, Failure> {
        let request = OutgoingRequest::new(self.fields()?);
        let refused = |what: &str| Failure::Other(format!("the {what} is not valid"));
        request.set_method(&method(&self.method)).map_err(|()| refused("method"))?;
        let scheme = if self.url.scheme() == "http" { Scheme::Http } else { Scheme::Https };
        request.set_scheme(Some(&scheme)).map_err(|()| refused("scheme"))?;
        request.set_authority(Some(self.url.authority())).map_err(|()| refused("authority"))?;
        let path = match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        };
        request.set_path_with_query(Some(&path)).map_err(|()| refused("path"))?;
        let outgoing = request.body().map_err(|()| refused("body"))?;
        let pending = outgoing_handler::handle(request, self.timeout.options())?;
        // The server may answer before it has read everything, and close: then its answer counts, not that the rest could not be written.
        let written = self.write(outgoing);
        let answered = self.response(&pending);
        match (answered, written) {
            (Err(Failure::Transport(ErrorCode::HttpRequestBodySize(_) | ErrorCode::InternalError(_))), Err(first)) => Err(first),
            (Err(failure), _) => Err(failure),
            (Ok(response), _) => self.read(response),
        }
    }

    fn fields(&self) -> Result<Fields, Failure> {
        let fields = Fields::new();
        for (name, value) in self.headers.iter().filter(|(name, _)| name != "content-length") {
            append(&fields, name, value)?;
        }
        // An empty body is announced too, where a server would otherwise wait for one.
        let length = match (&self.body, self.method.as_str()) {
            (Some(body), _) => Some(body.len()),
            (None, "POST" | "PUT" | "PATCH") => Some(0),
            (None, _) => None,
        };
        if let Some(length) = length {
            append(&fields, "content-length", length.to_string().as_bytes())?;
        }
        Ok(fields)
    }

    fn write(&self, outgoing: OutgoingBody) -> Result<(), Failure> {
        if let Some(body) = self.body.as_deref().filter(|body| !body.is_empty()) {
            let stream = outgoing.write().map_err(|()| Failure::Other("the body cannot be written".to_owned()))?;
            self.write_all(&stream, body)?;
        }
        OutgoingBody::finish(outgoing, None).map_err(Failure::from)
    }

    fn write_all(&self, stream: &OutputStream, mut rest: &[u8]) -> Result<(), Failure> {
        let ready = OnceCell::new();
        while !rest.is_empty() {
            match stream.check_write().map_err(stream_failure)? {
                0 => self.timeout.wait(ready.get_or_init(|| stream.subscribe()))?,
                room => {
                    let (now, later) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
                    stream.write(now).map_err(stream_failure)?;
                    rest = later;
                }
            }
        }
        stream.flush().map_err(stream_failure)?;
        while stream.check_write().map_err(stream_failure)? == 0 {
            self.timeout.wait(ready.get_or_init(|| stream.subscribe()))?;
        }
        Ok(())
    }

    fn response(&self, pending: &FutureIncomingResponse) -> Result<IncomingResponse, Failure> {
        loop {
            match pending.get() {
                Some(Ok(answer)) => return Ok(answer?),
                Some(Err(())) => return Err(Failure::Other("the host gave no response".to_owned())),
                None => self.timeout.wait(&pending.subscribe())?,
            }
        }
    }

    fn read(&self, response: IncomingResponse) -> Result<Answer, Failure> {
        let status = response.status();
        let headers = response.headers().entries();
        let incoming = response.consume().map_err(|()| Failure::Other("the response's body cannot be read".to_owned()))?;
        let body = self.read_all(&incoming)?;
        Ok(Answer { status, headers, body })
    }

    fn read_all(&self, incoming: &IncomingBody) -> Result<Vec<u8>, Failure> {
        let stream: InputStream = incoming.stream().map_err(|()| Failure::Other("the response's body cannot be read".to_owned()))?;
        let ready = OnceCell::new();
        let mut body = Vec::new();
        loop {
            match stream.read(CHUNK) {
                Ok(chunk) if chunk.is_empty() => self.timeout.wait(ready.get_or_init(|| stream.subscribe()))?,
                Ok(chunk) if body.is_empty() => body = chunk,
                Ok(chunk) => body.extend_from_slice(&chunk),
                Err(StreamError::Closed) => return Ok(body),
                Err(failed) => return Err(stream_failure(failed)),
            }
        }
    }

    /// An error that names the request. Without its query: that is where secrets are.
    fn failed(&self, ctx: &Ctx<'_>, failure: Failure) -> Error {
        let at = format!("http.fetch: {} {}{}", self.method, self.url.origin().ascii_serialization(), self.url.path());
        match failure {
            Failure::Other(why) => throw(ctx, Kind::Error, &format!("{at} failed: {why}")),
            Failure::TimedOut => {
                let error = throw(ctx, Kind::Error, &format!("{at} failed: no complete answer within {} ms", self.timeout.milliseconds()));
                with_property(ctx, error, "code", "timeout")
            }
            Failure::Transport(ErrorCode::HttpRequestDenied) => {
                let message = format!("{at} failed: {:?} is not allowed by this handler's grants", self.url.authority());
                with_property(ctx, throw(ctx, Kind::Error, &message), "code", "HTTP-request-denied")
            }
            Failure::Transport(code) => {
                let (name, words) = in_words(&code);
                with_property(ctx, throw(ctx, Kind::Error, &format!("{at} failed: {words}")), "code", name)
            }
        }
    }
}

fn append(fields: &Fields, name: &str, value: &[u8]) -> Result<(), Failure> {
    fields.append(name, value).map_err(|error| {
        let why = match error {
            HeaderError::Forbidden => "is set by the host and cannot be set here",
            HeaderError::InvalidSyntax | HeaderError::Immutable => "is not valid",
        };
        Failure::Other(format!("the header {name:?} {why}"))
    })
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn stream_failure(error: StreamError) -> Failure {
    match error {
        StreamError::Closed => Failure::Transport(ErrorCode::ConnectionTerminated),
        StreamError::LastOperationFailed(error) => match http_error_code(&error) {
            Some(code) => Failure::Transport(code),
            None => Failure::Other(error.to_debug_string()),
        },
    }
}

/// How long the whole exchange may take, redirects and bodies included. Without one the host's limits hold.
struct Timeout {
    given: Option<(u64, Pollable)>,
}

impl Timeout {
    fn after(milliseconds: Option<f64>) -> Self {
        let given = milliseconds.map(|milliseconds| {
            let milliseconds = milliseconds as u64;
            (milliseconds, monotonic_clock::subscribe_duration(milliseconds.saturating_mul(1_000_000)))
        });
        Self { given }
    }

    fn milliseconds(&self) -> u64 {
        self.given.as_ref().map_or(0, |(milliseconds, _)| *milliseconds)
    }

    /// Told to the host as well: it then gives up a connection that nobody waits for any more.
    fn options(&self) -> Option<RequestOptions> {
        let (milliseconds, _) = self.given.as_ref()?;
        let nanoseconds = Some(milliseconds.saturating_mul(1_000_000));
        let options = RequestOptions::new();
        // A host that knows no such option says so, and the clock here still counts.
        let _ = options.set_connect_timeout(nanoseconds);
        let _ = options.set_first_byte_timeout(nanoseconds);
        let _ = options.set_between_bytes_timeout(nanoseconds);
        Some(options)
    }

    /// The host counts the same time: where its clock was heard first, it was the time that was given all the same.
    fn judged(&self, failure: Failure) -> Failure {
        let timed_out = matches!(
            failure,
            Failure::Transport(ErrorCode::ConnectionTimeout | ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout)
        );
        match &self.given {
            Some((_, over)) if timed_out && over.ready() => Failure::TimedOut,
            _ => failure,
        }
    }

    fn wait(&self, ready: &Pollable) -> Result<(), Failure> {
        match &self.given {
            None => ready.block(),
            Some((_, over)) => {
                // What is ready counts, even when the time is over too.
                if !poll(&[ready, over]).contains(&0) {
                    return Err(Failure::TimedOut);
                }
            }
        }
        Ok(())
    }
}

/// Each error of wasi:http, as it is called there and as it is said.
fn in_words(code: &ErrorCode) -> (&'static str, String) {
    let (name, words) = match code {
        ErrorCode::DnsTimeout => ("DNS-timeout", "looking up the host took too long"),
        ErrorCode::DnsError(details) => {
            let details = details.rcode.as_deref().map(|rcode| format!(" ({rcode})")).unwrap_or_default();
            return ("DNS-error", format!("the host's name cannot be resolved{details}"));
        }
        ErrorCode::DestinationNotFound => ("destination-not-found", "the host was not found"),
        ErrorCode::DestinationUnavailable => ("destination-unavailable", "the host is not available"),
        ErrorCode::DestinationIpProhibited => {
            ("destination-IP-prohibited", "the host's address is not allowed: grants name private and local addresses one by one")
        }
        ErrorCode::DestinationIpUnroutable => ("destination-IP-unroutable", "there is no route to the host's address"),
        ErrorCode::ConnectionRefused => ("connection-refused", "the connection was refused"),
        ErrorCode::ConnectionTerminated => ("connection-terminated", "the connection was closed before the answer was complete"),
        ErrorCode::ConnectionTimeout => ("connection-timeout", "connecting took too long"),
        ErrorCode::ConnectionReadTimeout => ("connection-read-timeout", "the answer took too long"),
        ErrorCode::ConnectionWriteTimeout => ("connection-write-timeout", "sending the request took too long"),
        ErrorCode::ConnectionLimitReached => ("connection-limit-reached", "too many connections are open"),
        ErrorCode::TlsProtocolError => ("TLS-protocol-error", "TLS failed: the two sides found no common protocol"),
        ErrorCode::TlsCertificateError => ("TLS-certificate-error", "TLS failed: the host's certificate is not valid"),
        ErrorCode::TlsAlertReceived(alert) => {
            let details = alert.alert_message.as_deref().map(|message| format!(" ({message})")).unwrap_or_default();
            return ("TLS-alert-received", format!("TLS failed: the other side sent an alert{details}"));
        }
        ErrorCode::HttpRequestDenied => ("HTTP-request-denied", "the request is not allowed"),
        ErrorCode::HttpRequestLengthRequired => ("HTTP-request-length-required", "the request needs a Content-Length"),
        ErrorCode::HttpRequestBodySize(_) => ("HTTP-request-body-size", "the request's body is too large"),
        ErrorCode::HttpRequestMethodInvalid => ("HTTP-request-method-invalid", "the request's method is not valid"),
        ErrorCode::HttpRequestUriInvalid => ("HTTP-request-URI-invalid", "the request's URL is not valid"),
        ErrorCode::HttpRequestUriTooLong => ("HTTP-request-URI-too-long", "the request's URL is too long"),
        ErrorCode::HttpRequestHeaderSectionSize(_) => ("HTTP-request-header-section-size", "the request's headers are too large"),
        ErrorCode::HttpRequestHeaderSize(_) => ("HTTP-request-header-size", "a header of the request is too large"),
        ErrorCode::HttpRequestTrailerSectionSize(_) => ("HTTP-request-trailer-section-size", "the request's trailers are too large"),
        ErrorCode::HttpRequestTrailerSize(_) => ("HTTP-request-trailer-size", "a trailer of the request is too large"),
        ErrorCode::HttpResponseIncomplete => ("HTTP-response-incomplete", "the answer is not complete"),
        ErrorCode::HttpResponseHeaderSectionSize(_) => ("HTTP-response-header-section-size", "the answer's headers are too large"),
        ErrorCode::HttpResponseHeaderSize(_) => ("HTTP-response-header-size", "a header of the answer is too large"),
        ErrorCode::HttpResponseBodySize(limit) => {
            let limit = limit.map(|limit| format!(" (the limit is {limit} bytes)")).unwrap_or_default();
            return ("HTTP-response-body-size", format!("the answer's body is too large{limit}"));
        }
        ErrorCode::HttpResponseTrailerSectionSize(_) => ("HTTP-response-trailer-section-size", "the answer's trailers are too large"),
        ErrorCode::HttpResponseTrailerSize(_) => ("HTTP-response-trailer-size", "a trailer of the answer is too large"),
        ErrorCode::HttpResponseTransferCoding(_) => ("HTTP-response-transfer-coding", "the answer's transfer coding is not known"),
        ErrorCode::HttpResponseContentCoding(_) => ("HTTP-response-content-coding", "the answer's content coding is not known"),
        ErrorCode::HttpResponseTimeout => ("HTTP-response-timeout", "the answer took too long"),
        ErrorCode::HttpUpgradeFailed => ("HTTP-upgrade-failed", "the protocol upgrade failed"),
        ErrorCode::HttpProtocolError => ("HTTP-protocol-error", "what came back is not HTTP"),
        ErrorCode::LoopDetected => ("loop-detected", "the host is calling itself in a circle"),
        ErrorCode::ConfigurationError => ("configuration-error", "the host's configuration does not allow it"),
        ErrorCode::InternalError(details) => {
            return ("internal-error", details.clone().unwrap_or_else(|| "an error inside the host".to_owned()));
        }
    };
    (name, words.to_owned())
}
