//! What stores keep as JSON text.

use serde::{Serialize, de::DeserializeOwned};

use super::{Attempt, StoreError};

/// The newest attempts of a call are kept, so that a call which is tried for days does not grow.
const HISTORY: usize = 32;

/// A history with one more attempt, as it is stored.
pub(super) fn history(earlier: &[Attempt], failed: Option<&Attempt>) -> Result<String, StoreError> {
    let all: Vec<&Attempt> = earlier.iter().chain(failed).collect();
    to_json(&all[all.len().saturating_sub(HISTORY)..])
}

pub(super) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Other(format!("cannot be written as JSON: {error}")))
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Other(format!("what is in the store is no JSON of ours: {error}")))
}
