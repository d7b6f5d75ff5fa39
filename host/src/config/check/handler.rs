//! `[handlers.NAME]`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    Check, DAY, EMIT, HOUR, MIB, MILLISECOND, Named, outbound, reference, seconds,
    source::{KINDS, Sources},
};
use crate::config::{
    CanaryConfig, Grants, HandlerConfig, HostConfig, PluginRef, Retry, Subscription,
    document::Span,
    pattern::matches,
    raw::{self, At, Table},
    suggest,
    units::ShowDuration,
};

/// A handler and where it is.
pub(super) struct Found {
    pub(super) config: HandlerConfig,
    pub(super) span: Span,
    /// Where the order of its calls is asked for.
    pub(super) order: Option<Span>,
}

pub(super) fn check_all(check: &mut Check<'_>, tables: &[Named<'_>], sources: &Sources<'_>, host: &HostConfig) -> Vec<Found> {
    let mut handlers = Vec::new();
    for table in tables {
        let section = table.node.span();
        let Some(raw) = check.read::<raw::Handler>(table.node.clone()) else { continue };
        let order = raw.order.as_ref().map(|at| at.span.clone());
        let config = self::check(check, table.name, &section, raw, sources, host);
        handlers.push(Found { config, span: table.span.clone(), order });
    }
    handlers
}

fn check(check: &mut Check<'_>, name: &str, section: &Span, raw: raw::Handler, sources: &Sources<'_>, host: &HostConfig) -> HandlerConfig {
    let timeout = check.time(&raw.timeout, seconds(5), MILLISECOND..=HOUR);
    if let Some(deadline) = host.drain_deadline.filter(|deadline| *deadline < timeout) {
        let span = raw.timeout.as_ref().map_or(section, |at| &at.span);
        let message = format!("a stop cuts what runs longer than host.drain-deadline, {}", ShowDuration(deadline));
        check.warning(span, message);
    }
    let concurrency = raw.concurrency.as_ref().map(|_| check.count(&raw.concurrency, 1, 1..=10_000));
    HandlerConfig {
        tenant: check.tenant(),
        name: name.to_owned(),
        plugin: plugin(check, section, name, &raw),
        on: on(check, section, raw.on.as_ref().map_or(&[], |on| &on.0), sources),
        atomic: raw.atomic.unwrap_or(false),
        timeout,
        memory: check.size(&raw.memory, 64 * MIB, MIB..=1024 * MIB),
        concurrency: concurrency.map(|count| usize::try_from(count).unwrap_or(usize::MAX)),
        order: raw.order.as_ref().map(|at| at.value),
        retry: raw.retry.map_or_else(Retry::default, |Table(raw)| retry(check, &raw)),
        config: config(check, &raw.config),
        from_environment: raw.config.iter().filter(|(_, at)| reference::expands(&at.value.0)).map(|(key, _)| key.clone()).collect(),
        record: raw.record.unwrap_or(true),
        self_test: self_test(check, raw.self_test.as_ref()),
        canary: raw.canary.as_ref().map(|Table(raw)| canary(check, raw)),
        pin_retries: raw.retry_on == Some(raw::RetryOn::Same),
        grants: raw.grants.map_or_else(Grants::default, |Table(raw)| grants(check, &raw)),
    }
}

fn plugin(check: &mut Check<'_>, section: &Span, name: &str, raw: &raw::Handler) -> PluginRef {
    let hint = "the code, such as `handlers/invoice.js` or `plugins/invoice.wasm`";
    let Some(At { value, span }) = check.required(section, "plugin", &raw.plugin, hint) else {
        return PluginRef::Wasm(check.folder.clone());
    };
    if value.starts_with("oci://") {
        check.error(span, "plugins from a registry are not in this version yet; name a file or a folder");
        return PluginRef::Wasm(check.folder.clone());
    }
    let path = check.path(value);
    let by_name = PluginRef::by_name(&path);
    if !path.exists() {
        check.error(span, format!("there is no {}", path.display()));
    } else if path.is_dir() {
        return folder(check, span, name, &path, raw.build.as_ref());
    } else if by_name.is_none() {
        check.error(span, format!("not a plugin; {}", PluginRef::EXPECTED));
    } else if let Some(build) = &raw.build {
        check.error(&build.span, "only a folder is built; name one as `plugin`, or leave this table out");
    }
    by_name.unwrap_or(PluginRef::Wasm(path))
}

