//! A folder with a configuration, as a user would have it.

use std::path::{Path, PathBuf};

/// A temporary folder with a `koksmat.toml`, handlers beside it, and its store in `data/`.
pub struct Folder {
    dir: tempfile::TempDir,
    host: String,
    rest: String,
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Folder {
    /// Listeners on free ports of the loopback address; the store in `data/koksmat.db`.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("koksmat-test-").tempdir().unwrap();
        // Compiled code is shared by all tests: it is keyed by content.
        let cache = crate::repository().join("target/test-cache");
        std::fs::create_dir_all(&cache).unwrap();
        std::fs::create_dir_all(dir.path().join("data")).unwrap();
        std::os::unix::fs::symlink(&cache, dir.path().join("data/cache")).unwrap();
        Self { dir, host: "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n".into(), rest: String::new() }
    }

    /// A line of `[host]`.
    pub fn host(mut self, line: &str) -> Self {
        self.host.push_str(line);
        self.host.push('\n');
        self
    }

    /// All lines of `[host]`, in place of the ones there are.
    pub fn replace_host(mut self, lines: &str) -> Self {
        self.host = lines.to_owned();
        self
    }

    /// Sections of the configuration, as TOML.
    pub fn toml(mut self, toml: &str) -> Self {
        self.rest.push('\n');
        self.rest.push_str(toml);
        self
    }

    /// An embedded queue.
    pub fn queue(self, name: &str) -> Self {
        self.toml(&format!("[sources.{name}]\nkind = \"embedded\"\n"))
    }

    /// A handler; `settings` are the lines of its table, `on` included.
    pub fn handler(self, name: &str, plugin: &str, settings: &str) -> Self {
        self.toml(&format!("[handlers.{name}]\nplugin = {plugin:?}\n{settings}\n"))
    }

    /// A handler in JavaScript (or TypeScript, by the name of its file).
    pub fn script(self, name: &str, file: &str, source: &str, settings: &str) -> Self {
        self.file(file, source).handler(name, file, settings)
    }

    /// A handler that is one of the guests in `tests/guests`.
    pub fn guest(self, name: &str, guest: &str, settings: &str) -> Self {
        let plugin = crate::guests::core_module(guest);
        self.handler(name, plugin.to_str().unwrap(), settings)
    }

    /// A file.
    pub fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// Write `koksmat.toml` as it is now.
    pub fn write(&self) -> &Self {
        std::fs::write(self.dir.path().join("koksmat.toml"), format!("[host]\n{}{}", self.host, self.rest)).unwrap();
        self
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The token of a host that has run here.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.join("data/token")).unwrap().trim().to_owned()
    }

    /// The checked configuration.
    pub fn config(&self) -> koksmat::Config {
        self.config_with(&[])
    }

    /// The checked configuration of a host with sources of its own.
    pub fn config_with(&self, own: &[&str]) -> koksmat::Config {
        self.write();
        match koksmat::Config::load_with_sources(self.path(), own) {
            Ok(config) => config,
            Err(problems) => panic!("{problems}"),
        }
    }

    /// A read-only look into the store.
    pub fn store(&self) -> rusqlite::Connection {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = rusqlite::Connection::open_with_flags(self.join("data/koksmat.db"), flags).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
        connection
    }

    /// The value of a key in the store, as text.
    pub fn value(&self, key: &str) -> Option<String> {
        let found =
            self.store().query_row("select value from kv where tenant = 'default' and key = ?1", [key], |row| row.get::<_, Vec<u8>>(0));
        match found {
            Ok(value) => Some(String::from_utf8(value).unwrap()),
            Err(rusqlite::Error::QueryReturnedNoRows) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// How many rows a query of the store counts.
    pub fn count(&self, sql: &str) -> i64 {
        self.store().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}
