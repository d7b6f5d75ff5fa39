//! Wanted re-runs: events that were handled and are kept for a while are handled again, as calls of their own.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;

use crate::{
    ambient::now,
    channel::Origin,
    controller::{
        bell::{Bell, Group},
        generation::Generation,
        router,
    },
    letters::call_of,
    plugin::Trial,
    store::{KeptEvent, KeptQuery, Rerun, Store, StoreError, Subscriber},
};

/// The handled events that a running host keeps (`keep-events`). Cheap to clone.
#[derive(Clone)]
pub struct HandledEvents {
    store: Arc<dyn Store>,
    generation: Arc<ArcSwap<Generation>>,
    bell: Bell,
    /// One trial at a time: they take instances that calls may need.
    trying: Arc<tokio::sync::Mutex<()>>,
}

impl HandledEvents {
    pub(crate) fn new(store: Arc<dyn Store>, generation: Arc<ArcSwap<Generation>>, bell: Bell) -> Self {
        Self { store, generation, bell, trying: Arc::default() }
    }

    /// Those that are kept, in the order of their numbers.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self, query: KeptQuery) -> Result<Vec<KeptEvent>, StoreError> {
        self.store.kept_events(query).await
    }

    /// Have events handled again: by `handler`, or by all that want them now. `request` names the request: made again, it makes nothing.
    /// The calls are new ones, with effects and idempotency keys of their own. Sinks publish nothing again.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn replay(&self, query: KeptQuery, handler: Option<&str>, request: &str) -> Result<Rerun, StoreError> {
        let (generation, handler) = (self.generation.load_full(), handler.map(str::to_owned));
        // Asked about inside the store's transactions: whoever is rung before they are over finds nothing.
        let rings = Arc::new(Mutex::new(HashSet::new()));
        let to_ring = rings.clone();
        let route = move |kept: &KeptEvent| -> Vec<Subscriber> {
            let subscribers: Vec<_> = routed(&generation, kept, handler.as_deref()).iter().map(router::Routed::subscriber).collect();
            let group =
                |s: &Subscriber| Group { tenant: kept.tenant.clone(), source: kept.source.as_str().into(), handler: s.handler.clone() };
            to_ring.lock().unwrap_or_else(PoisonError::into_inner).extend(subscribers.iter().map(group));
            subscribers
        };
        // What is accepted from here on is handled for the first time.
        let query = KeptQuery { until: query.until.or_else(|| Some(now())), ..query };
        let rerun = self.store.rerun(query, request.into(), Arc::new(route)).await;
        // Some may have been made before it failed.
        let rings = std::mem::take(&mut *rings.lock().unwrap_or_else(PoisonError::into_inner));
        rings.into_iter().for_each(|group| self.bell.ring(group));
        rerun
    }

    /// Have one handled now, by `handler` or by all that want it, with its effects thrown away (see [`super::DeadLetters::dry_run`]).
    ///
    /// # Errors
    /// When the store fails.
    pub async fn dry_run(&self, number: i64, handler: Option<&str>) -> Result<Vec<Trial>, StoreError> {
        let query = KeptQuery { number: Some(number), limit: 1, ..Default::default() };
        let Some(kept) = self.store.kept_events(query).await?.pop() else { return Ok(Vec::new()) };
        let _one = self.trying.lock().await;
        let mut trials = Vec::new();
        for routed in routed(&self.generation.load_full(), &kept, handler) {
            let call = call_of(&origin(&kept), kept.key.as_deref(), &kept.event, kept.hops, &routed.handler.config.name, &routed.handler);
            trials.push(routed.handler.dry_run(call).await);
        }
        Ok(trials)
    }
}

/// The handlers that want a kept event now.
fn routed(generation: &Generation, kept: &KeptEvent, handler: Option<&str>) -> Vec<router::Routed> {
    let mut routed = router::route(generation, &origin(kept), &kept.event);
    routed.retain(|routed| handler.is_none_or(|handler| routed.handler.config.name == handler));
    routed
}

fn origin(kept: &KeptEvent) -> Origin {
    Origin { tenant: kept.tenant.clone(), source: kept.source.as_str().into(), kind: kept.kind.as_str().into() }
}
