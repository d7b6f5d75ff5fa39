//! Dead letters, and handled events that are kept, as operators and embedders work with them: looked at, tried without effects, handled
//! again, purged.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;

use crate::{
    channel::Origin,
    config::Config,
    controller::{bell::Group, generation::Generation, joint::idempotency_key, router, settle::Settler},
    event::Event,
    plugin::{Call, Handler, Loader, Trial},
    sink::is_sink,
    store::{CallId, DeadLetter, DeadLetterQuery, Holder, OrderKey, Store, StoreError, Subscriber},
};

use coordinates::Places;

pub(crate) mod coordinates;
mod exported;
mod handled;

pub use exported::{ExportError, Exported, FailedCall};
pub use handled::HandledEvents;

/// The dead letters of a host, or of a store that no host has open. Cheap to clone.
#[derive(Clone)]
pub struct DeadLetters {
    store: Arc<dyn Store>,
    places: Arc<ArcSwap<Places>>,
    handlers: Handlers,
    /// One trial at a time: they take instances that calls may need.
    trying: Arc<tokio::sync::Mutex<()>>,
}

/// Where handlers come from.
#[derive(Clone)]
enum Handlers {
    /// They serve.
    Serving { generation: Arc<ArcSwap<Generation>>, settler: Arc<Settler> },
    /// No host runs: one is loaded when it is to be tried.
    Configured(Arc<Config>),
}

/// Why nothing could be done with a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum LettersError {
    /// There is none with this number.
    #[error("there is no dead letter {0}")]
    None(i64),
    /// It cannot be tried, or not exported.
    #[error("the dead letter {id} is of no use for this: {why}")]
    Unusable {
        /// Which.
        id: i64,
        /// Why.
        why: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a replay has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Replayed {
    /// Letters whose events go round again.
    pub replayed: u64,
    /// Letters that stay, because nothing that is configured takes them.
    pub left: u64,
}

impl DeadLetters {
    /// Those of a running host.
    pub(crate) fn serving(config: &Config, store: Arc<dyn Store>, generation: Arc<ArcSwap<Generation>>, settler: Arc<Settler>) -> Self {
        Self::of(config, store, Handlers::Serving { generation, settler })
    }

    /// Those of a store that no host has open, with the handlers that a host would have.
    pub(crate) fn offline(config: &Config, store: Arc<dyn Store>) -> Self {
        Self::of(config, store, Handlers::Configured(Arc::new(config.clone())))
    }

    fn of(config: &Config, store: Arc<dyn Store>, handlers: Handlers) -> Self {
        Self { store, places: Arc::new(ArcSwap::from_pointee(Places::of(config))), handlers, trying: Arc::default() }
    }

    /// The sources are configured otherwise from now on.
    pub(crate) fn change_places(&self, config: &Config) {
        self.places.store(Arc::new(Places::of(config)));
    }

    /// Dead letters, oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self, query: DeadLetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        self.store.dead_letters(query).await
    }

    /// How many there are, whatever the query's `limit`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn count(&self, query: DeadLetterQuery) -> Result<u64, StoreError> {
        self.store.count_dead_letters(query).await
    }

    /// Forget them. How many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn purge(&self, query: DeadLetterQuery) -> Result<u64, StoreError> {
        self.store.purge(query).await
    }

    /// Have them handled again by the code that serves now, with a fresh count of attempts. One that no handler wanted goes to those that
    /// want it now, if there are any.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn replay(&self, query: DeadLetterQuery) -> Result<Replayed, StoreError> {
        // Those that are there now: what is handled again may come back behind them as another letter.
        let there = self.store.count_dead_letters(query.clone()).await?;
        let query = DeadLetterQuery { limit: query.limit.min(usize::try_from(there).unwrap_or(usize::MAX)), ..query };
        let serving = self.serving_now();
        // Asked about inside the store's transactions: whoever is rung before they are over finds nothing.
        let (rings, left) = (Arc::new(Mutex::new(HashSet::new())), Arc::new(Mutex::new(HashSet::new())));
        let (to_ring, stays, settler) = (rings.clone(), left.clone(), self.settler().cloned());
        let route = move |letter: &DeadLetter| {
            let subscribers = takers(letter, serving.as_deref());
            let group =
                |s: &Subscriber| Group { tenant: letter.tenant.clone(), source: letter.source.as_str().into(), handler: s.handler.clone() };
            to_ring.lock().unwrap_or_else(PoisonError::into_inner).extend(subscribers.iter().map(group));
            for subscriber in &subscribers {
                if let (Some(settler), Some(order)) = (&settler, &subscriber.order) {
                    let Group { tenant, source, handler } = group(subscriber);
                    settler.waits(OrderKey { tenant, source, handler, key: order.as_str().into() });
                }
            }
            if subscribers.is_empty() {
                stays.lock().unwrap_or_else(PoisonError::into_inner).insert(letter.id);
            }
            subscribers
        };
        let replayed = self.store.replay(query, Arc::new(route)).await?;
        if let Some(settler) = self.settler() {
            let rings = std::mem::take(&mut *rings.lock().unwrap_or_else(PoisonError::into_inner));
            rings.into_iter().for_each(|group| settler.bell.ring(group));
        }
        let left = left.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        Ok(Replayed { replayed, left })
    }

    fn settler(&self) -> Option<&Arc<Settler>> {
        match &self.handlers {
            Handlers::Serving { settler, .. } => Some(settler),
            Handlers::Configured(_) => None,
        }
    }

    /// Have one handled now by the code that serves now, with its effects thrown away: nothing is written and nothing emitted, and of its
    /// requests only GET and HEAD are sent. The letter stays as it is. One that no handler wanted is tried on all that want it now.
    ///
    /// # Errors
    /// When there is no such letter, or nothing to try it on.
    pub async fn dry_run(&self, id: i64) -> Result<Vec<Trial>, LettersError> {
        let query = DeadLetterQuery { id: Some(id), limit: 1, ..Default::default() };
        let letter = self.store.dead_letters(query).await?.pop().ok_or(LettersError::None(id))?;
        let handlers = self.handlers_of(&letter).await.map_err(|why| LettersError::Unusable { id, why })?;
        let _one = self.trying.lock().await;
        let mut trials = Vec::new();
        for handler in handlers {
            let call = call_of(&origin(&letter), letter.key.as_deref(), &letter.event, letter.hops, &handler.config.name, &handler);
            trials.push(handler.dry_run(call).await);
        }
        Ok(trials)
    }

    /// One as a document that can be taken elsewhere, with what its host calls gave the last attempt.
    ///
    /// # Errors
    /// When there is no such letter.
    pub async fn export(&self, id: i64) -> Result<Exported, LettersError> {
        let query = DeadLetterQuery { id: Some(id), limit: 1, ..Default::default() };
        let letter = self.store.dead_letters(query).await?.pop().ok_or(LettersError::None(id))?;
        let recording = self.store.recording(id).await?;
        Exported::of(&letter, recording.as_deref()).map_err(|why| LettersError::Unusable { id, why })
    }

    /// A dead letter as it is shown: its event in the JSON format of CloudEvents, and where it came from.
    pub(crate) fn shown(&self, letter: &DeadLetter) -> serde_json::Value {
        let mut value = serde_json::to_value(letter).unwrap_or_default();
        value["event"] = serde_json::from_str(&crate::event::cloudevents::to_structured(&letter.event)).unwrap_or_default();
        value["coordinates"] = serde_json::to_value(self.places.load().coordinates(letter)).unwrap_or_default();
        value["traceparent"] = letter.event.traceparent().into();
        value
    }

    fn serving_now(&self) -> Option<Arc<Generation>> {
        match &self.handlers {
            Handlers::Serving { generation, .. } => Some(generation.load_full()),
            Handlers::Configured(_) => None,
        }
    }

    /// The handlers that a replay would call now; why there are none.
    async fn handlers_of(&self, letter: &DeadLetter) -> Result<Vec<Arc<Handler>>, String> {
        if letter.handler.as_deref().is_some_and(is_sink) {
            return Err("it is for a sink, and what a broker makes of it is only known by publishing it".into());
        }
        let generation = match &self.handlers {
            Handlers::Serving { generation, .. } => generation.load_full(),
            Handlers::Configured(config) => Arc::new(load(config, self.store.clone(), letter.handler.as_deref()).await?),
        };
        match &letter.handler {
            Some(name) => match generation.handler(&letter.tenant, name) {
                Some(handler) => Ok(vec![handler.clone()]),
                None => Err(format!("the configuration has no handler `{name}`")),
            },
            None => match router::route(&generation, &origin(letter), &letter.event) {
                routed if routed.is_empty() => Err("no handler wants it".into()),
                routed => Ok(routed.into_iter().map(|routed| routed.handler).collect()),
            },
        }
    }
}

