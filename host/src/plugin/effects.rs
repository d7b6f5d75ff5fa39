//! What a call has read and wants to change: its own view of the tenant's keys over the store's.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    plugin::{
        bindings::wasi::keyvalue::store::Error,
        capability::keyvalue::VALUE_BYTES,
        data::Part,
        guest::Emission,
        recording::{Page, Playback, Recording},
    },
    store::{Read, Store, StoreError, Write},
    tenant::Tenant,
};

/// The most keys one call may write.
const KEYS: usize = 10_000;
/// The most bytes it may write.
const BYTES: usize = 32 << 20;

/// Where keys are read.
pub(crate) enum Keys {
    /// They are the tenant's.
    Store(Arc<dyn Store>),
    /// They are what another call saw.
    Recorded(Arc<Playback>),
}

impl Keys {
    async fn get(&self, tenant: &Tenant, key: &str) -> Result<Option<(Bytes, i64)>, StoreError> {
        match self {
            Self::Store(store) => store.get(tenant.clone(), key.to_owned()).await,
            Self::Recorded(playback) => Ok(playback.get(key)?.map(|value| (value, 0))),
        }
    }

    async fn list(&self, tenant: &Tenant, prefix: &str, after: Option<&String>, limit: usize) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Store(store) => store.list(tenant.clone(), prefix.to_owned(), after.cloned(), limit).await,
            Self::Recorded(playback) => playback.list(after.map(String::as_str)),
        }
    }
}

/// Kept while a call runs; handed to settle when it ends.
#[derive(Debug, Default)]
pub(crate) struct CallEffects {
    /// What was read, with the value seen, so that a second read sees the same.
    seen: HashMap<String, (Option<Bytes>, i64)>,
    lists: Vec<Read>,
    /// How far each page of a list reached: the cursor is an index into this.
    cursors: Vec<String>,
    writes: BTreeMap<String, Write>,
    written: usize,
    pub(crate) emissions: Vec<Emission>,
    pub(crate) emitted_bytes: usize,
}

impl CallEffects {
    /// The value of a key, own writes first.
    pub(crate) async fn get(&mut self, keys: &Keys, tenant: &Tenant, key: &str) -> Result<Option<Bytes>, StoreError> {
        let delta = match self.writes.get(key) {
            Some(Write::Set(value)) => return Ok(Some(value.clone())),
            Some(Write::Delete) => return Ok(None),
            Some(Write::Add(delta)) => *delta,
            None => 0,
        };
        if !self.seen.contains_key(key) {
            let found = keys.get(tenant, key).await?;
            let (value, version) = found.map_or((None, 0), |(value, version)| (Some(value), version));
            self.seen.insert(key.to_owned(), (value, version));
        }
        let value = self.seen.get(key).and_then(|(value, _)| value.clone());
        if delta == 0 {
            return Ok(value);
        }
        // Reading a key the call has added to: the sum as it would be now. The read makes it conflict like any other.
        let base = value.as_deref().and_then(|v| std::str::from_utf8(v).ok()).and_then(|v| v.trim().parse::<i64>().ok());
        match (value.is_some(), base) {
            (true, None) => Ok(value),
            (_, base) => Ok(Some(base.unwrap_or(0).saturating_add(delta).to_string().into())),
        }
    }

    /// A page of the keys that begin with `prefix`, own writes included, and the cursor of the next one.
    pub(crate) async fn list(
        &mut self,
        keys: &Keys,
        tenant: &Tenant,
        prefix: String,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<String>, Option<u64>), StoreError> {
        let after = cursor.and_then(|cursor| self.cursors.get(usize::try_from(cursor).unwrap_or(usize::MAX)).cloned());
        let stored = keys.list(tenant, &prefix, after.as_ref(), limit).await?;
        let last = (stored.len() == limit).then(|| stored.last().cloned()).flatten();
        self.lists.push(Read::List { prefix: prefix.clone(), after: after.clone(), limit, keys: stored.clone() });

        let in_page = |key: &String| {
            key.starts_with(&prefix) && after.as_ref().is_none_or(|after| key > after) && last.as_ref().is_none_or(|last| key <= last)
        };
        let mut keys: std::collections::BTreeSet<String> = stored.into_iter().collect();
        for (key, write) in self.writes.iter().filter(|(key, _)| in_page(key)) {
            match write {
                Write::Delete => keys.remove(key),
                Write::Set(_) | Write::Add(_) => keys.insert(key.clone()),
            };
        }
        let next = last.map(|last| {
            self.cursors.push(last);
            self.cursors.len() as u64 - 1
        });
        Ok((keys.into_iter().collect(), next))
    }

    pub(crate) fn set(&mut self, key: String, value: Bytes) -> Result<(), Error> {
        if value.len() > VALUE_BYTES {
            return Err(Error::Other(format!("the value of `{key}` has {} bytes, {VALUE_BYTES} are allowed", value.len())));
        }
        self.write(key, Write::Set(value))
    }

    pub(crate) fn delete(&mut self, key: String) -> Result<(), Error> {
        self.write(key, Write::Delete)
    }

    pub(crate) fn add(&mut self, key: String, delta: i64) -> Result<(), Error> {
        let number = |value: &Bytes| std::str::from_utf8(value).ok().and_then(|v| v.trim().parse::<i64>().ok());
        let overflow = || Error::Other(format!("`{key}` would exceed 64 bits"));
        let write = match self.writes.get(&key) {
            None => Write::Add(delta),
            Some(Write::Add(earlier)) => Write::Add(earlier.checked_add(delta).ok_or_else(overflow)?),
            Some(Write::Delete) => Write::Set(delta.to_string().into()),
            Some(Write::Set(value)) => {
                let base = number(value).ok_or_else(|| Error::Other(format!("the value of `{key}` is no number")))?;
                Write::Set(base.checked_add(delta).ok_or_else(overflow)?.to_string().into())
            }
        };
        self.write(key, write)
    }

    fn write(&mut self, key: String, write: Write) -> Result<(), Error> {
        self.written += key.len() + if let Write::Set(value) = &write { value.len() } else { 0 };
        self.writes.insert(key, write);
        if self.writes.len() > KEYS || self.written > BYTES {
            return Err(Error::Other(format!("a call may write {KEYS} keys and {BYTES} bytes")));
        }
        Ok(())
    }

    /// What must still be true when the call commits.
    pub(crate) fn reads(&self) -> Vec<Read> {
        let keys = self.seen.iter().map(|(key, (_, version))| Read::Key { key: key.clone(), version: *version });
        keys.chain(self.lists.iter().cloned()).collect()
    }

    /// What it has read and listed, and the ids of what it emitted, as a recording has them.
    pub(crate) fn record(&self, recording: &mut Recording) {
        let part = |value: &Option<Bytes>| value.clone().map(Part::whole);
        recording.keyvalue = self.seen.iter().map(|(key, (value, _))| (key.clone(), part(value))).collect();
        let pages = self.lists.iter().filter_map(|read| match read {
            Read::List { after, keys, .. } => Some(Page { after: after.clone(), keys: Some(keys.clone()) }),
            Read::Key { .. } => None,
        });
        recording.lists = pages.collect();
        recording.emitted =
            self.emissions.iter().filter(|emission| !emission.recognised).map(|emission| emission.event.id.clone()).collect();
    }

    /// The keys it has written so far.
    pub(crate) fn written_keys(&self) -> Vec<String> {
        self.writes.keys().cloned().collect()
    }

    pub(crate) fn take_writes(&mut self) -> BTreeMap<String, Write> {
        std::mem::take(&mut self.writes)
    }
}
