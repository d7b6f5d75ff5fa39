//! Which versions of each handler there were, and why one of them must not serve: kept in the store, so that the next start knows it too.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    ambient::now,
    store::{Millis, Store, StoreError},
    tenant::Tenant,
};

/// Where it stands in the store: no source of the configuration can be called so.
const VERSIONS: &str = "(versions)";
/// How many earlier versions of a handler are remembered.
const EARLIER: usize = 20;

/// The versions of one handler.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The digest of what serves.
    pub serving: String,
    /// Since when.
    pub since: Millis,
    /// What the files say and must not serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
    /// What served before, the latest first.
    #[serde(default)]
    pub earlier: Vec<Earlier>,
}

/// A version that was rolled back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Its digest.
    pub digest: String,
    /// Why.
    pub why: String,
    /// When.
    pub at: Millis,
}

/// A version that served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// Its digest.
    pub digest: String,
    /// Since when it served.
    pub since: Millis,
    /// Until when.
    pub until: Millis,
}

/// The histories of all handlers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Book(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    histories: Mutex<BTreeMap<(Tenant, String), History>>,
}

impl Book {
    /// What the store remembers.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        // There is one tenant yet.
        let tenant = Tenant::default();
        let stored = store.state(tenant.clone(), VERSIONS.into(), String::new()).await?;
        let histories =
            stored.into_iter().filter_map(|(handler, value)| Some(((tenant.clone(), handler), serde_json::from_slice(&value).ok()?)));
        Ok(Self(Arc::new(Inner { histories: Mutex::new(histories.collect()), store })))
    }

    pub(crate) fn history(&self, handler: &(Tenant, String)) -> Option<History> {
        self.histories().get(handler).cloned()
    }

    /// This version serves, and `rejected` must not.
    pub(crate) async fn serves(&self, handler: &(Tenant, String), digest: &str, rejected: Option<(&str, &str)>) {
        let changed = {
            let mut histories = self.histories();
            let history = histories.entry(handler.clone()).or_default();
            let before = history.clone();
            history.serve(digest, rejected, now());
            (*history != before).then(|| history.clone())
        };
        let Some(history) = changed else { return };
        let value = serde_json::to_vec(&history).unwrap_or_default();
        if let Err(error) = self.0.store.set_state(handler.0.clone(), VERSIONS.into(), vec![(handler.1.clone(), Some(value))]).await {
            tracing::warn!(handler = handler.1, %error, "the version that serves could not be written down: the next start may not know it");
        }
    }

    fn histories(&self) -> MutexGuard<'_, BTreeMap<(Tenant, String), History>> {
        self.0.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    fn serve(&mut self, digest: &str, rejected: Option<(&str, &str)>, at: Millis) {
        if self.serving != digest {
            if !self.serving.is_empty() {
                self.earlier.insert(0, Earlier { digest: std::mem::take(&mut self.serving), since: self.since, until: at });
                self.earlier.truncate(EARLIER);
            }
            (self.serving, self.since) = (digest.to_owned(), at);
        }
        let same = |known: &Rejected| rejected.is_some_and(|(digest, _)| known.digest == digest);
        if !self.rejected.as_ref().is_some_and(same) {
            self.rejected = rejected.map(|(digest, why)| Rejected { digest: digest.to_owned(), why: why.to_owned(), at });
        }
    }

    /// The version that an operator means by this beginning of its digest, or who says none: the last one that is not what serves.
    pub(crate) fn earlier_version(&self, beginning: Option<&str>) -> Option<&str> {
        let mut others = self.earlier.iter().map(|earlier| earlier.digest.as_str()).filter(|digest| *digest != self.serving);
        match beginning {
            None => others.next(),
            Some(beginning) => others.find(|digest| !beginning.is_empty() && digest.starts_with(beginning)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::SqliteStore;

    #[tokio::test]
    async fn the_next_start_knows_what_served_and_what_must_not() {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let key = (Tenant::default(), "h".to_owned());
        let book = Book::load(store.clone()).await.unwrap();
        for digest in ["aaa", "bbb", "bbb"] {
            book.serves(&key, digest, None).await;
        }
        book.serves(&key, "aaa", Some(("bbb", "it failed"))).await;
        let history = Book::load(store).await.unwrap().history(&key).unwrap();
        assert_eq!((history.serving.as_str(), history.rejected.as_ref().map(|r| r.digest.as_str())), ("aaa", Some("bbb")));
        assert_eq!(history.earlier.iter().map(|earlier| earlier.digest.as_str()).collect::<Vec<_>>(), ["bbb", "aaa"]);
        assert_eq!((history.earlier_version(None), history.earlier_version(Some("c"))), (Some("bbb"), None));
    }
}
