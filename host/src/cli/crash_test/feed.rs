//! The load: senders that send each event until it is accepted.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use koksmat::{
    Event,
    control::{Client, Request},
    source::queue::DEFAULT_TYPE,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plan::{Fed, Plan, Way};

/// Senders for each source; in a queue each has a key of its own, so that its events have an order.
const SENDERS: u32 = 8;
/// How long to wait before an event that was not accepted is sent again.
const AGAIN: Duration = Duration::from_millis(50);

/// An event that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) handler: String,
    pub(super) id: String,
}

/// Senders at work.
pub(super) struct Feed {
    sent: Arc<Mutex<Vec<Sent>>>,
    senders: JoinSet<()>,
}

impl Feed {
    /// Send to every source that is fed, so many events a second each, until it is `enough`.
    pub(super) fn start(plan: &Plan, rate: u32, ty: Option<&str>, data: &[u8], enough: &CancellationToken) -> Self {
        let sent = Arc::<Mutex<Vec<Sent>>>::default();
        let mut senders = JoinSet::new();
        for fed in &plan.fed {
            for number in 0..SENDERS {
                let sender = Sender {
                    fed: fed.clone(),
                    run: plan.run.clone(),
                    key: format!("key-{number}"),
                    ty: ty.map(str::to_owned),
                    data: data.to_vec().into(),
                    pause: Duration::from_secs(u64::from(SENDERS)) / rate,
                    listen: plan.listen,
                    client: Client::of(&plan.store).ok(),
                    http: HttpClient::builder(TokioExecutor::new()).build_http(),
                };
                senders.spawn(sender.send(sent.clone(), enough.clone()));
            }
        }
        Self { sent, senders }
    }

    /// Wait until what was sent last is accepted. What was accepted.
    pub(super) async fn stop(self) -> Vec<Sent> {
        self.senders.join_all().await;
        std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Sender {
    fed: Fed,
    run: String,
    key: String,
    ty: Option<String>,
    data: Bytes,
    pause: Duration,
    listen: std::net::SocketAddr,
    client: Option<Client>,
    http: HttpClient<HttpConnector, Full<Bytes>>,
}

impl Sender {
    async fn send(self, sent: Arc<Mutex<Vec<Sent>>>, enough: CancellationToken) {
        let mut number = 0_u64;
        while !enough.is_cancelled() {
            let id = format!("{}-{}-{}-{number:08}", self.run, self.fed.source, self.key);
            // What was never accepted is nobody's loss.
            if !self.is_accepted(&id).await {
                tokio::time::sleep(AGAIN).await;
                // A broker may have it nevertheless, and would have it twice.
                number += u64::from(matches!(self.fed.way, Way::Broker(_)));
                continue;
            }
            sent.lock().unwrap_or_else(PoisonError::into_inner).push(Sent { handler: self.fed.handler(), id });
            number += 1;
            tokio::time::sleep(self.pause).await;
        }
    }

    async fn is_accepted(&self, id: &str) -> bool {
        match &self.fed.way {
            Way::Queue => {
                let Some(client) = &self.client else { return false };
                let query = [("id", Some(id.to_owned())), ("subject", Some(self.key.clone())), ("type", self.ty.clone())];
                let query = query.into_iter().filter_map(|(name, value)| Some((name, value?)));
                let request = Request::post(&format!("/api/queues/{}", self.fed.source)).query(query);
                client.send(request.body("application/json", self.data.to_vec())).await.is_ok()
            }
            Way::Broker(stand_in) => {
                let mut event = Event::new(self.ty.as_deref().unwrap_or(DEFAULT_TYPE), self.data.clone());
                (event.id, event.subject, event.source) = (id.to_owned(), Some(self.key.clone()), "/crash-test".into());
                event.datacontenttype = Some("application/json".into());
                stand_in.publish(&event).await.is_ok()
            }
            Way::Webhook { path } => {
                let request = http::Request::post(format!("http://{}{path}", self.listen))
                    .header("content-type", "application/json")
                    .header("x-crash-test-id", id)
                    .body(Full::new(self.data.clone()));
                let Ok(request) = request else { return false };
                let Ok(response) = self.http.request(request).await else { return false };
                let accepted = response.status().is_success();
                accepted && response.into_body().collect().await.is_ok()
            }
        }
    }
}
