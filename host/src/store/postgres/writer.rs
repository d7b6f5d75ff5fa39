//! The one task that writes. It takes everything that waits, commits it as one transaction and only then answers.
//!
//! A member of a group that fails is rolled back alone, to its own savepoint; a group that fails as a whole is carried out again member by
//! member, so that only the one to blame fails. Whatever has to be locked is locked first, in one order ([`Locks`]), so that hosts that
//! change the same things wait for each other and never in a circle.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    Clock,
    accept::{self, Backlogs},
    connect::Connect,
    lane,
    locks::Locks,
};
use crate::{
    store::{Acceptance, Accepted, Fence, Millis, StoreError, stop::Stop},
    task,
};

/// What may wait before whoever hands over has to wait too.
const QUEUE: usize = 1024;
/// The most members of one group: bounds how long the first of them waits for the commit.
const GROUP: usize = 128;
/// How long a group may take. Its locks are let go of by then at the latest.
const PATIENCE: Duration = Duration::from_secs(35);
/// How long it is asked whether a commit happened in which the connection was lost.
const DOUBT: Duration = Duration::from_secs(60);

/// Something that is written.
pub(super) trait Operation: Send + 'static {
    type Answer: Send + 'static;

    /// What no other host may change meanwhile.
    fn lock(&self, _locks: &mut Locks) {}

    /// Whether it has to survive the end of the server: what somebody was promised does, an assignment of work does not.
    fn lasts(&self) -> bool {
        true
    }

    /// Carry it out inside the open transaction. It may be called more than once: what it did before was rolled back.
    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<Self::Answer, Stop<Self::Answer>>>;
}

/// The open transaction.
pub(super) struct Tx<'c> {
    pub(super) connection: &'c mut PgConnection,
    /// By the server's clock.
    pub(super) now: Millis,
    /// How far that is ahead of this host's.
    pub(super) ahead: Millis,
    pub(super) backlogs: &'c mut Backlogs,
}

/// The way to the task.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    abandoned: watch::Sender<bool>,
}

impl Writer {
    /// Start the task on its connection; a new one is made whenever that is lost.
    pub(super) fn start(connect: Connect, connection: PgConnection, clock: Arc<Clock>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (abandoned, stop) = watch::channel(false);
        let worker = Worker { connect, connection: Some(connection), clock, backlogs: Backlogs::default(), waiting };
        drop(task::spawn("store writer", worker.run(stop)));
        Self { queue, abandoned }
    }

    /// Carry out an operation and wait until it is committed. Once handed over it is carried out, also when this future is dropped.
    pub(super) async fn run<O: Operation>(&self, operation: O) -> Result<O::Answer, StoreError> {
        self.place().await?.hand_over(operation, |answer| answer).wait().await
    }

    /// Have events accepted, together with whatever else waits for that.
    pub(super) async fn accept(&self, acceptances: Vec<Acceptance>, fence: Option<Fence>) -> Result<Vec<Accepted>, StoreError> {
        let (answer, wait) = oneshot::channel();
        self.place().await?.0.send(Message::Accept(Accepting { acceptances, fence, result: None, answer }));
        Answer(wait).wait().await
    }

    /// Wait for a place in the queue. What is handed over is carried out in the order of the handing over.
    pub(super) async fn place(&self) -> Result<Place<'_>, StoreError> {
        Ok(Place(self.queue.reserve().await.map_err(|_| StoreError::Closed)?))
    }

    /// Carry out what was handed over, and then nothing more. Closed already is no error.
    pub(super) async fn close(&self) {
        let Ok(place) = self.place().await else { return };
        let (answer, closed) = oneshot::channel();
        place.0.send(Message::Close(answer));
        let _ = closed.await;
    }

    /// Carry out nothing more, not even what was handed over.
    pub(super) fn abandon(&self) {
        self.abandoned.send_replace(true);
    }
}

/// A place in the queue.
pub(super) struct Place<'a>(mpsc::Permit<'a, Message>);

