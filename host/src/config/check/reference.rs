//! What `env:NAME` and `file:PATH` stand for. Values are never shown, references are.

use std::fs;

use super::Check;
use crate::config::{
    Secret,
    document::Span,
    raw::{At, Reference},
};

/// The value of a reference, or the text that stands in its place.
pub(super) fn resolve(check: &mut Check<'_>, reference: &Reference, span: &Span) -> Option<String> {
    let found = match reference {
        Reference::Literal(text) => return Some(text.clone()),
        Reference::Env(name) if !is_variable(name) => Err("`env:` must be followed by the name of an environment variable".to_owned()),
        Reference::Env(name) => match (check.surroundings.env)(name) {
            Some(value) if value.is_empty() => Err(format!("the environment variable `{name}` is empty")),
            Some(value) => Ok(value),
            None => Err(format!("the environment variable `{name}` is not set (or not UTF-8)")),
        },
        Reference::File(path) => {
            let path = check.path(path);
            match fs::read_to_string(&path) {
                Ok(text) => match text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line)) {
                    "" => Err(format!("the file {} is empty", path.display())),
                    value => Ok(value.to_owned()),
                },
                Err(error) => Err(format!("cannot read the file {}: {error}", path.display())),
            }
        }
    };
    found.map_err(|message| check.error(span, message)).ok()
}

/// The value of a reference. What is written there literally is refused, and not shown.
pub(super) fn secret(check: &mut Check<'_>, At { value, span }: &At<Reference>) -> Option<Secret> {
    if matches!(value, Reference::Literal(_)) {
        check.error(span, "a secret does not belong in this file; refer to it by `env:NAME` or `file:PATH`");
        return None;
    }
    Some(Secret::new(resolve(check, value, span)?, show(value)))
}

/// A reference as it is written. A literal is not shown.
pub(super) fn show(reference: &Reference) -> String {
    match reference {
        Reference::Env(name) => format!("env:{name}"),
        Reference::File(path) => format!("file:{}", path.display()),
        Reference::Literal(_) => "a literal".to_owned(),
    }
}

/// Whether [`expand`] puts something from the environment into `text`.
pub(super) fn expands(text: &str) -> bool {
    text.replace("$${", "").contains("${")
}

/// `text` with every `${NAME}` replaced by the environment variable and every `$${` by `${`.
pub(super) fn expand(check: &mut Check<'_>, text: &str, span: &Span) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let Some((name, after)) = after.split_once('}').filter(|(name, _)| is_variable(name)) else {
            check.error(
                span,
                "`${` must be followed by the name of an environment variable and `}`; for the characters themselves write `$${`",
            );
            return expanded;
        };
        match (check.surroundings.env)(name) {
            Some(value) => expanded.push_str(&value),
            None => check.error(span, format!("the environment variable `{name}` is not set (or not UTF-8)")),
        }
        rest = after;
    }
    expanded.push_str(rest);
    expanded
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.as_bytes()[0].is_ascii_digit()
}
