//! Calls whose sender waits for the answer, while it has to be known which of them ran when the host ended.
//!
//! Such an event cannot become a task, as [`super::probation`] has it for others: its sender wants the response. So for a while after an end
//! nobody asked for each call that is recognised by a key is written down before it runs, and struck off when it has ended. One that was
//! running when the host ended again is a suspect: when its sender comes again it runs alone, and the third time that ends the host it is
//! quarantined. This is for a store of one host: of several, another one may be asked next.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    ambient::now,
    store::{CallId, Millis, Store, StoreError},
    tenant::Tenant,
};

/// Where they stand in the store: no source of the configuration can be called so.
const ATTEMPTS: &str = "(attempts)";
/// How often the host may end under a call that runs alone.
const CRASHES: u32 = 3;

/// What is known of calls that senders wait for.
pub(crate) struct Attempts {
    store: Arc<dyn Store>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By their names: how often the host ended while one ran alone.
    suspects: HashMap<String, u32>,
    /// How many more calls are written down before they run.
    left: u64,
}

/// A call as it stands in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    /// It was running when the host ended without a stop.
    suspect: bool,
    /// It runs alone now.
    alone: bool,
    crashes: u32,
    at: Millis,
}

/// A call that was written down.
pub(crate) struct Attempt(String);

impl Attempts {
    /// What was running when the last host ended, if that was no stop; then as many calls are written down as can have been in flight.
    /// What was not seen again for `kept` is forgotten.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn load(store: Arc<dyn Store>, ended_badly: bool, in_flight: u64, kept: Duration) -> Result<Self, StoreError> {
        let mut known = Known { suspects: HashMap::new(), left: 0 };
        if !store.shared() {
            let oldest = now().saturating_sub(Millis::try_from(kept.as_millis()).unwrap_or(Millis::MAX));
            let mut changes = Vec::new();
            for (name, row) in store.state(Tenant::default(), ATTEMPTS.into(), String::new()).await? {
                let row = serde_json::from_slice(&row).ok().and_then(|row: Row| row.after_an_end(ended_badly, oldest));
                if let Some(row) = &row {
                    known.suspects.insert(name.clone(), row.crashes);
                }
                changes.push((name, row.as_ref().map(Row::to_bytes)));
            }
            if !changes.is_empty() {
                store.set_state(Tenant::default(), ATTEMPTS.into(), changes).await?;
            }
            known.left = if ended_badly { in_flight.saturating_mul(2) } else { 0 };
        }
        Ok(Self { store, known: Mutex::new(known) })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call was running when the host ended. Asked for every call that a sender waits for.
    pub(crate) fn is_suspect(&self, call: &CallId) -> bool {
        let known = self.known();
        !known.suspects.is_empty() && name(call).is_some_and(|name| known.suspects.contains_key(&name))
    }

    /// Write down that a call is about to run, if that has to be known. `Break`: it must not, it ended the host too often.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn begin(&self, call: &CallId) -> Result<ControlFlow<(), Option<Attempt>>, StoreError> {
        let Some(name) = name(call) else { return Ok(ControlFlow::Continue(None)) };
        let crashes = {
            let mut known = self.known();
            let crashes = known.suspects.get(&name).copied();
            if crashes.is_none() && known.left == 0 {
                return Ok(ControlFlow::Continue(None));
            }
            known.left = known.left.saturating_sub(1);
            crashes
        };
        if crashes.is_some_and(|crashes| crashes >= CRASHES) {
            return Ok(ControlFlow::Break(()));
        }
        let suspect = crashes.is_some();
        let row = Row { suspect, alone: suspect, crashes: crashes.unwrap_or_default(), at: now() };
        self.write(&name, Some(&row)).await?;
        Ok(ControlFlow::Continue(Some(Attempt(name))))
    }

    /// A call that was written down has ended, and the host has not. Should it not be struck off, it runs alone once more than it has to.
    pub(crate) async fn end(&self, Attempt(name): Attempt) {
        self.known().suspects.remove(&name);
        if let Err(error) = self.write(&name, None).await {
            tracing::debug!(%error, "a call that has ended stands in the store as one that runs");
        }
    }

    /// A call is quarantined.
    pub(crate) async fn quarantined(&self, call: &CallId) {
        if let Some(name) = name(call) {
            self.end(Attempt(name)).await;
        }
    }

    async fn write(&self, name: &str, row: Option<&Row>) -> Result<(), StoreError> {
        self.store.set_state(Tenant::default(), ATTEMPTS.into(), vec![(name.to_owned(), row.map(Row::to_bytes))]).await
    }
}

