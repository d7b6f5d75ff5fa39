//! A copy of a store while its host runs, and a store from such a copy.
//!
//! A copy is what was committed when it was begun: one read transaction, beside the writer, which goes on. Nothing runs in it, so what was
//! claimed then is ready. It is complete and on disk under a name of its own before it gets the one it is to have.
//!
//! Number of starts: fencing tokens are made of it, and none may come again. How often a host was started since the copy was made is known
//! to nobody, if the store that was there is lost. So a restored store goes on from the seconds since 1970, or from what is known, if that
//! is more: as long as hosts start once a second at most, that is beyond every start there was.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, OpenFlags};
use tempfile::NamedTempFile;

use super::{
    file::{self, Lock},
    schema,
};
use crate::store::StoreError;

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Where the store is now that was there before, if there was one.
    pub kept: Option<PathBuf>,
}

/// Copy the store that `connection` reads to `to`.
///
/// # Errors
/// When there is a file already that is not to be replaced, or it cannot be written. Nothing is left of it then.
pub(super) fn write(connection: &Connection, to: &Path, replace: bool) -> Result<(), StoreError> {
    let taken = || StoreError::Other(format!("{} is there already; name another file, or say that it may be replaced", to.display()));
    if is_of_the_store(connection, to) {
        return Err(StoreError::Other(format!("{} belongs to the store itself; name another file", to.display())));
    }
    if !replace && to.exists() {
        return Err(taken());
    }
    let copy = copy(connection, to)?;
    at_rest(&Connection::open(copy.path())?)?;
    copy.as_file().sync_all().map_err(|error| failed(to, &error))?;
    let named = if replace { copy.persist(to) } else { copy.persist_noclobber(to) };
    named.map_err(|error| if error.error.kind() == std::io::ErrorKind::AlreadyExists { taken() } else { failed(to, &error.error) })?;
    sync_folder(to)
}

/// Put a copy in the place of the store at `path`, on which no host runs.
///
/// # Errors
/// [`StoreError::InUse`] when a host runs on it; [`StoreError::Newer`] when a newer version made the copy; [`StoreError::Other`] when it is
/// damaged or no store. The store that is there stays then.
pub(super) fn restore(path: &Path, from: &Path) -> Result<Restored, StoreError> {
    let (made, path) = (!path.exists(), file::prepare(path)?);
    let lock = Lock::take(&path)?;
    let restored = place(&path, from, made);
    if made && restored.is_err() {
        // Nothing was there, and nothing is.
        let _ = fs::remove_file(&path);
    }
    drop(lock);
    restored
}

fn place(path: &Path, from: &Path, new: bool) -> Result<Restored, StoreError> {
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| StoreError::Other(format!("{} cannot be read: {error}", from.display())))?;
    let version = schema::whole(from, &source)?;
    let copy = copy(&source, path)?;
    let restored = Connection::open(copy.path())?;
    at_rest(&restored)?;
    let known = [schema::start_number(&restored).ok(), start_number_at(path), seconds_since_1970()];
    let number = known.into_iter().flatten().max().unwrap_or_default();
    schema::set_start_number(&restored, number)?;
    drop(restored);
    copy.as_file().sync_all().map_err(|error| failed(path, &error))?;
    fold_log(path);
    let kept = if new { None } else { Some(keep_aside(path).map_err(|error| failed(path, &error))?) };
    copy.persist(path).map_err(|error| failed(path, &error.error))?;
    sync_folder(path)?;
    tracing::debug!(version, number, "a store was restored");
    Ok(Restored { kept })
}

/// A copy in the folder of `beside`, for its owner only.
fn copy(connection: &Connection, beside: &Path) -> Result<NamedTempFile, StoreError> {
    let folder = folder(beside);
    let copy = tempfile::Builder::new().prefix(".koksmat-").suffix(".partial").tempfile_in(folder);
    let copy = copy.map_err(|error| failed(beside, &error))?;
    let name = copy.path().to_str().ok_or_else(|| StoreError::Other(format!("{} is no text", folder.display())))?;
    connection.execute("VACUUM INTO ?1", [name])?;
    Ok(copy)
}

/// Nothing runs in a copy, and nothing ended badly.
fn at_rest(copy: &Connection) -> Result<(), StoreError> {
    copy.execute_batch(
        "BEGIN;
         UPDATE task SET state = 0, epoch = epoch + 1, alone = 0 WHERE state = 1;
         UPDATE meta SET value = 1 WHERE name = 'clean';
         COMMIT;",
    )?;
    Ok(())
}

/// Give the store another name, with all that belongs to it. It stays in its place too until the restored one takes that.
fn keep_aside(path: &Path) -> std::io::Result<PathBuf> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let aside = with(path, &format!(".before-restore-{now}"));
    fs::hard_link(path, &aside)?;
    for suffix in ["-wal", "-shm"] {
        match fs::rename(with(path, suffix), with(&aside, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

/// Have everything in the file of the store that is there and nothing in its log: between giving up the one and the other the machine may end.
/// A store that cannot be opened keeps its log, which goes aside with it.
fn fold_log(path: &Path) {
    let folded = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .and_then(|connection| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    if let Err(error) = folded {
        tracing::debug!(%error, "the log of the store that is there stays a file of its own");
    }
}

/// How often a host was started on the store that is there, if that can be read.
fn start_number_at(path: &Path) -> Option<u64> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX).ok()?;
    schema::start_number(&connection).ok()
}

fn seconds_since_1970() -> Option<u64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Whether a file is the store that is copied, or one of those beside it.
fn is_of_the_store(connection: &Connection, file: &Path) -> bool {
    let real = |path: &Path| folder(path).canonicalize().ok().zip(path.file_name().map(ToOwned::to_owned));
    let Some(store) = connection.path().map(Path::new) else { return false };
    ["", "-wal", "-shm", "-journal", ".lock"].iter().any(|suffix| real(&with(store, suffix)) == real(file))
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The folder of a file.
fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(file: &Path) -> Result<(), StoreError> {
    File::open(folder(file)).and_then(|folder| folder.sync_all()).map_err(|error| failed(file, &error))
}

fn failed(file: &Path, error: &std::io::Error) -> StoreError {
    let said = format!("{} cannot be written: {error}", file.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::Full(said),
        _ => StoreError::Other(said),
    }
}
