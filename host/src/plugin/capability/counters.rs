//! `koksmat:plugin/counters`: deltas, which never conflict.

use crate::plugin::{
    bindings::{koksmat::plugin::counters::Host, wasi::keyvalue::store::Error},
    guest::Guest,
};

impl Host for Guest {
    fn add(&mut self, key: String, delta: i64) -> wasmtime::Result<Result<(), Error>> {
        Ok(match self.granted_key(&key) {
            Ok(()) => self.effects.add(key, delta),
            Err(error) => Err(error),
        })
    }
}
