//! The file of a store: where it is, who may read it, and the lock that makes it one process's.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use crate::store::StoreError;

/// The operating system's lock beside a store. Let go of when dropped, and by the operating system when the process ends however it ends:
/// whoever has it knows that every earlier owner is dead.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Take the lock of the store at `path`.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let beside = beside(path);
        let failed = |error| failed(&beside, "its lock cannot be taken", error);
        // The file stays when the lock is let go of: removing it would let two processes lock two files of one name.
        let mut file = private().read(true).open(&beside).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(path, file)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        write!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// The one name of the store at `path`, however it was written. Its folder is made, and the file, empty and for its owner only.
pub(super) fn prepare(path: &Path) -> Result<PathBuf, StoreError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| failed(path, "its folder cannot be made", error))?;
    }
    let failed = |error| failed(path, "the file cannot be opened", error);
    private().open(path).map_err(failed)?;
    path.canonicalize().map_err(failed)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn in_use(path: &Path, mut lock: File) -> StoreError {
    let mut pid = String::new();
    // It may just be written, or not be readable while it is locked.
    if lock.read_to_string(&mut pid).is_err() || pid.is_empty() {
        pid = "unknown".into();
    }
    StoreError::InUse { path: path.display().to_string(), pid }
}

fn failed(path: &Path, what: &str, error: std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::Full(format!("{}: {error}", path.display())),
        _ => StoreError::Other(format!("{what}: {error}")),
    }
}
