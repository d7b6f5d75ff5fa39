//! Forgetting what is older than it has to be remembered, in steps that hold nobody up for long.

use rusqlite::{Connection, params};

use crate::store::{Millis, StoreError};

/// The most rows of one step.
pub(super) const STEP: usize = 500;

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
}

/// Forget at most [`STEP`] rows from `before` or earlier. How many.
pub(super) fn step(connection: &Connection, old: Old, before: Millis) -> Result<usize, StoreError> {
    let sql = match old {
        Old::Accepted => {
            "DELETE FROM accepted WHERE (tenant, source, key) IN (
                SELECT tenant, source, key FROM accepted AS old WHERE at <= ?1 AND NOT EXISTS (
                    SELECT 1 FROM task WHERE task.tenant = old.tenant AND task.source = old.source AND task.key = old.key)
                ORDER BY at LIMIT ?2)"
        }
        Old::Settled => {
            "DELETE FROM settled WHERE (tenant, source, key, handler) IN (
                SELECT tenant, source, key, handler FROM settled AS old WHERE at <= ?1 AND NOT EXISTS (
                    SELECT 1 FROM task WHERE task.tenant = old.tenant AND task.source = old.source AND task.key = old.key)
                ORDER BY at LIMIT ?2)"
        }
        Old::DeadLetters => "DELETE FROM dead_letter WHERE id IN (SELECT id FROM dead_letter WHERE at <= ?1 ORDER BY at LIMIT ?2)",
        Old::Kept => "DELETE FROM kept WHERE event IN (SELECT event FROM kept WHERE accepted_at <= ?1 ORDER BY accepted_at LIMIT ?2)",
        Old::TooMuch => "DELETE FROM kept WHERE event IN (SELECT event FROM kept WHERE event <= ?1 ORDER BY event LIMIT ?2)",
    };
    Ok(connection.prepare_cached(sql)?.execute(params![before, STEP as i64])?)
}
