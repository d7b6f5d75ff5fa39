//! Calls to other servers. Needs the grant `http` with the hosts.
//!
//! A call waits for its answer. 4xx and 5xx are answers like any other; only a call that got none is an error, and that is a retry.
//! What was sent cannot be taken back when the handler fails later: give the receiver [`Context::idempotency_key`].
//!
//! ```no_run
//! # use koksmat_sdk::prelude::*;
//! # fn pay(event: Event, ctx: Context) -> Result<()> {
//! let answer = http::post("https://api.example.com/payments")
//!     .header("idempotency-key", &ctx.idempotency_key)
//!     .json(&json!({ "amount": 12 }))?
//!     .send()?;
//! if answer.status == 409 {
//!     return Err(reject("paid twice"));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Context::idempotency_key`]: crate::Context#structfield.idempotency_key

use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use crate::bindings::wasi::io::streams::StreamError;
use crate::{Error, Result, retry};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, time::Duration};

/// GET, and the answer.
pub fn get(url: impl Into<String>) -> Result<Response> {
    Request::new("GET", url).send()
}

/// Begins a POST.
pub fn post(url: impl Into<String>) -> Request {
    Request::new("POST", url)
}

/// A request to be. Nothing happens before [`Request::send`].
#[derive(Clone, Debug)]
#[must_use = "the request leaves with `.send()`"]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    timeout: Option<Duration>,
}

impl Request {
    /// A request with any method.
    pub fn new(method: &str, url: impl Into<String>) -> Request {
        Request { method: method.to_ascii_uppercase(), url: url.into(), headers: Vec::new(), body: None, timeout: None }
    }

    /// With one more header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With JSON as body.
    pub fn json<T: Serialize + ?Sized>(self, body: &T) -> Result<Request> {
        Ok(self.body(serde_json::to_vec(body)?, "application/json"))
    }

    /// With text as body.
    pub fn text(self, body: impl Into<String>) -> Request {
        self.body(body.into(), "text/plain; charset=utf-8")
    }

    /// With a body of a media type. A `content-type` given by [`Request::header`] before this wins.
    pub fn body(mut self, body: impl Into<Vec<u8>>, content_type: &str) -> Request {
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            self.headers.push(("content-type".into(), content_type.into()));
        }
        self.body = Some(body.into());
        self
    }

    /// How long to wait for the connection, for the answer to begin, and between its parts. The call's own deadline counts besides.
    pub fn timeout(mut self, timeout: Duration) -> Request {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it and waits for the whole answer.
    pub fn send(self) -> Result<Response> {
        let target = Target::parse(&self.url)?;
        self.exchange(&target).map_err(|why| retry(format_args!("{} {}: {why}", self.method, target.without_query())))
    }

    fn exchange(&self, target: &Target) -> Result<Response, Cow<'static, str>> {
        let request = OutgoingRequest::new(self.fields()?);
        request.set_method(&method(&self.method)).map_err(|()| "not a method")?;
        request.set_scheme(Some(&target.scheme)).map_err(|()| "not a scheme")?;
        request.set_authority(Some(target.authority)).map_err(|()| "not a host")?;
        request.set_path_with_query(Some(&target.path)).map_err(|()| "not a path")?;

        // The body is asked for before the request is given away and written after that: the host reads while this writes.
        let bytes = self.body.as_deref().unwrap_or_default();
        let body = if bytes.is_empty() { None } else { Some(request.body().map_err(|()| "the body was taken")?) };
        let answer = outgoing_handler::handle(request, self.options()).map_err(|code| explain(&code))?;
        // A connection that broke shows here too, but why it broke is what the answer says.
        let written = body.map_or(Ok(()), |body| write(body, bytes));
        let response = wait(&answer)?;
        if let Err(why) = written
            && response.status() < 400
        {
            return Err(why);
        }
        read(response)
    }

    fn fields(&self) -> Result<Fields, Cow<'static, str>> {
        let mut entries: Vec<_> =
            self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone().into_bytes())).collect();
        let wants_length = self.body.is_some() || matches!(self.method.as_str(), "POST" | "PUT" | "PATCH");
        if wants_length && !entries.iter().any(|(name, _)| name == "content-length") {
            entries.push(("content-length".into(), self.body.as_ref().map_or(0, Vec::len).to_string().into_bytes()));
        }
        Fields::from_list(&entries).map_err(|error| format!("a header: {error:?}").into())
    }

    fn options(&self) -> Option<RequestOptions> {
        let timeout = u64::try_from(self.timeout?.as_nanos()).unwrap_or(u64::MAX);
        let options = RequestOptions::new();
        // A host may not know one of them; then its own limits count.
        let _ = options.set_connect_timeout(Some(timeout));
        let _ = options.set_first_byte_timeout(Some(timeout));
        let _ = options.set_between_bytes_timeout(Some(timeout));
        Some(options)
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case. A value that is not UTF-8 has replacement characters.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Response {
    /// Whether the status is 2xx.
    pub fn ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON. One that does not parse is a retry: the server may do better the next time.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| retry(format_args!("an answer with status {}: {error}", self.status)))
    }

    /// The body as text; what is not UTF-8 becomes replacement characters.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body as it is.
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// The first header with this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        crate::event::find(&self.headers, name)
    }
}

