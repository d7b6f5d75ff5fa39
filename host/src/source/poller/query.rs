//! Query mode: any `SELECT`, and each (key, version) of its rows becomes one event.
//!
//! The window, which version of each row was handled last, is in the store. It moves when the event was handled, never before; between
//! the two the event's own key, `key@version`, recognises it. A row the query no longer gives leaves the window: when it comes back with the
//! same version it is sent again, and calls that had effects are recognised for as long as settled calls are remembered.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use super::{
    Answered, Found, Mode, PollError,
    database::Database,
    row::{Row, Value},
};
use crate::{receipt::Answer, source::SourceContext};

#[cfg(test)]
mod tests;

/// The most rows a query may give: the window holds a key and a version of each, in memory and in the store.
const MAX_ROWS: usize = 100_000;
/// Before the key in the names of the window's entries in the store.
const WINDOW: &str = "row/";

pub(super) struct Query {
    ctx: SourceContext,
    database: Database,
    statement: String,
    key: String,
    version: Option<String>,
    /// Version by key, as in the store; absent: not read from there yet.
    window: Option<HashMap<String, String>>,
    /// Rows that are not to be sent now, by key.
    held: HashMap<String, Hold>,
}

/// Why a row is not to be sent now.
enum Hold {
    /// It is in flight.
    InFlight,
    /// It has to come again, but not before this.
    Until(Instant),
}

/// A row in flight.
pub(super) struct Ticket {
    key: String,
    version: String,
}

impl Query {
    pub(super) fn new(ctx: SourceContext, database: Database, statement: String, key: String, version: Option<String>) -> Self {
        Self { ctx, database, statement, key, version, window: None, held: HashMap::new() }
    }

    /// The window, from the store when it is not here.
    async fn window(&mut self) -> Result<&mut HashMap<String, String>, PollError> {
        let window = match self.window.take() {
            Some(window) => window,
            None => read_window(&self.ctx).await?,
        };
        Ok(self.window.insert(window))
    }

    fn ticket(&self, row: &Row) -> Result<Ticket, PollError> {
        let text = |column: &str| row.get(column).map(Value::to_text).ok_or_else(|| PollError::NoColumn(column.to_owned()));
        Ok(Ticket { key: text(&self.key)?, version: self.version.as_deref().map_or(Ok(String::new()), text)? })
    }

    /// Forget what the query no longer gives.
    async fn prune(&mut self, given: &HashSet<String>) -> Result<(), PollError> {
        let gone: Vec<String> = self.window().await?.keys().filter(|key| !given.contains(*key)).cloned().collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.ctx.set_state(gone.iter().map(|key| (format!("{WINDOW}{key}"), None)).collect()).await?;
        let window = self.window().await?;
        for key in &gone {
            window.remove(key);
        }
        Ok(())
    }
}

impl Mode for Query {
    type Ticket = Ticket;

    async fn poll(&mut self, limit: usize) -> Result<Vec<Found<Ticket>>, PollError> {
        let rows = self.database.rows(&self.statement, MAX_ROWS + 1).await?;
        if rows.len() > MAX_ROWS {
            return Err(PollError::TooManyRows(MAX_ROWS));
        }
        let now = Instant::now();
        self.held.retain(|_, hold| !matches!(hold, Hold::Until(due) if *due <= now));
        self.window().await?;

        let mut given = HashSet::with_capacity(rows.len());
        let mut found = Vec::new();
        for row in rows {
            let ticket = self.ticket(&row)?;
            let handled = self.window.as_ref().and_then(|window| window.get(&ticket.key)) == Some(&ticket.version);
            let first = given.insert(ticket.key.clone());
            if first && !handled && found.len() < limit && !self.held.contains_key(&ticket.key) {
                found.push(event(row, ticket, self.version.is_some()));
            }
        }
        self.prune(&given).await?;
        for Found { ticket, .. } in &found {
            self.held.insert(ticket.key.clone(), Hold::InFlight);
        }
        Ok(found)
    }

    async fn settle(&mut self, answered: &mut Vec<Answered<Ticket>>) -> Result<(), PollError> {
        let handled = |a: &&Answered<Ticket>| !matches!(a.answer, Answer::Again { .. });
        let entry = |t: &Ticket| (format!("{WINDOW}{}", t.key), Some(t.version.clone().into_bytes()));
        let entries: Vec<_> = answered.iter().filter(handled).map(|a| entry(&a.ticket)).collect();
        if !entries.is_empty() {
            self.ctx.set_state(entries).await?;
        }
        for Answered { ticket, answer } in answered.drain(..) {
            self.held.remove(&ticket.key);
            match answer {
                Answer::Done { .. } | Answer::Dead { .. } => {
                    if let Some(window) = &mut self.window {
                        window.insert(ticket.key, ticket.version);
                    }
                }
                Answer::Again { after: Some(after), .. } => {
                    self.held.insert(ticket.key, Hold::Until(Instant::now() + after));
                }
                Answer::Again { after: None, .. } => {}
            }
        }
        Ok(())
    }
}

fn event(row: Row, ticket: Ticket, versioned: bool) -> Found<Ticket> {
    let key = if versioned { format!("{}@{}", escape(&ticket.key), ticket.version) } else { ticket.key.clone() };
    Found { event: row.into_event(ticket.key.clone(), None).into(), key: key.into(), ticket }
}

/// A key without `@`, or `a@b` in version `c` would be recognised as `a` in version `b@c`.
fn escape(key: &str) -> String {
    key.replace('%', "%25").replace('@', "%40")
}

async fn read_window(ctx: &SourceContext) -> Result<HashMap<String, String>, PollError> {
    let entries = ctx.state(WINDOW).await?;
    let key = |name: String| name.strip_prefix(WINDOW).map(str::to_owned);
    Ok(entries.into_iter().filter_map(|(name, version)| Some((key(name)?, String::from_utf8(version).ok()?))).collect())
}
