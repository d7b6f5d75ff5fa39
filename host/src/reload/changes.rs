//! What differs between what serves and what is wanted.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, Grants, HandlerConfig, HostConfig, Reply, SinkConfig, SourceConfig, SourceKind, Subscription, matches},
    plugin::load::Loaded,
    reload::Handlers,
    sink,
    store::{Store, StoreError, Waiting},
    supervisor::Member,
    tenant::Tenant,
};

/// One thing that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What is new of it.
    pub what: Vec<String>,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `[handlers.NAME]`, or its code.
    Handler,
    /// `[sources.NAME]`
    Source,
    /// `[sinks.NAME]`
    Sink,
    /// `[host]`
    Host,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Handler => "handler",
            Kind::Source => "source",
            Kind::Sink => "sink",
            Kind::Host => return write!(f, "[host]: {}", self.what.join("; ")),
        };
        write!(f, "{kind} `{}`: {}", self.name, self.what.join("; "))
    }
}

/// What of `[host]` is wanted otherwise and cannot be changed while the host runs.
pub(super) fn fixed(before: &HostConfig, wanted: &HostConfig) -> Vec<String> {
    let HostConfig { listen, admin, store, concurrency, .. } = wanted;
    let differ = [
        ("listen", *listen != before.listen),
        ("admin", *admin != before.admin),
        ("store", *store != before.store),
        ("concurrency", *concurrency != before.concurrency),
        // Whether events are kept is decided where they are accepted.
        ("keep-events", wanted.keep_events.is_zero() != before.keep_events.is_zero()),
    ];
    let differing = differ.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(key, _)| format!("host.{key} cannot be changed while the host runs: restart it, or set it back")).collect()
}

/// A configuration, and what was loaded for it.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) config: &'a Config,
    pub(super) handlers: &'a Handlers,
}

/// All that differs.
pub(super) fn between(old: Side<'_>, new: Side<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.config.host != new.config.host {
        changes.push(Change { kind: Kind::Host, name: String::new(), what: vec!["its settings hold from now on".into()] });
    }
    for (kind, (before, now)) in [(Kind::Source, (sources(old), sources(new))), (Kind::Sink, (sinks(old), sinks(new)))] {
        let said = |name: &str, what: &str| Change { kind, name: name.to_owned(), what: vec![what.to_owned()] };
        changes.extend(now.iter().filter_map(|(key, item)| match before.get(key) {
            None => Some(said(&key.1, "added")),
            Some(was) => (was != item).then(|| said(&key.1, "changed: drained and started again")),
        }));
        changes.extend(before.keys().filter(|key| !now.contains_key(*key)).map(|key| said(&key.1, "removed")));
    }
    for (key, loaded) in new.handlers {
        let what = match old.handlers.get(key) {
            None => vec![format!("added, version {}", short(&loaded.digest))],
            Some(old) => handler(old, loaded),
        };
        if !what.is_empty() {
            changes.push(Change { kind: Kind::Handler, name: key.1.clone(), what });
        }
    }
    for key in old.handlers.keys().filter(|key| !new.handlers.contains_key(*key)) {
        changes.push(Change { kind: Kind::Handler, name: key.1.clone(), what: vec!["removed".into()] });
    }
    changes
}

