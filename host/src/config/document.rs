//! A configuration file as a tree in which every key and value knows its place. It knows no key by name and judges no value.

use std::{fmt::Write, ops::Range};

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue, ValueDeserializer},
};

use super::suggest;

/// The most that is noted about one table: who has more to mend begins with these. It also bounds the work.
const MOST: usize = 50;

/// A place in the file, in bytes.
pub(crate) type Span = Range<usize>;

/// A value that knows its place.
pub(crate) type Node<'t> = Spanned<DeValue<'t>>;

/// A configuration file.
pub(crate) struct Document<'t> {
    text: &'t str,
    root: DeTable<'t>,
}

/// Something a piece of the file cannot be read as. There may be several in one piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// Where.
    pub(crate) span: Span,
    /// What is wrong. Never holds a value of the file: it may be a secret.
    pub(crate) message: String,
    /// The key that was probably meant instead of the one that is written there.
    pub(crate) meant: Option<String>,
}

impl<'t> Document<'t> {
    /// Read the tree. An error is one of TOML's syntax; nothing after it can be understood.
    pub(crate) fn parse(text: &'t str) -> Result<Self, Unreadable> {
        match DeTable::parse(text) {
            Ok(root) => Ok(Self { text, root: root.into_inner() }),
            Err(error) => {
                let span = error.span().unwrap_or_default();
                Err(Unreadable { span, message: format!("not TOML: {}", error.message()), meant: None })
            }
        }
    }

    /// The keys at the top and what they hold.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, Span, &Node<'t>)> {
        self.root.iter().map(|(key, node)| (key.get_ref().as_ref(), key.span(), node))
    }

    /// The key whose value, or whose name, is at `span`: `handlers.reserve.on[1].type`. Empty when there is none.
    pub(crate) fn key_at(&self, span: &Span) -> String {
        let mut search = Search::new(span);
        search.table(&self.root);
        let mut key = String::new();
        for step in search.best {
            match step {
                Step::Key(name) if key.is_empty() => key.push_str(&name),
                Step::Key(name) => {
                    key.push('.');
                    key.push_str(&name);
                }
                // Writing into a String cannot fail.
                Step::Index(index) => drop(write!(key, "[{index}]")),
            }
        }
        key
    }

    /// Line and column of the beginning of `span`, from 1.
    pub(crate) fn place(&self, span: &Span) -> (usize, usize) {
        place(self.text, span)
    }
}

