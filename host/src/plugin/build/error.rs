//! What can go wrong while a component is made, in words for the one who wrote the handler.

use std::{fmt, io, path::PathBuf, time::Duration};

use super::encode::EncodeError;

/// Why there is no component. The text of each is complete: it has no further source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// Everything that is wrong with a script, each with its place.
    #[error("{0}")]
    Script(Problems),
    /// A file or folder that is named in the configuration cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// A file is not what can be run, and no tool of ours makes it so.
    #[error("{}: {reason}", path.display())]
    Encode {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: EncodeError,
    },
    /// A folder cannot be built as it is.
    #[error("{}: {reason}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A build tool is not there or cannot be started.
    #[error("{}: cannot start `{program}`: {reason}", folder.display())]
    Start {
        /// Where it was to run.
        folder: PathBuf,
        /// The tool.
        program: String,
        /// Why.
        reason: io::Error,
    },
    /// A build tool failed.
    #[error("{}: `{command}` failed ({status})\n{output}", folder.display())]
    Failed {
        /// Where it ran.
        folder: PathBuf,
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The last lines it wrote.
        output: String,
    },
    /// A build tool took too long and was stopped.
    #[error("{}: `{command}` was stopped after {} s\n{output}", folder.display(), after.as_secs())]
    TooSlow {
        /// Where it ran.
        folder: PathBuf,
        /// The command line.
        command: String,
        /// What it was given.
        after: Duration,
        /// The last lines it wrote.
        output: String,
    },
    /// The cache folder cannot be used.
    #[error("cache folder {}: {reason}", path.display())]
    Cache {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The engine refused a component or failed on it.
    #[error("{what}: {reason:#}")]
    Engine {
        /// What was tried.
        what: &'static str,
        /// What the engine said.
        reason: wasmtime::Error,
    },
    /// A thread of the build ended without an answer.
    #[error("the build stopped half-way: {0}")]
    Stopped(tokio::task::JoinError),
}

impl From<Problems> for BuildError {
    fn from(problems: Problems) -> Self {
        Self::Script(problems)
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The module's name: its path in the project.
    pub(crate) file: String,
    /// Where in it; absent when the whole file is meant or the message says where.
    pub(crate) place: Option<Place>,
    /// What, and what to do.
    pub(crate) message: String,
}

/// A place in a file, both numbers from 1. Columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Place {
    /// The place of a byte of `text`; beyond its end, the end.
    pub(crate) fn of(text: &str, byte: u32) -> Self {
        let mut end = (byte as usize).min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line = before.bytes().filter(|&byte| byte == b'\n').count();
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        Self { line: small(line) + 1, column: small(before[start..].chars().count()) + 1 }
    }
}

/// Files are bounded far below this.
fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX - 1)
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(Place { line, column }) => write!(f, "{}:{line}:{column}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// Several problems, one a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    /// Add one.
    pub(crate) fn push(&mut self, file: &str, place: Option<Place>, message: impl Into<String>) {
        self.0.push(Problem { file: file.to_owned(), place, message: message.into() });
    }

    /// Add others.
    pub(crate) fn extend(&mut self, others: Problems) {
        self.0.extend(others.0);
    }

    /// `value` if nothing is wrong. Problems of one file come in the order of their places, each once.
    pub(crate) fn or<T>(mut self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            return Ok(value);
        }
        let mut files: Vec<String> = Vec::new();
        for problem in &self.0 {
            if !files.contains(&problem.file) {
                files.push(problem.file.clone());
            }
        }
        self.0.sort_by_key(|problem| (files.iter().position(|file| *file == problem.file), problem.place));
        self.0.dedup();
        Err(self)
    }
}

impl From<tokio::task::JoinError> for BuildError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Stopped(error)
    }
}

impl From<Problem> for BuildError {
    fn from(problem: Problem) -> Self {
        Self::Script(Problems(vec![problem]))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let text = "é = 1;\r\nnext";
        assert_eq!(Place::of(text, 0), Place { line: 1, column: 1 });
        assert_eq!(Place::of(text, 3), Place { line: 1, column: 3 }, "é is two bytes and one column");
        assert_eq!(Place::of(text, 9), Place { line: 2, column: 1 });
        assert_eq!(Place::of(text, 900), Place { line: 2, column: 5 });
    }

    #[test]
    fn problems_come_file_by_file_and_line_by_line() {
        let mut problems = Problems::default();
        let at = |line| Some(Place { line, column: 1 });
        problems.push("b.js", at(9), "late");
        problems.push("a.js", at(1), "other file");
        problems.push("b.js", at(2), "early");
        problems.push("b.js", at(2), "early");
        let sorted = problems.or(()).unwrap_err();
        assert_eq!(sorted.to_string(), "b.js:2:1: early\nb.js:9:1: late\na.js:1:1: other file");
    }
}
