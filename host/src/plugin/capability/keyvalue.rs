//! `wasi:keyvalue` on the tenant's keys: a call sees its own writes at once, others see them when it is done.

use wasmtime::component::Resource;

use crate::{
    plugin::{
        bindings::wasi::keyvalue::{
            atomics, batch,
            store::{Error, Host, HostBucket, KeyResponse},
        },
        guest::Guest,
    },
    store::StoreError,
};

/// The tenant's keys: there is one bucket.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Bucket;

/// The longest key, in bytes.
const KEY_BYTES: usize = 1_024;
/// The largest value, in bytes.
pub(crate) const VALUE_BYTES: usize = 4 << 20;
/// Keys in one page of a list.
const PAGE: usize = 1_000;

impl Guest {
    /// Whether the handler may touch this key.
    pub(crate) fn granted_key(&self, key: &str) -> Result<(), Error> {
        let Some(prefix) = &self.handler.grants.keyvalue else { return Err(Error::AccessDenied) };
        if !key.starts_with(prefix.as_str()) {
            return Err(Error::Other(format!("the handler is granted keys that begin with `{prefix}`, not `{key}`")));
        }
        if key.is_empty() || key.len() > KEY_BYTES {
            return Err(Error::Other(format!("a key has 1 to {KEY_BYTES} bytes")));
        }
        if key.contains('\0') {
            return Err(Error::Other("a key has no NUL in it".into()));
        }
        Ok(())
    }

    async fn read(&mut self, key: &str) -> Result<Option<bytes::Bytes>, Error> {
        self.granted_key(key)?;
        self.effects.get(&self.keys, &self.id.tenant, key).await.map_err(|error| self.store_failed(error))
    }

    /// The store's own words are for the operator, not for the guest; the call fails as a whole.
    fn store_failed(&mut self, error: StoreError) -> Error {
        self.host_failure.get_or_insert(format!("key-value: {error}"));
        Error::Other("the store does not answer".into())
    }

    async fn increment(&mut self, key: String, delta: u64) -> Result<u64, Error> {
        let current = match self.read(&key).await? {
            None => 0,
            Some(bytes) => std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| text.trim().parse::<u64>().ok())
                .ok_or_else(|| Error::Other(format!("the value of `{key}` is no number")))?,
        };
        let next = current.checked_add(delta).ok_or_else(|| Error::Other(format!("`{key}` would exceed 64 bits")))?;
        self.effects.set(key, next.to_string().into())?;
        Ok(next)
    }
}

impl Host for Guest {
    fn open(&mut self, identifier: String) -> wasmtime::Result<Result<Resource<Bucket>, Error>> {
        if self.handler.grants.keyvalue.is_none() {
            return Ok(Err(Error::AccessDenied));
        }
        if !matches!(identifier.as_str(), "" | "default") {
            return Ok(Err(Error::NoSuchStore));
        }
        Ok(Ok(self.table.push(Bucket)?))
    }
}

impl HostBucket for Guest {
    async fn get(&mut self, _bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        Ok(self.read(&key).await.map(|value| value.map(Vec::from)))
    }

    fn set(&mut self, _bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.granted_key(&key).and_then(|()| self.effects.set(key, value.into())))
    }

    fn delete(&mut self, _bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.granted_key(&key).and_then(|()| self.effects.delete(key)))
    }

    async fn exists(&mut self, _bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<bool, Error>> {
        Ok(self.read(&key).await.map(|value| value.is_some()))
    }

    async fn list_keys(&mut self, _bucket: Resource<Bucket>, cursor: Option<u64>) -> wasmtime::Result<Result<KeyResponse, Error>> {
        let Some(prefix) = self.handler.grants.keyvalue.clone() else { return Ok(Err(Error::AccessDenied)) };
        let page = self.effects.list(&self.keys, &self.id.tenant, prefix, cursor, PAGE).await;
        Ok(match page {
            Ok((keys, cursor)) => Ok(KeyResponse { keys, cursor }),
            Err(error) => Err(self.store_failed(error)),
        })
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for Guest {
    async fn increment(&mut self, _bucket: Resource<Bucket>, key: String, delta: u64) -> wasmtime::Result<Result<u64, Error>> {
        Ok(Guest::increment(self, key, delta).await)
    }
}

impl batch::Host for Guest {
    async fn get_many(
        &mut self,
        _bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<Option<(String, Vec<u8>)>>, Error>> {
        let mut values = Vec::new();
        for key in keys {
            match self.read(&key).await {
                Ok(value) => values.push(value.map(|v| (key, Vec::from(v)))),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(values))
    }

    fn set_many(&mut self, _bucket: Resource<Bucket>, key_values: Vec<(String, Vec<u8>)>) -> wasmtime::Result<Result<(), Error>> {
        for (key, value) in key_values {
            if let Err(error) = self.granted_key(&key).and_then(|()| self.effects.set(key, value.into())) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn delete_many(&mut self, _bucket: Resource<Bucket>, keys: Vec<String>) -> wasmtime::Result<Result<(), Error>> {
        for key in keys {
            if let Err(error) = self.granted_key(&key).and_then(|()| self.effects.delete(key)) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }
}