/// Sources and sinks as far as it matters whether they are the same.
#[derive(PartialEq)]
enum Item<'a> {
    /// One of the same settings that another handler answers for is another one.
    Source(&'a SourceConfig, Option<String>),
    Sink(&'a SinkConfig),
}

type Items<'a> = BTreeMap<(Tenant, String), Item<'a>>;

fn sources(side: Side<'_>) -> Items<'_> {
    let item = |source| Item::Source(source, answered_by(side.config, source));
    side.config.sources.iter().map(|source| ((source.tenant.clone(), source.name.clone()), item(source))).collect()
}

fn answered_by(config: &Config, source: &SourceConfig) -> Option<String> {
    match &source.kind {
        SourceKind::Webhook(webhook) if webhook.reply == Reply::Handler => config.reply_handler(source),
        _ => None,
    }
}

fn sinks(side: Side<'_>) -> Items<'_> {
    side.config.sinks.iter().map(|sink| ((sink.tenant.clone(), sink.name.clone()), Item::Sink(sink))).collect()
}

/// Which sources and sinks stop and start.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// They stop: they are gone, or another one of this name starts.
    pub(super) leaving: Vec<Member>,
    /// Those of them that are gone.
    pub(super) gone: Vec<Member>,
    pub(super) coming: Vec<Member>,
}

type ToMember = fn(Tenant, String) -> Member;

pub(super) fn members(old: Side<'_>, new: Side<'_>) -> Members {
    let mut members = Members::default();
    let pairs: [(Items<'_>, Items<'_>, ToMember); 2] =
        [(sources(old), sources(new), Member::Source), (sinks(old), sinks(new), Member::Sink)];
    for (before, now, member) in pairs {
        let named = |(tenant, name): &(Tenant, String)| member(tenant.clone(), name.clone());
        for (key, item) in &before {
            let next = now.get(key);
            if next != Some(item) {
                members.leaving.push(named(key));
            }
            if next.is_none() {
                members.gone.push(named(key));
            }
        }
        members.coming.extend(now.iter().filter(|(key, item)| before.get(*key) != Some(*item)).map(|(key, _)| named(key)));
    }
    members
}

/// What is new of a handler.
fn handler(old: &Loaded, new: &Loaded) -> Vec<String> {
    let mut what = Vec::new();
    let (was, now) = (old.handler.digest(), new.handler.digest());
    if was != now {
        what.push(format!("version {} serves (was {})", short(&now), short(&was)));
    } else if old.digest != new.digest {
        what.push(match new.handler.versions.candidate() {
            Some(_) => format!("version {} serves beside {} until it is known to be as good", short(&new.digest), short(&now)),
            None => format!("version {} was rolled back and does not serve, {} does", short(&new.digest), short(&now)),
        });
    }
    let imports: Vec<_> = new.needs.difference(&old.needs).map(|need| format!("`{need}`")).collect();
    if !imports.is_empty() {
        what.push(format!("newly imports {}", imports.join(", ")));
    }
    let (before, now) = (&*old.handler.config, &*new.handler.config);
    what.extend(grants(&before.grants, &now.grants));
    let rest = HandlerConfig { grants: before.grants.clone(), ..now.clone() };
    if rest != *before {
        what.push("its settings hold from now on".into());
    }
    what
}

/// What may be done that could not be done before, and the other way round.
fn grants(before: &Grants, now: &Grants) -> Vec<String> {
    let list = |name: &str, before: &[String], now: &[String]| {
        let more = now.iter().filter(|one| !before.contains(one)).map(|one| format!("+{one}"));
        let less = before.iter().filter(|one| !now.contains(one)).map(|one| format!("-{one}"));
        let all: Vec<_> = more.chain(less).collect();
        (!all.is_empty()).then(|| format!("grant `{name}`: {}", all.join(" ")))
    };
    let keyvalue = |grants: &Grants| match grants.keyvalue.as_deref() {
        None => Vec::new(),
        Some("") => vec!["all keys".to_owned()],
        Some(prefix) => vec![format!("{prefix}*")],
    };
    let all =
        [list("http", &before.http, &now.http), list("keyvalue", &keyvalue(before), &keyvalue(now)), list("emit", &before.emit, &now.emit)];
    all.into_iter().flatten().collect()
}

/// A digest as people compare it.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// Events that wait in the store for a handler or sink that would not take them any more.
pub(super) async fn left_behind(store: &dyn Store, old: &Config, new: &Config) -> Result<Vec<String>, StoreError> {
    let takes = |config: &Config, waiting: &Waiting| {
        let handler = config.handlers.iter().find(|handler| handler.tenant == waiting.tenant && handler.name == waiting.handler);
        let sink = config.sinks.iter().find(|one| one.tenant == waiting.tenant && *sink::subscriber(&one.name) == *waiting.handler);
        handler
            .map(|handler| &handler.on)
            .or_else(|| sink.map(|sink| &sink.on))
            .is_some_and(|on| on.iter().any(|entry| may_want(entry, waiting)))
    };
    // Mostly nobody takes less than before.
    let less = old
        .handlers
        .iter()
        .any(|was| !new.handlers.iter().any(|now| now.tenant == was.tenant && now.name == was.name && now.on == was.on))
        || old.sinks.iter().any(|was| !new.sinks.iter().any(|now| now.tenant == was.tenant && now.name == was.name && now.on == was.on));
    if !less {
        return Ok(Vec::new());
    }
    let waiting = store.waiting().await?;
    let left = waiting.iter().filter(|waiting| takes(old, waiting) && !takes(new, waiting));
    let said = |waiting: &Waiting| {
        let Waiting { source, handler, ty, count, .. } = waiting;
        let events = if *count == 1 { "event" } else { "events" };
        let handler = sink::name_of(handler).map_or_else(|| format!("handler `{handler}`"), |sink| format!("sink `{sink}`"));
        format!(
            "{count} {events} `{ty}` from `{source}` wait for the {handler}, which would not take them any more: let them be handled first, or force the reload"
        )
    };
    Ok(left.map(said).collect())
}

/// Whether an entry may want what waits, as far as its source, its kind and its type say.
fn may_want(entry: &Subscription, waiting: &Waiting) -> bool {
    let fits = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| matches(wanted, found));
    fits(&entry.source, &waiting.source) && fits(&entry.kind, &waiting.kind) && fits(&entry.ty, &waiting.ty)
}