impl Place<'_> {
    /// Take it, without waiting. `then` is called with what was committed.
    pub(super) fn hand_over<O, U, G>(self, operation: O, then: G) -> Answer<U>
    where
        O: Operation,
        U: Send + 'static,
        G: FnOnce(O::Answer) -> U + Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        self.0.send(Message::Work(Box::new(Waiting { operation, result: None, then, answer })));
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
    Accept(Accepting),
    Close(oneshot::Sender<()>),
}

/// An operation in a group, whatever its answer.
trait Member: Send {
    fn lock(&self, locks: &mut Locks);

    fn lasts(&self) -> bool;

    /// Carry it out inside the open transaction. `Ok(false)`: it wrote nothing, and what it did has to be rolled back. An error: the
    /// connection is gone.
    fn carry_out<'a>(&'a mut self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, bool>;

    /// The transaction it was alone in is gone.
    fn fail(&mut self, error: StoreError);

    /// Give the answer: the transaction is committed, or it failed.
    fn answer(self: Box<Self>);
}

/// Events that somebody wants to have accepted.
struct Accepting {
    acceptances: Vec<Acceptance>,
    /// Their source is one that one host runs, and they say what it remembers.
    fence: Option<Fence>,
    result: Option<Result<Vec<Accepted>, StoreError>>,
    answer: oneshot::Sender<Result<Vec<Accepted>, StoreError>>,
}

/// All that wait to be accepted: together they are a handful of statements.
impl Member for Vec<Accepting> {
    fn lock(&self, locks: &mut Locks) {
        self.iter().for_each(|accepting| accept::lock(&accepting.acceptances, locks));
    }

    fn lasts(&self) -> bool {
        true
    }

    fn carry_out<'a>(&'a mut self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            if self.len() > 1 && accept_together(tx, self).await.is_ok() {
                return true;
            }
            // One by one, so that only the one to blame fails.
            let mut wrote = false;
            for accepting in self.iter_mut() {
                let result = accept_alone(tx, accepting).await;
                wrote |= result.is_ok();
                accepting.result = Some(result);
            }
            wrote
        })
    }

    fn fail(&mut self, error: StoreError) {
        self.iter_mut().for_each(|accepting| accepting.result = Some(Err(clone(&error))));
    }

    fn answer(self: Box<Self>) {
        for Accepting { result, answer, .. } in *self {
            // Nobody waits any more: it happened all the same.
            let _ = answer.send(result.unwrap_or(Err(StoreError::Closed)));
        }
    }
}

async fn check(tx: &mut Tx<'_>, accepting: &Accepting) -> Result<(), StoreError> {
    match &accepting.fence {
        Some(fence) if !lane::holds(tx, fence).await? => Err(StoreError::Fenced),
        _ => Ok(()),
    }
}

async fn accept_together(tx: &mut Tx<'_>, all: &mut [Accepting]) -> Result<(), StoreError> {
    execute(tx.connection, "SAVEPOINT together").await?;
    let lists: Vec<&[Acceptance]> = all.iter().map(|accepting| &*accepting.acceptances).collect();
    let accepting = async {
        for accepting in &*all {
            check(tx, accepting).await?;
        }
        accept::accept(tx, &lists).await
    };
    match accepting.await {
        Ok(answers) => {
            all.iter_mut().zip(answers).for_each(|(accepting, answers)| accepting.result = Some(Ok(answers)));
            Ok(())
        }
        Err(error) => {
            execute(tx.connection, "ROLLBACK TO together").await?;
            Err(error)
        }
    }
}

async fn accept_alone(tx: &mut Tx<'_>, accepting: &Accepting) -> Result<Vec<Accepted>, StoreError> {
    // Before anything can fail: a failure that is not rolled back would have the server undo, at the commit, what others were promised.
    execute(tx.connection, "SAVEPOINT alone").await?;
    let accepted = match check(tx, accepting).await {
        Ok(()) => accept::accept(tx, &[&accepting.acceptances]).await,
        Err(error) => Err(error),
    };
    if accepted.is_err() {
        execute(tx.connection, "ROLLBACK TO alone").await?;
    }
    Ok(accepted?.concat())
}

