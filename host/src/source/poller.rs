//! Polls a database: rows, or the value of a condition, become events.
//!
//! There are four ways to know what is new, one file each: [`claim`] (a row is leased, handled and marked), [`cursor`] (rows in the order of
//! the transactions that wrote them), [`query`] (any `SELECT`, each (key, version) once) and [`condition`] (one value, and whether it
//! changed). What they share is here: when the database is asked, how
//! many events may be taken, what happens when it does not answer, and how a stop ends. Statements are the operator's own, in the
//! database's own SQL: "now" is `datetime('now')` in SQLite.
//!
//! The loop does one thing at a time, so polls never overlap. It never ends because of the database: it says so once, tries again with a
//! growing wait, and says when it is back. Nothing new is taken while a handled row cannot be marked. A notification of the database may make
//! a poll happen sooner ([`wake`]).

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{Either, pending};

use tokio::sync::Notify;

use self::{claim::Claims, condition::Condition, cursor::Cursor, database::Database, query::Query};
use super::{Source, SourceContext, SourceError, backoff::Backoff, in_flight::InFlight};
use crate::{
    channel::Credit,
    config::{PollMode, PollerConfig},
    event::Event,
    receipt::Answer,
    store::StoreError,
};

mod claim;
mod condition;
mod cursor;
mod database;
mod query;
mod row;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod wake;

/// The most rows that one poll takes: transactions in somebody else's database are kept short.
const MAX_BATCH: usize = 256;
/// The longest wait between two attempts to reach a database that does not answer.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How long answers gather before they are carried out, unless there are enough for a transaction: each costs the database a write to disk.
const GATHER: Duration = Duration::from_millis(20);
/// How soon the next poll is, at the latest, when the last one saw what it could not take yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The shortest time from one poll to the next that a notification asks for.
const PAUSE: Duration = Duration::from_millis(10);
/// How often a stop tries to mark what was handled before it leaves that to the lease.
const ATTEMPTS_AT_STOP: u32 = 3;

/// A source that polls a database.
#[derive(Debug)]
pub struct PollerSource {
    config: PollerConfig,
}

/// One of the ways to know what is new.
trait Mode: Send {
    /// What is needed to carry out the answer to an event.
    type Ticket: Send + 'static;

    /// What is new, at most `limit` events. Those with a ticket are to be sent; a mode that accepts its events durably returns none.
    fn poll(&mut self, limit: usize) -> impl Future<Output = Result<Vec<Found<Self::Ticket>>, PollError>> + Send;

    /// Carry out answers. Whatever was carried out has left `answered` when this returns, with an error too.
    fn settle(&mut self, answered: &mut Vec<Answered<Self::Ticket>>) -> impl Future<Output = Result<(), PollError>> + Send;

    /// Carry out answers and take what is new; at once, where the database can.
    fn exchange(
        &mut self,
        answered: &mut Vec<Answered<Self::Ticket>>,
        limit: usize,
    ) -> impl Future<Output = Exchanged<Self::Ticket>> + Send {
        one_after_the_other(self, answered, limit)
    }

    /// Whether the last poll looked at everything there is, if it found less than it could take.
    fn looked_at_all(&self) -> bool {
        true
    }

    /// The last poll saw what it could not take yet.
    fn has_to_wait(&self) -> bool {
        false
    }

    /// A connection to the database was given up: others may be gone too.
    fn lost(&mut self) {}

    /// How often what is in flight, or handled and not marked yet, has to be held on to.
    fn renew_every(&self) -> Option<Duration> {
        None
    }

    /// Hold on to it.
    fn renew(&mut self) -> impl Future<Output = Result<(), PollError>> + Send {
        async { Ok(()) }
    }
}

/// An event that has to be sent.
struct Found<T> {
    event: Arc<Event>,
    /// What it is recognised by when it comes again.
    key: Arc<str>,
    ticket: T,
}

/// An answer that has to be carried out.
struct Answered<T> {
    ticket: T,
    answer: Answer,
}

/// What became of both halves of an exchange.
struct Exchanged<T> {
    settled: Result<(), PollError>,
    found: Result<Vec<Found<T>>, PollError>,
}

