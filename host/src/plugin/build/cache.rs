//! A folder of what was built and compiled before, by content.
//!
//! Compiled code is machine code: what is loaded runs in this process. So every file's MAC (HMAC-SHA256, with a key that only this host
//! has) is checked before the file is used; what does not match is built again. Between that check and the use somebody could still
//! exchange the file, but only somebody who may write to the folder, which is ours alone (mode 0700, checked at every start).
//!
//! The cache never decides anything: without it everything is slower and nothing is different.

use std::{
    fs::{self, File},
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use wasmtime::{Engine, component::Component};

use super::{compiler, error::BuildError};

/// What all files together may take, in bytes, and a little more between two looks. The ones that were not used for longest go first.
const MAX_SIZE: u64 = 2 << 30;

/// Changes when what is stored under a key would be different for the same inputs.
const VERSION: &str = concat!("koksmat ", env!("CARGO_PKG_VERSION"), " cache 1");

/// The cache. Cheap to clone. Every call reads or writes files.
#[derive(Clone)]
pub(crate) struct Cache {
    folder: Arc<Path>,
    key: Hmac<Sha256>,
    max_size: u64,
    /// Bytes that were written since it was looked at how much there is: to look at every file for each that is written takes long where there are many.
    written: Arc<AtomicU64>,
    /// There are calls that compiling has to give way to.
    others_serve: Arc<AtomicBool>,
}

/// How much of the most may be written before it is looked at again, as a part of it.
const LOOK_AFTER: u64 = 32;

/// What a stored file is; it is part of the file's name and of its MAC.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A component that was built.
    Component,
    /// The machine code of one.
    Compiled,
}

impl Cache {
    /// Open the cache in `folder`, which is made when missing.
    ///
    /// # Errors
    /// [`BuildError::Cache`] when the folder cannot be written, or is not this user's.
    pub(crate) fn open(folder: &Path) -> Result<Self, BuildError> {
        let failed = |error: io::Error| BuildError::Cache { path: folder.to_owned(), reason: error.to_string() };
        fs::create_dir_all(folder).map_err(failed)?;
        let folder = folder.canonicalize().map_err(failed)?;
        make_private(&folder).map_err(|reason| BuildError::Cache { path: folder.clone(), reason })?;
        let key = host_key(&folder).map_err(|reason| BuildError::Cache { path: folder.clone(), reason })?;
        Ok(Self {
            folder: folder.into(),
            key,
            max_size: MAX_SIZE,
            written: Arc::new(AtomicU64::new(u64::MAX)),
            others_serve: Arc::default(),
        })
    }

    /// From now on compiling gives way to calls.
    pub(crate) fn others_serve(&self) {
        self.others_serve.store(true, Ordering::Relaxed);
    }

    /// The component that was built from `inputs`, if it is here. `inputs` is a digest of everything it was built from.
    pub(crate) fn component(&self, inputs: &str) -> Option<Vec<u8>> {
        self.read(Kind::Component, &key_of(&[inputs.as_bytes()]))
    }

    /// Whether there is one. It may be of no use all the same.
    pub(crate) fn has_component(&self, inputs: &str) -> bool {
        self.path(Kind::Component, &key_of(&[inputs.as_bytes()])).is_file()
    }

    /// Keep the component that was built from `inputs`. A failure is only logged.
    pub(crate) fn keep_component(&self, inputs: &str, component: &[u8]) {
        self.write(Kind::Component, &key_of(&[inputs.as_bytes()]), component);
    }

    /// Whether [`Cache::compile`] would find the component with this digest compiled for `engine`.
    pub(crate) fn is_compiled(&self, engine: &Engine, digest: &str) -> bool {
        self.path(Kind::Compiled, &compiled_key(engine, digest)).is_file()
    }

    /// The machine code, for `engine`, of the component with this digest: loaded if it is here, else compiled (a second or so of all
    /// processors) and kept. `component` is asked for only then. Where others serve, what it has not waited for idle processors since `asked` it
    /// may still wait.
    pub(crate) fn compile<C: Into<Arc<[u8]>>>(
        &self,
        engine: &Engine,
        digest: &str,
        asked: Instant,
        component: impl FnOnce() -> Result<C, BuildError>,
    ) -> Result<Component, BuildError> {
        let key = compiled_key(engine, digest);
        if let Some(component) = self.load(engine, &key) {
            return Ok(component);
        }
        let refused = |reason| BuildError::Engine { what: "the component cannot be compiled", reason };
        let patience = self.others_serve.load(Ordering::Relaxed).then(|| compiler::PATIENCE.saturating_sub(asked.elapsed()));
        let code = compiler::compile(engine, &component()?.into(), patience).map_err(refused)?;
        self.write(Kind::Compiled, &key, &code);
        // SAFETY: `code` is what this engine returned just now.
        unsafe { Component::deserialize(engine, &code) }.map_err(refused)
    }

