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
//! deleted and inserted again with the same key between two polls cannot be told from the one it was. Rows are looked at in the order of their
//! keys: where millions have a mark, a row whose key is lower than others before it may be found seconds later (`looks.rs`).

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    looks::{Look, Looks},
    store::ClaimStore,
};
use super::{
    Answered, Exchanged, Found, Mode, PollError,
    database::{Database, DatabaseError},
    one_after_the_other,
    row::{self, Value},
};
use crate::{channel::Origin, config::ClaimDone, receipt::Answer, source::SourceContext};

mod looks;
mod mysql;
mod postgres;
mod sqlite;
mod store;
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
    store: ClaimStore,
    /// A connection of its own for completing, where the database can claim meanwhile.
    completing: Option<ClaimStore>,
    /// The store of the host knows who claims.
    remembered: bool,
    /// Up to where the marks were compared with the rows; absent: from the beginning.
    swept: Option<Value>,
    /// When they are compared next.
    sweep_due: Instant,
    looks: Looks,
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
    pub(super) fn new(ctx: SourceContext, databases: [Database; 2], table: Table) -> Self {
        let (table, owner) = (Arc::new(table), Arc::from(uuid::Uuid::now_v7().to_string()));
        let [store, completing] = databases.map(|database| ClaimStore::new(database, Arc::clone(&table), Arc::clone(&owner)));
        // In SQLite one writes at a time. In MySQL the two would wait for each other's locks on ranges of keys.
        let completing = Some(completing).filter(|store| matches!(store.database, Database::Postgres(_)));
        let (looks, held, sweep_due) = (Looks::default(), HashSet::new(), Instant::now());
        Self { ctx, store, completing, remembered: false, swept: None, sweep_due, looks, held, in_doubt: false }
    }

    /// Free what an earlier start of this host held, and have the store remember who holds from now on. An earlier owner of the same start
    /// may still have rows in flight: those are free when their leases end, as are those of hosts that share the store.
    async fn succeed(&mut self) -> Result<(), PollError> {
        if self.ctx.shares_its_store() {
            self.remembered = true;
            return Ok(());
        }
        let start = self.ctx.start_number().to_string();
        let known = self.ctx.state(OWNER).await?.into_iter().find(|(name, _)| name == OWNER);
        let known = known.and_then(|(_, value)| String::from_utf8(value).ok());
        if let Some((_, earlier)) = known.as_deref().and_then(|known| known.split_once(' ')).filter(|(of, _)| **of != start) {
            self.store.free(earlier, &[]).await?;
        }
        self.ctx.set_state(vec![(OWNER.into(), Some(format!("{start} {}", self.store.owner).into_bytes()))]).await?;
        self.remembered = true;
        Ok(())
    }

    /// What has to be right before rows are claimed.
    async fn prepare(&mut self) -> Result<(), PollError> {
        if !self.remembered {
            self.succeed().await?;
        }
        self.resolve_doubt().await?;
        let now = Instant::now();
        if now >= self.sweep_due {
            self.sweep_due = now + SWEEP_EVERY;
            self.swept = self.store.sweep(self.swept.take()).await.inspect_err(|_| self.in_doubt = true)?;
        }
        Ok(())
    }

    /// Give back what was claimed by a statement whose answer was lost: nobody here knows of it, and it would be held for ever.
    async fn resolve_doubt(&mut self) -> Result<(), DatabaseError> {
        if self.in_doubt {
            let keep = self.held.iter().cloned().collect::<Vec<_>>();
            self.store.free(&self.store.owner.clone(), &keep).await?;
            self.in_doubt = false;
        }
        Ok(())
    }

    /// What was claimed by a look that asked for at most `limit` rows, as events.
    fn taken(
        &mut self,
        limit: usize,
        look: &Look,
        began: Instant,
        taken: Result<Vec<(Claim, String)>, DatabaseError>,
    ) -> Result<Vec<Found<Claim>>, PollError> {
        let taken = taken.inspect_err(|_| {
            self.in_doubt = true;
            // The table may be another one by now, and its keys of another type.
            self.looks = Looks::default();
        })?;
        let last = taken.last().map(|(claim, _)| &claim.key);
        self.looks.looked(look, began, Instant::now(), last, taken.len() >= limit);
        self.held.extend(taken.iter().map(|(claim, _)| claim.key.to_text()));
        let found = |(claim, json): (Claim, String)| {
            let id = claim.key.to_text();
            let key = format!("{id}#{}", claim.generation).into();
            Found { event: row::event(id, Some(&self.store.table.table), json).into(), key, ticket: claim }
        };
        Ok(taken.into_iter().map(found).collect())
    }

    /// These claims were completed, or not.
    fn completed(&mut self, claims: &[(Claim, Completion)], lost: Result<usize, DatabaseError>) -> Result<(), DatabaseError> {
        // What was completed by a statement whose answer was lost is not held any more: that is nothing to complain about.
        let doubtful = self.in_doubt;
        let lost = lost.inspect_err(|error| self.in_doubt |= !error.is_refusal())?;
        if lost > 0 && !doubtful {
            let Table { source, table, .. } = &*self.store.table;
            tracing::warn!(source, table, lost, "leases ended before their rows were handled; these rows may be handled twice");
        }
        for (claim, _) in claims {
            self.held.remove(&claim.key.to_text());
        }
        Ok(())
    }

    /// The answers were carried out together, or that failed: then one by one, so that a row which cannot be changed holds up none of the
    /// others; those that had no turn have it first next time.
    async fn settled(
        &mut self,
        answered: &mut Vec<Answered<Claim>>,
        claims: Vec<(Claim, Completion)>,
        together: Result<(), DatabaseError>,
    ) -> Result<(), PollError> {
        match together {
            Ok(()) => {
                answered.clear();
                return Ok(());
            }
            Err(error) if !error.is_refusal() => return Err(error.into()),
            Err(_) => {}
        }
        let until = Instant::now() + ONE_BY_ONE;
        let mut problem = None;
        let (mut owed, mut failed) = (Vec::new(), Vec::new());
        for (answer, claim) in answered.drain(..).zip(claims) {
            if problem.is_some() && Instant::now() >= until {
                owed.push(answer);
                continue;
            }
            let lost = self.store.complete(std::slice::from_ref(&claim)).await;
            if let Err(error) = self.completed(&[claim], lost) {
                problem = Some(error);
                failed.push(answer);
            }
        }
        owed.append(&mut failed);
        *answered = owed;
        problem.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Mode for Claims {
    type Ticket = Claim;

    async fn poll(&mut self, limit: usize) -> Result<Vec<Found<Claim>>, PollError> {
        self.prepare().await?;
        let began = Instant::now();
        let look = self.looks.next(began);
        let taken = self.store.take(limit, &look).await;
        self.taken(limit, &look, began, taken)
    }

    async fn settle(&mut self, answered: &mut Vec<Answered<Claim>>) -> Result<(), PollError> {
        let claims = completions(answered);
        let lost = self.store.complete(&claims).await;
        let together = self.completed(&claims, lost);
        self.settled(answered, claims, together).await
    }

    async fn exchange(&mut self, answered: &mut Vec<Answered<Claim>>, limit: usize) -> Exchanged<Claim> {
        if let Err(error) = self.prepare().await {
            return Exchanged { settled: Ok(()), found: Err(error) };
        }
        let claims = completions(answered);
        let (store, looks, completing) = match self {
            Self { store, looks, completing: Some(completing), .. } if !claims.is_empty() => (store, looks, completing),
            _ => return one_after_the_other(self, answered, limit).await,
        };
        let began = Instant::now();
        let look = looks.next(began);
        let (taken, lost) = tokio::join!(store.take(limit, &look), completing.complete(&claims));
        let together = self.completed(&claims, lost);
        let found = self.taken(limit, &look, began, taken);
        Exchanged { settled: self.settled(answered, claims, together).await, found }
    }

    fn looked_at_all(&self) -> bool {
        !(self.looks.passed_by() && self.looks.whole_is_due(Instant::now()))
    }

    fn has_to_wait(&self) -> bool {
        self.looks.passed_by()
    }

    fn lost(&mut self) {
        // Used now and then, it would be found dead after the other is back: an outage of its own, that was none.
        if let Some(completing) = &mut self.completing {
            completing.database.disconnect();
        }
    }

    fn renew_every(&self) -> Option<Duration> {
        Some(self.store.table.lease / 3)
    }

    async fn renew(&mut self) -> Result<(), PollError> {
        Ok(self.store.renew().await?)
    }
}

fn completions(answered: &[Answered<Claim>]) -> Vec<(Claim, Completion)> {
    answered.iter().map(|a| (a.ticket.clone(), completion(&a.answer))).collect()
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