fn folder(check: &mut Check<'_>, span: &Span, name: &str, folder: &Path, build: Option<&At<Table<raw::Build>>>) -> PluginRef {
    let folder = folder.to_owned();
    let Some(At { value: Table(build), span: section }) = build else {
        if !folder.join("Cargo.toml").is_file() {
            let hint = format!("say how it is built by `command` and `output` in [handlers.{name}.build]");
            check.error(span, format!("{} has no Cargo.toml; {hint}", folder.display()));
        }
        return PluginRef::Cargo(folder);
    };
    let command = check.required(section, "command", &build.command, "program and arguments, such as `[\"make\", \"plugin.wasm\"]`");
    let output =
        check.required(section, "output", &build.output, "the component that the command makes, such as `handlers/invoice/plugin.wasm`");
    if let Some(At { span, .. }) = command.filter(|at| at.value.first().is_none_or(String::is_empty)) {
        check.error(span, "names no program");
    }
    PluginRef::Command {
        folder,
        command: command.map(|at| at.value.clone()).unwrap_or_default(),
        output: output.map(|at| check.path(&at.value)).unwrap_or_default(),
    }
}

fn on(check: &mut Check<'_>, section: &Span, entries: &[At<Table<raw::Subscription>>], sources: &Sources<'_>) -> Vec<Subscription> {
    if entries.is_empty() {
        check.missing(section, "on", "which events it wants, such as `[{ source = \"orders\" }]`");
    }
    entries.iter().map(|at| subscription(check, at, sources)).collect()
}

fn subscription(check: &mut Check<'_>, at: &At<Table<raw::Subscription>>, sources: &Sources<'_>) -> Subscription {
    let Table(raw) = &at.value;
    if let Some(at) = &raw.source {
        source(check, at, sources);
    }
    if let Some(at) = &raw.kind {
        kind(check, at);
    }
    subscription_of(check, at)
}

/// An entry of `on`, as far as it does not name a source.
pub(super) fn subscription_of(check: &mut Check<'_>, At { value: Table(raw), span }: &At<Table<raw::Subscription>>) -> Subscription {
    let fields = [&raw.source, &raw.kind, &raw.ty, &raw.subject];
    if fields.iter().all(|field| field.is_none()) && raw.attributes.is_empty() {
        let entry = check.document.key_at(span);
        if !check.blamed.iter().any(|blamed| blamed.starts_with(&entry)) {
            check.error(span, "this entry names nothing; for every event write `{ type = \"*\" }`");
        }
    }
    for at in fields.into_iter().flatten().chain(raw.attributes.values()).filter(|at| at.value.is_empty()) {
        check.error(&at.span, "is empty; leave it out, or write `*` for anything");
    }
    for (name, at) in &raw.attributes {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            check.error(&at.span, "an attribute's name has lower-case letters and digits");
        }
    }
    let text = |field: &Option<At<String>>| field.as_ref().map(|at| at.value.clone());
    Subscription {
        source: text(&raw.source),
        kind: text(&raw.kind),
        ty: text(&raw.ty),
        subject: text(&raw.subject),
        attributes: raw.attributes.iter().map(|(name, at)| (name.clone(), at.value.clone())).collect(),
        atomic: raw.atomic.unwrap_or(false),
    }
}

