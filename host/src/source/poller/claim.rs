//! Claim mode: a row is leased, handled, and then marked, deleted or changed.
//!
//! Leases and marks live in the table `koksmat_claims` of the polled database, so that several hosts may poll one table. A claim has
//!
//! * an **owner** and an **epoch**, which moves whenever the row is claimed again: only the newest claim can complete the row;
//! * a **lease**, extended while the row is in flight: when the owner is gone, another takes the row after it has ended.
//!   What the same host held before it was started again is free at once: having its store proves that it is not held any more;
//! * a **generation**, which stays the same until the row is done and is never used again: `key#generation` is what the event is
//!   recognised by, whoever claims the row and however often.
//!
//! The row itself is not touched before it is done. With `done = "mark"` a mark is kept for as long as the row exists; removing the mark
//! makes the row new. Rows whose key column is null have no identity and are left alone; two rows with one key are one row. A row that is
//! deleted and inserted again with the same key between two polls cannot be told from the one it was. A poll passes by every row that its
//! condition lets through and that has a mark: in a large table give it a condition that an index answers, or another `done`.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::{
    Answered, Found, Mode, PollError,
    database::{Database, DatabaseError},
    row::{self, Value},
};
use crate::{channel::Origin, config::ClaimDone, receipt::Answer, source::SourceContext};

mod mysql;
mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

/// Which rows are claimed, and what becomes of them.
#[derive(Debug)]
pub(super) struct Table {
    /// Under which name the claims are: hosts with a source of this name share them.
    pub(super) source: String,
    pub(super) table: String,
    /// The column that says which row.
    pub(super) key: String,
    pub(super) filter: Option<String>,
    pub(super) done: ClaimDone,
    pub(super) lease: Duration,
}

impl Table {
    /// The operator's condition after another one. On lines of its own: it may end in a comment.
    fn condition(&self) -> String {
        self.filter.as_ref().map(|filter| format!("AND (\n{filter}\n)")).unwrap_or_default()
    }
}

/// The right to complete a row, as long as nobody claimed it since.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    key: Value,
    generation: String,
    epoch: i64,
}

/// What has to be done with a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Completion {
    /// The row was handled.
    Done,
    /// It has to come again, not before this has passed.
    Release(Duration),
}

/// Under which name the store remembers who claims: the number of the start and the owner.
const OWNER: &str = "owner";
/// How many claims one sweep compares with their rows, and how often.
const SWEEP: i64 = 1000;
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long rows are tried one by one, when they cannot be completed together.
const ONE_BY_ONE: Duration = Duration::from_secs(5);

pub(super) struct Claims {
    ctx: SourceContext,
    database: Database,
    table: Table,
    /// New whenever the source is started.
    owner: String,
    /// The store knows it.
    remembered: bool,
    /// Up to where the marks were compared with the rows; absent: from the beginning.
    swept: Option<Value>,
    /// When they are compared next.
    sweep_due: Instant,
    /// The keys of what is in flight or not completed yet.
    held: HashSet<String>,
    /// What was asked last may have happened or not: there was no answer.
    in_doubt: bool,
}

/// Under which name the claims of a source are.
pub(super) fn name_of(origin: &Origin) -> String {
    format!("{}/{}", origin.tenant, origin.source)
}

impl Claims {
    pub(super) fn new(ctx: SourceContext, mut database: Database, table: Table) -> Self {
        match &mut database {
            Database::Sqlite(db) => db.setup(sqlite::SETUP),
            Database::Postgres(db) => db.setup(postgres::SETUP),
            Database::MySql(db) => db.setup(mysql::SETUP),
            Database::Unknown(_) => {}
        }
        let owner = uuid::Uuid::now_v7().to_string();
        let (held, sweep_due) = (HashSet::new(), Instant::now());
        Self { ctx, database, table, owner, remembered: false, swept: None, sweep_due, held, in_doubt: false }
    }

    /// Free what an earlier start of this host held, and have the store remember who holds from now on. An earlier owner of the same start
    /// may still have rows in flight: those are free when their leases end.
    async fn succeed(&mut self) -> Result<(), PollError> {
        let start = self.ctx.start_number().to_string();
        let known = self.ctx.state(OWNER).await?.into_iter().find(|(name, _)| name == OWNER);
        let known = known.and_then(|(_, value)| String::from_utf8(value).ok());
        if let Some((_, earlier)) = known.as_deref().and_then(|known| known.split_once(' ')).filter(|(of, _)| **of != start) {
            let earlier = earlier.to_owned();
            self.free(&earlier, &[]).await?;
        }
        self.ctx.set_state(vec![(OWNER.into(), Some(format!("{start} {}", self.owner).into_bytes()))]).await?;
        self.remembered = true;
        Ok(())
    }

    /// End every lease of `owner`, but for those of the rows to `keep`.
    async fn free(&mut self, owner: &str, keep: &[String]) -> Result<(), DatabaseError> {
        match &mut self.database {
            Database::Sqlite(db) => sqlite::free(db, &self.table, owner, keep).await,
            Database::Postgres(db) => postgres::free(db, &self.table, owner, keep).await,
            Database::MySql(db) => mysql::free(db, &self.table, owner, keep).await,
            Database::Unknown(unknown) => Err(unknown.error()),
        }
    }

    /// Claim rows, each with what it holds as a JSON object.
    async fn take(&mut self, limit: usize) -> Result<Vec<(Claim, String)>, DatabaseError> {
        match &mut self.database {
            Database::Sqlite(db) => sqlite::take(db, &self.table, &self.owner, limit).await,
            Database::Postgres(db) => postgres::take(db, &self.table, &self.owner, limit).await,
            Database::MySql(db) => mysql::take(db, &self.table, &self.owner, limit).await,
            Database::Unknown(unknown) => Err(unknown.error()),
        }
    }

