//! The context attributes: what every format and binding must check in the same way.

use super::CloudEventError;
use crate::event::Event;

/// Collects the attributes of one event and sees to it that they are valid.
#[derive(Default)]
pub(super) struct Attributes {
    event: Event,
    version: Option<String>,
}

impl Attributes {
    /// Take one attribute in its canonical string form.
    pub(super) fn set(&mut self, name: &str, value: String) -> Result<(), CloudEventError> {
        let bad = |problem| Err(CloudEventError::Value { name: name.to_owned(), problem });
        if value.chars().any(char::is_control) {
            return bad("has control characters in its value");
        }
        let event = &mut self.event;
        let place = match name {
            "specversion" => &mut self.version,
            "id" => return once(name, &mut event.id, value),
            "source" => return once(name, &mut event.source, value),
            "type" => return once(name, &mut event.ty, value),
            "subject" => &mut event.subject,
            "time" if value.parse::<jiff::Timestamp>().is_err() => return bad("is not a time as RFC 3339 writes it"),
            "time" => &mut event.time,
            "datacontenttype" => &mut event.datacontenttype,
            "dataschema" => &mut event.dataschema,
            _ => return self.extend(name, value),
        };
        match place {
            Some(_) => Err(CloudEventError::Repeated(name.to_owned())),
            None if value.is_empty() => bad("is empty"),
            None => {
                *place = Some(value);
                Ok(())
            }
        }
    }

    pub(super) fn datacontenttype(&self) -> Option<&str> {
        self.event.datacontenttype.as_deref()
    }

    /// The event, once all attributes are there. Its data is still to come.
    pub(super) fn finish(self) -> Result<Event, CloudEventError> {
        let version = self.version.ok_or(CloudEventError::Missing("specversion"))?;
        if version != "1.0" {
            return Err(CloudEventError::SpecVersion(version));
        }
        let event = self.event;
        for (name, value) in [("id", &event.id), ("source", &event.source), ("type", &event.ty)] {
            if value.is_empty() {
                return Err(CloudEventError::Missing(name));
            }
        }
        Ok(event)
    }

    fn extend(&mut self, name: &str, value: String) -> Result<(), CloudEventError> {
        // `data` is no attribute in any format: an extension of that name could not be written in structured mode.
        if name.is_empty() || name == "data" || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Err(CloudEventError::Name(name.to_owned()));
        }
        match self.event.attributes.insert(name.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(CloudEventError::Repeated(name.to_owned())),
        }
    }
}

/// A required attribute: empty is its "not there yet".
fn once(name: &str, place: &mut String, value: String) -> Result<(), CloudEventError> {
    if value.is_empty() {
        return Err(CloudEventError::Value { name: name.to_owned(), problem: "is empty" });
    }
    if !place.is_empty() {
        return Err(CloudEventError::Repeated(name.to_owned()));
    }
    *place = value;
    Ok(())
}
