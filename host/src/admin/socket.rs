//! The socket beside the store: commands on the same machine go through the running host. Who can reach it is who can open the store.

use std::{
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

use tokio::{net::UnixListener, task::JoinHandle};

use crate::{
    admin::{Admin, api},
    config::StoreConfig,
    listener::serve::{self, Stop},
    task,
};

/// The socket of a host with this store; a host whose store is in memory has none.
pub(crate) fn path(store: &StoreConfig) -> Option<PathBuf> {
    Some(store.folder()?.join("koksmat.sock"))
}

/// Serves until it is dropped.
pub(crate) struct ControlSocket {
    file: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Serve the control socket of this host. Where the store has a lock it is held, so a file that is there is a dead host's; hosts that share
/// a store each have a folder of their own.
pub(crate) fn start(store: &StoreConfig, admin: Admin, stop: Stop) -> anyhow::Result<Option<ControlSocket>> {
    let Some(file) = path(store) else { return Ok(None) };
    if let StoreConfig::Postgres { folder, .. } = store {
        anyhow::ensure!(
            with_short_path(&file, |path| UnixStream::connect(path)).is_err(),
            "another host runs with the folder {}; start each from a folder of its own",
            folder.display()
        );
    }
    let listener = bind(&file).map_err(|error| anyhow::anyhow!("cannot open {}: {error}", file.display()))?;
    let router = api::router(admin.clone(), api::Access::Socket).with_state(admin);
    let task = task::spawn("control socket", serve::serve(listener, router, stop));
    Ok(Some(ControlSocket { file, task }))
}

/// Whether the last host with the folder of a shared store ended without taking its socket along. A store that is one host's knows by
/// itself how that ended.
pub(crate) fn is_left_behind(store: &StoreConfig) -> bool {
    matches!(store, StoreConfig::Postgres { .. }) && path(store).is_some_and(|socket| socket.exists())
}

/// A socket's path has about a hundred bytes; a longer one is reached through a link in the system's temporary folder.
fn bind(file: &Path) -> std::io::Result<UnixListener> {
    let _ = std::fs::remove_file(file);
    let listener = with_short_path(file, |path| UnixListener::bind(path))?;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Call `f` with a path of `file` that fits a socket address: by way of its folder's file descriptor when it is too long itself.
pub(crate) fn with_short_path<T>(file: &Path, f: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    const LONGEST: usize = 100;
    if file.as_os_str().len() <= LONGEST {
        return f(file);
    }
    use std::os::fd::AsRawFd;
    let folder = std::fs::File::open(file.parent().unwrap_or(Path::new(".")))?;
    let name = file.file_name().unwrap_or_default();
    f(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}
