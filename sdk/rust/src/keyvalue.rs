//! The tenant's keys. Needs the grant `keyvalue`.
//!
//! A call sees its own writes at once, others see them when it is done. Values are JSON text, or bytes with the `_bytes` functions.
//! What a call read is checked when it is done: when another call was quicker, this one runs again from its start.

use crate::bindings::koksmat::plugin::counters;
use crate::bindings::wasi::keyvalue::{atomics, store};
use crate::{Error, Result, retry};
use serde::{Serialize, de::DeserializeOwned};

/// The value under a key.
pub fn get<T: DeserializeOwned>(key: &str) -> Result<Option<T>> {
    let Some(bytes) = get_bytes(key)? else { return Ok(None) };
    let value = serde_json::from_slice(&bytes).map_err(|error| retry(format_args!("the value under `{key}`: {error}")))?;
    Ok(Some(value))
}

/// The bytes under a key.
pub fn get_bytes(key: &str) -> Result<Option<Vec<u8>>> {
    named(key, bucket()?.get(key))
}

/// Puts a value under a key.
pub fn set<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<()> {
    set_bytes(key, &serde_json::to_vec(value)?)
}

/// Puts bytes under a key.
pub fn set_bytes(key: &str, value: &[u8]) -> Result<()> {
    named(key, bucket()?.set(key, value))
}

/// Takes a key away; it need not be there.
pub fn delete(key: &str) -> Result<()> {
    named(key, bucket()?.delete(key))
}

/// Whether there is a value under a key.
pub fn exists(key: &str) -> Result<bool> {
    named(key, bucket()?.exists(key))
}

/// The keys that begin with `prefix`; the empty prefix asks for all.
pub fn keys(prefix: &str) -> Result<Vec<String>> {
    let bucket = bucket()?;
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = named(prefix, bucket.list_keys(cursor))?;
        keys.extend(page.keys.into_iter().filter(|key| key.starts_with(prefix)));
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(keys);
        }
    }
}

/// Adds to the number under a key (absent counts as 0) and returns what it is now. Who does not need the result takes [`add`], which
/// no other call can overtake.
pub fn increment(key: &str, delta: u64) -> Result<u64> {
    named(key, atomics::increment(&bucket()?, key, delta))
}

/// Adds to the number under a key (absent counts as 0) when the call is done, without reading it: it never conflicts with other calls.
pub fn add(key: &str, delta: i64) -> Result<()> {
    named(key, counters::add(key, delta))
}

fn bucket() -> Result<store::Bucket> {
    // There is one bucket: the tenant's. The name is the one other hosts use for it.
    named("default", store::open("default"))
}

fn named<T>(key: &str, result: Result<T, store::Error>) -> Result<T> {
    result.map_err(|error| describe(key, error))
}

fn describe(key: &str, error: store::Error) -> Error {
    match error {
        store::Error::NoSuchStore => retry("the host has no key-value store"),
        store::Error::AccessDenied => {
            retry(format_args!("the handler's grants do not allow the key `{key}`: see `keyvalue` in its grants"))
        }
        store::Error::Other(reason) => retry(format_args!("key `{key}`: {reason}")),
    }
}
