//! New events. Needs the grant `emit` with the types. They leave when the call is done, or not at all.

use crate::bindings::koksmat::plugin::emit::{Error as EmitError, Outgoing, emit as send};
use crate::error::milliseconds;
use crate::{Result, retry};
use serde::Serialize;
use std::time::Duration;

/// Emits an event with JSON data and returns its id. [`event`] is for events with more to say.
pub fn emit<T: Serialize + ?Sized>(kind: &str, data: &T) -> Result<String> {
    event(kind).json(data)?.send()
}

/// Begins an event of this type. Nothing happens before [`Builder::send`].
pub fn event(kind: impl Into<String>) -> Builder {
    Builder(Outgoing {
        id: None,
        type_: kind.into(),
        subject: None,
        datacontenttype: None,
        dataschema: None,
        attributes: Vec::new(),
        data: Vec::new(),
        queue: None,
        after: None,
    })
}

/// An event to be.
#[derive(Clone, Debug)]
#[must_use = "the event leaves with `.send()`"]
pub struct Builder(Outgoing);

impl Builder {
    /// With JSON data.
    pub fn json<T: Serialize + ?Sized>(self, data: &T) -> Result<Builder> {
        Ok(self.data(serde_json::to_vec(data)?, "application/json"))
    }

    /// With text.
    pub fn text(self, text: impl Into<String>) -> Builder {
        self.data(text.into(), "text/plain; charset=utf-8")
    }

    /// With bytes of a media type.
    pub fn data(mut self, data: impl Into<Vec<u8>>, content_type: &str) -> Builder {
        self.0.data = data.into();
        self.0.datacontenttype = Some(content_type.into());
        self
    }

    /// With an id of its own. An event with this id is accepted once; without, the host makes one.
    pub fn id(mut self, id: impl Into<String>) -> Builder {
        self.0.id = Some(id.into());
        self
    }

    /// What the event is about.
    pub fn subject(mut self, subject: impl Into<String>) -> Builder {
        self.0.subject = Some(subject.into());
        self
    }

    /// The schema its data keeps to, as a URI.
    pub fn schema(mut self, schema: impl Into<String>) -> Builder {
        self.0.dataschema = Some(schema.into());
        self
    }

    /// One more CloudEvents extension attribute: lower case letters and digits.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Builder {
        self.0.attributes.push((name.into(), value.into()));
        self
    }

    /// Publishes to this embedded queue. Without, the event is routed by its type like any other.
    pub fn queue(mut self, queue: impl Into<String>) -> Builder {
        self.0.queue = Some(queue.into());
        self
    }

    /// Holds the event back.
    pub fn after(mut self, wait: Duration) -> Builder {
        self.0.after = Some(milliseconds(wait));
        self
    }

    /// Hands it to the host and returns its id.
    pub fn send(self) -> Result<String> {
        send(&self.0).map_err(|error| match error {
            EmitError::Denied(reason) | EmitError::Invalid(reason) => retry(format_args!("emit `{}`: {reason}", self.0.type_)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_arrives() {
        let Builder(event) = event("order.reserved")
            .json(&[1])
            .unwrap()
            .id("7")
            .subject("tea")
            .schema("urn:order")
            .attribute("shop", "north")
            .queue("orders")
            .after(Duration::from_millis(1500));
        assert_eq!((event.type_.as_str(), event.data.as_slice()), ("order.reserved", b"[1]".as_slice()));
        assert_eq!(event.datacontenttype.as_deref(), Some("application/json"));
        assert_eq!((event.id.as_deref(), event.subject.as_deref()), (Some("7"), Some("tea")));
        assert_eq!((event.dataschema.as_deref(), event.queue.as_deref()), (Some("urn:order"), Some("orders")));
        assert_eq!((event.attributes.len(), event.after), (1, Some(1500)));
    }
}