fn source(check: &mut Check<'_>, At { value, span }: &At<String>, sources: &Sources<'_>) {
    let names: Vec<&str> = sources.names.iter().copied().chain(check.surroundings.own.iter().copied()).chain([EMIT]).collect();
    if value.is_empty() || names.iter().any(|name| matches(value, name)) {
        return;
    }
    let hint = match suggest::nearest(value, names.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("expected {}", suggest::any_of(&names)),
    };
    check.error(span, format!("no source is called `{value}`; {hint}"));
}

/// An embedding program may have kinds of its own, so that only what is known to be wrong is.
fn kind(check: &mut Check<'_>, At { value, span }: &At<String>) {
    if let Some(meant) = suggest::nearest(value, KINDS).filter(|meant| meant != value) {
        check.error(span, format!("no kind of source is called `{value}`; did you mean `{meant}`?"));
    }
}

fn retry(check: &mut Check<'_>, raw: &raw::Retry) -> Retry {
    let attempts = u32::try_from(check.count(&raw.attempts, 5, 1..=100)).unwrap_or(u32::MAX);
    let default = Retry { attempts, ..Retry::default() };
    let Some(At { value: backoff, span }) = &raw.backoff else { return default };
    for wait in [backoff.min, backoff.max] {
        check.time_within(wait, MILLISECOND..=DAY, span);
    }
    if backoff.min > backoff.max {
        check.error(span, "the first wait is longer than the longest");
    }
    Retry { attempts, min: backoff.min, max: backoff.max }
}

fn self_test(check: &mut Check<'_>, files: Option<&raw::OneOrMany<String>>) -> Vec<PathBuf> {
    let files = files.map_or(&[][..], |files| &files.0);
    let file = |At { value, span }: &At<String>| {
        let path = check.path(value);
        if !path.is_file() {
            check.error(span, format!("there is no {}; expected a file with an event in the JSON format of CloudEvents", path.display()));
        }
        path
    };
    files.iter().map(file).collect()
}

fn canary(check: &mut Check<'_>, raw: &raw::Canary) -> CanaryConfig {
    let default = CanaryConfig::default();
    CanaryConfig {
        share: check.percent(&raw.share, default.share, 0.001..=1.0),
        by: raw.by.unwrap_or(default.by),
        time: check.time(&raw.time, default.time, MILLISECOND..=DAY * 30),
        min_calls: check.count(&raw.min_calls, default.min_calls, 1..=1_000_000),
        max_errors: check.percent(&raw.max_errors, default.max_errors, 0.001..=0.5),
        max_slowdown: check.percent(&raw.max_slowdown, default.max_slowdown, 1.0..=100.0),
        shadow: raw.shadow.unwrap_or(default.shadow),
    }
}

fn config(check: &mut Check<'_>, raw: &BTreeMap<String, At<raw::ConfigValue>>) -> BTreeMap<String, String> {
    raw.iter().map(|(key, at)| (key.clone(), reference::expand(check, &at.value.0, &at.span))).collect()
}

fn grants(check: &mut Check<'_>, raw: &raw::Grants) -> Grants {
    let mut http = Vec::new();
    for at in &raw.http {
        match outbound::host(&at.value) {
            Ok(host) => http.push(host),
            Err(message) => check.error(&at.span, message),
        }
    }
    for at in raw.emit.iter().filter(|at| at.value.is_empty()) {
        check.error(&at.span, "is empty; expected a type of events, such as `orders.*`");
    }
    let empty = |at: &&At<raw::Keyvalue>| matches!(&at.value, raw::Keyvalue::Prefix(prefix) if prefix.is_empty());
    if let Some(At { span, .. }) = raw.keyvalue.as_ref().filter(empty) {
        check.error(span, "is empty; for all keys write `true`");
    }
    Grants {
        http,
        keyvalue: raw.keyvalue.as_ref().and_then(|at| at.value.granted()),
        emit: raw.emit.iter().map(|at| at.value.clone()).collect(),
    }
}
