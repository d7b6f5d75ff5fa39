//! Whole files: what a good one means, and what is said about bad ones.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::{Config, Problems};

mod brokers;
mod handlers;
mod meaning;
mod problems;
mod secrets;
mod sources;

/// A folder with a few plugins, to check configurations in.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for plugin in ["a.js", "b.ts", "plugins/c.wasm", "rust/Cargo.toml", "made/Makefile", "notes.txt", "empty"] {
            folder.write(plugin, "");
        }
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn parse(&self, text: &str) -> Result<Config, Problems> {
        Config::parse(text, &self.path().join("koksmat.toml"), &environment)
    }

    /// What is said, without the folder.
    fn said(&self, text: &str) -> String {
        let found = match self.parse(text) {
            Ok(config) => Problems { errors: Vec::new(), warnings: config.warnings },
            Err(problems) => problems,
        };
        found.to_string().replace(&format!("{}/", self.path().display()), "")
    }
}

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "SECRET" => "hunter2",
        "WHSEC" => "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "BILLING_DATABASE_URL" => "sqlite:billing.db",
        "POSTGRES_URL" => "postgres://koksmat:hunter2@localhost/billing",
        "REGION" => "eu-west-1",
        "EMPTY" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

/// The configuration that was meant.
fn good(text: &str) -> Config {
    match Folder::new().parse(text) {
        Ok(config) => config,
        Err(problems) => panic!("{problems}"),
    }
}

/// Exactly this is said about a configuration, a line for each problem. Both texts may be indented as a whole.
#[track_caller]
fn assert_said(text: &str, expected: &str) {
    let said = Folder::new().said(&dedent(text));
    assert_eq!(said, dedent(expected).trim_end());
    assert!(!said.contains("hunter2"), "a secret was shown: {said}");
}

/// Without the first line break and the indentation of the first line.
fn dedent(text: &str) -> String {
    let text = text.strip_prefix('\n').unwrap_or(text);
    let indentation = &text[..text.len() - text.trim_start_matches(' ').len()];
    text.lines().map(|line| format!("{}\n", line.strip_prefix(indentation).unwrap_or(line.trim_start()))).collect()
}
