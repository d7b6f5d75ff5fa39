//! Durable intake: routes an event and writes one task for each handler that wants it, in the accepting transaction.

use std::{borrow::Cow, pin::Pin, sync::Arc};

use arc_swap::ArcSwap;

use crate::{
    ambient::now,
    channel::Origin,
    config::Unmatched,
    controller::{
        bell::{Bell, Group},
        generation::{EMIT, Generation},
        joint::Joint,
        router,
    },
    event::Event,
    health::Health,
    outcome::MAX_HOPS,
    planted::{Mistake, TOO_EARLY, is_planted},
    plugin::{Emission, Handler},
    shutdown::ledger::Ledgers,
    source::{AcceptRequest, Acceptor},
    store::{Acceptance, Accepted, Millis, Store, StoreError, Subscriber},
    task,
};

/// Why an event beyond that is a dead letter.
const IN_A_RING: &str = "emitted 16 times over: do its handlers emit to each other in a ring?";
/// Why an event that no handler wants is one.
const NO_ROUTE: &str = "no route";

/// Makes acceptances: events with their routes.
#[derive(Clone)]
pub(crate) struct Router {
    pub(crate) generation: Arc<ArcSwap<Generation>>,
    /// Events are kept after they were handled.
    pub(crate) keep: bool,
}

impl Router {
    fn subscribers(generation: &Generation, origin: &Origin, event: &Event) -> Vec<Subscriber> {
        let mut subscribers: Vec<_> = router::route(generation, origin, event).iter().map(router::Routed::subscriber).collect();
        subscribers.extend(router::sinks(generation, origin, event));
        subscribers
    }

    fn acceptance(&self, origin: &Origin, event: Arc<Event>, key: Option<String>, hops: u32) -> Acceptance {
        let generation = self.generation.load();
        Acceptance {
            tenant: origin.tenant.clone(),
            source: origin.source.clone(),
            kind: origin.kind.clone(),
            key,
            handlers: Self::subscribers(&generation, origin, &event),
            unrouted: (generation.unmatched(origin) == Unmatched::DeadLetter).then_some(NO_ROUTE.into()),
            event,
            due: None,
            hops,
            backlog: None,
            state: Vec::new(),
            keep: self.keep,
        }
    }

    /// An event nobody wants, to be kept as a dead letter.
    pub(crate) fn no_route(&self, origin: &Origin, event: Arc<Event>, key: Option<String>) -> Acceptance {
        self.dead_letter(origin, event, key, NO_ROUTE.into())
    }

    /// An event that no handler gets to see, to be kept as a dead letter.
    fn dead_letter(&self, origin: &Origin, event: Arc<Event>, key: Option<String>, reason: Cow<'static, str>) -> Acceptance {
        Acceptance { handlers: Vec::new(), unrouted: Some(reason), ..self.acceptance(origin, event, key, 0) }
    }

    /// What a call emitted, routed.
    pub(crate) fn emissions(&self, joint: &Joint, handler: &Handler, emissions: Vec<Emission>) -> Vec<Acceptance> {
        let hops = joint.hops + 1;
        let of = |emission: Emission| {
            let (source, kind) = match &emission.queue {
                Some(queue) => (queue.as_str().into(), "embedded".into()),
                None => (EMIT.into(), EMIT.into()),
            };
            let origin = Origin { tenant: handler.config.tenant.clone(), source, kind };
            let mut event = emission.event;
            if let Some(traceparent) = joint.event.traceparent() {
                event.attributes.entry("traceparent".into()).or_insert_with(|| traceparent.to_owned());
            }
            let key = emission.recognised.then(|| event.id.clone());
            let mut acceptance = self.acceptance(&origin, Arc::new(event), key, hops);
            acceptance.backlog = self.generation.load().backlog(&origin);
            acceptance.due = emission.after.map(|after| now().saturating_add(Millis::try_from(after.as_millis()).unwrap_or(Millis::MAX)));
            if hops > MAX_HOPS {
                tracing::warn!(tenant = %origin.tenant, handler = handler.config.name, event = acceptance.event.id, "{IN_A_RING} Dead letter");
                acceptance.handlers.clear();
                acceptance.unrouted = Some(IN_A_RING.into());
            }
            acceptance
        };
        emissions.into_iter().map(of).collect()
    }
}

