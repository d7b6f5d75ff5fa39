//! What sources and handlers require of each other. As far as can be told: the type of an event is known only when it comes.

use super::{
    Check, EMIT, MINUTE,
    handler::Found as Handler,
    source::{Found as Source, Sources},
};
use crate::config::{
    Order, Reply, SourceKind, StoreConfig, Subscription,
    pattern::{matches, may_overlap},
    units::ShowDuration,
};

pub(super) fn check(check: &mut Check<'_>, store: &StoreConfig, sources: &Sources<'_>, handlers: &[Handler]) {
    for source in &sources.found {
        if matches!(&source.config.kind, SourceKind::Webhook(webhook) if webhook.reply == Reply::Handler) {
            one_answers(check, source, handlers);
        }
    }
    if !matches!(store, StoreConfig::Postgres { .. }) {
        sources.found.iter().for_each(|source| shared_group(check, source, handlers));
    }
    for handler in handlers {
        patience(check, sources, handler);
        order(check, sources, handler);
        fed(check, sources, handler);
    }
}

/// A sender that waits for the handler's response needs exactly one handler.
fn one_answers(check: &mut Check<'_>, source: &Source, handlers: &[Handler]) {
    let wanting = |handler: &&Handler| handler.config.on.iter().any(|entry| comes_from(entry, source));
    let wanting: Vec<&Handler> = handlers.iter().filter(wanting).collect();
    if wanting.is_empty() {
        // A subscription that is wrong may be the one that was meant.
        if !check.blamed.iter().any(|key| key.starts_with("handlers.")) {
            check.error(&source.span, "`reply = \"handler\"` needs a handler for this source, and none wants its events");
        }
        return;
    }
    let mut meant: Vec<(&Handler, &Subscription)> = Vec::new();
    for handler in wanting {
        let entries = handler.config.on.iter().filter(|entry| comes_from(entry, source) && means(entry));
        meant.extend(entries.map(|entry| (handler, entry)));
    }
    let both = meant.iter().enumerate().find_map(|(index, (one, entry))| {
        let others = &meant[index + 1..];
        let other = others.iter().find(|(other, and)| other.config.name != one.config.name && overlap(entry, and))?;
        Some((one, other.0))
    });
    if let Some((one, other)) = both {
        let (one, other) = (&one.config.name, &other.config.name);
        check.error(
            &source.span,
            format!("`reply = \"handler\"` needs exactly one handler for an event, and both handlers.{one} and handlers.{other} want it"),
        );
    }
}

/// Members of a consumer group each have a store of their own: what only one store can promise ends at the host.
fn shared_group(check: &mut Check<'_>, source: &Source, handlers: &[Handler]) {
    if !matches!(source.config.kind, SourceKind::Kafka(_) | SourceKind::Rabbitmq(_)) {
        return;
    }
    let wanting = handlers.iter().filter(|handler| handler.config.on.iter().any(|entry| comes_from(entry, source)));
    let needs_one_store = |handler: &&Handler| {
        let Handler { config, order, .. } = handler;
        config.atomic || order.is_some() || config.grants.keyvalue.is_some() || !config.grants.emit.is_empty()
    };
    if let Some(handler) = wanting.into_iter().find(needs_one_store) {
        let name = &handler.config.name;
        check.warning(
            &source.span,
            format!(
                "run it on one host: handlers.{name} is atomic, ordered or has effects, and hosts that share this source each have a store of \
                 their own, where calls that are parked wait for their host; or let the hosts share a store in PostgreSQL"
            ),
        );
    }
}

