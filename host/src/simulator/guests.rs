//! Handlers without code: what they do to the store shows afterwards whether the host kept its promises.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use crate::{
    Event,
    config::{Grants, HandlerConfig, Order, PluginRef, Retry, Subscription},
    outcome::{Failure, Outcome, Response},
    plugin::{Call, Emission, Finished, Handler, StandIn, bare_handler},
    simulator::world::{Alive, World},
    store::{Read, Store, Write},
};

/// Between which [`Kind::Transfer`] moves money.
pub(super) const ACCOUNTS: u64 = 4;

/// The type of what [`Kind::Emit`] emits.
pub(super) const EMITTED: &str = "emitted";

/// What a handler does, besides counting the event under a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reads two accounts and writes both.
    Transfer,
    /// Reads a number without having it checked, and writes the next: right only as long as nobody else does.
    Atomic,
    /// Appends to a list of its event's key, without having it checked: right only in order.
    Ordered,
    /// Emits an event.
    Emit,
    /// Nothing more: it handles what is emitted.
    Audit,
}

pub(super) const KINDS: [Kind; 5] = [Kind::Transfer, Kind::Atomic, Kind::Ordered, Kind::Emit, Kind::Audit];

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Transfer => "transfer",
            Self::Atomic => "atomic",
            Self::Ordered => "ordered",
            Self::Emit => "emit",
            Self::Audit => "audit",
        }
    }

    /// The sources whose events it wants; of `audit`: what is emitted.
    pub(super) fn sources(self) -> &'static [&'static str] {
        match self {
            Self::Transfer => &["broker", "posts", "table"],
            Self::Atomic => &["posts", "table"],
            Self::Ordered => &["broker"],
            Self::Emit => &["broker", "posts"],
            Self::Audit => &["emit"],
        }
    }

    fn config(self) -> HandlerConfig {
        let subscription = |source: &&str| Subscription { source: Some((*source).to_owned()), ..Default::default() };
        HandlerConfig {
            tenant: Default::default(),
            name: self.name().into(),
            plugin: PluginRef::Wasm("simulated".into()),
            on: self.sources().iter().map(subscription).collect(),
            atomic: self == Self::Atomic,
            timeout: Duration::from_secs(5),
            memory: 1 << 20,
            concurrency: (self == Self::Emit).then_some(2),
            order: Some(if self == Self::Ordered { Order::Key } else { Order::None }),
            retry: Retry { attempts: 3, min: Duration::from_millis(50), max: Duration::from_secs(2) },
            config: BTreeMap::new(),
            from_environment: Default::default(),
            record: false,
            grants: Grants { keyvalue: Some(String::new()), emit: vec!["*".into()], ..Default::default() },
            self_test: Vec::new(),
            canary: None,
            pin_retries: false,
        }
    }
}

/// All handlers, on this store.
pub(super) fn handlers(world: &Arc<World>, store: &Arc<dyn Store>, alive: &Alive) -> Vec<Arc<Handler>> {
    let guest = |kind| Guest { kind, world: world.clone(), store: store.clone(), alive: alive.clone() };
    KINDS.into_iter().map(|kind| Arc::new(bare_handler(kind.config(), store.clone(), Arc::new(guest(kind))))).collect()
}

struct Guest {
    kind: Kind,
    world: Arc<World>,
    store: Arc<dyn Store>,
    alive: Alive,
}

impl StandIn for Guest {
    fn call(&self, call: Call) -> Pin<Box<dyn Future<Output = Finished> + Send + '_>> {
        Box::pin(async move {
            let mut did = Did::default();
            let worked = self.work(&call, &mut did).await;
            let (outcome, failure) = match worked {
                Err(error) => {
                    let failure = Failure::Host(error);
                    (failure.clone().into(), Some(failure))
                }
                Ok(()) if self.world.strikes(0.1) => (Outcome::Retry { reason: "busy".into(), after: None }, None),
                Ok(()) if self.world.strikes(0.03) => {
                    let failure = Failure::Trap("unreachable".into());
                    (failure.clone().into(), Some(failure))
                }
                Ok(()) if self.world.strikes(0.03) => (Outcome::Reject { reason: "never".into() }, None),
                Ok(()) => (Outcome::Done(Response::default()), None),
            };
            if self.alive.is() {
                self.world.note(format_args!("{} {}, attempt {}: {}", self.kind.name(), call.event.id, call.attempt, named(&outcome)));
            }
            let Did { reads, writes, emissions } = did;
            Finished {
                plugin: "simulated".into(),
                recording: None,
                outcome,
                failure,
                reads,
                writes,
                emissions,
                overtaken: false,
                holds: false,
                took: Duration::ZERO,
            }
        })
    }
}

fn named(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done(_) => "done",
        Outcome::Retry { .. } => "retry",
        Outcome::Reject { .. } => "reject",
    }
}

#[derive(Default)]
struct Did {
    reads: Vec<Read>,
    writes: BTreeMap<String, Write>,
    emissions: Vec<Emission>,
}

impl Guest {
    async fn work(&self, call: &Call, did: &mut Did) -> Result<(), String> {
        let event = &call.event;
        if self.alive.is() {
            self.world.saw(&event.id, self.kind.name());
        }
        let about = String::from_utf8_lossy(&event.data).into_owned();
        did.writes.insert(format!("count/{}/{about}", self.kind.name()), Write::Add(1));
        match self.kind {
            Kind::Transfer => {
                let (from, to) = (self.world.draw(0..ACCOUNTS), self.world.draw(0..ACCOUNTS - 1));
                let to = (from + 1 + to) % ACCOUNTS;
                let amount = i64::try_from(self.world.draw(1..20)).unwrap_or(1);
                for (account, change) in [(from, -amount), (to, amount)] {
                    let key = format!("account/{account}");
                    let (balance, version) = self.number(call, &key).await?;
                    did.reads.push(Read::Key { key: key.clone(), version });
                    did.writes.insert(key, Write::Set((balance + change).to_string().into()));
                }
                self.world.pass_time().await;
            }
            Kind::Atomic => {
                let (number, _) = self.number(call, "atomic").await?;
                self.world.pass_time().await;
                did.writes.insert("atomic".into(), Write::Set((number + 1).to_string().into()));
            }
            Kind::Ordered => {
                let key = format!("list/{}", event.subject.as_deref().unwrap_or_default());
                let list = self.store.get(call.id.tenant.clone(), key.clone()).await.map_err(|error| error.to_string())?;
                let list = list.map(|(list, _)| String::from_utf8_lossy(&list).into_owned()).unwrap_or_default();
                self.world.pass_time().await;
                did.writes.insert(key, Write::Set(format!("{list}{about},").into()));
            }
            Kind::Emit => {
                self.world.pass_time().await;
                let mut emitted = Event::new(EMITTED, about.clone());
                emitted.id = format!("of {about}");
                did.emissions.push(Emission { event: emitted, queue: None, after: None, recognised: false });
            }
            Kind::Audit => self.world.pass_time().await,
        }
        Ok(())
    }

    async fn number(&self, call: &Call, key: &str) -> Result<(i64, i64), String> {
        let value = self.store.get(call.id.tenant.clone(), key.into()).await.map_err(|error| error.to_string())?;
        Ok(value.map_or((0, 0), |(value, version)| (String::from_utf8_lossy(&value).parse().unwrap_or_default(), version)))
    }
}