/// Why a poll failed.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error(transparent)]
    Database(#[from] database::DatabaseError),
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
    #[error("the query gives no column {0:?}; select it, or name another in the source's `key` and `version`")]
    NoColumn(String),
    #[error("the query gives more than {0} rows; narrow it, every row it gives has to be remembered")]
    TooManyRows(usize),
    #[error("cursor mode needs PostgreSQL; use claim or query mode")]
    NoWatermark,
    #[error(
        "the position in the store is of a transaction that the database has not begun: was it restored from a dump? \
         Give the source another name to begin with the first row"
    )]
    Ahead,
    #[error("{0} events of this source are not settled yet; it waits for its handlers")]
    Backlog(u64),
}

/// Carry out answers, and take what is new unless that failed.
async fn one_after_the_other<M: Mode + ?Sized>(
    mode: &mut M,
    answered: &mut Vec<Answered<M::Ticket>>,
    limit: usize,
) -> Exchanged<M::Ticket> {
    let settled = if answered.is_empty() { Ok(()) } else { mode.settle(answered).await };
    let found = if settled.is_ok() { mode.poll(limit).await } else { Ok(Vec::new()) };
    Exchanged { settled, found }
}

impl PollerSource {
    /// A source that polls as `config` says.
    pub fn new(config: PollerConfig) -> Self {
        Self { config }
    }
}

impl Source for PollerSource {
    fn kind(&self) -> &str {
        "poller"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        Box::pin(async move {
            // Rows that are claimed are divided among hosts; a position, or what was seen, is not.
            let alone = match self.config.mode {
                PollMode::Claim { .. } => None,
                _ => tokio::select! {
                    alone = ctx.alone() => alone,
                    () = ctx.stopping().cancelled() => return Ok(()),
                },
            };
            let lost = alone.as_ref().map_or_else(|| Either::Right(pending()), |alone| Either::Left(alone.lost()));
            tokio::select! {
                () = poll(self.config.clone(), ctx) => Ok(()),
                () = lost => Err(SourceError::new("the store did not confirm in time that this host is the one that polls")),
            }
        })
    }
}

/// Poll until told to stop.
async fn poll(config: PollerConfig, ctx: SourceContext) {
    let PollerConfig { database: url, setup, every, wake, mode } = config;
    let database = Database::new(&url, setup.clone());
    let bell = Arc::new(Notify::new());
    let listening = match (&database, wake) {
        (Database::Postgres(db), Some(channel)) => Either::Left(wake::listen(db.kind().options().clone(), channel, bell.clone())),
        _ => Either::Right(pending()),
    };
    let polling = async move {
        match mode {
            PollMode::Claim { table, key, filter, done, lease } => {
                let databases = [database, Database::new(&url, setup)];
                let table = claim::Table { source: claim::name_of(ctx.origin()), table, key, filter, done, lease };
                Box::pin(Poller::new(ctx.clone(), every, bell, Claims::new(ctx, databases, table)).run()).await;
            }
            PollMode::Cursor { table, key, xid, filter } => {
                let table = cursor::Table { table, key, xid, filter };
                Poller::new(ctx.clone(), every, bell, Cursor::new(ctx, database, table)).run().await;
            }
            PollMode::Query { query, key, version } => {
                Poller::new(ctx.clone(), every, bell, Query::new(ctx, database, query, key, version)).run().await;
            }
            PollMode::Condition { condition, on } => {
                Poller::new(ctx.clone(), every, bell, Condition::new(ctx, database, condition, on)).run().await;
            }
        }
    };
    tokio::select! {
        () = polling => {}
        never = listening => match never {},
    }
}

/// The loop around a mode.
struct Poller<M: Mode> {
    ctx: SourceContext,
    every: Duration,
    /// Rung when the next poll is to happen at once.
    bell: Arc<Notify>,
    mode: M,
    /// Events that were sent, at most one for each credit.
    in_flight: InFlight<M::Ticket>,
    /// What was found and is not sent yet.
    found: Vec<(Found<M::Ticket>, Credit)>,
    /// Answers that are not carried out yet.
    answered: Vec<Answered<M::Ticket>>,
    /// When they are carried out, however few they are.
    settle_due: Option<Instant>,
    /// When the database is asked next.
    due: Instant,
    /// When it was asked last.
    asked: Instant,
    /// The bell rang since.
    woken: bool,
    /// When it rang something was in flight: what is in flight no longer is looked at once more.
    passed_by: bool,
    /// When what is in flight has to be held on to.
    renewal: Instant,
    /// The last poll found as much as it could take, or did not look everywhere: there is probably more.
    more: bool,
    /// An operator has paused the source: without credits nothing is asked for, and answers are carried out.
    held: bool,
    backoff: Backoff,
    /// Failures in a row.
    failures: u32,
}

