//! A log for whoever writes handlers: short lines, and the line of a file that an error names.

use std::{
    fmt::{self, Write as _},
    fs,
    path::{Path, PathBuf},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// The longest line of a file that is shown, in characters.
const LINE: usize = 160;
/// The largest file a line of is shown, in bytes.
const FILE: u64 = 4 << 20;
/// How many places of one message are shown.
const PLACES: usize = 3;

/// Shows the places that messages name in the files of a folder.
pub(super) struct Places {
    pub(super) folder: PathBuf,
    pub(super) ansi: bool,
}

/// An event's message and its other fields.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            // Whose tenant it is is known.
            "tenant" => Ok(()),
            name => write!(self.fields, "  {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "tenant" => Ok(()),
            // A version by its beginning.
            "plugin" => write!(self.fields, "  plugin={}", value.get(..12).unwrap_or(value)),
            name if value.contains('\n') => write!(self.fields, "  {name}=\n    {}", value.replace('\n', "\n    ")),
            name => write!(self.fields, "  {name}={value}"),
        };
    }
}

impl<S, N> FormatEvent<S, N> for Places
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let level = *event.metadata().level();
        let (color, name) = match level {
            Level::ERROR => ("31", "error"),
            Level::WARN => ("33", "warn "),
            Level::INFO => ("32", "info "),
            _ => ("2", "debug"),
        };
        let time = jiff::Zoned::now().strftime("%H:%M:%S%.3f");
        // Ids and reasons are a guest's or a sender's: they must not speak to the terminal.
        let text: String =
            format!("{}{}", said.message, said.fields).chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect();
        if self.ansi {
            writeln!(writer, "\x1b[2m{time}\x1b[0m \x1b[{color}m{name}\x1b[0m {text}")?;
        } else {
            writeln!(writer, "{time} {name} {text}")?;
        }
        if level <= Level::WARN {
            for place in places(&text).into_iter().take(PLACES) {
                if let Some(shown) = self.shown(&place) {
                    write!(writer, "{shown}")?;
                }
            }
        }
        Ok(())
    }
}

/// `file:line:column`
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    file: &'a str,
    line: usize,
    column: usize,
}

/// Every place that a text names, each once.
fn places(text: &str) -> Vec<Place<'_>> {
    let mut places = Vec::new();
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '"' | '\'' | '`' | ','));
    for word in words {
        let mut parts = word.trim_end_matches(':').rsplitn(3, ':');
        let numbers = (parts.next().and_then(|column| column.parse().ok()), parts.next().and_then(|line| line.parse().ok()));
        let (Some(column), Some(line)) = numbers else { continue };
        let Some(file) = parts.next().filter(|file| !file.is_empty()) else { continue };
        let place = Place { file, line, column };
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

impl Places {
    /// The line, with a mark under the column; none, where there is no such line in the folder.
    fn shown(&self, place: &Place<'_>) -> Option<String> {
        let path = self.folder.join(Path::new(place.file));
        // What a message names is the guest's: nothing outside is shown.
        let (path, folder) = (path.canonicalize().ok()?, self.folder.canonicalize().ok()?);
        let inside = path.strip_prefix(&folder).ok()?;
        let hidden = inside.iter().any(|part| part.as_encoded_bytes().starts_with(b"."));
        let meta = fs::metadata(&path).ok()?;
        if !meta.is_file() || meta.len() > FILE || hidden || inside.starts_with("data") {
            return None;
        }
        let text = fs::read_to_string(&path).ok()?;
        let line: String =
            text.lines().nth(place.line.checked_sub(1)?)?.chars().take(LINE).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let number = place.line.to_string();
        let gutter = " ".repeat(number.len());
        let mark = format!("{}^", " ".repeat(place.column.saturating_sub(1).min(LINE)));
        Some(format!("  {gutter} --> {}:{}:{}\n  {number} | {line}\n  {gutter} | {mark}\n", inside.display(), place.line, place.column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_in_what_compilers_and_traces_say() {
        let found =
            places("handlers.a: lib/a.js:3:14: Unexpected token\n    at handle (b.ts:12:9), and at 12:30:00 nothing: c.js:1:2 c.js:1:2");
        let of = |file, line, column| Place { file, line, column };
        assert_eq!(found, [of("lib/a.js", 3, 14), of("b.ts", 12, 9), of("12", 30, 0), of("c.js", 1, 2)]);
    }

    #[test]
    fn the_line_of_a_place_is_shown_and_nothing_outside_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("project");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("a.js"), "one\nlet x = y;\n").unwrap();
        fs::write(folder.path().join("secret"), "secret\n").unwrap();
        let places = Places { folder: inner, ansi: false };
        let shown = places.shown(&Place { file: "a.js", line: 2, column: 9 });
        assert_eq!(shown.as_deref(), Some("    --> a.js:2:9\n  2 | let x = y;\n    |         ^\n"));
        assert_eq!(places.shown(&Place { file: "../secret", line: 1, column: 1 }), None);
        assert_eq!(places.shown(&Place { file: "a.js", line: 9, column: 1 }), None);
    }
}
