//! From positions in the JavaScript that runs to positions in the TypeScript that was written.
//!
//! Only TypeScript modules have an entry: JavaScript goes in as it is. The table travels with the component, in a custom section, so that
//! an error at run time is rewritten with nothing else at hand.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use super::error::Place;

/// Where in the user's files each stretch of the running code came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Positions {
    files: BTreeMap<String, Vec<Stretch>>,
}

/// From (line, column) of the running code on, the code stands at (line, column) of the user's file: all counted from 0.
/// It holds up to the next stretch, or to the end of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u32; 4]", into = "[u32; 4]")]
pub(crate) struct Stretch {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) source_line: u32,
    pub(crate) source_column: u32,
}

impl Positions {
    /// Remember a module. `stretches` come in the order of the running code.
    pub(crate) fn insert(&mut self, module: &str, stretches: impl IntoIterator<Item = Stretch>) {
        let mut kept: Vec<Stretch> = Vec::new();
        for stretch in stretches {
            // Most of the code is printed as it was written: what follows from the stretch before need not be kept.
            if kept.last().and_then(|last| last.at(stretch.line, stretch.column)) != Some((stretch.source_line, stretch.source_column)) {
                kept.push(stretch);
            }
        }
        self.files.insert(module.to_owned(), kept);
    }

    /// Rewrite every `MODULE:LINE:COLUMN` and `MODULE:LINE` in `text`, both counted from 1. To be called once on each text.
    pub(crate) fn rewrite(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((at, module, stretches)) = self.first_mention(rest, out.chars().next_back()) {
            let after = at + module.len();
            out.push_str(&rest[..after]);
            rest = &rest[after..];
            let Some((line, taken)) = number_after_colon(rest) else { continue };
            let column = number_after_colon(&rest[taken..]);
            match (column, found(stretches, line, column.map(|(column, _)| column))) {
                (Some((_, more)), Some((line, column))) => {
                    let _ = write!(out, ":{line}:{column}");
                    rest = &rest[taken + more..];
                }
                (None, Some((line, _))) => {
                    let _ = write!(out, ":{line}");
                    rest = &rest[taken..];
                }
                (_, None) => {}
            }
        }
        out.push_str(rest);
        out
    }

    /// The first place in `text` where a module is named, the longest name where several end there.
    fn first_mention<'a>(&'a self, text: &str, before: Option<char>) -> Option<(usize, &'a str, &'a [Stretch])> {
        self.files
            .iter()
            .filter_map(|(module, stretches)| {
                let at = mention(text, before, module)?;
                Some((at, module.as_str(), stretches.as_slice()))
            })
            .min_by_key(|(at, module, _)| (*at, std::cmp::Reverse(module.len())))
    }
}

/// The first `MODULE:LINE:COLUMN` in `text`.
pub(super) fn first_place<'a>(text: &str, modules: impl Iterator<Item = &'a str>) -> Option<(&'a str, Place)> {
    let (at, module) = modules.filter_map(|module| Some((mention(text, None, module)?, module))).min_by_key(|(at, _)| *at)?;
    let rest = &text[at + module.len()..];
    let (line, taken) = number_after_colon(rest)?;
    let (column, _) = number_after_colon(&rest[taken..])?;
    Some((module, Place { line, column }))
}

impl Stretch {
    /// The user's position of a position of the running code, if this stretch reaches it.
    fn at(&self, line: u32, column: u32) -> Option<(u32, u32)> {
        (line == self.line && column >= self.column).then(|| (self.source_line, self.source_column.saturating_add(column - self.column)))
    }
}

impl From<[u32; 4]> for Stretch {
    fn from([line, column, source_line, source_column]: [u32; 4]) -> Self {
        Self { line, column, source_line, source_column }
    }
}

impl From<Stretch> for [u32; 4] {
    fn from(stretch: Stretch) -> Self {
        [stretch.line, stretch.column, stretch.source_line, stretch.source_column]
    }
}

/// The user's line and column, from 1, of a line and column of the running code, from 1.
fn found(stretches: &[Stretch], line: u32, column: Option<u32>) -> Option<(u32, u32)> {
    let line = line.checked_sub(1)?;
    let column = column.unwrap_or(u32::MAX).saturating_sub(1);
    let until = stretches.partition_point(|stretch| (stretch.line, stretch.column) <= (line, column));
    // What the compiler added in front of a line has no stretch of its own: the line's first is nearest.
    let stretch = match stretches[..until].last() {
        Some(stretch) if stretch.line == line => stretch,
        nearest => stretches.get(until).filter(|next| next.line == line).or(nearest)?,
    };
    let (line, column) = stretch.at(line, column).unwrap_or((stretch.source_line, stretch.source_column));
    Some((line.saturating_add(1), column.saturating_add(1)))
}

/// Where `text`, which stands behind `before`, first names `module` with a position.
fn mention(text: &str, before: Option<char>, module: &str) -> Option<usize> {
    let whole = |&(at, _): &(usize, &str)| {
        let before = text[..at].chars().next_back().or(before);
        !before.is_some_and(is_path) && number_after_colon(&text[at + module.len()..]).is_some()
    };
    text.match_indices(module).find(whole).map(|(at, _)| at)
}

fn is_path(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '/' | '_' | '-' | '.')
}

/// The number behind a colon at the start of `text`, and how many bytes both take.
fn number_after_colon(text: &str) -> Option<(u32, usize)> {
    let digits = text.strip_prefix(':')?;
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    Some((digits[..length].parse().ok()?, length + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions() -> Positions {
        let mut positions = Positions::default();
        // Line 1 of the running code is line 4 of the file, two columns further in; its line 2 is line 9.
        positions.insert("handlers/a.ts", [[0, 0, 3, 2].into(), [0, 5, 3, 7].into(), [1, 4, 8, 0].into()]);
        positions.insert("a.ts", [[0, 0, 99, 0].into()]);
        positions
    }

    #[test]
    fn positions_in_a_stack_become_those_of_the_file() {
        let text = "Error: no\n    at handle (handlers/a.ts:1:8)\n    at b (other.js:1:8)\n    at handlers/a.ts:2:9";
        assert_eq!(
            positions().rewrite(text),
            "Error: no\n    at handle (handlers/a.ts:4:10)\n    at b (other.js:1:8)\n    at handlers/a.ts:9:5"
        );
    }

    #[test]
    fn only_the_name_as_a_whole_is_taken_for_the_module() {
        assert_eq!(
            positions().rewrite("a.ts:1:1 lib/a.ts:1:1 a.ts is fine, a.ts: too, a.tsx:1:1"),
            "a.ts:100:1 lib/a.ts:1:1 a.ts is fine, a.ts: too, a.tsx:1:1"
        );
    }

    #[test]
    fn a_line_without_a_column_stays_without() {
        assert_eq!(positions().rewrite("handlers/a.ts:2: no"), "handlers/a.ts:9: no");
    }

    #[test]
    fn code_before_a_lines_first_stretch_is_the_lines() {
        assert_eq!(positions().rewrite("handlers/a.ts:2:1"), "handlers/a.ts:9:1");
    }

    #[test]
    fn what_follows_from_the_stretch_before_is_not_kept() {
        assert_eq!(positions().files["handlers/a.ts"].len(), 2);
    }

    #[test]
    fn the_table_survives_its_section() {
        let json = serde_json::to_vec(&positions()).unwrap();
        assert_eq!(serde_json::from_slice::<Positions>(&json).unwrap(), positions());
    }
}
