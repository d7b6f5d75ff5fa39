//! What serves: one immutable set of routes, handlers and policies. An event sees one generation from routing to settling.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    channel::Origin,
    config::{Config, SinkConfig, SourceConfig, SourceKind, Subscription, Unmatched},
    plugin::Handler,
    tenant::Tenant,
};

/// The source that events emitted by guests come from when they name no queue.
pub const EMIT: &str = "emit";

/// The most emitted events that may wait for their handlers and sinks; then whoever emits is tried again later.
pub(crate) const EMITTED: u64 = 100_000;

/// What serves. It is looked into for each event: comparing short names is less than hashing them.
#[derive(Debug, Default)]
pub struct Generation {
    handlers: BTreeMap<Tenant, Vec<Arc<Handler>>>,
    policies: BTreeMap<Tenant, BTreeMap<Arc<str>, Policy>>,
    sinks: Vec<SinkConfig>,
}

/// What holds for the events of one source, besides its routes.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// What happens to an event nobody wants.
    pub unmatched: Unmatched,
    /// The most unsettled tasks that emits may leave in it; absent: no bound.
    pub backlog: Option<u64>,
}

impl Generation {
    /// What a configuration and its handlers make.
    pub(crate) fn of(config: &Config, handlers: impl IntoIterator<Item = Arc<Handler>>) -> Self {
        let policy = |source: &SourceConfig| {
            let backlog = match &source.kind {
                SourceKind::Embedded(embedded) => Some(embedded.backlog),
                _ => None,
            };
            ((source.tenant.clone(), Arc::from(source.name.as_str())), Policy { unmatched: source.unmatched, backlog })
        };
        // What sinks cannot publish now waits in the store, like any backlog up to a bound.
        let emitted = ((Tenant::default(), Arc::from(EMIT)), Policy { unmatched: Unmatched::DeadLetter, backlog: Some(EMITTED) });
        Self::new(handlers, config.sources.iter().map(policy).chain([emitted]).collect(), config.sinks.clone())
    }

    /// A generation of these handlers, of these policies by source, and of these sinks.
    pub fn new(
        handlers: impl IntoIterator<Item = Arc<Handler>>,
        policies: HashMap<(Tenant, Arc<str>), Policy>,
        sinks: Vec<SinkConfig>,
    ) -> Self {
        let mut by_tenant = BTreeMap::<Tenant, Vec<Arc<Handler>>>::new();
        for handler in handlers {
            by_tenant.entry(handler.config.tenant.clone()).or_default().push(handler);
        }
        let mut policies_by_tenant = BTreeMap::<Tenant, BTreeMap<Arc<str>, Policy>>::new();
        for ((tenant, source), policy) in policies {
            policies_by_tenant.entry(tenant).or_default().insert(source, policy);
        }
        Self { handlers: by_tenant, policies: policies_by_tenant, sinks }
    }

    /// A tenant's handlers, with what each subscribes to.
    pub(crate) fn handlers(&self, tenant: &Tenant) -> impl Iterator<Item = (&Arc<Handler>, &[Subscription])> {
        self.handlers.get(tenant).into_iter().flatten().map(|handler| (handler, handler.config.on.as_slice()))
    }

    /// A tenant's sinks.
    pub(crate) fn sinks(&self, tenant: &Tenant) -> impl Iterator<Item = &SinkConfig> {
        self.sinks.iter().filter(move |sink| sink.tenant == *tenant)
    }

    /// A handler by its name.
    pub(crate) fn handler(&self, tenant: &Tenant, name: &str) -> Option<&Arc<Handler>> {
        self.handlers.get(tenant)?.iter().find(|handler| handler.config.name == name)
    }

    /// What happens to an event of this source that nobody wants.
    pub(crate) fn unmatched(&self, origin: &Origin) -> Unmatched {
        self.policy(origin).map_or(Unmatched::DeadLetter, |policy| policy.unmatched)
    }

    /// The most unsettled tasks that emits may leave in a source.
    pub(crate) fn backlog(&self, origin: &Origin) -> Option<u64> {
        self.policy(origin)?.backlog
    }

    fn policy(&self, origin: &Origin) -> Option<&Policy> {
        self.policies.get(&origin.tenant)?.get(&origin.source)
    }
}
