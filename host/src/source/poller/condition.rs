//! Condition mode: one value; it becomes an event when it turns true, or whenever it changes.
//!
//! What it was is in the store, and moves only with the accepted event, in one transaction: a crash neither loses nor doubles a change.
//! A change that comes and goes between two polls is not seen.

use std::convert::Infallible;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Answered, Found, Mode, PollError, database::Database, row::Value};
use crate::{
    config::ConditionOn,
    event::Event,
    source::{AcceptRequest, SourceContext},
    store::Accepted,
};

#[cfg(test)]
mod tests;

/// Under which name the last observation is in the store.
const STATE: &str = "condition";
/// The most events of one condition that may wait for their handlers; the next change is accepted when there is room again.
const BACKLOG: u64 = 10_000;

pub(super) struct Condition {
    ctx: SourceContext,
    database: Database,
    statement: String,
    on: ConditionOn,
    /// As in the store; absent: not read from there yet.
    last: Option<Observation>,
}

/// What a handler gets.
#[derive(Serialize)]
struct Data<'a> {
    previous: &'a RawValue,
    value: &'a RawValue,
}

/// What was seen, as the store remembers it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Observation {
    /// How many events there were: the number of the last one.
    generation: u64,
    /// Which statement the value is of: another one begins anew.
    statement: String,
    value: Box<RawValue>,
    holds: bool,
}

impl Condition {
    pub(super) fn new(ctx: SourceContext, database: Database, statement: String, on: ConditionOn) -> Self {
        Self { ctx, database, statement, on, last: None }
    }

    /// What was seen last; of a new statement nothing but the number of events.
    async fn last(&self) -> Result<Observation, PollError> {
        if let Some(last) = &self.last {
            return Ok(last.clone());
        }
        let stored = self.ctx.state(STATE).await?.into_iter().find(|(name, _)| name == STATE);
        Ok(stored.and_then(|(_, bytes)| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    /// Whether `new` is worth an event.
    fn fires(&self, last: &Observation, new: &Observation) -> bool {
        let first = last.statement != new.statement;
        match self.on {
            ConditionOn::True => new.holds && (first || !last.holds),
            ConditionOn::Change => !first && new.value.get() != last.value.get(),
        }
    }

    async fn remember(&mut self, observation: Observation) -> Result<(), PollError> {
        self.ctx.set_state(vec![(STATE.into(), Some(observation.to_bytes()))]).await?;
        self.last = Some(observation);
        Ok(())
    }

    async fn accept(&self, previous: &RawValue, new: &Observation) -> Result<Accepted, PollError> {
        let number = new.generation.to_string();
        let request = AcceptRequest {
            event: Event {
                id: number.clone(),
                ty: "koksmat.database.condition".into(),
                datacontenttype: Some("application/json".into()),
                data: to_json(&Data { value: &new.value, previous }).into(),
                ..Event::default()
            },
            key: Some(number),
            backlog: Some(BACKLOG),
            state: vec![(STATE.into(), Some(new.to_bytes()))],
            ..AcceptRequest::default()
        };
        Ok(self.ctx.accept(request).await?)
    }
}

impl Observation {
    fn to_bytes(&self) -> Vec<u8> {
        to_json(self).into_bytes()
    }
}

/// Nothing that is written here can fail.
fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

impl Mode for Condition {
    /// Events are accepted here: there is nothing to be answered.
    type Ticket = Infallible;

    async fn poll(&mut self, _limit: usize) -> Result<Vec<Found<Infallible>>, PollError> {
        let row = self.database.rows(&self.statement, 1).await?.pop();
        let value = row.and_then(|row| row.0.into_iter().next()).map_or(Value::Null, |(_, value)| value);
        let last = self.last().await?;
        // What follows may fail without a word on whether it happened: then the store is asked again.
        self.last = None;

        let holds = value.is_true();
        let mut new = Observation { generation: last.generation, statement: self.statement.clone(), value: value.to_json(), holds };
        if self.fires(&last, &new) {
            new.generation += 1;
            let previous = if last.statement == new.statement { last.value.clone() } else { Box::default() };
            match self.accept(&previous, &new).await? {
                Accepted::New { .. } => self.last = Some(new),
                // The number was used for another change (the store knows the event but not the observation): take the next one.
                Accepted::Duplicate { .. } => self.remember(Observation { generation: new.generation, ..last }).await?,
                Accepted::Full => return Err(PollError::Backlog(BACKLOG)),
            }
        } else if last.statement != new.statement
            || last.holds != new.holds
            || (self.on == ConditionOn::Change && last.value.get() != new.value.get())
        {
            self.remember(new).await?;
        } else {
            self.last = Some(last);
        }
        Ok(Vec::new())
    }

    async fn settle(&mut self, _answered: &mut Vec<Answered<Infallible>>) -> Result<(), PollError> {
        Ok(())
    }
}
