//! Which handlers want an event: a pure function of the event and the generation, without I/O.

use std::sync::Arc;

use crate::{
    channel::Origin,
    config::{Order, SinkConfig, Subscription, matches},
    controller::generation::{EMIT, Generation},
    event::Event,
    plugin::Handler,
    sink,
    store::{Subscriber, Task},
};

/// The kind of source whose events keep the order of their key unless a handler says otherwise.
const KAFKA: &str = "kafka";

/// A handler that wants an event.
#[derive(Debug, Clone)]
pub struct Routed {
    /// The handler.
    pub handler: Arc<Handler>,
    /// The call goes through the lane.
    pub atomic: bool,
    /// Calls of the handler with the same key keep their order.
    pub order: Option<Arc<str>>,
}

impl Routed {
    /// What a task needs to know of it.
    pub(crate) fn subscriber(&self) -> Subscriber {
        Subscriber { handler: self.handler.config.name.as_str().into(), order: self.order.as_deref().map(str::to_owned) }
    }
}

/// The handlers that want `event`, each once.
pub fn route(generation: &Generation, origin: &Origin, event: &Event) -> Vec<Routed> {
    let wanting = generation.handlers(&origin.tenant).filter_map(|(handler, on)| {
        let mut entries = on.iter().filter(|entry| wants(entry, origin, event)).peekable();
        entries.peek()?;
        let atomic = handler.config.atomic || entries.any(|entry| entry.atomic);
        Some(Routed { handler: handler.clone(), atomic, order: order_key(handler.config.order, origin, event) })
    });
    wanting.collect()
}

/// The sinks that want `event`, each once. Sinks publish what handlers emit and name no queue for.
pub(crate) fn sinks(generation: &Generation, origin: &Origin, event: &Event) -> Vec<Subscriber> {
    if &*origin.source != EMIT {
        return Vec::new();
    }
    let wanting = generation.sinks(&origin.tenant).filter(|sink| sink.on.iter().any(|entry| wants(entry, origin, event)));
    let subscriber = |sink: &SinkConfig| Subscriber {
        handler: sink::subscriber(&sink.name),
        order: order_key(Some(Order::Key), origin, event).map(|key| key.to_string()),
    };
    wanting.map(subscriber).collect()
}

/// The handler a task is for; none when the configuration no longer has it.
pub(crate) fn of_task(generation: &Generation, task: &Task) -> Vec<Routed> {
    let origin = Origin { tenant: task.tenant.clone(), source: task.source.clone(), kind: task.kind.clone() };
    let handler = generation.handler(&task.tenant, &task.handler).cloned();
    let routed = handler.map(|handler| {
        let by_entry = handler.config.on.iter().any(|entry| entry.atomic && wants(entry, &origin, &task.event));
        let order = order_key(handler.config.order, &origin, &task.event);
        Routed { atomic: handler.config.atomic || by_entry, handler, order }
    });
    routed.into_iter().collect()
}

fn wants(entry: &Subscription, origin: &Origin, event: &Event) -> bool {
    let fits = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| matches(wanted, found));
    fits(&entry.source, &origin.source)
        && fits(&entry.kind, &origin.kind)
        && fits(&entry.ty, &event.ty)
        && entry.subject.as_ref().is_none_or(|wanted| event.subject.as_ref().is_some_and(|found| matches(wanted, found)))
        && entry.attributes.iter().all(|(name, wanted)| event.attributes.get(name).is_some_and(|found| matches(wanted, found)))
}

/// By which key a call keeps its order. An event without a key is in order with nothing.
fn order_key(order: Option<Order>, origin: &Origin, event: &Event) -> Option<Arc<str>> {
    // Kafka keeps the order of a key, and whoever gave it one counts on that.
    let order = order.unwrap_or(if &*origin.kind == KAFKA { Order::Key } else { Order::None });
    match order {
        Order::None => None,
        Order::Source => Some(format!("source:{}", origin.source).into()),
        Order::Key => event.attributes.get("partitionkey").or(event.subject.as_ref()).map(|key| format!("key:{key}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { tenant: Default::default(), source: "orders".into(), kind: "embedded".into() }
    }

    #[test]
    fn everything_an_entry_names_must_match() {
        let mut event = Event::new("order.created", "");
        event.subject = Some("eu/42".into());
        event.attributes.insert("region".into(), "eu".into());
        let entry = |change: &dyn Fn(&mut Subscription)| {
            let mut entry = Subscription::default();
            change(&mut entry);
            wants(&entry, &origin(), &event)
        };
        assert!(entry(&|e| e.source = Some("orders".into())));
        assert!(entry(&|e| e.ty = Some("order.*".into())));
        assert!(entry(&|e| e.subject = Some("eu/*".into())));
        assert!(entry(&|e| drop(e.attributes.insert("region".into(), "e*".into()))));
        assert!(!entry(&|e| e.kind = Some("webhook".into())));
        assert!(!entry(&|e| (e.source, e.ty) = (Some("orders".into()), Some("invoice.*".into()))));
        assert!(!entry(&|e| drop(e.attributes.insert("absent".into(), "*".into()))));
    }

    #[test]
    fn events_of_one_key_are_in_order_and_those_without_are_not() {
        let mut event = Event::new("t", "");
        assert_eq!(order_key(Some(Order::Key), &origin(), &event), None);
        event.subject = Some("42".into());
        assert_eq!(order_key(Some(Order::Key), &origin(), &event).as_deref(), Some("key:42"));
        event.attributes.insert("partitionkey".into(), "7".into());
        assert_eq!(order_key(Some(Order::Key), &origin(), &event).as_deref(), Some("key:7"));
        assert_eq!(order_key(Some(Order::Source), &origin(), &event).as_deref(), Some("source:orders"));
    }
}
