//! `[host]`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{Check, DAY, MIB, MINUTE, poller, reference, seconds};
use crate::config::{
    HostConfig, StoreConfig,
    document::Node,
    raw::{self, At, Reference},
};

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);
pub(in crate::config) const STORE: &str = "data/koksmat.db";

pub(super) fn check(check: &mut Check<'_>, node: Option<&Node<'_>>) -> HostConfig {
    let raw: raw::Host = node.and_then(|node| check.read(node.clone())).unwrap_or_default();
    let listen = address(check, &raw.listen, LISTEN);
    let admin = address(check, &raw.admin, ADMIN);
    if let (true, Some(at)) = (listen == admin && listen.port() != 0, raw.admin.as_ref().or(raw.listen.as_ref())) {
        check.error(&at.span, "host.listen and host.admin are the same address; each needs a port of its own");
    }
    HostConfig {
        listen,
        admin,
        store: raw.store.as_ref().and_then(|at| store(check, at)).unwrap_or_else(|| StoreConfig::Sqlite(check.path(STORE))),
        concurrency: usize::try_from(check.count(&raw.concurrency, 64, 1..=10_000)).unwrap_or(usize::MAX),
        drain_deadline: match &raw.drain_deadline {
            None => Some(seconds(30)),
            Some(At { value, span }) => value.0.map(|deadline| check.time_within(deadline, seconds(0)..=DAY, span)),
        },
        drain_delay: check.time(&raw.drain_delay, seconds(0), seconds(0)..=MINUTE * 10),
        watch: raw.watch.unwrap_or(true),
        dedup_for: check.time(&raw.dedup_for, DAY * 7, MINUTE..=DAY * 365),
        keep_dead_letters: check.time(&raw.keep_dead_letters, DAY * 30, MINUTE..=DAY * 3650),
        keep_events: check.time(&raw.keep_events, seconds(0), seconds(0)..=DAY * 30),
        keep_events_size: check.size(&raw.keep_events_size, 256 * MIB, MIB..=1024 * 1024 * MIB) as u64,
    }
}

fn address(check: &mut Check<'_>, field: &Option<At<String>>, default: SocketAddr) -> SocketAddr {
    let Some(At { value, span }) = field else { return default };
    value.parse().unwrap_or_else(|_| {
        let meant = value.replace("localhost", "127.0.0.1").parse::<SocketAddr>();
        let hint = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
        check.error(span, format!("expected an IP address and a port, such as `{default}`{hint}"));
        default
    })
}

fn store(check: &mut Check<'_>, at: &At<Reference>) -> Option<StoreConfig> {
    let At { value, span } = at;
    let text = reference::resolve(check, value, span)?;
    if text == "memory" {
        return Some(StoreConfig::Memory);
    }
    let (scheme, rest) = text.split_once(':').unwrap_or_default();
    match scheme {
        "sqlite" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() || path.ends_with('/') || path.starts_with(':') || path.contains('?') {
                check.error(span, "expected `sqlite:PATH` with the path of a file and no options; for one in memory write `memory`");
                return None;
            }
            Some(StoreConfig::Sqlite(check.path(PathBuf::from(path))))
        }
        "postgres" | "postgresql" => {
            let folder = check.path(Path::new(STORE).parent().unwrap_or(Path::new("."))).clone();
            Some(StoreConfig::Postgres { url: poller::postgres(check, at)?, folder })
        }
        _ => {
            let what = match value {
                Reference::Literal(_) => String::new(),
                elsewhere => format!("what {} holds is no store; ", reference::show(elsewhere)),
            };
            check.error(
                span,
                format!("{what}expected `sqlite:PATH`, `postgres://USER@HOST/DATABASE` or `memory`, such as `sqlite:{STORE}`"),
            );
            None
        }
    }
}
