//! Cursor mode: the rows of a table that is only added to, each once, without a word written to the database. PostgreSQL alone.
//!
//! Numbers that a sequence gives are not committed in their order: who remembers the highest number seen passes by the row of a slower
//! transaction that has a lower one. So each row says which transaction wrote it (`xid8 DEFAULT pg_current_xact_id()`), and only rows of
//! transactions older than every transaction that still runs are read: nothing can be committed behind them any more. What this costs is
//! that a long transaction that writes, anywhere on the server, holds up all newer rows; the source then says that it is held back.
//!
//! The position, up to where every row was handled, is in the store. Rows behind it that were read are in memory, at most [`SPAN`] of
//! them, and come again after a crash; their event's key is the row's. A row is read once: what is changed in it later is not seen, and
//! neither is a row whose condition becomes true later. An index on (xid, key) is what makes a poll cheap.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Row as _};

use super::{
    Answered, Found, Mode, PollError,
    database::{
        Database, DatabaseError,
        postgres::{KeyColumn, Postgres, PostgresKind, decode, key_column, name, with_bytes},
        server::{Open, in_time},
    },
    row::Row,
};
use crate::{event::Event, receipt::Answer, source::SourceContext};

/// The most rows between the oldest that is not handled and the newest that was read.
const SPAN: usize = 10_000;
/// Under which name the position is in the store.
const STATE: &str = "cursor";
const HELD_BACK: &str = "newer rows wait for a transaction of the database that began before them and still runs";

/// Which rows are read.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) table: String,
    pub(super) key: String,
    /// The column with the transaction that wrote the row.
    pub(super) xid: String,
    pub(super) filter: Option<String>,
}

pub(super) struct Cursor {
    ctx: SourceContext,
    database: Database,
    table: Table,
    /// Up to where rows were read; absent: the store was not asked yet.
    read: Option<Option<Position>>,
    /// What was read and is not behind the position yet, in the order of the rows.
    rows: VecDeque<Entry>,
    /// The number of the first of them.
    first: u64,
    held_back: bool,
}

/// A row's place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Position {
    xid: String,
    key: String,
}

/// A position, as the store remembers it.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// Of which table and columns it is: another one begins anew.
    of: String,
    #[serde(flatten)]
    position: Position,
}

struct Entry {
    position: Position,
    state: State,
}

enum State {
    InFlight,
    /// It has to come again, but not before this.
    Waits(Instant, Arc<Event>),
    Handled,
}

/// A row in flight.
pub(super) struct Ticket {
    number: u64,
    event: Arc<Event>,
}

impl Cursor {
    pub(super) fn new(ctx: SourceContext, database: Database, table: Table) -> Self {
        Self { ctx, database, table, read: None, rows: VecDeque::new(), first: 0, held_back: false }
    }

    fn of(&self) -> String {
        format!("{} {} {}", self.table.table, self.table.xid, self.table.key)
    }

    /// Up to where rows were read: at the start, up to where they were handled.
    async fn position(&self) -> Result<Option<Position>, PollError> {
        let stored = self.ctx.state(STATE).await?.into_iter().find(|(name, _)| name == STATE);
        let stored = stored.and_then(|(_, bytes)| serde_json::from_slice::<Stored>(&bytes).ok());
        Ok(stored.filter(|stored| stored.of == self.of()).map(|stored| stored.position))
    }

    /// Rows behind those that were read, at most `limit`.
    async fn next(&mut self, limit: usize) -> Result<Vec<(Position, Row)>, PollError> {
        let first = self.read.is_none();
        let after = match &self.read {
            Some(read) => read.clone(),
            None => self.position().await?,
        };
        let Database::Postgres(db) = &mut self.database else { return Err(PollError::NoWatermark) };
        if let (true, Some(after)) = (first, &after)
            && !is_past(db, after).await?
        {
            return Err(PollError::Ahead);
        }
        let found = if limit == 0 { Vec::new() } else { read(db, &self.table, after.as_ref(), limit).await? };
        let waits = found.len() < limit && newer(db, &self.table).await?;
        self.read = Some(found.last().map(|(position, _)| position.clone()).or(after));
        if waits != self.held_back {
            self.held_back = waits;
            self.ctx.held_back(waits.then_some(HELD_BACK));
        }
        Ok(found)
    }
}

impl Mode for Cursor {
    type Ticket = Ticket;

    async fn poll(&mut self, limit: usize) -> Result<Vec<Found<Ticket>>, PollError> {
        let now = Instant::now();
        let due = |entry: &Entry| matches!(entry.state, State::Waits(until, _) if until <= now);
        let again = self.rows.iter().filter(|entry| due(entry)).count().min(limit);
        let room = SPAN.saturating_sub(self.rows.len()).min(limit - again);
        let new = self.next(room).await?;

        let mut found = Vec::with_capacity(again + new.len());
        for (number, entry) in (self.first..).zip(&mut self.rows) {
            if found.len() < again
                && let State::Waits(until, event) = &entry.state
                && *until <= now
            {
                let event = event.clone();
                entry.state = State::InFlight;
                found.push(self::found(number, &entry.position, event));
            }
        }
        for (position, row) in new {
            let number = self.first + self.rows.len() as u64;
            let event = Arc::new(row.into_event(position.key.clone(), Some(&self.table.table)));
            found.push(self::found(number, &position, event));
            self.rows.push_back(Entry { position, state: State::InFlight });
        }
        Ok(found)
    }