struct Waiting<O: Operation, U, G> {
    operation: O,
    result: Option<Result<O::Answer, StoreError>>,
    then: G,
    answer: oneshot::Sender<Result<U, StoreError>>,
}

impl<O, U, G> Member for Waiting<O, U, G>
where
    O: Operation,
    U: Send,
    G: FnOnce(O::Answer) -> U + Send,
{
    fn lock(&self, locks: &mut Locks) {
        self.operation.lock(locks);
    }

    fn lasts(&self) -> bool {
        self.operation.lasts()
    }

    fn carry_out<'a>(&'a mut self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let result = self.operation.run(tx).await;
            let wrote = result.is_ok();
            self.result = Some(match result {
                Ok(answer) | Err(Stop::Answer(answer)) => Ok(answer),
                Err(Stop::Failed(error)) => Err(error),
            });
            wrote
        })
    }

    fn fail(&mut self, error: StoreError) {
        self.result = Some(Err(error));
    }

    fn answer(self: Box<Self>) {
        // Nobody waits any more: it happened all the same.
        let _ = self.answer.send(self.result.unwrap_or(Err(StoreError::Closed)).map(self.then));
    }
}

/// The task's side.
struct Worker {
    connect: Connect,
    connection: Option<PgConnection>,
    clock: Arc<Clock>,
    backlogs: Backlogs,
    waiting: mpsc::Receiver<Message>,
}

impl Worker {
    async fn run(mut self, mut abandoned: watch::Receiver<bool>) {
        let mut close = None;
        let mut group: Vec<Box<dyn Member>> = Vec::new();
        loop {
            let first = tokio::select! {
                biased;
                _ = abandoned.wait_for(|abandoned| *abandoned) => return,
                first = self.waiting.recv() => first,
            };
            let mut next = first;
            if next.is_none() {
                break;
            }
            let mut accepting = Vec::new();
            while let Some(message) = next {
                match message {
                    Message::Work(member) => group.push(member),
                    Message::Accept(more) => accepting.push(more),
                    Message::Close(answer) => {
                        // Nothing new from here on; what has been handed over still comes.
                        self.waiting.close();
                        close = Some(answer);
                    }
                }
                next = (group.len() + accepting.len() < GROUP).then(|| self.waiting.try_recv().ok()).flatten();
            }
            if !accepting.is_empty() {
                group.push(Box::new(accepting));
            }
            tokio::select! {
                biased;
                _ = abandoned.wait_for(|abandoned| *abandoned) => return,
                () = self.commit_group(&mut group) => {}
            }
            group.drain(..).for_each(Member::answer);
        }
        if let Some(connection) = self.connection.take() {
            let _ = timeout(Duration::from_secs(2), connection.close()).await;
        }
        if let Some(answer) = close {
            let _ = answer.send(());
        }
    }

    async fn commit_group(&mut self, group: &mut [Box<dyn Member>]) {
        match self.in_time(group).await {
            Ok(()) => {}
            Err(Failed::Alone(_)) if group.len() > 1 => {
                for alone in group.chunks_mut(1) {
                    if let Err(Failed::Alone(error) | Failed::All(error)) = self.in_time(alone).await {
                        alone.iter_mut().for_each(|member| member.fail(clone(&error)));
                    }
                }
            }
            Err(Failed::Alone(error) | Failed::All(error)) => group.iter_mut().for_each(|member| member.fail(clone(&error))),
        }
    }

    /// A transaction that fails leaves no connection behind: whatever it locked is free.
    async fn in_time(&mut self, group: &mut [Box<dyn Member>]) -> Result<(), Failed> {
        let lasts = group.iter().any(|member| member.lasts());
        let (mut connection, number) = self.begin(lasts).await.map_err(Failed::All)?;
        let (now, ahead) = (self.clock.now(), self.clock.ahead());
        let written = match timeout(PATIENCE, write(&mut connection, &mut self.backlogs, group, now, ahead)).await {
            Ok(written) => written.map_err(Failed::Alone)?,
            Err(_) => return Err(Failed::Alone(StoreError::Other(format!("the database did not answer within {PATIENCE:?}")))),
        };
        // The server answers the commit of a transaction that has failed as if nothing were wrong, and undoes it: it has to say that it is fine.
        let end = if written { "SELECT 1; COMMIT" } else { "ROLLBACK" };
        let ended = timeout(PATIENCE, execute(&mut connection, end)).await;
        if matches!(ended, Ok(Ok(()))) {
            self.connection = Some(connection);
            return Ok(());
        }
        drop(connection);
        if written { self.find_out(&number).await } else { Ok(()) }
    }

