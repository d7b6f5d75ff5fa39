//! `wasi:config`: the `config` table of the handler, and nothing else of the host's configuration.

use crate::plugin::{
    bindings::wasi::config::store::{Error, Host},
    guest::Guest,
};

impl Host for Guest {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, Error>> {
        Ok(match self.playback().and_then(|playback| playback.withheld(&key)) {
            Some(why) => Err(Error::Upstream(why)),
            None => Ok(self.handler.config.get(&key).cloned()),
        })
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Error>> {
        Ok(Ok(self.handler.config.iter().map(|(k, v)| (k.clone(), v.clone())).collect()))
    }
}
