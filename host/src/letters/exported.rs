//! A failed event as a document that can be taken elsewhere, and its call made again there: on what was recorded, with nothing leaving the
//! machine.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    channel::Origin,
    config::{Grants, HandlerConfig, PluginRef},
    event::{Event, cloudevents},
    letters::call_of,
    plugin::{Capacity, Engine, Loader, Recording, Setup, Trial, recording::Playback},
    store::{Attempt, DeadLetter, Store, sqlite::SqliteStore},
    tenant::Tenant,
};

/// The format of the document, for whoever reads it later.
const FORMAT: u32 = 1;

/// A failed event with its call, or an event alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exported {
    /// The format of this document.
    pub koksmat_export: u32,
    /// The event, in the JSON format of CloudEvents.
    pub event: Box<RawValue>,
    /// What its transport carried besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Which call failed.
    pub call: FailedCall,
    /// What its host calls gave it; null: that was not recorded.
    pub host_calls: Option<Recording>,
}

/// A call that failed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FailedCall {
    /// Whose.
    #[serde(default)]
    pub tenant: Tenant,
    /// The source of its event.
    pub source: String,
    /// That source's kind.
    pub kind: String,
    /// What the event is recognised by.
    pub key: Option<String>,
    /// The handler; null: no handler wanted the event.
    pub handler: Option<String>,
    /// The code that ran: a digest.
    pub plugin: Option<String>,
    /// Which attempt it was.
    pub attempt: u32,
    /// Emits between the event and one from outside.
    #[serde(default)]
    pub hops: u32,
    /// Why it is a dead letter.
    pub reason: String,
    /// What was tried.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It is no document of this kind.
    #[error("neither an exported dead letter nor a CloudEvent in JSON: {0}")]
    Unknown(String),
    /// A newer version wrote it.
    #[error("its format is {0}, this koksmat knows {FORMAT}; use a newer koksmat")]
    Newer(u32),
}

/// What tells the one kind of document from the other.
#[derive(Deserialize)]
struct Kind {
    koksmat_export: Option<u32>,
}

impl Exported {
    /// A dead letter, with its recording if it has one.
    pub(crate) fn of(letter: &DeadLetter, recording: Option<&str>) -> Result<Self, String> {
        let event = RawValue::from_string(cloudevents::to_structured(&letter.event)).map_err(|error| error.to_string())?;
        let host_calls =
            recording.map(serde_json::from_str).transpose().map_err(|error| format!("its recording cannot be read: {error}"))?;
        Ok(Self {
            koksmat_export: FORMAT,
            event,
            headers: letter.event.headers.clone(),
            call: FailedCall {
                tenant: letter.tenant.clone(),
                source: letter.source.clone(),
                kind: letter.kind.clone(),
                key: letter.key.clone(),
                handler: letter.handler.clone(),
                plugin: letter.plugin.clone(),
                attempt: u32::try_from(letter.attempts.len().max(1)).unwrap_or(u32::MAX),
                hops: letter.hops,
                reason: letter.reason.clone(),
                attempts: letter.attempts.clone(),
            },
            host_calls,
        })
    }

    /// Read an exported dead letter, or a CloudEvent in JSON: it has no recording then.
    ///
    /// # Errors
    /// When it is neither, or a newer version wrote it.
    pub fn read(json: &[u8]) -> Result<Self, ExportError> {
        let unknown = |error: &dyn std::fmt::Display| ExportError::Unknown(error.to_string());
        let kind: Kind = serde_json::from_slice(json).map_err(|error| unknown(&error))?;
        match kind.koksmat_export {
            Some(FORMAT) => {
                let exported: Self = serde_json::from_slice(json).map_err(|error| unknown(&error))?;
                exported.event().map_err(|error| unknown(&error))?;
                Ok(exported)
            }
            Some(newer) => Err(ExportError::Newer(newer)),
            None => {
                cloudevents::from_structured(json).map_err(|error| unknown(&error))?;
                let event = serde_json::from_slice(json).map_err(|error| unknown(&error))?;
                let call = FailedCall { source: "test".into(), kind: "test".into(), attempt: 1, ..FailedCall::default() };
                Ok(Self { koksmat_export: FORMAT, event, headers: Vec::new(), call, host_calls: None })
            }
        }
    }