    fn has_to_wait(&self) -> bool {
        self.held_back
    }

    async fn settle(&mut self, answered: &mut Vec<Answered<Ticket>>) -> Result<(), PollError> {
        for Answered { ticket, answer } in answered.iter() {
            let index = usize::try_from(ticket.number.saturating_sub(self.first)).unwrap_or(usize::MAX);
            let Some(entry) = self.rows.get_mut(index) else { continue };
            entry.state = match answer {
                Answer::Done { .. } | Answer::Dead { .. } => State::Handled,
                Answer::Again { after, .. } => State::Waits(Instant::now() + after.unwrap_or_default(), ticket.event.clone()),
            };
        }
        let handled = self.rows.iter().take_while(|entry| matches!(entry.state, State::Handled)).count();
        if let Some(last) = handled.checked_sub(1).and_then(|last| self.rows.get(last)) {
            let stored = Stored { of: self.of(), position: last.position.clone() };
            // Nothing in it can fail: it is text.
            let stored = serde_json::to_vec(&stored).unwrap_or_default();
            // When this fails the answers are still owed, and what they say is said once more.
            self.ctx.set_state(vec![(STATE.into(), Some(stored))]).await?;
            self.rows.drain(..handled);
            self.first += handled as u64;
        }
        answered.clear();
        Ok(())
    }
}

fn found(number: u64, position: &Position, event: Arc<Event>) -> Found<Ticket> {
    Found { event: event.clone(), key: position.key.as_str().into(), ticket: Ticket { number, event } }
}

/// Rows of transactions that ended, and before which none can be committed any more.
async fn read(db: &mut Postgres, table: &Table, after: Option<&Position>, limit: usize) -> Result<Vec<(Position, Row)>, DatabaseError> {
    let open = db.connection().await?;
    let rows = in_time(try_read(open, table, after, limit)).await;
    db.check("reading rows", rows)
}

async fn try_read(
    open: &mut Open<PostgresKind>,
    table: &Table,
    after: Option<&Position>,
    limit: usize,
) -> sqlx::Result<Vec<(Position, Row)>> {
    let KeyColumn { ty, .. } = key_column(open, &table.table, &table.key).await?;
    let (rows, key, xid) = (name(&table.table), name(&table.key), name(&table.xid));
    let filter = table.filter.as_ref().map(|filter| format!("AND (\n{filter}\n)")).unwrap_or_default();
    let behind = if after.is_some() { format!("AND (t.{xid}, t.{key}) > ($1::text::xid8, $2::text::{ty})") } else { String::new() };
    let statement = format!(
        "SELECT t.{xid}::text, t.{key}::text, row_to_json(t.*)::text FROM {rows} AS t
         WHERE t.{xid} < pg_snapshot_xmin(pg_current_snapshot()) AND t.{key} IS NOT NULL {filter} {behind}
         ORDER BY t.{xid}, t.{key} LIMIT {limit}"
    );
    let query = sqlx::query(AssertSqlSafe(statement)).persistent(false);
    let query = if let Some(Position { xid, key }) = after { query.bind(xid.clone()).bind(key.clone()) } else { query };
    let (mut positions, mut found) = (Vec::new(), Vec::new());
    for row in query.fetch_all(&mut open.connection).await? {
        positions.push(Position { xid: row.try_get(0)?, key: row.try_get(1)? });
        found.push(decode(row.try_get(2)?)?);
    }
    let found = with_bytes(&mut open.connection, &format!("SELECT * FROM {rows}"), found).await?;
    Ok(positions.into_iter().zip(found).collect())
}

/// Whether there are rows that cannot be read yet.
async fn newer(db: &mut Postgres, table: &Table) -> Result<bool, DatabaseError> {
    let (rows, xid) = (name(&table.table), name(&table.xid));
    let statement = format!("SELECT EXISTS (SELECT 1 FROM {rows} AS t WHERE t.{xid} >= pg_snapshot_xmin(pg_current_snapshot()))");
    let open = db.connection().await?;
    let newer = in_time(sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&mut open.connection)).await;
    db.check("reading rows", newer)
}

/// Whether the server has begun the transaction of this position: one that a dump was restored to counts from the beginning.
async fn is_past(db: &mut Postgres, position: &Position) -> Result<bool, DatabaseError> {
    let open = db.connection().await?;
    let query = sqlx::query_scalar("SELECT $1::text::xid8 < pg_snapshot_xmax(pg_current_snapshot())").bind(position.xid.clone());
    let past = in_time(query.fetch_one(&mut open.connection)).await;
    db.check("reading rows", past)
}