/// Who is to handle a letter again. Without a generation nothing is routed, and what a handler died in goes back to it.
fn takers(letter: &DeadLetter, serving: Option<&Generation>) -> Vec<Subscriber> {
    match (&letter.handler, serving) {
        (Some(name), serving) => {
            let there = |generation: &Generation| is_sink(name) || generation.handler(&letter.tenant, name).is_some();
            let again = || Subscriber { handler: name.as_str().into(), order: letter.order.clone() };
            serving.is_none_or(there).then(again).into_iter().collect()
        }
        (None, Some(generation)) => {
            router::route(generation, &origin(letter), &letter.event).iter().map(router::Routed::subscriber).collect()
        }
        (None, None) => Vec::new(),
    }
}

fn origin(letter: &DeadLetter) -> Origin {
    Origin { tenant: letter.tenant.clone(), source: letter.source.as_str().into(), kind: letter.kind.as_str().into() }
}

/// The first call that a replay would make.
pub(crate) fn call_of(origin: &Origin, key: Option<&str>, event: &Event, hops: u32, name: &str, handler: &Handler) -> Call {
    let id = CallId { tenant: origin.tenant.clone(), source: origin.source.clone(), key: key.map(Into::into), handler: name.into() };
    Call {
        idempotency_key: idempotency_key(&id, event).into(),
        id,
        holder: Holder::new(),
        event: Arc::new(event.clone()),
        attempt: 1,
        // It is in no lane, and no receiver that looks at the token may take it for one that is.
        fencing_token: handler.config.atomic.then_some(0),
        fence: None,
        hops,
        record: false,
    }
}

/// The handlers of a configuration; only `one` of them if it is said.
async fn load(config: &Config, store: Arc<dyn Store>, one: Option<&str>) -> Result<Generation, String> {
    let loader = Loader::of(config, store).map_err(|error| format!("{error:#}"))?;
    let queues = config.queues();
    let mut handlers = Vec::new();
    for handler in config.handlers.iter().filter(|handler| one.is_none_or(|one| handler.name == one)) {
        handlers.push(loader.load_once(handler, &queues).await.map_err(|error| error.to_string())?);
    }
    Ok(Generation::new(handlers, Default::default(), Vec::new()))
}

/// A time as it is given to a command: `1h` ago, or in RFC 3339.
pub(crate) fn moment(text: &str) -> Option<crate::store::Millis> {
    if let Some(ago) = crate::config::units::duration(text) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        return i64::try_from(now.saturating_sub(ago).as_millis()).ok();
    }
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}