    /// Complete claims, all or none. How many of them had been lost.
    async fn complete(&mut self, claims: &[(Claim, Completion)]) -> Result<usize, DatabaseError> {
        match &mut self.database {
            Database::Sqlite(db) => sqlite::complete(db, &self.table, &self.owner, claims).await,
            Database::Postgres(db) => postgres::complete(db, &self.table, &self.owner, claims).await,
            Database::MySql(db) => mysql::complete(db, &self.table, &self.owner, claims).await,
            Database::Unknown(unknown) => Err(unknown.error()),
        }
    }

    /// Forget the next few claims whose row is gone.
    async fn sweep(&mut self) -> Result<(), DatabaseError> {
        let now = Instant::now();
        if now < self.sweep_due {
            return Ok(());
        }
        self.sweep_due = now + SWEEP_EVERY;
        let from = self.swept.take();
        self.swept = match &mut self.database {
            Database::Sqlite(db) => sqlite::sweep(db, &self.table, from).await?,
            Database::Postgres(db) => postgres::sweep(db, &self.table, from).await?,
            Database::MySql(db) => mysql::sweep(db, &self.table, from).await?,
            Database::Unknown(unknown) => return Err(unknown.error()),
        };
        Ok(())
    }

    async fn carry_out(&mut self, claims: &[(Claim, Completion)]) -> Result<(), DatabaseError> {
        // What was completed by a statement whose answer was lost is not held any more: that is nothing to complain about.
        let doubtful = self.in_doubt;
        let lost = self.complete(claims).await.inspect_err(|error| self.in_doubt |= !error.is_refusal())?;
        if lost > 0 && !doubtful {
            let Table { source, table, .. } = &self.table;
            tracing::warn!(source, table, lost, "leases ended before their rows were handled; these rows may be handled twice");
        }
        for (claim, _) in claims {
            self.held.remove(&claim.key.to_text());
        }
        Ok(())
    }

    /// Give back what was claimed by a statement whose answer was lost: nobody here knows of it, and it would be held for ever.
    async fn resolve_doubt(&mut self) -> Result<(), DatabaseError> {
        if self.in_doubt {
            let (owner, keep) = (self.owner.clone(), self.held.iter().cloned().collect::<Vec<_>>());
            self.free(&owner, &keep).await?;
            self.in_doubt = false;
        }
        Ok(())
    }
}

impl Mode for Claims {
    type Ticket = Claim;

    async fn poll(&mut self, limit: usize) -> Result<Vec<Found<Claim>>, PollError> {
        if !self.remembered {
            self.succeed().await?;
        }
        self.resolve_doubt().await?;
        let taken = match self.sweep().await {
            Ok(()) => self.take(limit).await,
            Err(error) => Err(error),
        };
        let taken = taken.inspect_err(|_| self.in_doubt = true)?;
        self.held.extend(taken.iter().map(|(claim, _)| claim.key.to_text()));
        let found = |(claim, json): (Claim, String)| {
            let id = claim.key.to_text();
            let key = format!("{id}#{}", claim.generation);
            Found { event: row::event(id, Some(&self.table.table), json).into(), key, ticket: claim }
        };
        Ok(taken.into_iter().map(found).collect())
    }

    async fn settle(&mut self, answered: &mut Vec<Answered<Claim>>) -> Result<(), PollError> {
        let claims: Vec<_> = answered.iter().map(|a| (a.ticket.clone(), completion(&a.answer))).collect();
        match self.carry_out(&claims).await {
            Ok(()) => {
                answered.clear();
                return Ok(());
            }
            Err(error) if !error.is_refusal() => return Err(error.into()),
            Err(_) => {}
        }
        // One by one, so that a row which cannot be changed holds up none of the others; those that had no turn have it first next time.
        let until = Instant::now() + ONE_BY_ONE;
        let mut problem = None;
        let (mut owed, mut failed) = (Vec::new(), Vec::new());
        for (answer, claim) in answered.drain(..).zip(claims) {
            if problem.is_some() && Instant::now() >= until {
                owed.push(answer);
            } else if let Err(error) = self.carry_out(&[claim]).await {
                problem = Some(error);
                failed.push(answer);
            }
        }
        owed.append(&mut failed);
        *answered = owed;
        problem.map_or(Ok(()), |error| Err(error.into()))
    }

    fn renew_every(&self) -> Option<Duration> {
        Some(self.table.lease / 3)
    }

    async fn renew(&mut self) -> Result<(), PollError> {
        match &mut self.database {
            Database::Sqlite(db) => sqlite::renew(db, &self.table, &self.owner).await?,
            Database::Postgres(db) => postgres::renew(db, &self.table, &self.owner).await?,
            Database::MySql(db) => mysql::renew(db, &self.table, &self.owner).await?,
            Database::Unknown(unknown) => return Err(unknown.error().into()),
        }
        Ok(())
    }
}

/// A dead event is done too: it is among the dead letters.
fn completion(answer: &Answer) -> Completion {
    match answer {
        Answer::Done { .. } | Answer::Dead { .. } => Completion::Done,
        Answer::Again { after, .. } => Completion::Release(after.unwrap_or_default()),
    }
}

/// Milliseconds, ten years at most: what is longer fits into no column for times.
fn millis(duration: Duration) -> i64 {
    const MOST: i64 = 10 * 365 * 24 * 60 * 60 * 1000;
    i64::try_from(duration.as_millis()).map_or(MOST, |millis| millis.min(MOST))
}
