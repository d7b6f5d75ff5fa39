//! `kind = "poller"`: the database and how its rows become events.

use std::{fs, path::Path, str::FromStr, time::Duration};

use sqlx::{mysql::MySqlConnectOptions, postgres::PgConnectOptions};

use super::{Check, DAY, HOUR, broker, reference, seconds};
use crate::config::{
    ClaimDone, ConditionOn, PollMode, PollerConfig, Secret, SourceKind,
    document::Span,
    raw::{self, At, Common, Reference, Table},
    suggest,
};

/// A kind of database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
    MySql,
}

/// What may stand in the query of a URL, as sqlx reads it. It logs what it does not know, and ignores it.
const POSTGRES_OPTIONS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
const MYSQL_OPTIONS: &[&str] =
    &["sslmode", "ssl-mode", "sslca", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key", "charset", "collation", "socket"];

pub(super) fn check(check: &mut Check<'_>, section: &Span, raw: raw::Poller) -> (Common, SourceKind) {
    let hint = "the database, such as `sqlite:billing.db` or `env:BILLING_DATABASE_URL`";
    let database = check.required(section, "database", &raw.database, hint).and_then(|at| database(check, at));
    check.required(section, "every", &raw.every, "the time between polls, such as `2s`");
    let (kind, url) = database.unzip();
    only_for(check, kind, &raw);
    let kind = SourceKind::Poller(PollerConfig {
        database: url.unwrap_or_else(|| Secret::new("", "")),
        setup: raw.setup.as_ref().and_then(|at| setup(check, at)),
        every: check.time(&raw.every, seconds(1), Duration::from_millis(10)..=DAY),
        wake: raw.wake.as_ref().map(|at| column_of(check, at, "a channel's name has letters, digits and `_`", 1)),
        mode: mode(check, section, &raw),
    });
    (Common { in_flight: raw.in_flight, unmatched: raw.unmatched, intake: raw.intake }, kind)
}

/// What not every database can do.
fn only_for(check: &mut Check<'_>, kind: Option<Kind>, raw: &raw::Poller) {
    let Some(kind) = kind else { return };
    let setup =
        (kind != Kind::Sqlite, raw.setup.as_ref().map(|at| &at.span), "makes SQLite databases only; make this one with its own tools");
    let wake =
        (kind != Kind::Postgres, raw.wake.as_ref().map(|at| &at.span), "only PostgreSQL notifies; elsewhere poll more often by `every`");
    let why = "only PostgreSQL can tell which transactions have ended; elsewhere a row that is committed late would be passed by: use `claim` or `query`";
    let cursor = (kind != Kind::Postgres, raw.cursor.as_ref().map(|at| &at.span), why);
    for (refused, span, why) in [setup, wake, cursor] {
        if let (true, Some(span)) = (refused, span) {
            check.error(span, why);
        }
    }
}

/// The URL of the database. A literal one is fine as long as it holds no password.
fn database(check: &mut Check<'_>, at: &At<Reference>) -> Option<(Kind, Secret)> {
    const EXPECTED: &str = "`sqlite:PATH`, `postgres://USER@HOST/DATABASE` or `mysql://USER@HOST/DATABASE`";
    let At { value, span } = at;
    let url = reference::resolve(check, value, span)?;
    let (scheme, rest) = url.split_once(':').unwrap_or_default();
    match scheme {
        "sqlite" => {
            let url = sqlite(&check.folder, rest);
            if url.is_none() {
                check.error(span, "expected `sqlite:PATH` with the path of a file; a database in memory has nothing to poll");
            }
            let shown = if matches!(value, Reference::Literal(_)) { format!("sqlite:{rest}") } else { reference::show(value) };
            Some((Kind::Sqlite, Secret::new(url?, shown)))
        }
        "postgres" | "postgresql" => Some((Kind::Postgres, postgres(check, at)?)),
        "mysql" | "mariadb" => Some((Kind::MySql, server(check, at, &["mysql", "mariadb"], MYSQL_OPTIONS)?)),
        _ => {
            let message = match value {
                Reference::Literal(_) => format!("expected {EXPECTED}, or `env:NAME` or `file:PATH` for a URL that holds a password"),
                elsewhere => format!("what {} holds is no URL of a database; expected {EXPECTED}", reference::show(elsewhere)),
            };
            check.error(span, message);
            None
        }
    }
}

/// A URL of a PostgreSQL database.
pub(super) fn postgres(check: &mut Check<'_>, at: &At<Reference>) -> Option<Secret> {
    server(check, at, &["postgres", "postgresql"], POSTGRES_OPTIONS)
}

/// A URL of a server, with options it knows.
fn server(check: &mut Check<'_>, at: &At<Reference>, schemes: &[&str], options: &[&str]) -> Option<Secret> {
    let url = broker::url(check, at, schemes)?;
    let literal = matches!(at.value, Reference::Literal(_));
    let parsed = url::Url::parse(url.expose()).ok()?;
    for (option, _) in parsed.query_pairs() {
        if literal && option == "password" {
            check.error(&at.span, "a URL with a password does not belong in this file; refer to it by `env:NAME` or `file:PATH`");
            return None;
        }
        if !options.contains(&&*option) && !option.starts_with("options[") {
            // In a reference it may be a part of a password that is not encoded.
            let named = if literal { format!("an option `{option}`") } else { "an option".to_owned() };
            check.error(&at.span, format!("the URL has {named} that is not known; known are {}", suggest::any_of(options)));
            return None;
        }
    }
    let usable = match schemes[0] {
        "mysql" => MySqlConnectOptions::from_str(url.expose()).is_ok(),
        _ => PgConnectOptions::from_str(url.expose()).is_ok(),
    };
    if !usable {
        check.error(&at.span, "the URL has an option with a value that cannot be; is its mode of TLS spelled right?");
        return None;
    }
    Some(url)
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
        raw.cursor.as_ref().map(|at| ("cursor", &at.span)),
        raw.query.as_ref().map(|at| ("query", &at.span)),
        raw.condition.as_ref().map(|at| ("condition", &at.span)),
    ];
    let mut modes = places.into_iter().flatten();
    let chosen = modes.next();
    for (_, span) in modes {
        check.error(span, "a poller has one of `claim`, `cursor`, `query` and `condition`; make this another source");
    }
    let Some((chosen, _)) = chosen else {
        check.missing(section, "claim", "or `cursor`, `query` or `condition`: how rows become events");
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
    if let Some(cursor) = &raw.cursor {
        return self::cursor(check, cursor);
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
        table: table.map(|at| self::table(check, at)).unwrap_or_default(),
        key: key.map(|at| column(check, at)).unwrap_or_default(),
        filter: raw.filter.as_ref().map(|at| statement(check, at)),
        done: raw.done.as_ref().map_or(ClaimDone::Mark, |at| done(check, at)),
        lease: check.time(&raw.lease, seconds(30), seconds(1)..=HOUR),
    }
}

fn cursor(check: &mut Check<'_>, At { value: Table(raw), span: section }: &At<Table<raw::Cursor>>) -> PollMode {
    let table = check.required(section, "table", &raw.table, "the table whose rows are read");
    let key = check.required(section, "key", &raw.key, "the table's key column");
    PollMode::Cursor {
        table: table.map(|at| self::table(check, at)).unwrap_or_default(),
        key: key.map(|at| column(check, at)).unwrap_or_default(),
        xid: raw.xid.as_ref().map_or_else(|| "xid".to_owned(), |at| column(check, at)),
        filter: raw.filter.as_ref().map(|at| statement(check, at)),
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

fn table(check: &mut Check<'_>, at: &At<String>) -> String {
    column_of(check, at, "a table's name has letters, digits and `_`, and a schema before it may be: `main.orders`", 2)
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
