//! `[sources.NAME]`: what every kind has, and the kinds that are small.

use croner::parser::{CronParser, Year};
use jiff::{Timestamp, tz::TimeZone};
use toml::de::DeValue;

use super::{Check, KIB, MIB, Named, poller, queue, webhook};
use crate::config::{
    EmbeddedConfig, HostConfig, Intake, Missed, Overlap, PollMode, Reply, SourceConfig, SourceKind, StoreConfig, TimerConfig, Unmatched,
    document::{Node, Span, what},
    raw::{self, At, Common, Source},
    suggest,
};

pub(super) const KINDS: [&str; 6] = ["kafka", "rabbitmq", "embedded", "poller", "webhook", "timer"];

pub(super) use crate::config::BACKLOG;

/// The sources of a file.
pub(super) struct Sources<'a> {
    /// Every name, also of those that could not be read.
    pub(super) names: Vec<&'a str>,
    pub(super) found: Vec<Found>,
}

/// A source and where it is.
pub(super) struct Found {
    pub(super) config: SourceConfig,
    pub(super) span: Span,
}

impl Found {
    /// Its events are in the store before they are worked on.
    pub(super) fn durable(&self) -> bool {
        match &self.config.kind {
            SourceKind::Embedded(_) | SourceKind::Timer(_) => true,
            SourceKind::Webhook(webhook) => webhook.reply == Reply::Accepted,
            SourceKind::Kafka(kafka) => kafka.intake == Intake::Durable,
            SourceKind::Rabbitmq(rabbitmq) => rabbitmq.intake == Intake::Durable,
            SourceKind::Poller(_) => false,
        }
    }

    /// It remembers in the store what it has seen.
    fn remembers(&self) -> bool {
        matches!(&self.config.kind, SourceKind::Poller(poller) if !matches!(poller.mode, PollMode::Claim { .. }))
    }
}

