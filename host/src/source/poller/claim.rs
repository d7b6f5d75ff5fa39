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

use std::time::Duration;

use super::{
    Answered, Found, Mode, PollError,
    database::{Database, DatabaseError},
    row::{Row, Value},
};
use crate::{channel::Origin, config::ClaimDone, receipt::Answer, source::SourceContext};

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
}

/// Under which name the claims of a source are.
pub(super) fn name_of(origin: &Origin) -> String {
    format!("{}/{}", origin.tenant, origin.source)
}

impl Claims {
    pub(super) fn new(ctx: SourceContext, mut database: Database, table: Table) -> Self {
        match &mut database {
            Database::Sqlite(db) => db.setup(sqlite::SETUP),
            Database::Unknown(_) => {}
        }
        Self { ctx, database, table, owner: uuid::Uuid::now_v7().to_string(), remembered: false, swept: None }
    }

    /// Free what an earlier start of this host held, and have the store remember who holds from now on. An earlier owner of the same start
    /// may still have rows in flight: those are free when their leases end.
    async fn succeed(&mut self) -> Result<(), PollError> {
        let start = self.ctx.start_number().to_string();
        let known = self.ctx.state(OWNER).await?.into_iter().find(|(name, _)| name == OWNER);
        let known = known.and_then(|(_, value)| String::from_utf8(value).ok());
        if let Some((_, earlier)) = known.as_deref().and_then(|known| known.split_once(' ')).filter(|(of, _)| **of != start) {
            match &mut self.database {
                Database::Sqlite(db) => sqlite::free(db, &self.table, earlier).await?,
                Database::Unknown(unknown) => return Err(unknown.error().into()),
            }
        }
        self.ctx.set_state(vec![(OWNER.into(), Some(format!("{start} {}", self.owner).into_bytes()))]).await?;
        self.remembered = true;
        Ok(())
    }

    async fn take(&mut self, limit: usize) -> Result<Vec<(Claim, Row)>, DatabaseError> {
        match &mut self.database {
            Database::Sqlite(db) => sqlite::take(db, &self.table, &self.owner, limit).await,
            Database::Unknown(unknown) => Err(unknown.error()),
        }
    }

    /// Complete claims, all or none. How many of them had been lost.
    async fn complete(&mut self, claims: &[(Claim, Completion)]) -> Result<usize, DatabaseError> {
        match &mut self.database {
            Database::Sqlite(db) => sqlite::complete(db, &self.table, &self.owner, claims).await,
            Database::Unknown(unknown) => Err(unknown.error()),
        }
    }

    /// Forget the next few claims whose row is gone.
    async fn sweep(&mut self) -> Result<(), DatabaseError> {
        let from = self.swept.take();
        self.swept = match &mut self.database {
            Database::Sqlite(db) => sqlite::sweep(db, &self.table, from).await?,
            Database::Unknown(unknown) => return Err(unknown.error()),
        };
        Ok(())
    }

    async fn carry_out(&mut self, claims: &[(Claim, Completion)]) -> Result<(), DatabaseError> {
        let lost = self.complete(claims).await?;
        if lost > 0 {
            let Table { source, table, .. } = &self.table;
            tracing::warn!(source, table, lost, "leases ended before their rows were handled; these rows may be handled twice");
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
        self.sweep().await?;
        let taken = self.take(limit).await?;
        let found = |(claim, row): (Claim, Row)| {
            let id = claim.key.to_text();
            let key = format!("{id}#{}", claim.generation);
            Found { event: row.into_event(id, Some(&self.table.table)), key, ticket: claim }
        };
        Ok(taken.into_iter().map(found).collect())
    }

    async fn settle(&mut self, answered: &mut Vec<Answered<Claim>>) -> Result<(), PollError> {
        let claims: Vec<_> = answered.iter().map(|a| (a.ticket.clone(), completion(&a.answer))).collect();
        if self.carry_out(&claims).await.is_ok() {
            answered.clear();
            return Ok(());
        }
        // One by one, so that a row which cannot be changed holds up none of the others.
        let mut problem = None;
        let mut owed = Vec::new();
        for (answer, claim) in answered.drain(..).zip(claims) {
            if let Err(error) = self.carry_out(&[claim]).await {
                problem = Some(error);
                owed.push(answer);
            }
        }
        *answered = owed;
        problem.map_or(Ok(()), |error| Err(error.into()))
    }

    fn renew_every(&self) -> Option<Duration> {
        Some(self.table.lease / 3)
    }

    async fn renew(&mut self) -> Result<(), PollError> {
        match &mut self.database {
            Database::Sqlite(db) => sqlite::renew(db, &self.table, &self.owner).await?,
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
