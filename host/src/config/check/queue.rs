//! `kind = "kafka"` and `kind = "rabbitmq"`: what is taken from brokers.

use super::{Check, broker, source::BACKLOG};
use crate::config::{
    Declare, Intake, KafkaConfig, Protocol, QueueType, RabbitmqConfig, SourceKind, Start,
    document::Span,
    raw::{self, Amqp, At, Cluster, Common, Table},
};

/// The most messages that RabbitMQ keeps in flight for one consumer here: more gain nothing and come again together when a host dies.
const PREFETCH: u64 = 2_000;

pub(super) fn kafka(check: &mut Check<'_>, section: &Span, raw: raw::Kafka) -> (Common, SourceKind) {
    let cluster = Cluster { brokers: raw.brokers, tls: raw.tls, sasl: raw.sasl, settings: raw.settings };
    let cluster = broker::kafka(check, section, &cluster);
    let group = check.required(section, "group", &raw.group, "the consumer group, such as `koksmat`");
    if let Some(At { span, .. }) = group.filter(|at| at.value.is_empty()) {
        check.error(span, "is empty; expected the name of a consumer group");
    }
    let topics = check
        .required(section, "topics", &raw.topics.map(|topics| At { value: topics, span: section.clone() }), "such as `[\"orders\"]`")
        .map(|at| topics(check, section, &at.value.0));
    let intake = raw.intake.as_ref().map_or(Intake::Direct, |at| at.value);
    backlog_needs_durable(check, &raw.backlog, intake);
    let kind = SourceKind::Kafka(KafkaConfig {
        cluster,
        group: group.map(|at| at.value.clone()).unwrap_or_default(),
        topics: topics.unwrap_or_default(),
        start: raw.start.unwrap_or(Start::Earliest),
        protocol: raw.protocol.unwrap_or(Protocol::Classic),
        span: check.count(&raw.span, 10_000, 1..=10_000_000),
        commit_batch: usize::try_from(check.count(&raw.commit_batch, 10_000, 2..=10_000_000)).unwrap_or(usize::MAX),
        intake,
        backlog: check.count(&raw.backlog, BACKLOG, 1..=100_000_000),
    });
    (Common { in_flight: raw.in_flight, unmatched: raw.unmatched, intake: raw.intake }, kind)
}

fn topics(check: &mut Check<'_>, section: &Span, topics: &[At<String>]) -> Vec<String> {
    if topics.is_empty() {
        check.missing(section, "topics", "such as `[\"orders\"]`");
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    for At { value, span } in topics {
        if value.starts_with('^') {
            continue;
        }
        if value.is_empty() || value.len() > 249 || !value.bytes().all(legal) {
            check.error(span, "a topic's name has up to 249 letters, digits, `.`, `_` and `-`; a pattern begins with `^`");
        }
    }
    topics.iter().map(|at| at.value.clone()).collect()
}

pub(super) fn rabbitmq(check: &mut Check<'_>, section: &Span, raw: raw::Rabbitmq) -> (Common, SourceKind) {
    let broker = broker::amqp(check, section, &Amqp { url: raw.url, tls: raw.tls });
    let queue = check.required(section, "queue", &raw.queue, "the queue whose messages are taken");
    if let Some(At { span, .. }) = queue.filter(|at| at.value.is_empty() || at.value.len() > 255) {
        check.error(span, "a queue's name has 1 to 255 bytes");
    }
    check.count(&raw.in_flight, 256, 1..=PREFETCH);
    let intake = raw.intake.as_ref().map_or(Intake::Direct, |at| at.value);
    backlog_needs_durable(check, &raw.backlog, intake);
    let kind = SourceKind::Rabbitmq(RabbitmqConfig {
        broker,
        queue: queue.map(|at| at.value.clone()).unwrap_or_default(),
        declare: raw.declare.as_ref().map(|at| declare(check, at)),
        id_header: raw.id_header.as_ref().map(|at| at.value.clone()),
        management: raw.management.as_ref().and_then(|at| broker::url(check, at, &["http", "https"])),
        intake,
        backlog: check.count(&raw.backlog, BACKLOG, 1..=100_000_000),
    });
    (Common { in_flight: raw.in_flight, unmatched: raw.unmatched, intake: raw.intake }, kind)
}

fn declare(check: &mut Check<'_>, At { value: Table(raw), span }: &At<Table<raw::Declare>>) -> Declare {
    let ty = raw.ty.unwrap_or(QueueType::Quorum);
    match ty {
        QueueType::Quorum if raw.dead_letter_exchange.is_none() => check.missing(
            span,
            "dead-letter-exchange",
            "a quorum queue gives up on a message it has delivered too often, and without this exchange the message is lost",
        ),
        QueueType::Classic => {
            if let Some(at) = &raw.delivery_limit {
                check.error(&at.span, "only quorum queues count deliveries; leave this out");
            }
        }
        QueueType::Quorum => {}
    }
    let limit = raw.delivery_limit.as_ref().map(|_| check.count(&raw.delivery_limit, 20, 1..=1_000_000));
    Declare {
        ty,
        dead_letter_exchange: raw.dead_letter_exchange.as_ref().map(|at| at.value.clone()),
        dead_letter_routing_key: raw.dead_letter_routing_key.as_ref().map(|at| at.value.clone()),
        delivery_limit: limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
        single_active_consumer: raw.single_active_consumer.unwrap_or(false),
    }
}

fn backlog_needs_durable(check: &mut Check<'_>, backlog: &Option<At<u64>>, intake: Intake) {
    if let (Some(at), Intake::Direct) = (backlog, intake) {
        check.error(&at.span, "goes with `intake = \"durable\"`; a direct source is bounded by `in-flight`");
    }
}
