//! Connections that read beside the writer, each from the last commit.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::schema;
use crate::{store::StoreError, task::panic_text};

/// How many read at once; others wait.
const READERS: usize = 4;

/// A pool of them.
#[derive(Debug)]
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let idle = (0..READERS).map(|_| schema::open_reader(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { idle: Arc::new(Mutex::new(idle)), turns: Arc::new(Semaphore::new(READERS)) })
    }

    /// Carry out `work`, which only reads, on a thread that may block. Cancel safe.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let idle = self.idle.clone();
        let done = tokio::task::spawn_blocking(move || {
            let connection = lock(&idle).pop().ok_or(StoreError::Closed)?;
            let result = catch_unwind(AssertUnwindSafe(|| work(&connection)));
            lock(&idle).push(connection);
            drop(turn);
            result.unwrap_or_else(|panic| Err(StoreError::Other(format!("a store read panicked: {}", panic_text(panic.as_ref())))))
        });
        done.await.map_err(|error| StoreError::Other(format!("a store read ended early: {error}")))?
    }

    /// Wait for who reads, let go of the file, answer everyone later with [`StoreError::Closed`].
    pub(super) async fn close(&self) {
        // Closed by someone else meanwhile is as good.
        let _all = self.turns.acquire_many(READERS as u32).await;
        self.turns.close();
        lock(&self.idle).clear();
    }

    /// Answer everyone from now on with [`StoreError::Closed`]. Who reads may finish.
    pub(super) fn abandon(&self) {
        self.turns.close();
        lock(&self.idle).clear();
    }
}

fn lock(idle: &Mutex<Vec<Connection>>) -> MutexGuard<'_, Vec<Connection>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
