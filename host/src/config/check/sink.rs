//! `[sinks.NAME]`: where emitted events are published.

use toml::de::DeValue;

use super::{Check, Named, broker, handler};
use crate::config::{
    SinkConfig, SinkKind, Subscription,
    document::{Node, Span, what},
    raw::{self, Amqp, At, Cluster, OneOrMany, Sink, Table},
    suggest,
};

const KINDS: [&str; 2] = ["kafka", "rabbitmq"];

pub(super) fn check_all(check: &mut Check<'_>, tables: &[Named<'_>]) -> Vec<SinkConfig> {
    tables.iter().filter_map(|table| self::check(check, table)).collect()
}

fn check(check: &mut Check<'_>, table: &Named<'_>) -> Option<SinkConfig> {
    let section = table.node.span();
    let (on, mode, kind) = match read(check, table.node)? {
        Sink::Kafka(raw) => {
            let cluster = Cluster { brokers: raw.brokers, tls: raw.tls, sasl: raw.sasl, settings: raw.settings };
            let cluster = broker::kafka(check, &section, &cluster);
            let topic = check.required(&section, "topic", &raw.topic, "where events are published");
            (raw.on, raw.mode, SinkKind::Kafka { cluster, topic: topic.map(|at| at.value.clone()).unwrap_or_default() })
        }
        Sink::Rabbitmq(raw) => {
            let broker = broker::amqp(check, &section, &Amqp { url: raw.url, tls: raw.tls });
            let text = |field: Option<At<String>>| field.map(|at| at.value);
            let kind = SinkKind::Rabbitmq { broker, exchange: text(raw.exchange).unwrap_or_default(), routing_key: text(raw.routing_key) };
            (raw.on, raw.mode, kind)
        }
    };
    let on = subscriptions(check, &section, on);
    Some(SinkConfig { tenant: check.tenant(), name: table.name.to_owned(), on, mode: mode.unwrap_or_default(), kind })
}

/// Read the table by its `kind`.
fn read(check: &mut Check<'_>, node: &Node<'_>) -> Option<Sink> {
    let mut node = node.clone();
    let DeValue::Table(table) = node.get_mut() else {
        check.error(&node.span(), format!("expected a table, `{{ kind = … }}`, not {}", what(node.get_ref())));
        return None;
    };
    let Some(kind) = table.remove("kind") else {
        check.missing(&node.span(), "kind", format!("a sink is {}", suggest::any_of(&KINDS)));
        return None;
    };
    match kind.get_ref().as_str().unwrap_or_default() {
        "kafka" => check.read(node).map(Sink::Kafka),
        "rabbitmq" => check.read(node).map(Sink::Rabbitmq),
        other => {
            let hint = suggest::nearest(other, KINDS).map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
            check.error(&kind.span(), format!("must be {}{hint}", suggest::any_of(&KINDS)));
            None
        }
    }
}

/// A sink takes what handlers emit, whatever source the handler's event had.
fn subscriptions(check: &mut Check<'_>, section: &Span, on: Option<OneOrMany<Table<raw::Subscription>>>) -> Vec<Subscription> {
    let on = on.map_or_else(Vec::new, |on| on.0);
    if on.is_empty() {
        check.missing(section, "on", "which emitted events it publishes, such as `[{ type = \"order.shipped\" }]`");
    }
    let mut subscriptions = Vec::new();
    for at in &on {
        let Table(raw) = &at.value;
        for field in [&raw.source, &raw.kind].into_iter().flatten() {
            check.error(&field.span, "a sink publishes what handlers emit; say which by `type`, `subject` and `attributes`");
        }
        if raw.atomic.is_some() {
            check.error(&at.span, "`atomic` is for handlers; leave it out");
        }
        subscriptions.push(handler::subscription_of(check, at));
    }
    subscriptions
}
