//! The one thread that writes. It takes everything that waits, commits it as one group and only then answers.
//!
//! A member of a group that fails is rolled back alone, to its own savepoint. A group that fails as a whole (the disk is full, SQLite
//! rolled everything back) is carried out again member by member, so that only the one to blame fails. It never reads for others.

#[cfg(test)]
use std::sync::atomic::AtomicU64;
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    file::Lock,
    schema::{self, Who},
};
use crate::{
    store::{StoreError, stop::Stop},
    task::panic_text,
};

/// What may wait before whoever hands over has to wait too.
const QUEUE: usize = 1024;
/// The most members of one group: bounds how long the first of them waits for the commit.
const GROUP: usize = 256;

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Message>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    abandoned: Arc<AtomicBool>,
    /// How many transactions were committed.
    #[cfg(test)]
    pub(super) commits: Arc<AtomicU64>,
}

/// What an operation must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Survive {
    /// The end of this process. Enough for what is only an assignment of work (claims, releases): it costs no fsync, and when a power
    /// loss takes it back, the tasks are claimable again, which a restart makes them anyway.
    Crash,
    /// The end of the machine: everything somebody was promised.
    PowerLoss,
}

impl Writer {
    /// Start the thread on its connection. It holds the process lock until the connection is closed.
    pub(super) fn start(connection: Connection, lock: Lock, durable: bool, who: Who) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let abandoned = Arc::<AtomicBool>::default();
        let worker = Worker {
            connection,
            lock,
            durable,
            who,
            survives: None,
            waiting,
            abandoned: abandoned.clone(),
            #[cfg(test)]
            commits: Arc::default(),
        };
        #[cfg(test)]
        let commits = worker.commits.clone();
        let thread = thread::Builder::new().name("store-writer".into()).spawn(move || worker.run())?;
        Ok(Self {
            queue: Some(queue),
            thread: Mutex::new(Some(thread)),
            abandoned,
            #[cfg(test)]
            commits,
        })
    }

    /// Carry out `work` in a transaction and wait until it is committed. It may be called more than once: what it did before was rolled
    /// back. Once handed over it is carried out, also when this future is dropped.
    pub(super) async fn run<T, F>(&self, survive: Survive, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, Stop<T>> + Send + 'static,
    {
        self.place().await?.hand_over(survive, work).wait().await
    }

    /// Wait for a place in the queue. What is handed over is carried out in the order of the handing over.
    pub(super) async fn place(&self) -> Result<Place<'_>, StoreError> {
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        Ok(Place(queue.reserve().await.map_err(|_| StoreError::Closed)?))
    }

    /// Carry out what was handed over, mark the end as clean, let go of the file. Closed already is no error.
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        let Ok(place) = self.place().await else { return Ok(()) };
        let (answer, closed) = oneshot::channel();
        place.0.send(Message::Close(answer));
        closed.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Carry out nothing more, not even what was handed over; let go of the file. It is free when this returns.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        if let Some(queue) = &self.queue {
            // To wake the thread: with a full queue it is awake.
            let _ = queue.try_send(Message::Abandoned);
        }
        self.join();
    }

    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // An operation may hold what holds the store: the thread cannot wait for itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    /// What was handed over is carried out, and the file is free for the next to open when this returns.
    fn drop(&mut self) {
        self.queue = None;
        self.join();
    }
}

/// A place in the queue.
pub(super) struct Place<'a>(mpsc::Permit<'a, Message>);

impl Place<'_> {
    /// Take it, without waiting.
    pub(super) fn hand_over<T, F>(self, survive: Survive, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, Stop<T>> + Send + 'static,
    {
        self.hand_over_and(survive, work, |result| result)
    }

    /// Take it, without waiting. `then` is called with what was committed.
    pub(super) fn hand_over_and<T, U, F, G>(self, survive: Survive, work: F, then: G) -> Answer<U>
    where
        T: Send + 'static,
        U: Send + 'static,
        F: Fn(&Connection) -> Result<T, Stop<T>> + Send + 'static,
        G: FnOnce(T) -> U + Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        self.0.send(Message::Work(Box::new(Operation { survive, work, result: None, then, answer })));
        Answer(wait)
    }
}

/// The answer to come.
pub(super) struct Answer<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Answer<T> {
    pub(super) async fn wait(self) -> Result<T, StoreError> {
        self.0.await.unwrap_or(Err(StoreError::Closed))
    }
}

enum Message {
    Work(Box<dyn Member>),
    Close(oneshot::Sender<Result<(), StoreError>>),
    Abandoned,
}

/// An operation in a group, whatever its answer.
trait Member: Send {
    fn survive(&self) -> Survive;

    /// Carry it out inside the open transaction. An error: the whole transaction is gone.
    fn carry_out(&mut self, connection: &Connection) -> Result<(), StoreError>;