impl<M: Mode> Poller<M> {
    fn new(ctx: SourceContext, every: Duration, bell: Arc<Notify>, mode: M) -> Self {
        let now = Instant::now();
        Self {
            ctx,
            every,
            bell,
            mode,
            in_flight: InFlight::default(),
            found: Vec::new(),
            answered: Vec::new(),
            settle_due: None,
            due: now,
            asked: now,
            woken: false,
            passed_by: false,
            renewal: now,
            more: false,
            held: false,
            backoff: Backoff::new(every.clamp(Duration::from_millis(50), Duration::from_secs(1)), MAX_WAIT),
            failures: 0,
        }
    }

    async fn run(mut self) {
        let (stopping, bell) = (self.ctx.stopping().clone(), self.bell.clone());
        while !stopping.is_cancelled() {
            // While there is more to be had, what was found is sent beside the next poll.
            if !self.has_room_for_more() {
                self.send().await;
            }
            tokio::select! {
                () = stopping.cancelled() => {}
                () = self.in_flight.wait(), if !self.in_flight.is_empty() => self.take_answers().await,
                () = at(self.settle_due.unwrap_or(self.due)), if self.settle_due.is_some() => self.carry_out().await,
                () = renewal(self.renewal, &self.mode), if self.holds() => self.renew().await,
                () = bell.notified() => self.wake(),
                () = self.ctx.paused(), if !self.held => self.held = true,
                () = self.ctx.resumed(), if self.held => (self.held, self.due) = (false, self.due.min(Instant::now())),
                () = at(self.due) => self.poll().await,
            }
        }
        self.finish().await;
    }

