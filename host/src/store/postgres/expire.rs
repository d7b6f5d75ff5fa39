//! Forgetting what is older than it has to be remembered, in steps that hold nobody up for long.

use futures_util::future::BoxFuture;

use super::writer::{Operation, Tx};
use crate::store::{Millis, stop::Stop};

/// The most rows of one step.
pub(super) const STEP: u64 = 500;

/// What is forgotten when it is older than some time. A key is remembered as long as a task has it, however old it is: else the same
/// event could be accepted, or a call settled, twice.
#[derive(Debug, Clone, Copy)]
pub(super) enum Old {
    Accepted,
    Settled,
    DeadLetters,
    Kept,
    /// Kept events up to a number: not by age.
    TooMuch,
    /// Events whose last two tasks ended on two hosts at once, each of which saw the other's. Not by age, and not counted.
    Events,
}

/// Forget at most [`STEP`] rows from `before` or earlier. How many.
pub(super) struct Forget {
    pub(super) old: Old,
    pub(super) before: Millis,
}

impl Operation for Forget {
    type Answer = u64;

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<u64, Stop<u64>>> {
        let sql = match self.old {
            Old::Accepted => {
                "DELETE FROM accepted WHERE (tenant, source, key) IN (
                    SELECT tenant, source, key FROM accepted AS old WHERE at <= $1 AND NOT EXISTS (
                        SELECT 1 FROM task WHERE task.tenant = old.tenant AND task.source = old.source AND task.key = old.key)
                    ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)"
            }
            Old::Settled => {
                "DELETE FROM settled WHERE (tenant, source, key, handler) IN (
                    SELECT tenant, source, key, handler FROM settled AS old WHERE at <= $1 AND NOT EXISTS (
                        SELECT 1 FROM task WHERE task.tenant = old.tenant AND task.source = old.source AND task.key = old.key)
                    ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)"
            }
            Old::DeadLetters => {
                "DELETE FROM dead_letter WHERE id IN (SELECT id FROM dead_letter WHERE at <= $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)"
            }
            // An event goes with the last that needs it.
            Old::Kept => {
                "WITH gone AS (
                    DELETE FROM kept WHERE event IN (
                        SELECT event FROM kept WHERE accepted_at <= $1 ORDER BY accepted_at LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING event
                 ), last AS (
                    DELETE FROM event AS e USING gone
                    WHERE e.id = gone.event AND NOT EXISTS (SELECT 1 FROM task WHERE task.event = gone.event)
                 )
                 SELECT event FROM gone"
            }
            Old::TooMuch => {
                "WITH gone AS (
                    DELETE FROM kept WHERE event IN (
                        SELECT event FROM kept WHERE event <= $1 ORDER BY event LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING event
                 ), last AS (
                    DELETE FROM event AS e USING gone
                    WHERE e.id = gone.event AND NOT EXISTS (SELECT 1 FROM task WHERE task.event = gone.event)
                 )
                 SELECT event FROM gone"
            }
            Old::Events => {
                "DELETE FROM event WHERE id IN (
                    SELECT id FROM event AS old WHERE $1 > 0 AND NOT EXISTS (SELECT 1 FROM task WHERE task.event = old.id)
                        AND NOT EXISTS (SELECT 1 FROM kept WHERE kept.event = old.id)
                    ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)"
            }
        };
        Box::pin(async move {
            let gone = sqlx::query(sql).bind(self.before).bind(STEP as i64).execute(&mut *tx.connection).await?;
            Ok(gone.rows_affected())
        })
    }
}
