//! `kind = "poller"`: the database and how its rows become events.

use std::{fs, path::Path, time::Duration};

use super::{Check, DAY, HOUR, reference, seconds};
use crate::config::{
    ClaimDone, ConditionOn, PollMode, PollerConfig, Secret, SourceKind,
    document::Span,
    raw::{self, At, Common, Reference, Table},
};

pub(super) fn check(check: &mut Check<'_>, section: &Span, raw: raw::Poller) -> (Common, SourceKind) {
    let hint = "the database, such as `sqlite:billing.db` or `env:BILLING_DATABASE_URL`";
    let database = check.required(section, "database", &raw.database, hint).and_then(|at| database(check, at));
    check.required(section, "every", &raw.every, "the time between polls, such as `2s`");
    let kind = SourceKind::Poller(PollerConfig {
        database: database.unwrap_or_else(|| Secret::new("", "")),
        setup: raw.setup.as_ref().and_then(|at| setup(check, at)),
        every: check.time(&raw.every, seconds(1), Duration::from_millis(10)..=DAY),
        mode: mode(check, section, &raw),
    });
    (Common { in_flight: raw.in_flight, unmatched: raw.unmatched, intake: raw.intake }, kind)
}

/// The URL of the database. A literal one is fine as long as it cannot hold a password.
fn database(check: &mut Check<'_>, At { value, span }: &At<Reference>) -> Option<Secret> {
    let url = reference::resolve(check, value, span)?;
    let (scheme, rest) = url.split_once(':').unwrap_or_default();
    let later = match scheme {
        "sqlite" => {
            let url = sqlite(&check.folder, rest);
            if url.is_none() {
                check.error(span, "expected `sqlite:PATH` with the path of a file; a database in memory has nothing to poll");
            }
            let shown = if matches!(value, Reference::Literal(_)) { format!("sqlite:{rest}") } else { reference::show(value) };
            return Some(Secret::new(url?, shown));
        }
        "postgres" | "postgresql" => "PostgreSQL",
        "mysql" | "mariadb" => "MySQL",
        _ => {
            let message = match value {
                Reference::Literal(_) => "expected `sqlite:PATH`, or `env:NAME` or `file:PATH` for a URL that holds a password".to_owned(),
                elsewhere => format!("what {} holds is no URL of a database; expected `sqlite:PATH`", reference::show(elsewhere)),
            };
            check.error(span, message);
            return None;
        }
    };
    check.error(span, format!("polling {later} is not in this version yet; `sqlite:PATH` is"));
    None
}

/// A SQLite URL with an absolute path; sqlx decodes `%` in it and takes what follows `?` as options.
fn sqlite(folder: &Path, rest: &str) -> Option<String> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let path = rest.split('?').next().unwrap_or_default();
    if path.is_empty() || path.ends_with('/') || path.starts_with(':') {
        return None;
    }
    if path.starts_with('/') {
        return Some(format!("sqlite:{rest}"));
    }
    let folder = folder.to_str()?.replace('%', "%25").replace('?', "%3F");
    Some(format!("sqlite:{}/{}", folder.trim_end_matches('/'), rest.strip_prefix("./").unwrap_or(rest)))
}

/// The SQL that makes the database.
fn setup(check: &mut Check<'_>, At { value, span }: &At<String>) -> Option<String> {
    let path = check.path(value);
    let read = fs::read_to_string(&path);
    read.map_err(|error| check.error(span, format!("cannot read the file {}: {error}", path.display()))).ok()
}

fn mode(check: &mut Check<'_>, section: &Span, raw: &raw::Poller) -> PollMode {
    let places = [
        raw.claim.as_ref().map(|at| ("claim", &at.span)),
        raw.query.as_ref().map(|at| ("query", &at.span)),
        raw.condition.as_ref().map(|at| ("condition", &at.span)),
    ];
    let mut modes = places.into_iter().flatten();
    let chosen = modes.next();
    for (_, span) in modes {
        check.error(span, "a poller has one of `claim`, `query` and `condition`; make this another source");
    }
    let Some((chosen, _)) = chosen else {
        check.missing(section, "claim", "or `query`, or `condition`: how rows become events");
        return PollMode::Condition { condition: String::new(), on: ConditionOn::True };
    };
    let belongs = [
        ("query", raw.key.as_ref().map(|at| &at.span)),
        ("query", raw.version.as_ref().map(|at| &at.span)),
        ("condition", raw.on.as_ref().map(|at| &at.span)),
    ];
    for (mode, span) in belongs {
        if let (true, Some(span)) = (mode != chosen, span) {
            check.error(span, format!("this key goes with `{mode}`, not with `{chosen}`"));
        }
    }
    if let Some(claim) = &raw.claim {
        return self::claim(check, claim);
    }
    if let Some(query) = &raw.query {
        let key = check.required(section, "key", &raw.key, "the column of the query that says which row it is");
        return PollMode::Query {
            query: statement(check, query),
            key: key.map(|at| column(check, at)).unwrap_or_default(),
            version: raw.version.as_ref().map(|at| column(check, at)),
        };
    }
    let condition = raw.condition.as_ref().map(|at| statement(check, at)).unwrap_or_default();
    PollMode::Condition { condition, on: raw.on.as_ref().map_or(ConditionOn::True, |at| at.value) }
}

fn claim(check: &mut Check<'_>, At { value: Table(raw), span: section }: &At<Table<raw::Claim>>) -> PollMode {
    let table = check.required(section, "table", &raw.table, "the table whose rows are claimed");
    let key = check.required(section, "key", &raw.key, "the table's key column");
    PollMode::Claim {
        table: table
            .map(|at| column_of(check, at, "a table's name has letters, digits and `_`, and a schema before it may be: `main.orders`", 2))
            .unwrap_or_default(),
        key: key.map(|at| column(check, at)).unwrap_or_default(),
        filter: raw.filter.as_ref().map(|at| statement(check, at)),
        done: raw.done.as_ref().map_or(ClaimDone::Mark, |at| done(check, at)),
        lease: check.time(&raw.lease, seconds(30), seconds(1)..=HOUR),
    }
}

fn done(check: &mut Check<'_>, At { value, span }: &At<String>) -> ClaimDone {
    match value.as_str() {
        "mark" => return ClaimDone::Mark,
        "delete" => return ClaimDone::Delete,
        _ => {}
    }
    match value.split_once(char::is_whitespace) {
        Some((set, assignments)) if set.eq_ignore_ascii_case("set") && !assignments.trim().is_empty() => {
            ClaimDone::Set(assignments.trim().to_owned())
        }
        _ => {
            check.error(span, "must be `mark`, `delete` or what to set, such as `set status = 'sent'`");
            ClaimDone::Mark
        }
    }
}

fn statement(check: &mut Check<'_>, At { value, span }: &At<String>) -> String {
    let statement = value.trim().trim_end_matches(';').trim_end();
    if statement.is_empty() {
        check.error(span, "is empty; expected SQL");
    }
    statement.to_owned()
}

fn column(check: &mut Check<'_>, at: &At<String>) -> String {
    column_of(check, at, "a column's name has letters, digits and `_`", 1)
}

/// A plain name, or up to `parts` of them with dots between.
fn column_of(check: &mut Check<'_>, At { value, span }: &At<String>, expected: &str, parts: usize) -> String {
    let plain = |name: &str| {
        !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if value.split('.').count() > parts || !value.split('.').all(plain) {
        check.error(span, expected);
    }
    value.clone()
}