impl Row {
    /// What is left of it when the host has ended. None: it is not worth knowing.
    fn after_an_end(self, badly: bool, oldest: Millis) -> Option<Self> {
        let Self { suspect, alone, crashes, at } = self;
        // A stop ends what it cuts: that is nobody's fault.
        let is_suspect = (suspect || badly) && at > oldest;
        is_suspect.then(|| Self { suspect: true, alone: false, crashes: crashes + u32::from(alone && badly), at })
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What a call is called here; one that is not recognised when it comes again has no name.
fn name(call: &CallId) -> Option<String> {
    let key = call.key.as_ref()?;
    Some([call.tenant.as_str(), "/", &*call.source, "/", &*call.handler, "/", key].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::SqliteStore;

    fn call(key: Option<&str>) -> CallId {
        CallId { tenant: Tenant::default(), source: "hook".into(), key: key.map(Into::into), handler: "one".into() }
    }

    async fn load(store: &Arc<dyn Store>, ended_badly: bool) -> Attempts {
        Attempts::load(store.clone(), ended_badly, 1, Duration::from_secs(3600)).await.unwrap()
    }

    async fn begins(attempts: &Attempts, key: Option<&str>) -> Option<Attempt> {
        match attempts.begin(&call(key)).await.unwrap() {
            ControlFlow::Continue(attempt) => attempt,
            ControlFlow::Break(()) => panic!("quarantined"),
        }
    }

    #[tokio::test]
    async fn nothing_is_written_down_after_a_stop_or_of_what_is_not_recognised_or_once_enough_was() {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        assert!(begins(&load(&store, false).await, Some("1")).await.is_none());
        let attempts = load(&store, true).await;
        assert!(begins(&attempts, None).await.is_none());
        let (first, second) = (begins(&attempts, Some("1")).await.unwrap(), begins(&attempts, Some("2")).await.unwrap());
        assert!(begins(&attempts, Some("3")).await.is_none(), "no more can have been in flight");
        attempts.end(first).await;
        attempts.end(second).await;
        assert!(!load(&store, true).await.is_suspect(&call(Some("1"))), "it has ended");
    }

    #[tokio::test]
    async fn what_ran_at_a_bad_end_is_suspect_and_what_ran_alone_three_times_is_quarantined() {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let attempts = load(&store, true).await;
        begins(&attempts, Some("1")).await.unwrap();
        begins(&attempts, Some("2")).await.unwrap();
        for _ in 0..3 {
            let attempts = load(&store, true).await;
            assert!(attempts.is_suspect(&call(Some("1"))) && attempts.is_suspect(&call(Some("2"))));
            begins(&attempts, Some("1")).await.unwrap();
        }
        let attempts = load(&store, true).await;
        assert!(begins(&attempts, Some("2")).await.is_some(), "it never ran alone when the host ended");
        assert!(attempts.begin(&call(Some("1"))).await.unwrap().is_break());
    }

    #[tokio::test]
    async fn what_a_stop_cut_is_no_suspect_and_what_never_comes_again_is_forgotten() {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        begins(&load(&store, true).await, Some("1")).await.unwrap();
        assert!(!load(&store, false).await.is_suspect(&call(Some("1"))));
        begins(&load(&store, true).await, Some("2")).await.unwrap();
        assert!(load(&store, true).await.is_suspect(&call(Some("2"))));
        let forgetful = Attempts::load(store.clone(), true, 1, Duration::ZERO).await.unwrap();
        assert!(!forgetful.is_suspect(&call(Some("2"))));
    }
}
