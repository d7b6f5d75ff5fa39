//! An outside server that handlers tell what they handle: the witness of the promises about delivery.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::State, routing::post};
use tokio::sync::watch;

/// `POST /` writes the body down, in the order of arrival.
#[derive(Clone)]
pub struct Witness {
    address: SocketAddr,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    all: Mutex<Vec<String>>,
    count: watch::Sender<usize>,
}

impl Witness {
    pub async fn start() -> Self {
        let heard = Arc::<Heard>::default();
        let hear = |State(heard): State<Arc<Heard>>, body: String| async move {
            let count = {
                let mut all = heard.all.lock().unwrap();
                all.push(body);
                all.len()
            };
            heard.count.send_replace(count);
        };
        let router = Router::new().route("/", post(hear)).with_state(heard.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, heard }
    }

    /// What a handler has to be granted: `grants = { http = ["…"] }`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// A handler in JavaScript that tells this of each event: `tell(event)` is what it says, as an expression.
    pub fn script(&self, tell: &str) -> String {
        format!(
            "import {{ http }} from \"koksmat\";\nexport function handle(event, ctx) {{\n  http.fetch(\"http://{}/\", {{ method: \"POST\", body: {tell} }});\n}}\n",
            self.address
        )
    }

    /// Everything so far, in the order in which it came.
    pub fn heard(&self) -> Vec<String> {
        self.heard.all.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        *self.heard.count.borrow()
    }

    /// Wait until at least so much was heard.
    pub async fn hears(&self, at_least: usize) {
        let mut count = self.heard.count.subscribe();
        let what = format!("{at_least} reports");
        crate::within(&what, count.wait_for(|count| *count >= at_least)).await.unwrap();
    }

    /// How many different things were heard.
    pub fn different(&self) -> usize {
        self.heard.all.lock().unwrap().iter().collect::<HashSet<_>>().len()
    }

    /// Wait until so many different things were heard.
    pub async fn hears_all(&self, different: usize) {
        assert!(self.hears_all_within(different, crate::PATIENCE).await, "waited in vain for {different} different reports");
    }

    /// The same, for as long as the caller says. `false`: in vain.
    pub async fn hears_all_within(&self, different: usize, patience: Duration) -> bool {
        let mut count = self.heard.count.subscribe();
        let all = async {
            loop {
                // In this order: what comes meanwhile is counted as missing, not the other way round.
                let (heard, have) = (*count.borrow_and_update(), self.different());
                if have >= different {
                    return;
                }
                // So many more are needed at least.
                let least = heard + different - have;
                let _ = count.wait_for(|count| *count >= least).await;
            }
        };
        tokio::time::timeout(patience, all).await.is_ok()
    }
}

/// Of things in the order in which they came, with a key and a number each: the first that came after a greater one of its key. What comes
/// again does not count.
pub fn out_of_order<K: Eq + Hash + Clone>(heard: impl IntoIterator<Item = (K, u64)>) -> Option<(K, u64, u64)> {
    let (mut greatest, mut seen) = (HashMap::<K, u64>::new(), HashSet::<(K, u64)>::new());
    for (key, number) in heard {
        if !seen.insert((key.clone(), number)) {
            continue;
        }
        let greatest = greatest.entry(key.clone()).or_insert(number);
        if number < *greatest {
            return Some((key, number, *greatest));
        }
        *greatest = number;
    }
    None
}
