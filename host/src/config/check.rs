//! From what is written to what is meant: defaults, ranges, references, and what one part requires of another.
//!
//! Nothing stops at the first problem. Where a value is wrong its problem is noted and a stand-in takes its place, so that the rest can be
//! checked; a configuration with an error never leaves this module. Nothing here runs or binds anything, or reaches beyond the file system
//! and the environment.

use std::{
    fmt::Display,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::de::DeserializeOwned;

use super::{
    Config, Problem, Problems, Severity,
    document::{self, Document, Node, Span, Unreadable},
    raw::{At, Percent, Size, Time},
    suggest,
    units::{ShowDuration, ShowSize},
};
use crate::tenant::Tenant;

pub(super) use host::STORE;

mod broker;
mod handler;
mod host;
mod outbound;
mod poller;
mod queue;
mod reference;
mod routes;
mod sink;
mod source;
mod webhook;

/// What a configuration may refer to besides its own text.
pub(super) struct Surroundings<'a> {
    /// The environment.
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// Names of sources that the embedding program brings.
    pub(super) own: &'a [&'a str],
    /// There is a `tenants/` folder beside the file.
    pub(super) tenants: bool,
}

/// Check the text of a configuration.
pub(super) fn config(text: &str, file: &Path, surroundings: Surroundings<'_>) -> Result<Config, Problems> {
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(Unreadable { span, message, .. }) => {
            let (line, column) = document::place(text, &span);
            let problem = Problem { severity: Severity::Error, file: file.to_owned(), line, column, key: String::new(), message };
            return Err(Problems { errors: vec![problem], warnings: Vec::new() });
        }
    };
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = absolute.parent().map_or_else(PathBuf::new, Path::to_owned);
    let mut check = Check { document: &document, file, folder, surroundings, found: Problems::default(), blamed: Vec::new() };
    let config = check.file(absolute);
    check.finish(config)
}

/// A check in progress: what there is, and what was found.
struct Check<'a> {
    document: &'a Document<'a>,
    /// As it is named in problems.
    file: &'a Path,
    /// What relative paths are relative to.
    folder: PathBuf,
    surroundings: Surroundings<'a>,
    found: Problems,
    /// Keys that something was said about already, or that another one was probably meant to be: these are not missing.
    blamed: Vec<String>,
}

impl<'a> Check<'a> {
    fn file(&mut self, file: PathBuf) -> Config {
        if self.surroundings.tenants {
            self.error(&(0..0), "there is a `tenants` folder beside this file: tenants are not in this version yet");
        }
        let mut host = None;
        let mut sources = Vec::new();
        let mut handlers = Vec::new();
        let mut sinks = Vec::new();
        for (key, span, node) in self.document.entries() {
            match key {
                "host" => host = Some(node),
                "sources" => sources = self.tables(node),
                "handlers" => handlers = self.tables(node),
                "sinks" => sinks = self.tables(node),
                "tenants" => self.error(&span, format!("{key} are not in this version yet")),
                _ => self.unknown(&span, key, &["host", "sources", "handlers", "sinks"]),
            }
        }
        let host = host::check(self, host);
        let sources = source::check_all(self, &sources, &host);
        let handlers = handler::check_all(self, &handlers, &sources, &host);
        let sinks = sink::check_all(self, &sinks);
        routes::check(self, &host.store, &sources, &handlers);
        Config {
            file,
            host,
            sources: sources.found.into_iter().map(|source| source.config).collect(),
            handlers: handlers.into_iter().map(|handler| handler.config).collect(),
            sinks,
            warnings: Vec::new(),
            read_from: SystemTime::now(),
        }
    }

    fn finish(self, mut config: Config) -> Result<Config, Problems> {
        let mut found = self.found;
        let place = |problem: &Problem| (problem.line, problem.column);
        found.errors.sort_by_key(place);
        found.warnings.sort_by_key(place);
        if !found.errors.is_empty() {
            return Err(found);
        }
        config.warnings = found.warnings;
        Ok(config)
    }

    /// The entries of `[sources]`, `[handlers]` or `[sinks]`, in the order of the file, whose names are fit for keys, paths and metrics.
    fn tables(&mut self, node: &'a Node<'a>) -> Vec<Named<'a>> {
        let Some(table) = node.get_ref().as_table() else {
            self.error(&node.span(), format!("expected a table for each name, not {}", document::what(node.get_ref())));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (name, node) in table {
            let (name, span) = (name.get_ref().as_ref(), name.span());
            if !is_name(name) {
                self.error(&span, "a name has up to 64 letters, digits, `-` and `_`");
            } else if name == EMIT {
                self.error(&span, "this name is taken: it is the source of what handlers emit");
            }
            tables.push(Named { name, span, node });
        }
        tables.sort_by_key(|named| named.span.start);
        tables
    }

