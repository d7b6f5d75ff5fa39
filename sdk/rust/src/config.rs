//! The handler's `config` table in the host's configuration. Values are text.

use crate::bindings::wasi::config::store::{self, Error as StoreError};
use crate::{Error, Result, retry};

/// The value under a key.
pub fn get(key: &str) -> Result<Option<String>> {
    store::get(key).map_err(describe)
}

/// All keys with their values.
pub fn all() -> Result<Vec<(String, String)>> {
    store::get_all().map_err(describe)
}

fn describe(error: StoreError) -> Error {
    match error {
        StoreError::Upstream(reason) | StoreError::Io(reason) => retry(format_args!("configuration: {reason}")),
    }
}
