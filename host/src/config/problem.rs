//! What is wrong with a configuration, and where. Problems never hold what a secret resolves to, nor a literal one.

use std::{error, fmt, path::PathBuf};

/// One thing that is wrong, or looks wrong, with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether the host can run all the same.
    pub severity: Severity,
    /// The file, as it was named to us.
    pub file: PathBuf,
    /// The line, from 1. What concerns the file as a whole is at its beginning.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The key, `handlers.reserve.timeout` for instance; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but probably does not do what was meant.
    Warning,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Why a configuration cannot be used: everything that is wrong with it, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// What is wrong; never empty in an error.
    pub errors: Vec<Problem>,
    /// What looks wrong besides.
    pub warnings: Vec<Problem>,
}

impl Problems {
    /// All of them, errors first.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.errors.iter().chain(&self.warnings)
    }
}

impl fmt::Display for Problems {
    /// One line for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl error::Error for Problems {}