    fn load(&self, engine: &Engine, key: &str) -> Option<Component> {
        let path = self.path(Kind::Compiled, key);
        self.check(Kind::Compiled, key, &path, |_| {})?;
        // SAFETY: its MAC says that this host wrote the file, under a key that is made of the engine's settings; nobody else may write
        // to the folder (see the module's documentation).
        match unsafe { Component::deserialize_file(engine, &path) } {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(file = %path.display(), "compiled code does not load, it is compiled again: {error:#}");
                None
            }
        }
    }

    fn read(&self, kind: Kind, key: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.check(kind, key, &self.path(kind, key), |part| bytes.extend_from_slice(part))?;
        Some(bytes)
    }

    /// Whether the file is there and its MAC is right. Its content goes to `part` on the way.
    fn check(&self, kind: Kind, key: &str, path: &Path, mut part: impl FnMut(&[u8])) -> Option<()> {
        let mut file = File::open(path).ok()?;
        let mut mac = self.mac(kind, key);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    mac.update(&buffer[..count]);
                    part(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(file = %path.display(), "cannot read from the cache: {error}");
                    return None;
                }
            }
        }
        let kept = fs::read(mac_path(path)).unwrap_or_default();
        if mac.verify_slice(&kept).is_err() {
            tracing::warn!(file = %path.display(), "a file of the cache is not what this host wrote, it is made again");
            return None;
        }
        // What was used just now is the last to go.
        let _ = file.set_modified(SystemTime::now());
        Some(())
    }

    fn write(&self, kind: Kind, key: &str, content: &[u8]) {
        let path = self.path(kind, key);
        let mac = self.mac(kind, key).chain_update(content).finalize().into_bytes();
        // Two hosts that write the same file at once may leave one's MAC beside the other's content: then it is made again.
        if let Err(error) = write_whole(&path, content).and_then(|()| write_whole(&mac_path(&path), &mac)) {
            tracing::warn!(file = %path.display(), "cannot write to the cache: {error}");
        }
        // The first time, nobody knows how much there is.
        let written = self.written.load(Ordering::Relaxed).saturating_add(content.len() as u64);
        if written < self.max_size / LOOK_AFTER {
            self.written.store(written, Ordering::Relaxed);
        } else {
            self.written.store(0, Ordering::Relaxed);
            self.prune();
        }
    }

    /// Remove what was not used for longest until the rest fits.
    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let metadata = fs::metadata(&path).ok()?;
                // What a host that was killed had begun to write counts, too; the key and the MACs do not.
                (Kind::of(&path).is_some() || is_unfinished(&path)).then_some(())?;
                Some((metadata.modified().ok()?, metadata.len(), path))
            })
            .collect();
        let mut size: u64 = files.iter().map(|(_, size, _)| size).sum();
        files.sort();
        for (_, freed, path) in files {
            if size <= self.max_size {
                break;
            }
            // A host that has mapped the file keeps what it mapped.
            let _ = fs::remove_file(mac_path(&path));
            let _ = fs::remove_file(&path);
            size -= freed;
        }
    }

    fn mac(&self, kind: Kind, key: &str) -> Hmac<Sha256> {
        self.key.clone().chain_update(kind.extension()).chain_update([0]).chain_update(key).chain_update([0])
    }

    fn path(&self, kind: Kind, key: &str) -> PathBuf {
        self.folder.join(key).with_extension(kind.extension())
    }
}

impl Kind {
    fn extension(self) -> &'static str {
        match self {
            Self::Component => "wasm",
            Self::Compiled => "cwasm",
        }
    }

    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "wasm" => Some(Self::Component),
            "cwasm" => Some(Self::Compiled),
            _ => None,
        }
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn key_of(parts: &[&[u8]]) -> String {
    let mut sha = Sha256::new();
    sha.update(VERSION);
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    hex::encode(sha.finalize())
}

fn compiled_key(engine: &Engine, digest: &str) -> String {
    /// `Hash` into SHA-256: the standard library's own hashes may change with the compiler.
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut settings = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut settings);
    key_of(&[&settings.0.finalize(), digest.as_bytes()])
}

fn mac_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".mac");
    name.into()
}

/// Where [`write_whole`] writes to until the file is whole.
const UNFINISHED: &str = ".unfinished-";

fn is_unfinished(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(UNFINISHED))
}

/// The file appears with all of its content or not at all.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
    file.write_all(content)?;
    file.persist(path)?;
    Ok(())
}

/// The key of this host's MACs: made at first use, 32 random bytes in a file that only this user can read.
fn host_key(folder: &Path) -> Result<Hmac<Sha256>, String> {
    let path = folder.join("key");
    let read = || fs::read(&path).map_err(|error| format!("key: {error}"));
    let key = match read() {
        Ok(key) => key,
        Err(_) if !path.exists() => {
            let mut key = [0_u8; 32];
            rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut key).map_err(|error| error.to_string())?;
            // Made with mode 0600. Where another host was first, its key is taken.
            let made = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| file.write_all(&key).map(|()| file));
            let made = made.map_err(|error| format!("key: {error}"))?;
            match made.persist_noclobber(&path) {
                Ok(_) => key.to_vec(),
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => read()?,
                Err(error) => return Err(format!("key: {}", error.error)),
            }
        }
        Err(error) => return Err(error),
    };
    if key.len() != 32 {
        return Err("the file `key` is damaged: delete it, everything is then built once more".to_owned());
    }
    Hmac::new_from_slice(&key).map_err(|error| error.to_string())
}

/// Make sure that nobody else can write to the folder.
#[cfg(unix)]
fn make_private(folder: &Path) -> Result<(), String> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    // A file made here belongs to who we are, which is the portable way to ask.
    let us = tempfile::tempfile_in(folder).and_then(|file| file.metadata()).map_err(|error| error.to_string())?.uid();
    let metadata = fs::metadata(folder).map_err(|error| error.to_string())?;
    if metadata.uid() != us {
        return Err(format!(
            "it belongs to user {}, and compiled code from there would run as user {us}: choose another folder",
            metadata.uid()
        ));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(|error| error.to_string())
}

#[cfg(not(unix))]
fn make_private(_: &Path) -> Result<(), String> {
    Ok(())
}

#[cfg(test)]
mod tests;
