//! `wasi:http/outgoing-handler`: requests to the hosts on the handler's list, with the call's idempotency key.
//!
//! The list is checked on the name and again on the addresses that are dialled: a name that resolves to a private, loopback or link-local
//! address is refused unless the list names that very address and port.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Uri, uri::Authority};
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::{
    config,
    outcome::HOPS_HEADER,
    plugin::{
        Call,
        effects::CallEffects,
        recording::Playback,
        tape::{Exchange, Tape},
    },
    store::{Holder, Read, Store},
    tenant::Tenant,
};

/// Requests one call may make.
const REQUESTS: usize = 1_000;

type Boxed<T> = Box<dyn Future<Output = T> + Send>;
type Sent = Result<(http::Response<WasiBody>, Boxed<Result<(), Error>>), Error>;

/// A handler's way out: its list, and connections that no other handler shares.
#[derive(Clone)]
pub(crate) struct Outbound {
    list: AllowList,
    client: Client<HttpsConnector<GuardedConnector>, WasiBody>,
}

impl Outbound {
    pub(crate) fn new(allowed: &[String]) -> Self {
        let list = AllowList(allowed.into());
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(GuardedConnector { list: list.clone() });
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(15))
            .pool_max_idle_per_host(8)
            // A connection that was closed meanwhile is the guest's error to retry: a request is never sent twice unasked.
            .retry_canceled_requests(false)
            .build(connector);
        Self { list, client }
    }
}

/// Entries: `api.example.com`, `*.example.com`, `host:port`, `10.0.0.1:9000`.
#[derive(Clone)]
struct AllowList(Arc<[String]>);

impl AllowList {
    fn allows_name(&self, authority: &Authority, port: u16) -> bool {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        self.0.iter().any(|entry| {
            let (name, entry_port) = split_port(entry);
            entry_port.is_none_or(|p| p == port) && config::matches(&name.to_ascii_lowercase(), &host)
        })
    }

    fn allows_address(&self, address: SocketAddr) -> bool {
        if is_public(address.ip()) {
            return true;
        }
        self.0.iter().any(|entry| entry.parse::<SocketAddr>().is_ok_and(|allowed| allowed == address))
    }
}

fn split_port(entry: &str) -> (&str, Option<u16>) {
    if let Ok(address) = entry.parse::<SocketAddr>() {
        // `[::1]:80` and `127.0.0.1:80`: the text before the last colon, less the brackets.
        let name = entry.rsplit_once(':').map_or(entry, |(name, _)| name);
        return (name.trim_start_matches('[').trim_end_matches(']'), Some(address.port()));
    }
    match entry.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => (name, port.parse().ok()),
        _ => (entry, None),
    }
}

/// Whether an address is one of the public internet.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_documentation()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b)))
        }
        IpAddr::V6(ip) => {
            if let Some(v4) = embedded_v4(ip) {
                return is_public(IpAddr::V4(v4));
            }
            let first = ip.segments()[0];
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || (first & 0xfe00) == 0xfc00
                || (first & 0xffc0) == 0xfe80
                || (first & 0xffc0) == 0xfec0
                || ip.segments()[..2] == [0x2001, 0xdb8])
        }
    }
}

/// The IPv4 address inside a mapped, compatible, NAT64 or 6to4 one.
fn embedded_v4(ip: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| std::net::Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) > (0, 1) => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// Resolves and dials; what is checked is what is dialled.
#[derive(Clone)]
struct GuardedConnector {
    list: AllowList,
}

impl tower::Service<Uri> for GuardedConnector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let list = self.list.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
            let port = port_of(&uri);
            let mut refused = None;
            let mut failed = None;
            for address in tokio::net::lookup_host((host.as_str(), port)).await? {
                if !list.allows_address(address) {
                    refused = Some(address);
                    continue;
                }
                match TcpStream::connect(address).await {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        return Ok(TokioIo::new(stream));
                    }
                    Err(error) => failed = Some(error),
                }
            }
            match (failed, refused) {
                (Some(error), _) => Err(error),
                (None, Some(_)) => Err(io::Error::new(io::ErrorKind::PermissionDenied, "not a public address")),
                (None, None) => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            }
        })
    }
}

fn port_of(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 })
}

/// What the requests of a call meet.
#[derive(Debug, Clone)]
pub(crate) enum Outside {
    /// The world.
    Open,
    /// The world, as long as they ask for nothing that changes it: GET and HEAD.
    Safe,
    /// What another call was answered.
    Recorded(Arc<Playback>),
}

