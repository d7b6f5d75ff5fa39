//! Between rows and what travels: events, histories, numbers, errors.

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, Row, params, types::Type};
use serde::de::DeserializeOwned;

use crate::{
    event::Event,
    store::{StoreError, json::to_json},
};

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let full = matches!(&error, rusqlite::Error::SqliteFailure(cause, _)
            // The shared memory of the log has no error of its own for a full disk.
            if cause.code == ErrorCode::DiskFull || cause.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE);
        if full { Self::Full(error.to_string()) } else { Self::Other(error.to_string()) }
    }
}

/// Write an event for the tasks that will share it.
pub(super) fn insert_event(connection: &Connection, event: &Event) -> Result<i64, StoreError> {
    connection
        .prepare_cached("INSERT INTO event (header, data) VALUES (?1, ?2)")?
        .execute(params![to_json(event)?, event.data.as_ref()])?;
    Ok(connection.last_insert_rowid())
}

/// The event of the columns `header` and `data`.
pub(super) fn event(row: &Row<'_>, header: usize, data: usize) -> rusqlite::Result<Event> {
    let mut event: Event = from_json(row, header)?;
    event.data = Bytes::from(row.get::<_, Vec<u8>>(data)?);
    Ok(event)
}

pub(super) fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// At most so many, as SQLite counts.
pub(super) fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