fn write(body: OutgoingBody, mut bytes: &[u8]) -> Result<(), Cow<'static, str>> {
    let broken = |error| -> Cow<'static, str> { format!("the request broke off: {}", stream_error(error)).into() };
    {
        let stream = body.write().map_err(|()| "the body was taken")?;
        while !bytes.is_empty() {
            // At most this much at once is what the interface allows.
            let (now, later) = bytes.split_at(bytes.len().min(4096));
            stream.blocking_write_and_flush(now).map_err(broken)?;
            bytes = later;
        }
    }
    OutgoingBody::finish(body, None).map_err(|code| explain(&code))
}

fn wait(answer: &FutureIncomingResponse) -> Result<IncomingResponse, Cow<'static, str>> {
    answer.subscribe().block();
    match answer.get() {
        Some(Ok(Ok(response))) => Ok(response),
        Some(Ok(Err(code))) => Err(explain(&code)),
        Some(Err(())) | None => Err("no answer".into()),
    }
}

fn read(response: IncomingResponse) -> Result<Response, Cow<'static, str>> {
    let status = response.status();
    let headers = response.headers().entries();
    let headers =
        headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), String::from_utf8_lossy(&value).into_owned())).collect();
    let incoming = response.consume().map_err(|()| "the body was taken")?;
    let mut body = Vec::new();
    let stream = incoming.stream().map_err(|()| "the body was taken")?;
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(part) => body.extend_from_slice(&part),
            Err(StreamError::Closed) => break,
            Err(error) => return Err(format!("the answer broke off: {}", stream_error(error)).into()),
        }
    }
    Ok(Response { status, headers, body })
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
        other => Method::Other(other.into()),
    }
}

fn stream_error(error: StreamError) -> String {
    match error {
        StreamError::Closed => "closed".into(),
        StreamError::LastOperationFailed(error) => error.to_debug_string(),
    }
}

fn explain(code: &ErrorCode) -> Cow<'static, str> {
    match code {
        ErrorCode::HttpRequestDenied => "the handler's grants do not allow it: see `http` in its grants".into(),
        ErrorCode::InternalError(Some(reason)) => reason.clone().into(),
        other => format!("{other:?}").trim_start_matches("ErrorCode::").to_owned().into(),
    }
}

/// A URL in the parts the interface takes.
#[derive(Debug)]
struct Target<'a> {
    scheme: Scheme,
    authority: &'a str,
    path: Cow<'a, str>,
}

impl<'a> Target<'a> {
    fn parse(url: &'a str) -> Result<Target<'a>, Error> {
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| retry(format_args!("`{url}` is no URL: it begins with https:// or http://")))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return Err(retry(format_args!("`{scheme}` is no scheme for a request: https or http"))),
        };
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        // Not repeated in the message: what stands before the @ is a secret.
        if authority.contains('@') {
            return Err(retry("a URL with a user name: put credentials into a header"));
        }
        if authority.is_empty() {
            return Err(retry(format_args!("`{url}` names no host")));
        }
        let path = if path.starts_with('/') { path.into() } else { format!("/{path}").into() };
        Ok(Target { scheme, authority, path })
    }

    /// For messages: a query may hold secrets.
    fn without_query(&self) -> String {
        let scheme = if matches!(self.scheme, Scheme::Https) { "https" } else { "http" };
        let path = self.path.split_once('?').map_or(&*self.path, |(path, _)| path);
        format!("{scheme}://{}{path}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (&str, String, String) {
        let target = Target::parse(url).unwrap();
        (target.authority, target.path.to_string(), target.without_query())
    }

    #[test]
    fn urls() {
        assert_eq!(parts("https://a.b/c?d=e#f"), ("a.b", "/c?d=e".into(), "https://a.b/c".into()));
        assert_eq!(parts("HTTP://127.0.0.1:80"), ("127.0.0.1:80", "/".into(), "http://127.0.0.1:80/".into()));
        assert_eq!(parts("http://[::1]:80?q"), ("[::1]:80", "/?q".into(), "http://[::1]:80/".into()));
    }

    #[test]
    fn what_is_no_url() {
        for url in ["", "a.b/c", "ftp://a.b", "https://", "https:///c"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
        let error = Target::parse("https://me:secret@a.b/").unwrap_err();
        assert!(!error.reason().contains("secret"), "{error}");
    }

    #[test]
    fn a_given_content_type_wins() {
        let request = post("http://a.b").header("Content-Type", "application/xml").text("<a/>");
        assert_eq!(request.headers, [("Content-Type".to_owned(), "application/xml".to_owned())]);
    }

    #[test]
    fn error_codes_in_words() {
        assert_eq!(explain(&ErrorCode::ConnectionRefused), "ConnectionRefused");
        assert!(explain(&ErrorCode::HttpRequestDenied).contains("grants"));
    }
}