/// The outbound requests of one call.
pub(crate) struct OutboundCall {
    outbound: Outbound,
    outside: Outside,
    /// They are kept.
    record: bool,
    /// Where, from the first one on: a call that asks nothing pays nothing.
    tape: Option<Tape>,
    store: Arc<dyn Store>,
    tenant: Tenant,
    holder: Holder,
    idempotency_key: Arc<str>,
    hops: u32,
    deadline: Instant,
    /// How many requests there were to this method, authority and path.
    counts: HashMap<(Method, String, String), u32>,
    requests: usize,
    reads: Vec<Read>,
    writes: Vec<String>,
    overtaken: Arc<AtomicBool>,
    holds: Arc<AtomicBool>,
}

impl OutboundCall {
    pub(crate) fn new(outbound: Outbound, store: Arc<dyn Store>, call: &Call, deadline: Instant, outside: Outside, record: bool) -> Self {
        Self {
            outbound,
            outside,
            record,
            tape: None,
            store,
            tenant: call.id.tenant.clone(),
            holder: call.holder,
            idempotency_key: call.idempotency_key.clone(),
            hops: call.hops,
            deadline,
            counts: HashMap::new(),
            requests: 0,
            reads: Vec::new(),
            writes: Vec::new(),
            overtaken: Arc::default(),
            holds: Arc::default(),
        }
    }

    /// What the call has read and written until now: checked and held before a request with a body leaves.
    pub(crate) fn note_reads(&mut self, effects: &CallEffects) {
        self.reads = effects.reads();
        self.writes = effects.written_keys();
    }

    /// A request was not sent because what the call had read was no longer true: the call runs again.
    pub(crate) fn overtaken(&self) -> bool {
        self.overtaken.load(Ordering::Acquire)
    }

    /// The call holds keys.
    pub(crate) fn holds(&self) -> bool {
        self.holds.load(Ordering::Acquire)
    }

    /// The requests that were kept, and how many were not.
    pub(crate) fn kept(&self) -> (Vec<Exchange>, usize) {
        self.tape.as_ref().map(Tape::take).unwrap_or_default()
    }

    fn key_of(&mut self, method: &Method, uri: &Uri) -> String {
        let authority = uri.authority().map(Authority::to_string).unwrap_or_default();
        let path = uri.path().to_owned();
        let n = self.counts.entry((method.clone(), authority.clone(), path.clone())).or_default();
        let mut hash = Sha256::new();
        for part in [&self.idempotency_key, method.as_str(), authority.as_str(), path.as_str(), &n.to_string()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        *n += 1;
        hex::encode(&hash.finalize()[..16])
    }
}

impl WasiHttpHooks for OutboundCall {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        body_sent: Boxed<Result<(), Error>>,
    ) -> Boxed<Sent> {
        if !self.record {
            return self.send(request, options, body_sent);
        }
        let (request, place) = self.tape.get_or_insert_default().begin(request);
        let sent = Box::into_pin(self.send(request, options, body_sent));
        Box::new(async move {
            match sent.await {
                Ok((response, io)) => Ok((place.answered(response), io)),
                Err(error) => {
                    place.failed(&error);
                    Err(error)
                }
            }
        })
    }
}

impl OutboundCall {
    fn send(
        &mut self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _body_sent: Boxed<Result<(), Error>>,
    ) -> Boxed<Sent> {
        let refuse = |error: Error| -> Boxed<Sent> { Box::new(async { Err(error) }) };
        let Some(authority) = request.uri().authority() else { return refuse(Error::HttpRequestUriInvalid) };
        if authority.as_str().contains('@') {
            return refuse(Error::HttpRequestUriInvalid);
        }
        if !self.outbound.list.allows_name(authority, port_of(request.uri())) {
            return refuse(Error::HttpRequestDenied);
        }
        self.requests += 1;
        if self.requests > REQUESTS {
            return refuse(Error::ConnectionLimitReached);
        }
        let (method, uri) = (request.method().clone(), request.uri().clone());
        match &self.outside {
            Outside::Open => {}
            Outside::Safe if method == Method::GET || method == Method::HEAD => {}
            Outside::Safe => return refuse(Error::InternalError(Some(format!("a dry run sends no {method}: only GET and HEAD")))),
            Outside::Recorded(playback) => {
                let playback = playback.clone();
                return Box::new(async move { Ok((playback.answer(request).await?, nothing_left())) });
            }
        }
        let key = self.key_of(&method, &uri);
        let headers = request.headers_mut();
        let has_body = method != Method::GET && method != Method::HEAD;
        if has_body
            && !headers.contains_key("idempotency-key")
            && let Ok(value) = HeaderValue::from_str(&key)
        {
            headers.insert("idempotency-key", value);
        }
        headers.insert(HOPS_HEADER, HeaderValue::from(self.hops + 1));
        let hold = (has_body && !(self.reads.is_empty() && self.writes.is_empty()) && !self.holds()).then(|| Hold {
            store: self.store.clone(),
            tenant: self.tenant.clone(),
            holder: self.holder,
            reads: std::mem::take(&mut self.reads),
            writes: std::mem::take(&mut self.writes),
            until: self.deadline.saturating_duration_since(Instant::now()),
            overtaken: self.overtaken.clone(),
            holds: self.holds.clone(),
        });
        let client = self.outbound.client.clone();
        let first_byte = options.and_then(|o| o.first_byte_timeout).unwrap_or(Duration::from_secs(600));
        Box::new(async move {
            if let Some(hold) = hold {
                hold.take().await?;
            }
            let response = tokio::time::timeout(first_byte, client.request(request))
                .await
                .map_err(|_| Error::ConnectionReadTimeout)?
                .map_err(|error| reason(&error))?;
            let response = response.map(|body| body.map_err(Error::from).boxed_unsync());
            Ok((response, nothing_left()))
        })
    }
}

