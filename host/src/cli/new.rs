//! `koksmat new`

use std::{fs, path::PathBuf};

use clap::ValueEnum;

use super::{Failure, say};

/// Make a handler from a template.
#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// The folder to make
    path: PathBuf,
    /// The language
    #[arg(long, short, value_enum, default_value = "javascript")]
    language: Language,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Language {
    #[value(alias = "js")]
    Javascript,
    #[value(alias = "ts")]
    Typescript,
    Rust,
}

/// The types for editors, which find them by the settings beside: the same file that the runtime is documented by.
const TYPES: &str = include_str!("../../../sdk/javascript/koksmat.d.ts");

/// A file of a template: its path and what is in it. `{{name}}` stands for the handler's name.
type File = (&'static str, &'static str);

const JAVASCRIPT: &[File] = &[
    ("koksmat.toml", include_str!("templates/javascript/koksmat.toml")),
    ("handlers/hello.js", include_str!("templates/javascript/hello.js")),
    ("README.md", include_str!("templates/javascript/README.md")),
    ("koksmat.d.ts", TYPES),
    ("jsconfig.json", include_str!("templates/javascript/jsconfig.json")),
];
const TYPESCRIPT: &[File] = &[
    ("koksmat.toml", include_str!("templates/typescript/koksmat.toml")),
    ("handlers/hello.ts", include_str!("templates/typescript/hello.ts")),
    ("README.md", include_str!("templates/javascript/README.md")),
    ("koksmat.d.ts", TYPES),
    ("tsconfig.json", include_str!("templates/typescript/tsconfig.json")),
];
const RUST: &[File] = &[
    ("koksmat.toml", include_str!("templates/rust/koksmat.toml")),
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml.template")),
    ("src/lib.rs", include_str!("templates/rust/lib.rs")),
    ("README.md", include_str!("templates/rust/README.md")),
];

impl New {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        if fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::usage(format!("{} is there already and not empty", self.path.display())));
        }
        let files = match self.language {
            Language::Javascript => JAVASCRIPT,
            Language::Typescript => TYPESCRIPT,
            Language::Rust => RUST,
        };
        let name = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let name = name.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|| "hello".into());
        for (file, text) in files {
            let file = self.path.join(file);
            let written = fs::create_dir_all(file.parent().unwrap_or(&self.path))
                .and_then(|()| fs::write(&file, text.replace("{{name}}", &crate_name(&name))));
            written.map_err(|error| Failure::start(format!("cannot write {}: {error}", file.display())))?;
        }
        say(format_args!("made {}. Next:\n\n    koksmat run {}", self.path.display(), self.path.display()));
        Ok(0)
    }
}

/// A folder's name as the name of a crate.
fn crate_name(folder: &str) -> String {
    let name: String = folder.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let name = name.trim_matches('-').to_owned();
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name } else { format!("handler-{name}") }
}
