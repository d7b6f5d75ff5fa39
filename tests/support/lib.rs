//! What the tests of the promises speak: a host under test, in this process or as the real binary, guests, and servers that count.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, clippy::print_stdout, missing_docs, reason = "tests")]

pub mod clients;
pub mod databases;
pub mod disk;
pub mod fleet;
pub mod folder;
pub mod guests;
pub mod host;
pub mod inside;
pub mod kafka;
pub mod log;
pub mod process;
pub mod proxy;
pub mod rabbitmq;
pub mod services;
pub mod traffic;
pub mod witness;

pub use disk::Disk;
pub use fleet::Fleet;
pub use folder::Folder;
pub use host::TestHost;
pub use inside::Inside;
pub use log::{outages, outages_of_sink};
pub use process::Process;
pub use proxy::Proxy;
pub use traffic::Traffic;
pub use witness::Witness;

use std::{future::Future, path::PathBuf, time::Duration};

/// The root of the repository.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// How long a test waits for what must happen before it gives up: long enough for a loaded machine, so that it decides nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Wait for a future that must end; what it was waiting for is said when it does not.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}

/// Ask again and again until the answer is `Some`: for things that can only be looked at, such as another process's files.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    within(what, async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}