    /// The event.
    ///
    /// # Errors
    /// When what stands there is none.
    pub fn event(&self) -> Result<Event, cloudevents::CloudEventError> {
        let event = cloudevents::from_structured(self.event.get().as_bytes())?;
        Ok(Event { headers: self.headers.clone(), ..event })
    }

    /// A handler that is set up as the recorded one was, with other code. Without a recording everything is granted: nothing leaves the
    /// machine anyway.
    pub fn handler(&self, plugin: PluginRef) -> HandlerConfig {
        let everything = || Setup {
            grants: Grants { http: vec!["*".into()], keyvalue: Some(String::new()), emit: vec!["*".into()] },
            timeout_ms: 5_000,
            memory: 64 << 20,
            ..Setup::default()
        };
        let setup = self.host_calls.as_ref().map_or_else(everything, |recording| recording.setup.clone());
        HandlerConfig {
            tenant: self.call.tenant.clone(),
            name: self.call.handler.clone().unwrap_or_else(|| "test".into()),
            plugin,
            on: Vec::new(),
            atomic: false,
            // A file may say anything: within what a configuration may say.
            timeout: Duration::from_millis(setup.timeout_ms.clamp(1, 3_600_000)),
            memory: setup.memory.clamp(1 << 20, 1 << 30),
            concurrency: None,
            order: None,
            retry: Default::default(),
            config: setup.config,
            from_environment: Default::default(),
            record: false,
            grants: setup.grants,
            self_test: Vec::new(),
            canary: None,
            pin_retries: false,
        }
    }

    /// Build and load a handler, and make the recorded call of it: its key-value reads, its requests, its clock and the ids of what it emits
    /// are answered as they were; what it writes and emits is thrown away. `config` goes before what the handler has. `cache` is where
    /// built components are kept.
    ///
    /// # Errors
    /// When the handler cannot be built or loaded, or the event is none.
    pub async fn run(&self, mut handler: HandlerConfig, config: BTreeMap<String, String>, cache: &Path) -> anyhow::Result<Trial> {
        handler.config.extend(config);
        let mut recording = self.host_calls.clone();
        if let Some(recording) = &mut recording {
            recording.setup.withheld.retain(|key| !handler.config.contains_key(key));
        }
        // It is asked for nothing: keys come from the recording.
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory()?);
        let engine = Engine::new(Capacity { instances: 4, memory: handler.memory })?;
        let queues = recording.iter().flat_map(|recording| recording.setup.queues.clone()).collect::<HashSet<_>>();
        let handler = Loader::new(engine, cache, store)?.load_once(&handler, &queues.into()).await?;
        let FailedCall { tenant, source, kind, key, handler: name, attempt, hops, .. } = &self.call;
        let origin = Origin { tenant: tenant.clone(), source: source.as_str().into(), kind: kind.as_str().into() };
        let mut call = call_of(&origin, key.as_deref(), &self.event()?, *hops, name.as_deref().unwrap_or(&handler.config.name), &handler);
        call.attempt = *attempt;
        Ok(handler.play_back(call, Arc::new(Playback::new(recording))).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloudevent_alone_is_an_event_without_a_recording() {
        let json = br#"{"specversion":"1.0","id":"7","source":"/s","type":"t","data":{"b": 1,  "a":1e400}}"#;
        let exported = Exported::read(json).unwrap();
        let event = exported.event().unwrap();
        assert_eq!((event.id.as_str(), &event.data[..]), ("7", &br#"{"b": 1,  "a":1e400}"#[..]));
        assert!(exported.host_calls.is_none() && exported.handler(PluginRef::Wasm("x".into())).grants.keyvalue.is_some());
    }

    #[test]
    fn what_is_neither_is_refused_with_the_reason() {
        for (json, why) in [("{", "neither"), (r#"{"id":"7"}"#, "specversion"), (r#"{"koksmat_export":9}"#, "its format is 9")] {
            let said = Exported::read(json.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
    }
}