    /// Ask the database once: carry out what is owed, and take what is new.
    async fn poll(&mut self) {
        let started = Instant::now();
        (self.asked, self.due) = (started, started + self.every);
        // What woke it may be a new version of a row in flight, which is passed by this time.
        self.passed_by = std::mem::take(&mut self.woken) && self.holds() || self.passed_by;
        // Nothing new is taken while a handled row cannot be marked.
        if self.failures > 0 && !self.settle().await {
            return;
        }
        let credits = self.take_credits();
        if credits.is_empty() {
            // Nobody looked: there may be more.
            self.more = true;
            return;
        }
        self.gather();
        self.settle_due = None;
        let (held, handled) = (self.holds(), self.any_handled());
        let Self { ctx, mode, in_flight, answered, found, .. } = self;
        let exchange = mode.exchange(answered, credits.len());
        let (Exchanged { settled, found }, ()) = tokio::join!(exchange, send(ctx, in_flight, std::mem::take(found)));
        if !held {
            self.renewal = self.next_renewal(started);
        }
        match found {
            Ok(found) => {
                self.more = found.len() == credits.len() || !self.mode.looked_at_all();
                self.found = found.into_iter().zip(credits).collect();
                if self.mode.has_to_wait() {
                    self.due = self.due.min(Instant::now() + LOOK_AGAIN);
                }
                match settled {
                    Ok(()) => self.recovered(),
                    Err(error) => return self.failed(&error),
                }
                self.hurry();
                if handled {
                    self.look_again();
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// The database says that there is something new. One that does not answer is asked when its turn comes.
    fn wake(&mut self) {
        if self.failures == 0 {
            self.woken = true;
            self.due = self.due.min(self.asked + PAUSE);
        }
    }

    fn take_credits(&self) -> Vec<Credit> {
        std::iter::from_fn(|| self.ctx.credits().try_acquire()).take(MAX_BATCH).collect()
    }

    async fn send(&mut self) {
        send(&self.ctx, &mut self.in_flight, std::mem::take(&mut self.found)).await;
    }

    /// Every answer that is there, to be carried out soon.
    fn gather(&mut self) {
        while let Some((ticket, answer)) = self.in_flight.next() {
            self.answered.push(Answered { ticket, answer });
        }
        if !self.answered.is_empty() {
            self.settle_due.get_or_insert_with(|| Instant::now() + GATHER);
        }
    }

    /// Whether there are as many answers as a transaction should have.
    fn has_enough(&self) -> bool {
        self.answered.len() >= (self.ctx.credits().limit() / 2).clamp(1, MAX_BATCH)
    }

    /// Every answer that is there. They share a transaction, with those that come soon.
    async fn take_answers(&mut self) {
        self.gather();
        if self.in_flight.is_empty() || self.has_enough() {
            if self.has_room_for_more() {
                self.poll().await;
            } else {
                self.carry_out().await;
            }
        }
    }

    /// Carry out the answers, and ask again where that makes room.
    async fn carry_out(&mut self) {
        self.settle_due = None;
        let handled = self.any_handled();
        // While the database does not answer, the next poll carries them out. What only came back waits for its turn, or a host whose
        // store fails would hand the same rows round and round.
        if self.failures == 0 && self.settle().await && handled {
            self.hurry();
            self.look_again();
        }
    }

    /// Rows were handled: what was passed by because they were in flight is looked at.
    fn look_again(&mut self) {
        if self.passed_by {
            self.passed_by = self.holds();
            self.due = self.due.min(self.asked + PAUSE);
        }
    }

    /// Carry out the answers. `false`: some are still owed.
    async fn settle(&mut self) -> bool {
        self.settle_due = None;
        if self.answered.is_empty() {
            return true;
        }
        match self.mode.settle(&mut self.answered).await {
            Ok(()) => true,
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    async fn renew(&mut self) {
        match self.mode.renew().await {
            Ok(()) if self.failures > 0 && self.answered.is_empty() => self.recovered(),
            Ok(()) => {}
            Err(error) => self.failed(&error),
        }
        // A lease lasts for several of these: one that failed is not lost.
        self.renewal = self.next_renewal(Instant::now());
    }

    /// An answer to be carried out is more than that an event comes again.
    fn any_handled(&self) -> bool {
        self.answered.iter().any(|a| !matches!(a.answer, Answer::Again { .. }))
    }

    /// Something is in flight, or was handled and is not marked yet.
    fn holds(&self) -> bool {
        !(self.in_flight.is_empty() && self.answered.is_empty() && self.found.is_empty())
    }

    fn next_renewal(&self, now: Instant) -> Instant {
        now + self.mode.renew_every().unwrap_or(MAX_WAIT)
    }

    /// Ask again at once when there is more; not before half of the credits are free, or each row would be a poll of its own.
    fn hurry(&mut self) {
        if self.has_room_for_more() {
            self.due = Instant::now();
        }
    }

    fn has_room_for_more(&self) -> bool {
        let credits = self.ctx.credits();
        self.more && self.failures == 0 && credits.free() * 2 >= credits.limit() && !self.ctx.stopping().is_cancelled()
    }

    fn recovered(&mut self) {
        self.failures = 0;
        self.backoff.reset();
        self.ctx.ready();
    }

    fn failed(&mut self, error: &PollError) {
        self.failures += 1;
        self.due = Instant::now() + self.backoff.after_failure();
        if let PollError::Database(error) = error
            && error.ends_the_connection()
        {
            self.mode.lost();
        }
        self.ctx.unready(error);
    }

    /// A stop: wait for the answers that are owed and carry them out.
    async fn finish(&mut self) {
        self.failures = 0;
        self.backoff.reset();
        self.due = Instant::now();
        self.send().await;
        while self.holds() {
            tokio::select! {
                () = self.in_flight.wait(), if !self.in_flight.is_empty() => self.take_answers().await,
                () = at(self.settle_due.unwrap_or(self.due)), if self.settle_due.is_some() => self.carry_out().await,
                () = renewal(self.renewal, &self.mode), if self.holds() => self.renew().await,
                () = at(self.due), if !self.answered.is_empty() => if self.settle().await { self.failures = 0 },
            }
            if self.in_flight.is_empty() && self.failures >= ATTEMPTS_AT_STOP {
                let origin = self.ctx.origin();
                tracing::warn!(tenant = %origin.tenant, source = %origin.source, rows = self.answered.len(),
                    "what was handled could not be marked before the stop; these rows come again and calls with effects are recognised");
                return;
            }
        }
    }
}

/// Send what was found.
async fn send<T: Send>(ctx: &SourceContext, in_flight: &mut InFlight<T>, found: Vec<(Found<T>, Credit)>) {
    for (Found { mut event, key, ticket }, credit) in found {
        ctx.complete_shared(&mut event);
        let receipt = in_flight.receipt(ticket);
        ctx.send_with(event, key, None, receipt, credit).await;
    }
}

async fn at(instant: Instant) {
    tokio::time::sleep_until(instant.into()).await;
}

/// When the mode has to hold on to what is in flight; never, if it does not have to.
fn renewal<M: Mode>(due: Instant, mode: &M) -> impl Future<Output = ()> + use<M> {
    match mode.renew_every() {
        Some(_) => Either::Left(at(due)),
        None => Either::Right(pending()),
    }
}
