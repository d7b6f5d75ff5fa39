//! Finding an import in a module's text, for error messages: QuickJS says neither file nor line when an import fails.
//!
//! This is a search, not a parser. It skips comments, and what it finds only ever decides which line is named.

use crate::errors::{Kind, throw};
use crate::host::{EXPORTS, MODULE};
use crate::modules::{resolve, with_sources};

/// `file.js:line:column` of the import of `specifier` in the module `path`.
pub fn line_of_specifier(path: &str, specifier: &str) -> Option<String> {
    with_source(path, |text| {
        let clauses = clauses(text);
        let clause = clauses.iter().find(|clause| clause.specifier == specifier)?;
        Some(place(path, text, clause.specifier_at))
    })
}

/// A better error for QuickJS's "Could not find export 'NAME' in module 'PATH'": who imports it, where, and what there is instead. `None`
/// if the message is another one.
pub fn missing_export(ctx: &rquickjs::Ctx<'_>, message: &str) -> Option<rquickjs::Error> {
    let (name, module) = message.strip_prefix("Could not find export '")?.strip_suffix('\'')?.split_once("' in module '")?;
    let there = if module == MODULE { EXPORTS.iter().map(|&name| name.to_owned()).collect() } else { exports_of(module) };
    let instead = if there.is_empty() { "it exports nothing".to_owned() } else { format!("it exports {}", there.join(", ")) };
    let shown = if module == MODULE { "\"koksmat\"" } else { module };
    let error = throw(ctx, Kind::Syntax, &format!("{shown} has no export `{name}`: {instead}"));
    let frame = importer_of(name, module).map(|place| format!("    at {place}\n")).unwrap_or_default();
    Some(crate::errors::with_property(ctx, error, "stack", &frame))
}

/// One `import … from "…"`, `export … from "…"`, `import "…"` or `import("…")`.
struct Clause<'a> {
    /// What is between the keyword and `from`, with its offset.
    names: &'a str,
    names_at: usize,
    specifier: &'a str,
    /// Of the opening quote.
    specifier_at: usize,
}

fn clauses(text: &str) -> Vec<Clause<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((keyword_at, keyword_end)) = next_keyword(text, at) {
        at = keyword_end;
        let rest = &text[keyword_end..];
        // Up to the specifier there are names, braces, commas, `*`, `as`, `from`, and for a dynamic import a parenthesis.
        let quote = rest.find(['"', '\'']);
        let Some(quote) = quote.filter(|quote| rest[..*quote].chars().all(in_clause)) else {
            continue;
        };
        let mark = &rest[quote..=quote];
        let Some(length) = rest[quote + 1..].find(mark) else {
            continue;
        };
        let names = rest[..quote].trim_end();
        if text[keyword_at..].starts_with("export") && !names.ends_with("from") {
            continue;
        }
        found.push(Clause {
            names: names.strip_suffix("from").unwrap_or(names),
            names_at: keyword_end,
            specifier: &rest[quote + 1..quote + 1 + length],
            specifier_at: keyword_end + quote,
        });
        at = keyword_end + quote + length + 2;
    }
    found
}

fn in_clause(character: char) -> bool {
    character.is_alphanumeric() || character.is_whitespace() || matches!(character, '_' | '$' | '{' | '}' | ',' | '*' | '(')
}

/// The next `import` or `export` that is a word of its own and in no comment: (begin, end).
fn next_keyword(text: &str, from: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.starts_with(b"//") {
            at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            at += 2 + rest[2..].windows(2).position(|pair| pair == b"*/").map_or(rest.len() - 2, |end| end + 2);
        } else if (rest.starts_with(b"import") || rest.starts_with(b"export"))
            && (at == 0 || !is_word(bytes[at - 1]))
            && rest.get(6).is_none_or(|next| !is_word(*next))
        {
            return Some((at, at + 6));
        } else {
            at += 1;
        }
    }
    None
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.')
}

/// Where a module imports `name` from the module at `target`.
fn importer_of(name: &str, target: &str) -> Option<String> {
    with_sources(|sources| {
        for (path, text) in sources {
            for clause in clauses(text) {
                if resolve(path, clause.specifier).as_deref() != Ok(target) {
                    continue;
                }
                if let Some(at) = position_of_word(clause.names, name) {
                    return Some(place(path, text, clause.names_at + at));
                }
                let imports_default =
                    clause.names.trim_start().starts_with(|first: char| first.is_alphabetic() || first == '_' || first == '$');
                if name == "default" && imports_default {
                    return Some(place(path, text, clause.specifier_at));
                }
            }
        }
        None
    })
}

fn position_of_word(text: &str, word: &str) -> Option<usize> {
    text.match_indices(word).map(|(at, _)| at).find(|at| {
        let before = text[..*at].bytes().next_back();
        let after = text[at + word.len()..].bytes().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The names a module seems to export.
fn exports_of(path: &str) -> Vec<String> {
    with_source(path, |text| {
        let mut names = Vec::new();
        let mut at = 0;
        while let Some((begin, end)) = next_keyword(text, at) {
            at = end;
            if !text[begin..].starts_with("export") {
                continue;
            }
            let rest = text[end..].trim_start();
            if let Some(list) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                names.extend(list.0.split(',').filter_map(|item| item.split_whitespace().last().map(str::to_owned)));
                continue;
            }
            let mut words = rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).filter(|word| !word.is_empty());
            let mut word = words.next();
            while matches!(word, Some("async" | "function" | "class" | "const" | "let" | "var")) {
                word = words.next();
            }
            names.extend(word.map(str::to_owned));
        }
        names.sort();
        names.dedup();
        Some(names)
    })
    .unwrap_or_default()
}

fn with_source<R>(path: &str, look: impl FnOnce(&str) -> Option<R>) -> Option<R> {
    with_sources(|sources| sources.iter().find(|(known, _)| *known == path).and_then(|(_, text)| look(text)))
}

/// Lines and columns count from 1, columns in characters, as QuickJS has them.
fn place(path: &str, text: &str, at: usize) -> String {
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{path}:{line}:{column}")
}