    /// The transaction it was alone in is gone.
    fn fail(&mut self, error: StoreError);

    /// Give the answer: the transaction is committed, or it failed.
    fn answer(self: Box<Self>);
}

struct Operation<T, U, F, G> {
    survive: Survive,
    work: F,
    result: Option<Result<T, StoreError>>,
    then: G,
    answer: oneshot::Sender<Result<U, StoreError>>,
}

impl<T, U, F, G> Member for Operation<T, U, F, G>
where
    T: Send,
    U: Send,
    F: Fn(&Connection) -> Result<T, Stop<T>> + Send,
    G: FnOnce(T) -> U + Send,
{
    fn survive(&self) -> Survive {
        self.survive
    }

    fn carry_out(&mut self, connection: &Connection) -> Result<(), StoreError> {
        execute(connection, "SAVEPOINT member")?;
        let result = catch_unwind(AssertUnwindSafe(|| (self.work)(connection))).unwrap_or_else(|panic| {
            let said = panic_text(panic.as_ref());
            Err(Stop::Failed(StoreError::Other(format!("a store operation panicked: {said}"))))
        });
        if connection.is_autocommit() {
            // SQLite rolled back everything, the other members' work too.
            return Err(match result {
                Err(Stop::Failed(error)) => error,
                Ok(_) | Err(Stop::Answer(_)) => StoreError::Other("the transaction was rolled back".into()),
            });
        }
        if result.is_err() {
            execute(connection, "ROLLBACK TO member")?;
        }
        execute(connection, "RELEASE member")?;
        self.result = Some(match result {
            Ok(answer) | Err(Stop::Answer(answer)) => Ok(answer),
            Err(Stop::Failed(error)) => Err(error),
        });
        Ok(())
    }

    fn fail(&mut self, error: StoreError) {
        self.result = Some(Err(error));
    }

    fn answer(self: Box<Self>) {
        // Nobody waits any more: it happened all the same.
        let _ = self.answer.send(self.result.unwrap_or(Err(StoreError::Closed)).map(self.then));
    }
}

/// The thread's side.
struct Worker {
    connection: Connection,
    lock: Lock,
    /// Not for a store that is gone with the process.
    durable: bool,
    who: Who,
    /// What commits survive as the connection is set now.
    survives: Option<Survive>,
    waiting: mpsc::Receiver<Message>,
    abandoned: Arc<AtomicBool>,
    #[cfg(test)]
    commits: Arc<AtomicU64>,
}

impl Worker {
    fn run(mut self) {
        let mut close = None;
        let mut group = Vec::new();
        while let Some(first) = self.waiting.blocking_recv() {
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Work(member) => group.push(member),
                    Message::Close(answer) => {
                        // Nothing new from here on; what has been handed over still comes.
                        self.waiting.close();
                        close = Some(answer);
                    }
                    Message::Abandoned => {}
                }
                next = (group.len() < GROUP).then(|| self.waiting.try_recv().ok()).flatten();
            }
            if self.abandoned.load(Ordering::Acquire) {
                close = None;
                break;
            }
            self.commit_group(&mut group);
            group.drain(..).for_each(Member::answer);
        }
        let finished = close.is_some().then(|| self.finish());
        drop(self.connection);
        drop(self.lock);
        if let (Some(answer), Some(finished)) = (close, finished) {
            let _ = answer.send(finished);
        }
    }

    fn commit_group(&mut self, group: &mut [Box<dyn Member>]) {
        let Err(error) = self.transaction(group) else { return };
        if !self.connection.is_autocommit()
            && let Err(error) = execute(&self.connection, "ROLLBACK")
        {
            tracing::error!(%error, "the store cannot roll back");
        }
        match group {
            [] => {}
            [only] => only.fail(error),
            several => several.chunks_mut(1).for_each(|alone| self.commit_group(alone)),
        }
    }

    fn transaction(&mut self, group: &mut [Box<dyn Member>]) -> Result<(), StoreError> {
        let Some(survive) = group.iter().map(|member| member.survive()).max() else { return Ok(()) };
        self.set(survive)?;
        execute(&self.connection, "BEGIN IMMEDIATE")?;
        for member in group {
            member.carry_out(&self.connection)?;
        }
        execute(&self.connection, "COMMIT")?;
        #[cfg(test)]
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn set(&mut self, survive: Survive) -> Result<(), StoreError> {
        if self.durable && self.survives != Some(survive) {
            let level = match survive {
                Survive::Crash => "NORMAL",
                Survive::PowerLoss => "FULL",
            };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.survives = Some(survive);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        self.set(Survive::PowerLoss)?;
        if self.who == Who::Host {
            schema::mark_clean(&self.connection)?;
        }
        // Best effort: what stays in the log is read from there by the next to open.
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        Ok(())
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}