pub(super) fn check_all<'a>(check: &mut Check<'_>, tables: &[Named<'a>], host: &HostConfig) -> Sources<'a> {
    let mut sources = Sources { names: tables.iter().map(|table| table.name).collect(), found: Vec::new() };
    for table in tables {
        let Some(config) = self::check(check, table) else { continue };
        sources.found.push(Found { config, span: table.span.clone() });
    }
    if host.store == StoreConfig::Memory {
        for source in sources.found.iter().filter(|source| source.durable() || source.remembers()) {
            check.error(&source.span, "this source needs a store that lasts; with `store = \"memory\"` its events would be lost");
        }
    }
    webhook::check_together(check, &sources, host);
    sources
}

fn check(check: &mut Check<'_>, table: &Named<'_>) -> Option<SourceConfig> {
    let (section, raw) = (table.node.span(), read(check, table.node)?);
    let (common, kind) = match raw {
        Source::Kafka(raw) => queue::kafka(check, &section, raw),
        Source::Rabbitmq(raw) => queue::rabbitmq(check, &section, raw),
        Source::Embedded(raw) => embedded(check, raw),
        Source::Poller(raw) => poller::check(check, &section, *raw),
        Source::Webhook(raw) => webhook::check(check, &section, raw),
        Source::Timer(raw) => timer(check, &section, raw),
    };
    if let Some(At { value, span }) = &common.intake {
        self::intake(check, *value, span, &kind);
    }
    Some(SourceConfig {
        tenant: check.tenant(),
        name: table.name.to_owned(),
        in_flight: usize::try_from(check.count(&common.in_flight, 256, 1..=100_000)).unwrap_or(usize::MAX),
        unmatched: common.unmatched.unwrap_or(Unmatched::DeadLetter),
        kind,
    })
}

/// Read the table by its `kind`.
fn read(check: &mut Check<'_>, node: &Node<'_>) -> Option<Source> {
    let mut node = node.clone();
    let DeValue::Table(table) = node.get_mut() else {
        check.error(&node.span(), format!("expected a table, `{{ kind = … }}`, not {}", what(node.get_ref())));
        return None;
    };
    let Some(kind) = table.remove("kind") else {
        check.missing(&node.span(), "kind", format!("a source is {}", suggest::any_of(&KINDS)));
        return None;
    };
    let span = kind.span();
    match kind.get_ref().as_str().unwrap_or_default() {
        "kafka" => check.read(node).map(Source::Kafka),
        "rabbitmq" => check.read(node).map(Source::Rabbitmq),
        "embedded" => check.read(node).map(Source::Embedded),
        "poller" => check.read(node).map(|raw| Source::Poller(Box::new(raw))),
        "webhook" => check.read(node).map(Source::Webhook),
        "timer" => check.read(node).map(Source::Timer),
        other => {
            let hint = suggest::nearest(other, KINDS).map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
            check.error(&span, format!("must be {}{hint}", suggest::any_of(&KINDS)));
            None
        }
    }
}

fn intake(check: &mut Check<'_>, intake: Intake, span: &Span, kind: &SourceKind) {
    match (intake, kind) {
        (_, SourceKind::Kafka(_) | SourceKind::Rabbitmq(_)) | (Intake::Direct, SourceKind::Poller(_)) => {}
        (Intake::Durable, SourceKind::Poller(_)) => {
            check.error(span, "`durable` is for kafka and rabbitmq sources; a row waits in its database")
        }
        (_, SourceKind::Webhook(_)) => check.error(span, "a webhook says it by `reply`: `accepted` or `handler`"),
        _ => check.error(span, format!("{} sources are always durable; leave this key out", kind.word())),
    }
}

fn embedded(check: &mut Check<'_>, raw: raw::Embedded) -> (Common, SourceKind) {
    let backlog = check.count(&raw.backlog, BACKLOG, 1..=100_000_000);
    let max_body = check.size(&raw.max_body, MIB, KIB..=256 * MIB);
    let common = Common { in_flight: raw.in_flight, unmatched: raw.unmatched, intake: raw.intake };
    (common, SourceKind::Embedded(EmbeddedConfig { backlog, max_body }))
}

fn timer(check: &mut Check<'_>, section: &Span, raw: raw::Timer) -> (Common, SourceKind) {
    let zone = raw.zone.as_ref().map_or("UTC", |at| &at.value);
    let known = zone == "UTC" || TimeZone::get(zone).is_ok();
    if let (false, Some(at)) = (known, &raw.zone) {
        let zones: Vec<String> = jiff::tz::db().available().map(|zone| zone.to_string()).collect();
        let hint = match suggest::nearest(zone, zones.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "expected an IANA name, such as `Europe/Copenhagen`, or `UTC`".to_owned(),
        };
        check.error(&at.span, format!("not a time zone that this machine knows; {hint}"));
    }
    let cron = check.required(section, "cron", &raw.cron, "when it fires, such as `0 6 * * *`");
    if let Some(At { value, span }) = cron {
        let now = Timestamp::now().to_zoned(TimeZone::UTC);
        match CronParser::builder().year(Year::Disallowed).build().parse(value) {
            Err(error) => {
                let error = error.to_string();
                let error = error.trim_end_matches('.');
                check.error(
                    span,
                    format!("not a cron expression ({error}); expected five fields, such as `0 6 * * *`, or six with seconds"),
                );
            }
            Ok(cron) if cron.find_next_occurrence(&now, false).is_err() => check.error(span, "this never fires: there is no such day"),
            Ok(_) => {}
        }
    }
    let kind = SourceKind::Timer(TimerConfig {
        cron: cron.map(|at| at.value.clone()).unwrap_or_default(),
        zone: zone.to_owned(),
        missed: raw.missed.unwrap_or(Missed::Once),
        overlap: raw.overlap.unwrap_or(Overlap::Allow),
    });
    (Common { in_flight: raw.in_flight, unmatched: raw.unmatched, intake: raw.intake }, kind)
}
