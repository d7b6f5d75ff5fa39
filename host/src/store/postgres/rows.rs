//! Between rows and what travels.

use bytes::Bytes;
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    event::Event,
    store::{StoreError, json::from_json},
};

/// The event of the columns `header` and `data`.
pub(super) fn event(row: &PgRow, header: usize, data: usize) -> Result<Event, StoreError> {
    let mut event: Event = from_json(row.try_get(header)?)?;
    event.data = Bytes::from(row.try_get::<Vec<u8>, _>(data)?);
    Ok(event)
}

/// A number that is never negative nor large.
pub(super) fn count(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
