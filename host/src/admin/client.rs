//! The other end of the control socket: what commands beside a running host use.

use std::{path::PathBuf, sync::Arc};

use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::{
    admin::{self, socket},
    config::{Config, StoreConfig},
    letters::DeadLetters,
    pause::{Parts, Records},
    store::{Store, StoreError, postgres::PostgresStore, sqlite::SqliteStore},
    task,
};

/// A client of a running host on this machine; where none runs, of the store itself.
pub struct Client {
    socket: PathBuf,
    /// Answers in the host's place.
    offline: Option<axum::Router>,
}

/// Why a request to a running host failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Its store is in memory, so it has no socket.
    #[error("a host whose store is in memory cannot be reached by commands")]
    InMemory,
    /// No host runs.
    #[error("no host runs on this store (nothing answers at {}): start it with `koksmat run`", .0.display())]
    NotRunning(PathBuf),
    /// No host runs, and the store cannot be opened in its place.
    #[error("no host runs on this store, and it cannot be opened without one: {0}")]
    Store(StoreError),
    /// The host refused, in its words.
    #[error("the host answered {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its words.
        detail: String,
    },
    /// The connection broke.
    #[error("the host went away: {0}")]
    Broken(String),
}

/// A request to a running host.
#[derive(Debug)]
pub struct Request {
    method: http::Method,
    path: String,
    query: String,
    content_type: Option<String>,
    body: Vec<u8>,
}

impl Request {
    /// GET `path`.
    pub fn get(path: &str) -> Self {
        Self::new(http::Method::GET, path)
    }

    /// POST to `path`.
    pub fn post(path: &str) -> Self {
        Self::new(http::Method::POST, path)
    }

    /// DELETE `path`.
    pub fn delete(path: &str) -> Self {
        Self::new(http::Method::DELETE, path)
    }

    fn new(method: http::Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), query: String::new(), content_type: None, body: Vec::new() }
    }

    /// With these parameters.
    pub fn query<'a>(mut self, parameters: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        self.query = query.finish();
        self
    }

    /// With this body.
    pub fn body(mut self, content_type: &str, body: Vec<u8>) -> Self {
        self.content_type = Some(content_type.to_owned());
        self.body = body;
        self
    }
}

impl Client {
    /// The client of the host with this store.
    ///
    /// # Errors
    /// When such a host cannot be reached by commands at all.
    pub fn of(store: &StoreConfig) -> Result<Self, ClientError> {
        socket::path(store).map(|socket| Self { socket, offline: None }).ok_or(ClientError::InMemory)
    }

    /// Whether a host answers.
    pub async fn runs(&self) -> bool {
        self.connect().await.is_ok()
    }

    /// The client of the host that runs this configuration, or, when none does, of its store: it is opened and locked as long as this lives.
    /// Without a host there are no queues to publish to and nothing to show the status of.
    ///
    /// # Errors
    /// When no host runs and the store cannot be opened.
    pub async fn or_offline(config: &Config) -> Result<Self, ClientError> {
        let store = &config.host.store;
        let mut client = Self::of(store)?;
        if client.runs().await {
            return Ok(client);
        }
        let opened: Arc<dyn Store> = match store {
            StoreConfig::Sqlite(path) if path.exists() => Arc::new(SqliteStore::visit(path).map_err(ClientError::Store)?),
            StoreConfig::Postgres { url, .. } => Arc::new(PostgresStore::open(url).await.map_err(ClientError::Store)?),
            _ => return Err(ClientError::NotRunning(client.socket)),
        };
        let records = Records::new(opened.clone(), Parts::of(config));
        client.offline = Some(admin::offline(DeadLetters::offline(config, opened), records));
        Ok(client)
    }

    /// Send a request; the JSON of the answer. Cancel safe in that the host carries out what it received.
    ///
    /// # Errors
    /// When no host runs, or it refuses.
    pub async fn send(&self, request: Request) -> Result<Value, ClientError> {
        Ok(serde_json::from_slice(&self.send_for_text(request).await?).unwrap_or_default())
    }

    /// The same with the answer as it came: what is read from JSON and written again is not always the same text.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_for_text(&self, request: Request) -> Result<Bytes, ClientError> {
        let (status, body) = self.ask(request).await?;
        if status.is_success() {
            return Ok(body);
        }
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        Err(ClientError::Refused { status: status.as_u16(), detail: value["detail"].as_str().unwrap_or_default().to_owned() })
    }

    /// The same with whatever was answered, a refusal too.
    ///
    /// # Errors
    /// When no host runs, or the answer does not come.
    pub async fn ask(&self, request: Request) -> Result<(StatusCode, Bytes), ClientError> {
        let uri = if request.query.is_empty() { request.path } else { format!("{}?{}", request.path, request.query) };
        let mut builder = http::Request::builder().method(request.method).uri(uri).header("host", "koksmat");
        if let Some(content_type) = request.content_type {
            builder = builder.header("content-type", content_type);
        }
        let request = builder.body(Full::new(Bytes::from(request.body))).map_err(|e| ClientError::Broken(e.to_string()))?;
        match &self.offline {
            Some(router) => self.ask_offline(router.clone(), request).await,
            None => self.ask_host(request).await,
        }
    }

    async fn ask_host(&self, request: http::Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = self.connect().await.map_err(|_| ClientError::NotRunning(self.socket.clone()))?;
        let broken = |error: hyper::Error| ClientError::Broken(error.to_string());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = task::spawn("client", connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        connection.abort();
        Ok((status, body))
    }

    async fn ask_offline(&self, mut router: axum::Router, request: http::Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ClientError> {
        let response = match tower::Service::call(&mut router, request.map(axum::body::Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes();
        Ok((status, body))
    }

    async fn connect(&self) -> std::io::Result<UnixStream> {
        let stream = socket::with_short_path(&self.socket, |path| std::os::unix::net::UnixStream::connect(path))?;
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    }
}
