//! `koksmat:plugin/emit`: new events, kept until the call is done.

use std::time::Duration;

use crate::{
    config,
    event::Event,
    plugin::{
        bindings::koksmat::plugin::emit::{Error, Host, Outgoing},
        guest::{Emission, Guest},
    },
};

/// The most events one call may emit.
const EVENTS: usize = 1_000;
/// The most bytes they may have together.
const BYTES: usize = 16 << 20;
/// The longest delay.
const LONGEST_DELAY: Duration = Duration::from_secs(365 * 24 * 3600);

impl Host for Guest {
    fn emit(&mut self, event: Outgoing) -> wasmtime::Result<Result<String, Error>> {
        Ok(self.check_emission(event))
    }
}

impl Guest {
    fn check_emission(&mut self, out: Outgoing) -> Result<String, Error> {
        let handler = &self.handler;
        if !handler.grants.emit.iter().any(|p| config::matches(p, &out.type_)) {
            let (name, ty) = (&handler.name, &out.type_);
            return Err(Error::Denied(format!("add to [handlers.{name}]: grants = {{ emit = [{ty:?}] }}")));
        }
        if let Some(queue) = &out.queue
            && !self.queues.contains(queue.as_str())
        {
            return Err(Error::Invalid(format!("there is no embedded queue `{queue}`; add [sources.{queue}] with kind = \"embedded\"")));
        }
        if out.type_.is_empty() || out.type_.len() > 256 {
            return Err(Error::Invalid("the type must have 1 to 256 bytes".into()));
        }
        if out.id.as_deref().is_some_and(|id| id.is_empty() || id.len() > 256) {
            return Err(Error::Invalid("the id must have 1 to 256 bytes".into()));
        }
        if let Some((name, _)) = out.attributes.iter().find(|(name, _)| !attribute_name(name)) {
            return Err(Error::Invalid(format!(
                "`{name}` is no CloudEvents attribute name: 1 to 20 lower-case letters and digits, none of the standard ones"
            )));
        }
        self.effects.emitted_bytes += out.data.len() + 512;
        if self.effects.emissions.len() >= EVENTS || self.effects.emitted_bytes > BYTES {
            return Err(Error::Invalid(format!("a call may emit {EVENTS} events of together {BYTES} bytes")));
        }
        let after = out.after.map(Duration::from_millis);
        if after.is_some_and(|after| after > LONGEST_DELAY) {
            return Err(Error::Invalid("`after` may be a year at most".into()));
        }
        let given = out.id.is_some();
        let event = Event {
            id: out.id.or_else(|| self.playback()?.next_id()).unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
            source: format!("/{}/{}", handler.tenant, handler.name),
            ty: out.type_,
            subject: out.subject,
            time: Some(jiff::Timestamp::now().to_string()),
            datacontenttype: out.datacontenttype,
            dataschema: out.dataschema,
            attributes: out.attributes.into_iter().collect(),
            headers: Vec::new(),
            data: out.data.into(),
        };
        let id = event.id.clone();
        self.effects.emissions.push(Emission { event, queue: out.queue, after, recognised: given });
        Ok(id)
    }
}

/// <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#attribute-naming-convention>
fn attribute_name(name: &str) -> bool {
    const STANDARD: [&str; 8] = ["id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "specversion"];
    (1..=20).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && !STANDARD.contains(&name)
        && name != "data"
}
