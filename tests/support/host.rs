//! A host in this process.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use koksmat::{
    Event, Host, Stopped,
    source::memory::{MemorySender, MemorySource},
};

use crate::Folder;

/// A running host, its folder, and the sender of its memory source `memory`.
pub struct TestHost {
    pub folder: Folder,
    pub host: Host,
    pub memory: MemorySender,
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

impl TestHost {
    /// Boot a host of this folder; it has a memory source called `memory` with 4,096 credits besides.
    pub async fn start(folder: Folder) -> Self {
        let config = folder.config_with(&["memory"]);
        let (source, memory) = MemorySource::new();
        let built = Host::builder().config(config).source("memory", 4_096, source).build().await;
        let host = built.unwrap_or_else(|error| panic!("{error}"));
        crate::within("the sources to take events", host.ready()).await;
        Self { folder, host, memory }
    }

    /// Send an event through the memory source and wait for its answer.
    pub async fn handle(&self, event: Event) -> koksmat::Answer {
        let pending = crate::within("a credit", self.memory.send(event)).await.expect("the host runs");
        crate::within("the answer", pending.answer()).await
    }

    /// Publish JSON to an embedded queue; the id of the event.
    pub async fn publish(&self, queue: &str, ty: &str, data: &serde_json::Value) -> String {
        let path = format!("/queues/{queue}?type={ty}");
        let reply = self.post(&path, &[("content-type", "application/json")], data.to_string()).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    /// POST to the listener, with the token.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let authorization = format!("Bearer {}", self.folder.token());
        let mut all = vec![("authorization", authorization.as_str())];
        all.extend_from_slice(headers);
        request(&format!("http://{}{path}", self.host.listen_address()), "POST", &all, body.into()).await
    }

    /// GET from the admin address.
    pub async fn admin(&self, path: &str) -> Reply {
        request(&format!("http://{}{path}", self.host.admin_address()), "GET", &[], Bytes::new()).await
    }

    /// Wait until the store holds no task that could still run.
    pub async fn settled(&self) {
        crate::until("every task to be settled", || async { (self.folder.count("select count(*) from task") == 0).then_some(()) }).await;
    }

    /// Stop it; its ledger must balance.
    pub async fn stop(self) -> (Folder, Stopped) {
        let stopped = crate::within("the stop", self.host.shutdown()).await;
        assert!(stopped.ledger.balanced, "{}", stopped.line());
        (self.folder, stopped)
    }
}

/// One HTTP request on a connection of its own.
pub async fn request(url: &str, method: &str, headers: &[(&str, &str)], body: Bytes) -> Reply {
    try_request(url, method, headers, body).await.unwrap_or_else(|error| panic!("{method} {url}: {error}"))
}

/// The same where nobody may answer.
pub async fn try_request(url: &str, method: &str, headers: &[(&str, &str)], body: Bytes) -> Result<Reply, String> {
    static CLIENT: std::sync::OnceLock<Arc<Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>>> =
        std::sync::OnceLock::new();
    // A client belongs to the runtime it was made in, and each test has its own: no kept connections.
    let client = CLIENT.get_or_init(|| Arc::new(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http()));
    let mut builder = http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let response = client.request(builder.body(Full::new(body)).unwrap()).await.map_err(|error| format!("{error:?}"))?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
    Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
}
