//! Connections that read beside the writer, each from the last commit.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, InterruptHandle};
use tokio::sync::Semaphore;

use super::schema;
use crate::{store::StoreError, task::panic_text};

/// How many read at once; others wait.
const READERS: usize = 4;

/// A pool of them.
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
    /// The ends of what takes long, should the store be closed meanwhile.
    long: Arc<Mutex<Vec<InterruptHandle>>>,
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

impl Readers {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let idle = (0..READERS).map(|_| schema::open_reader(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { idle: Arc::new(Mutex::new(idle)), turns: Arc::new(Semaphore::new(READERS)), long: Arc::default() })
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

    /// Like [`run`](Self::run), for what may take long: it is cut off when the store is closed. One at a time.
    pub(super) async fn run_long<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let long = self.long.clone();
        let work = move |connection: &Connection| {
            {
                let mut running = lock(&long);
                if !running.is_empty() {
                    return Err(StoreError::Other("another one is being made; wait until it is there".into()));
                }
                running.push(connection.get_interrupt_handle());
            }
            let done = catch_unwind(AssertUnwindSafe(|| work(connection)));
            lock(&long).clear();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        self.run(work).await
    }

    /// Wait for who reads, let go of the file, answer everyone later with [`StoreError::Closed`].
    pub(super) async fn close(&self) {
        let mut all = pin!(self.turns.acquire_many(READERS as u32));
        // More than once: what takes long may be about to begin. Closed by someone else meanwhile is as good.
        let _all = loop {
            lock(&self.long).iter().for_each(InterruptHandle::interrupt);
            tokio::select! {
                all = &mut all => break all,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        };
        self.turns.close();
        lock(&self.idle).clear();
    }

    /// Answer everyone from now on with [`StoreError::Closed`]. Who reads may finish.
    pub(super) fn abandon(&self) {
        lock(&self.long).iter().for_each(InterruptHandle::interrupt);
        self.turns.close();
        lock(&self.idle).clear();
    }
}

fn lock<T>(these: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    these.lock().unwrap_or_else(PoisonError::into_inner)
}