/// A call that takes longer than the broker waits is handled twice: with durable intake it is not.
fn patience(check: &mut Check<'_>, sources: &Sources<'_>, handler: &Handler) {
    for source in &sources.found {
        if source.durable() || !handler.config.on.iter().any(|entry| comes_from(entry, source)) {
            continue;
        }
        let (patience, what) = match &source.config.kind {
            SourceKind::Kafka(kafka) => (kafka.patience(), "a partition that goes to another member waits"),
            // RabbitMQ's `consumer_timeout`.
            SourceKind::Rabbitmq(_) => (30 * MINUTE, "RabbitMQ waits for an acknowledgement"),
            _ => continue,
        };
        if handler.config.timeout > patience {
            let (timeout, patience, name) = (ShowDuration(handler.config.timeout), ShowDuration(patience), &source.config.name);
            check.warning(
                &handler.span,
                format!("its calls may take {timeout}, {what} {patience}: then the event is handled twice; give sources.{name} `intake = \"durable\"`"),
            );
        }
    }
}

/// Order can be kept where calls wait in the store.
fn order(check: &mut Check<'_>, sources: &Sources<'_>, handler: &Handler) {
    let (Some(span), true) = (&handler.order, handler.config.order != Some(Order::None)) else { return };
    let cannot = |source: &&Source| matches!(&source.config.kind, SourceKind::Poller(_) | SourceKind::Webhook(_)) && !source.durable();
    let direct = sources.found.iter().filter(cannot).find(|source| handler.config.on.iter().any(|entry| comes_from(entry, source)));
    for source in &sources.found {
        let SourceKind::Rabbitmq(rabbitmq) = &source.config.kind else { continue };
        let alone = rabbitmq.declare.as_ref().is_none_or(|declare| declare.single_active_consumer);
        if !alone && handler.config.on.iter().any(|entry| comes_from(entry, source)) {
            let name = &source.config.name;
            check.warning(
                span,
                format!("several hosts keep the order of sources.{name} only with `single-active-consumer = true` in its `declare`"),
            );
        }
    }
    if let Some(source) = direct {
        let why = match source.config.kind {
            SourceKind::Webhook(_) => "which waits for the handler's response",
            _ => "whose events do not wait in the store",
        };
        check.error(
            span,
            format!("order cannot be kept for events of sources.{}, {why}; subscribe to durable sources only", source.config.name),
        );
    }
}

fn fed(check: &mut Check<'_>, sources: &Sources<'_>, handler: &Handler) {
    // A source that could not be read, or one the embedding program brings, may be of any kind.
    let unknown = sources.found.len() < sources.names.len() || !check.surroundings.own.is_empty();
    let emitted = |entry: &Subscription| {
        entry.source.as_ref().is_some_and(|source| matches(source, EMIT)) && entry.kind.as_ref().is_none_or(|kind| matches(kind, EMIT))
    };
    let fed = |entry: &Subscription| emitted(entry) || sources.found.iter().any(|source| comes_from(entry, source));
    if !unknown && !handler.config.on.is_empty() && !handler.config.on.iter().any(fed) {
        check.warning(&handler.span, "no source makes events that this handler wants");
    }
}

/// Whether an event of `source` may match `entry`.
fn comes_from(entry: &Subscription, source: &Source) -> bool {
    let fits = |pattern: &Option<String>, word: &str| pattern.as_ref().is_none_or(|pattern| matches(pattern, word));
    fits(&entry.source, &source.config.name) && fits(&entry.kind, source.config.kind.word())
}

/// Whether an entry is about where an event comes from, or about every event. One that gives a type alone is likely about others.
fn means(entry: &Subscription) -> bool {
    entry.source.is_some() || entry.kind.is_some() || entry.ty.as_deref() == Some("*")
}

/// Whether an event may match both.
fn overlap(one: &Subscription, other: &Subscription) -> bool {
    let may = |one: &Option<String>, other: &Option<String>| match (one, other) {
        (Some(one), Some(other)) => may_overlap(one, other),
        _ => true,
    };
    let attributes = one.attributes.iter().all(|(name, one)| other.attributes.get(name).is_none_or(|other| may_overlap(one, other)));
    may(&one.ty, &other.ty) && may(&one.subject, &other.subject) && attributes
}
