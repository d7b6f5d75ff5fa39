//! Why an operation of a group writes nothing.

use super::StoreError;

/// Why an operation writes nothing after all.
#[derive(Debug)]
pub(super) enum Stop<T> {
    /// This is its answer.
    Answer(T),
    /// It failed.
    Failed(StoreError),
}

impl<T> From<StoreError> for Stop<T> {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl<T> From<rusqlite::Error> for Stop<T> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl<T> From<sqlx::Error> for Stop<T> {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}