/// What is still to be done for a request that was answered.
fn nothing_left() -> Boxed<Result<(), Error>> {
    Box::new(async { Ok(()) })
}

/// A request with a body must not be repeated with other content under the same idempotency key: what the call has read is checked first,
/// and stays as it is until the call has committed.
struct Hold {
    store: Arc<dyn Store>,
    tenant: Tenant,
    holder: Holder,
    reads: Vec<Read>,
    writes: Vec<String>,
    until: Duration,
    overtaken: Arc<AtomicBool>,
    holds: Arc<AtomicBool>,
}

impl Hold {
    async fn take(self) -> Result<(), Error> {
        match self.store.hold(self.holder, self.tenant, self.reads, self.writes, self.until).await {
            Ok(true) => {
                self.holds.store(true, Ordering::Release);
                Ok(())
            }
            Ok(false) => {
                self.overtaken.store(true, Ordering::Release);
                Err(Error::InternalError(Some("the call was overtaken and runs again".into())))
            }
            Err(_) => Err(Error::InternalError(Some("the store does not answer".into()))),
        }
    }
}

/// The client's error in the words of `wasi:http`.
fn reason(error: &hyper_util::client::legacy::Error) -> Error {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::PermissionDenied => return Error::DestinationIpProhibited,
                io::ErrorKind::ConnectionRefused => return Error::ConnectionRefused,
                io::ErrorKind::TimedOut => return Error::ConnectionTimeout,
                io::ErrorKind::InvalidData => return Error::TlsProtocolError,
                _ if error.is_connect() => return Error::DnsError { rcode: Some(io.to_string()), info_code: None },
                _ => return Error::ConnectionTerminated,
            }
        }
        source = inner.source();
    }
    if error.is_connect() { Error::DestinationUnavailable } else { Error::HttpProtocolError }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> AllowList {
        AllowList(entries.iter().map(|e| (*e).to_owned()).collect())
    }

    #[test]
    fn only_listed_names_are_allowed() {
        let list = list(&["api.example.com", "*.shop.example", "127.0.0.1:9000", "[::1]:80"]);
        let allows = |authority: &str, port| list.allows_name(&authority.parse().unwrap(), port);
        assert!(allows("api.example.com", 443) && allows("API.example.com:8443", 8443) && allows("a.shop.example", 80));
        assert!(allows("127.0.0.1:9000", 9000) && allows("[::1]:80", 80));
        assert!(!allows("example.com", 443) && !allows("api.example.com.evil.test", 443) && !allows("127.0.0.1:9001", 9001));
    }

    #[test]
    fn an_address_inside_must_be_listed_with_its_port() {
        let list = list(&["*", "127.0.0.1:9000"]);
        let allows = |address: &str| list.allows_address(address.parse().unwrap());
        assert!(allows("127.0.0.1:9000") && allows("93.184.215.14:443"));
        for inside in [
            "127.0.0.1:9001",
            "10.0.0.1:80",
            "169.254.169.254:80",
            "192.168.1.1:443",
            "100.64.0.1:80",
            "0.0.0.0:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:9000",
            "[fe80::1]:80",
            "[fd00::1]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:7f00:1::]:80",
            "255.255.255.255:80",
        ] {
            assert!(!allows(inside), "{inside}");
        }
    }
}
