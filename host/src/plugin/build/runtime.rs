//! The JavaScript runtime component: compiled once per host version, ready to load scripts.
//!
//! What is compiled is the runtime with Wizer's accessors added, which read its memory for a snapshot. They change nothing else, so the
//! same code also serves: a handler's new code runs on it, loaded anew for each event, until its snapshot is compiled.

use std::{sync::OnceLock, time::Instant};

use wasmtime::{Engine, component::Component};
use wasmtime_wizer::{ComponentContext, Wizer};

use super::{cache::Cache, error::BuildError};

/// World `koksmat:runtime/javascript`: `load` and the handler.
pub(super) const COMPONENT: &[u8] = include_bytes!("../../../../sdk/javascript/runtime.wasm");

/// SHA-256 of it, as `sha256sum` writes it.
pub(super) const DIGEST: &str = include_str!("../../../../sdk/javascript/runtime.wasm.sha256");

/// What adds the accessors. Change it with the version in Cargo.toml: what it made before is then made anew.
pub(super) const INSTRUMENTED_BY: &str = "wasmtime-wizer 48.0.8";

/// The name of the function that takes a script's modules.
pub(crate) const LOAD: &str = "load";

/// The runtime, compiled.
pub(crate) struct Runtime {
    component: Component,
    context: OnceLock<ComponentContext<'static>>,
}

impl Runtime {
    /// Load it from the cache (milliseconds), or compile it (a second).
    pub(crate) fn load(engine: &Engine, cache: &Cache) -> Result<Self, BuildError> {
        let context = OnceLock::new();
        let component = cache.compile(engine, &format!("{INSTRUMENTED_BY} {DIGEST}"), Instant::now(), || {
            let (made, instrumented) = instrument()?;
            let _ = context.set(made);
            Ok(instrumented)
        })?;
        Ok(Self { component, context })
    }

    /// To be instantiated for an event whose handler has no snapshot yet: call `load` with the script's entry and modules, then `handle`.
    pub(crate) fn component(&self) -> &Component {
        &self.component
    }

    /// What Wizer knows of the component; worked out (25 ms) when it is first asked for.
    pub(super) fn context(&self) -> Result<&ComponentContext<'static>, BuildError> {
        if self.context.get().is_none() {
            let (made, _) = instrument()?;
            let _ = self.context.set(made);
        }
        self.context
            .get()
            .ok_or_else(|| BuildError::Engine { what: "the JavaScript runtime", reason: wasmtime::Error::msg("it has no accessors") })
    }
}

fn instrument() -> Result<(ComponentContext<'static>, Vec<u8>), BuildError> {
    Wizer::new()
        .instrument_component(COMPONENT)
        .map_err(|reason| BuildError::Engine { what: "the JavaScript runtime cannot be instrumented", reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_beside_the_runtime_is_its_own() {
        assert_eq!(DIGEST.split_whitespace().next(), Some(super::super::cache::digest(COMPONENT).as_str()));
    }
}