/// A group that was given tasks, and when they become due, if that is later.
pub(crate) type Ring = (Group, Option<Millis>);

/// The groups that an acceptance gives tasks to.
pub(crate) fn rings(acceptance: &Acceptance) -> Vec<Ring> {
    let Acceptance { tenant, source, .. } = acceptance;
    let group = |s: &Subscriber| Group { tenant: tenant.clone(), source: source.clone(), handler: s.handler.clone() };
    acceptance.handlers.iter().map(|subscriber| (group(subscriber), acceptance.due)).collect()
}

/// What sources see of durable intake.
pub(crate) struct DurableIntake {
    pub(crate) router: Router,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bell: Bell,
    pub(crate) health: Health,
    pub(crate) ledgers: Ledgers,
}

impl DurableIntake {
    /// Say that events are accepted before they are: a mistake.
    fn accept_too_late(&self, acceptances: Vec<Acceptance>) -> Vec<Accepted> {
        let accepted = acceptances.iter().map(|acceptance| Accepted::New { id: acceptance.event.id.clone() }).collect();
        let (store, bell, rings) = (self.store.clone(), self.bell.clone(), acceptances.iter().flat_map(rings).collect::<Vec<_>>());
        task::spawn("late", async move {
            tokio::time::sleep(TOO_EARLY).await;
            let _ = store.accept(acceptances).await;
            rings.into_iter().for_each(|(group, due)| bell.ring_for(group, due));
        });
        accepted
    }

    /// What became of one event.
    fn accepted(&self, origin: &Origin, accepted: &Accepted, rings: Vec<Ring>) {
        let Accepted::New { id } = accepted else { return };
        self.health.store_problem(None);
        if rings.is_empty() && self.router.generation.load().unmatched(origin) == Unmatched::DeadLetter {
            tracing::warn!(tenant = %origin.tenant, source = &*origin.source, event = id, "no handler wants the event");
            self.ledgers.unrouted(origin);
        }
        rings.into_iter().for_each(|(group, due)| self.bell.ring_for(group, due));
    }
}

impl Acceptor for DurableIntake {
    fn accept<'a>(
        &'a self,
        origin: &'a Origin,
        requests: Vec<AcceptRequest>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Accepted>, StoreError>> + Send + 'a>> {
        Box::pin(async move {
            let acceptance = |AcceptRequest { event, key, due, backlog, state, hops }| Acceptance {
                due,
                backlog,
                state,
                ..self.router.acceptance(origin, Arc::new(event), key, hops)
            };
            let acceptances: Vec<_> = requests.into_iter().map(acceptance).collect();
            let rings: Vec<Vec<Ring>> = acceptances.iter().map(rings).collect();
            if is_planted(Mistake::AckBeforeCommit) {
                return Ok(self.accept_too_late(acceptances));
            }
            match self.store.accept(acceptances).await {
                Ok(accepted) => {
                    accepted.iter().zip(rings).for_each(|(accepted, rings)| self.accepted(origin, accepted, rings));
                    Ok(accepted)
                }
                Err(error) => {
                    if !matches!(error, StoreError::Closed) {
                        self.health.store_problem(Some(error.to_string()));
                    }
                    Err(error)
                }
            }
        })
    }

    fn dead_letter<'a>(
        &'a self,
        origin: &'a Origin,
        event: Arc<Event>,
        key: Option<String>,
        reason: String,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>> {
        Box::pin(async move {
            let id = event.id.clone();
            let letter = self.router.dead_letter(origin, event, key, reason.clone().into());
            match self.store.accept(vec![letter]).await {
                Ok(accepted) if accepted.iter().any(|accepted| matches!(accepted, Accepted::New { .. })) => {
                    self.health.store_problem(None);
                    tracing::warn!(tenant = %origin.tenant, source = &*origin.source, event = id, reason, "dead letter");
                    self.ledgers.unrouted(origin);
                    Ok(())
                }
                // It came before, and was kept then.
                Ok(_) => Ok(()),
                Err(StoreError::Closed) => Err(StoreError::Closed),
                Err(error) => {
                    self.health.store_problem(Some(error.to_string()));
                    Err(error)
                }
            }
        })
    }
}