    /// A connection with an open transaction, and its number: a new one where the old one was lost while nothing was asked of it.
    async fn begin(&mut self, lasts: bool) -> Result<(PgConnection, String), StoreError> {
        if let Some(mut connection) = self.connection.take()
            && let Ok(Ok(number)) = timeout(PATIENCE, begin(&mut connection, lasts)).await
        {
            return Ok((connection, number));
        }
        let mut connection = self.connect.writer(&self.clock).await?;
        match timeout(PATIENCE, begin(&mut connection, lasts)).await {
            Ok(number) => Ok((connection, number?)),
            Err(_) => Err(StoreError::Other(format!("the database did not answer within {PATIENCE:?}"))),
        }
    }

    /// The connection was lost in a commit: the server knows whether it happened. What did must not be done again, what did not must be.
    async fn find_out(&self, number: &str) -> Result<(), Failed> {
        let until = Instant::now() + DOUBT;
        let mut why = None;
        while Instant::now() < until {
            match self.status(number).await {
                Ok(Some(status)) if status == "committed" => return Ok(()),
                Ok(Some(status)) if status == "in progress" => {}
                Ok(_) => return Err(Failed::Alone(StoreError::Other("the database went away in a commit, which did not happen".into()))),
                Err(error) => why = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        Err(Failed::All(StoreError::Other(format!("the database went away in a commit, and it is not known whether that happened{why}"))))
    }

    async fn status(&self, number: &str) -> Result<Option<String>, StoreError> {
        let mut connection = self.connect.writer(&self.clock).await?;
        let asked = sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)").bind(number).fetch_one(&mut connection);
        Ok(timeout(PATIENCE, asked).await.map_err(|_| StoreError::Other("no answer".into()))??)
    }
}

/// Why a transaction failed.
enum Failed {
    /// One of its members may be to blame: each can be tried alone.
    Alone(StoreError),
    /// None of them is.
    All(StoreError),
}

/// Begin a transaction, whatever the defaults of the user are. Its number.
async fn begin(connection: &mut PgConnection, lasts: bool) -> sqlx::Result<String> {
    execute(
        connection,
        if lasts {
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
        } else {
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = off"
        },
    )
    .await?;
    sqlx::query_scalar("SELECT pg_current_xact_id()::text").fetch_one(connection).await
}

/// What a group writes. `false`: nothing.
async fn write(
    connection: &mut PgConnection,
    backlogs: &mut Backlogs,
    group: &mut [Box<dyn Member>],
    now: Millis,
    ahead: Millis,
) -> Result<bool, StoreError> {
    let mut locks = Locks::default();
    group.iter().for_each(|member| member.lock(&mut locks));
    locks.take(connection).await?;
    let mut tx = Tx { connection, now, ahead, backlogs };
    let several = group.len() > 1;
    let mut first = true;
    for member in group {
        if several {
            execute(tx.connection, if first { "SAVEPOINT member" } else { "RELEASE member; SAVEPOINT member" }).await?;
            first = false;
        }
        if !member.carry_out(&mut tx).await {
            if !several {
                return Ok(false);
            }
            execute(tx.connection, "ROLLBACK TO member").await?;
        }
    }
    Ok(true)
}

async fn execute(connection: &mut PgConnection, sql: &'static str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

fn clone(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full(why) => StoreError::Full(why.clone()),
        StoreError::Closed => StoreError::Closed,
        StoreError::Fenced => StoreError::Fenced,
        other => StoreError::Other(other.to_string()),
    }
}