/// Line and column, in characters and from 1, of the beginning of `span` in `text`.
pub(crate) fn place(text: &str, span: &Span) -> (usize, usize) {
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// Read a table as a `T`, with all that stands in the way: whatever cannot be read is noted, left out, and the rest is tried again.
pub(crate) fn read<T: DeserializeOwned>(mut node: Node<'_>) -> (Option<T>, Vec<Unreadable>) {
    let mut unreadable = Vec::new();
    if !matches!(node.get_ref(), DeValue::Table(_)) {
        let message = format!("expected a table, `{{ key = value }}`, not {}", what(node.get_ref()));
        return (None, vec![Unreadable { span: node.span(), message, meant: None }]);
    }
    loop {
        let error = match T::deserialize(ValueDeserializer::from(node.clone())) {
            Ok(value) => return (Some(value), unreadable),
            Err(error) => error,
        };
        let span = error.span().unwrap_or_else(|| node.span());
        let mut search = Search::new(&span);
        search.node(node.get_ref());
        let path = search.best;
        let (message, meant) = explain(error.message(), find(node.get_ref(), &path));
        unreadable.push(Unreadable { span, message, meant });
        if unreadable.len() == MOST || !remove(node.get_mut(), &path) {
            return (None, unreadable);
        }
    }
}

/// What a value is, without the value.
pub(crate) fn what(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// serde's message in our words, without the value that it quotes; and the key that was probably meant.
fn explain(message: &str, found: Option<&DeValue<'_>>) -> (String, Option<String>) {
    let (_, expected) = message.rsplit_once("expected ").unwrap_or_default();
    let allowed: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let quoted = message.split('`').nth(1).unwrap_or_default();
    if message.starts_with("unknown field") {
        return match suggest::nearest(quoted, allowed.iter().copied()) {
            Some(meant) => (format!("unknown key; did you mean `{meant}`?"), Some(meant.to_owned())),
            None => (format!("unknown key; here may stand {}", suggest::any_of(&allowed)), None),
        };
    }
    if message.starts_with("unknown variant") {
        let hint = suggest::nearest(quoted, allowed.iter().copied()).map(|meant| format!("; did you mean `{meant}`?"));
        return (format!("must be {}{}", suggest::any_of(&allowed), hint.unwrap_or_default()), None);
    }
    let wanted = match expected {
        "a boolean" => "true or false",
        "a sequence" => "an array",
        "a map" => "a table",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        other => other,
    };
    // toml's own words for a value that cannot name a variant.
    let wanted = if message.starts_with("wanted ") { "a string" } else { wanted };
    if message.starts_with("invalid value") {
        (format!("expected {wanted}"), None)
    } else if message.starts_with("invalid type") || message.starts_with("wanted ") {
        (format!("expected {wanted}, not {}", found.map_or("this", what)), None)
    } else {
        (message.to_owned(), None)
    }
}

#[derive(Clone)]
enum Step {
    Key(String),
    Index(usize),
}

/// Looks for the innermost entry at a place. Tables under `[headers]` do not enclose their entries, so that everything is looked at.
struct Search<'s> {
    wanted: &'s Span,
    path: Vec<Step>,
    best: Vec<Step>,
    best_len: usize,
}

impl<'s> Search<'s> {
    fn new(wanted: &'s Span) -> Self {
        Self { wanted, path: Vec::new(), best: Vec::new(), best_len: usize::MAX }
    }

    fn node(&mut self, value: &DeValue<'_>) {
        match value {
            DeValue::Table(table) => self.table(table),
            DeValue::Array(array) => {
                for (index, node) in array.iter().enumerate() {
                    self.path.push(Step::Index(index));
                    // An array of `[[tables]]` is at the same place as its first table; what is said there is about the array.
                    if node.span().len() < self.best_len {
                        self.consider(&node.span());
                    }
                    self.node(node.get_ref());
                    self.path.pop();
                }
            }
            _ => {}
        }
    }

    fn table(&mut self, table: &DeTable<'_>) {
        for (key, node) in table {
            self.path.push(Step::Key(key.get_ref().to_string()));
            self.consider(&key.span());
            self.consider(&node.span());
            self.node(node.get_ref());
            self.path.pop();
        }
    }

    fn consider(&mut self, span: &Span) {
        let inside = span.start <= self.wanted.start && self.wanted.end <= span.end;
        if inside && span.len() <= self.best_len {
            self.best_len = span.len();
            self.best.clone_from(&self.path);
        }
    }
}

fn find<'n, 't>(value: &'n DeValue<'t>, path: &[Step]) -> Option<&'n DeValue<'t>> {
    path.iter().try_fold(value, |value, step| {
        let node = match step {
            Step::Key(name) => value.get(name.as_str()),
            Step::Index(index) => value.get(*index),
        };
        node.map(Spanned::get_ref)
    })
}

/// Take away the entry at `path`; false when there is none.
fn remove(value: &mut DeValue<'_>, path: &[Step]) -> bool {
    match (value, path) {
        (DeValue::Table(table), [Step::Key(name)]) => table.remove(name.as_str()).is_some(),
        (DeValue::Array(array), [Step::Index(index)]) if *index < array.len() => {
            let mut kept = DeArray::new();
            array.iter().enumerate().filter(|(at, _)| at != index).for_each(|(_, node)| kept.push(node.clone()));
            *array = kept;
            true
        }
        (DeValue::Table(table), [Step::Key(name), rest @ ..]) => {
            table.get_mut(name.as_str()).is_some_and(|node| remove(node.get_mut(), rest))
        }
        (DeValue::Array(array), [Step::Index(index), rest @ ..]) => array.get_mut(*index).is_some_and(|node| remove(node.get_mut(), rest)),
        _ => false,
    }
}
