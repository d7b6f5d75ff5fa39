//! An outside resource that counts who is inside.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, routing::post};
use tokio::{sync::watch, time::Instant};

/// `POST /hold` keeps its caller inside for some milliseconds; what it is called with is written down in the order of entry.
#[derive(Clone)]
pub struct Inside {
    address: SocketAddr,
    state: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    hold: watch::Sender<Duration>,
    now: AtomicUsize,
    most: AtomicUsize,
    entered: Mutex<Vec<String>>,
    keys: Mutex<Vec<String>>,
    changed: tokio::sync::Notify,
}

/// A caller that is inside, until it leaves or goes away.
struct Leaves<'a>(&'a Counts);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Inside {
    /// Start it; each caller is kept inside for `hold`.
    pub async fn start(hold: Duration) -> Self {
        let state = Arc::<Counts>::default();
        state.hold.send_replace(hold);
        let enter = move |State(state): State<Arc<Counts>>, headers: http::HeaderMap, body: String| async move {
            let now = state.now.fetch_add(1, Ordering::SeqCst) + 1;
            state.most.fetch_max(now, Ordering::SeqCst);
            state.entered.lock().unwrap().push(body);
            let key = headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned()).unwrap_or_default();
            state.keys.lock().unwrap().push(key);
            state.changed.notify_waiters();
            let _leaves = Leaves(&state);
            let (entered, mut hold) = (Instant::now(), state.hold.subscribe());
            loop {
                let until = entered.checked_add(*hold.borrow_and_update()).unwrap_or(entered);
                tokio::select! {
                    () = tokio::time::sleep_until(until) => return "out",
                    _ = hold.changed() => {}
                }
            }
        };
        let router = Router::new().route("/hold", post(enter)).with_state(state.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, state }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}/hold", self.address)
    }

    /// From now on keep every caller inside for this long since it entered, those who are inside too.
    pub fn keep_for(&self, hold: Duration) {
        self.state.hold.send_replace(hold);
    }

    /// Begin to count anew.
    pub fn forget(&self) {
        self.state.most.store(self.now(), Ordering::SeqCst);
        self.state.entered.lock().unwrap().clear();
        self.state.keys.lock().unwrap().clear();
    }

    /// The most that were inside at once.
    pub fn most(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }

    /// How many are inside.
    pub fn now(&self) -> usize {
        self.state.now.load(Ordering::SeqCst)
    }

    /// What callers sent, in the order of entry.
    pub fn entered(&self) -> Vec<String> {
        self.state.entered.lock().unwrap().clone()
    }

    /// The idempotency keys, in the order of entry.
    pub fn keys(&self) -> Vec<String> {
        self.state.keys.lock().unwrap().clone()
    }

    /// Wait until so many have entered.
    pub async fn reached(&self, count: usize) {
        self.entered_so_that("callers inside", |entered| entered.len() >= count).await;
    }

    /// Wait until the caller who sends this has entered.
    pub async fn reached_by(&self, body: &str) {
        self.entered_so_that("a caller inside", |entered| entered.iter().any(|entered| entered == body)).await;
    }

    async fn entered_so_that(&self, what: &str, condition: impl Fn(&[String]) -> bool) {
        crate::within(what, async {
            loop {
                let changed = self.state.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if condition(&self.state.entered.lock().unwrap()) {
                    return;
                }
                changed.await;
            }
        })
        .await;
    }
}