    fn error(&mut self, span: &Span, message: impl Into<String>) {
        let key = self.document.key_at(span);
        self.push(Severity::Error, span, key, message.into());
    }

    fn warning(&mut self, span: &Span, message: impl Into<String>) {
        let key = self.document.key_at(span);
        self.push(Severity::Warning, span, key, message.into());
    }

    /// `key` has to be in the table at `section`, unless something was said about it already.
    fn missing(&mut self, section: &Span, key: &str, hint: impl Display) {
        let key = format!("{}.{key}", self.document.key_at(section));
        let within = |blamed: &String| blamed.strip_prefix(&key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        if !self.blamed.iter().any(within) {
            self.push(Severity::Error, section, key, format!("missing; {hint}"));
        }
    }

    fn required<'f, T>(&mut self, section: &Span, key: &str, field: &'f Option<At<T>>, hint: impl Display) -> Option<&'f At<T>> {
        if field.is_none() {
            self.missing(section, key, hint);
        }
        field.as_ref()
    }

    fn unknown(&mut self, span: &Span, key: &str, allowed: &[&str]) {
        match suggest::nearest(key, allowed.iter().copied()) {
            Some(meant) => self.error(span, format!("unknown key; did you mean `{meant}`?")),
            None => self.error(span, format!("unknown key; here may stand {}", suggest::any_of(allowed))),
        }
    }

    fn push(&mut self, severity: Severity, span: &Span, key: String, message: String) {
        let (line, column) = self.document.place(span);
        let problem = Problem { severity, file: self.file.to_owned(), line, column, key, message };
        match severity {
            Severity::Error => {
                self.blamed.push(problem.key.clone());
                self.found.errors.push(problem);
            }
            Severity::Warning => self.found.warnings.push(problem),
        }
    }

    /// Read a table; what cannot be read is a problem each, and left out.
    fn read<T: DeserializeOwned>(&mut self, node: Node<'_>) -> Option<T> {
        let (value, unreadable) = document::read(node);
        for Unreadable { span, message, meant } in unreadable {
            self.error(&span, message);
            if let Some(meant) = meant {
                let key = self.document.key_at(&span);
                self.blamed.push(key.rsplit_once('.').map_or(meant.clone(), |(section, _)| format!("{section}.{meant}")));
            }
        }
        value
    }

    fn count(&mut self, field: &Option<At<u64>>, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(field) = field else { return default };
        self.within(field.value, range, &field.span, |count| count.to_string())
    }

    fn time(&mut self, field: &Option<At<Time>>, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let Some(field) = field else { return default };
        self.time_within(field.value.0, range, &field.span)
    }

    fn time_within(&mut self, time: Duration, range: RangeInclusive<Duration>, span: &Span) -> Duration {
        self.within(time, range, span, |time| ShowDuration(time).to_string())
    }

    fn size(&mut self, field: &Option<At<Size>>, default: u64, range: RangeInclusive<u64>) -> usize {
        let size =
            field.as_ref().map_or(default, |field| self.within(field.value.0, range, &field.span, |size| ShowSize(size).to_string()));
        usize::try_from(size).unwrap_or(usize::MAX)
    }

    fn percent(&mut self, field: &Option<At<Percent>>, default: f64, range: RangeInclusive<f64>) -> f64 {
        let Some(field) = field else { return default };
        self.within(field.value.0, range, &field.span, |share| format!("{}%", share * 100.0))
    }

    fn within<T: PartialOrd + Copy>(&mut self, value: T, range: RangeInclusive<T>, span: &Span, show: impl Fn(T) -> String) -> T {
        if !range.contains(&value) {
            self.error(span, format!("{} is out of range: {} to {}", show(value), show(*range.start()), show(*range.end())));
        }
        value
    }

    /// A path of the file as an absolute one.
    fn path(&self, written: impl AsRef<Path>) -> PathBuf {
        let path = self.folder.join(written);
        std::path::absolute(&path).unwrap_or(path)
    }

    /// Whose everything is, as long as there are no tenants.
    fn tenant(&self) -> Tenant {
        Tenant::default()
    }
}

/// The source of what handlers emit.
const EMIT: &str = "emit";

/// An entry of `[sources]`, `[handlers]` or `[sinks]`.
struct Named<'a> {
    name: &'a str,
    span: Span,
    node: &'a Node<'a>,
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = seconds(60);
const HOUR: Duration = seconds(3_600);
const DAY: Duration = seconds(86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
