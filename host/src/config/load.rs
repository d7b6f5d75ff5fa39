//! From a path to a checked configuration.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    Config, Problem, Problems, Severity, StoreConfig,
    check::{self, Surroundings},
    document::place,
};

/// What a folder's configuration is called.
const FILE: &str = "koksmat.toml";

impl Config {
    /// Read and check a file, or `koksmat.toml` in a folder.
    ///
    /// # Errors
    /// Everything that is wrong with it; see [`Problems`].
    pub fn load(path: &Path) -> Result<Self, Problems> {
        Self::load_with_sources(path, &[])
    }

    /// Like [`load`](Self::load), for a host that has sources of its own besides those of the file: handlers may name these.
    ///
    /// # Errors
    /// Everything that is wrong with it; see [`Problems`].
    pub fn load_with_sources(path: &Path, own: &[&str]) -> Result<Self, Problems> {
        let (file, read_from) = (file_of(path), SystemTime::now());
        let text = read(&file)?;
        let tenants = file.with_file_name("tenants").is_dir();
        let config = check::config(&text, &file, Surroundings { env: &|name| env::var(name).ok(), own, tenants })?;
        Ok(Self { read_from, ..config })
    }

    /// Check the text of a configuration. `file` is what problems call it and what relative paths are relative to; `env` is the
    /// environment.
    ///
    /// # Errors
    /// Everything that is wrong with it; see [`Problems`].
    pub fn parse(text: &str, file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        check::config(text, file, Surroundings { env, own: &[], tenants: false })
    }
}

impl StoreConfig {
    /// Where the store of a host is that was started from this path, as far as that can be told when the file is wrong now, or refers to what
    /// is known to the host alone.
    pub fn beside(path: &Path) -> Self {
        let file = file_of(path);
        let table = fs::read_to_string(&file).ok().and_then(|text| text.parse::<toml::Table>().ok());
        let store = table.as_ref().and_then(|table| table.get("host")?.get("store")?.as_str());
        let path = match store.and_then(|store| store.split_once(':')) {
            Some(("sqlite", path)) => PathBuf::from(path.strip_prefix("//").unwrap_or(path)),
            // Beside a store that is elsewhere a host keeps its own where its store would be.
            _ => PathBuf::from(check::STORE),
        };
        Self::Sqlite(file.parent().unwrap_or(Path::new("")).join(path))
    }
}

/// The configuration file that a path of the command line means.
fn file_of(path: &Path) -> PathBuf {
    let path = path.strip_prefix(".").unwrap_or(path);
    if path.as_os_str().is_empty() || path.is_dir() { path.join(FILE) } else { path.to_owned() }
}

fn read(file: &Path) -> Result<String, Problems> {
    let bytes = fs::read(file).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "; name a configuration file or a folder with a koksmat.toml",
            _ => "",
        };
        about_file(file, (1, 1), format!("cannot read the configuration: {error}{hint}"))
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        about_file(file, place(&before, &(valid..valid)), "not UTF-8 text; a configuration is TOML, which is UTF-8".into())
    })
}

fn about_file(file: &Path, (line, column): (usize, usize), message: String) -> Problems {
    let problem = Problem { severity: Severity::Error, file: file.to_owned(), line, column, key: String::new(), message };
    Problems { errors: vec![problem], warnings: Vec::new() }
}
