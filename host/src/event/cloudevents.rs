//! CloudEvents 1.0 as they travel: the JSON event format (structured and batched content) and the HTTP protocol binding (binary content).
//!
//! Reading keeps data byte for byte: a body, decoded `data_base64`, or the exact JSON text of `data`. The data itself is never parsed.
//!
//! What a message of RabbitMQ carries is in [`amqp`].
//!
//! Sources: [JSON event format](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md),
//! [HTTP protocol binding](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md).

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};

use crate::event::Event;

pub(crate) mod amqp;
mod attributes;
mod binary;
mod json;

pub use binary::from_binary;
pub use json::{from_batch, from_structured, to_structured};

/// The media type of one event in structured mode.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// The media type of a batch of events.
pub const BATCH: &str = "application/cloudevents-batch+json";

/// The most events in a batch that is read: a small body must not become many events at once.
pub const MAX_BATCH: usize = 1_000;

/// What one HTTP message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one event is the usual message, and it is looked at once")]
pub enum Message {
    /// An event, in binary or structured mode.
    One(Event),
    /// Events, in batched mode.
    Batch(Vec<Event>),
}

/// Why something is not a CloudEvent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudEventError {
    /// Not JSON, or not of the shape the format wants.
    #[error("not a CloudEvent in JSON: {0}")]
    Json(String),
    /// An attribute that every CloudEvent must have is not there.
    #[error("the required attribute \"{0}\" is missing")]
    Missing(&'static str),
    /// A version of the specification this host does not know.
    #[error("specversion is \"{0}\"; only \"1.0\" is known")]
    SpecVersion(String),
    /// A name that is no attribute's name.
    #[error("\"{0}\" cannot be the name of an attribute: names are lower-case letters and digits")]
    Name(String),
    /// An attribute given twice.
    #[error("the attribute \"{0}\" is there more than once")]
    Repeated(String),
    /// A value the attribute cannot have.
    #[error("the attribute \"{name}\" {problem}")]
    Value {
        /// Which attribute.
        name: String,
        /// What is wrong with its value, as the end of a sentence.
        problem: &'static str,
    },
    /// A CloudEvent in a format this host does not read here.
    #[error("the content type \"{0}\" is not one of an event that is read here; send \"{STRUCTURED}\" or binary mode")]
    Format(String),
    /// `data` and `data_base64` in one event.
    #[error("\"data\" and \"data_base64\" exclude each other")]
    TwoData,
    /// `data_base64` is not base64.
    #[error("\"data_base64\" is not base64")]
    Base64,
    /// More events in a batch than [`MAX_BATCH`].
    #[error("the batch has {0} events; send at most {MAX_BATCH} at once")]
    TooMany(usize),
    /// An event of a batch is not one.
    #[error("event {index} of the batch (the first is 0): {error}")]
    InBatch {
        /// Its place; the first is 0.
        index: usize,
        /// What is wrong with it.
        error: Box<CloudEventError>,
    },
}

/// Read what an HTTP message carries; `None`: it is none of the CloudEvents modes.
///
/// # Errors
/// When it claims to be a CloudEvent and is not a valid one. A batch is valid as a whole or not at all.
pub fn from_http(headers: &HeaderMap, body: &Bytes) -> Result<Option<Message>, CloudEventError> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(essence).unwrap_or_default();
    if media_type.eq_ignore_ascii_case(STRUCTURED) {
        return from_structured(body).map(|event| Some(Message::One(event)));
    }
    if media_type.eq_ignore_ascii_case(BATCH) {
        return from_batch(body).map(|events| Some(Message::Batch(events)));
    }
    if binary::is_binary(headers) {
        return from_binary(headers, body.clone()).map(|event| Some(Message::One(event)));
    }
    Ok(None)
}

/// An event whose attributes are pairs of names and values, `datacontenttype` among them, as the headers of a broker's message hold them.
///
/// # Errors
/// When a required attribute is missing or a value is not valid.
pub(crate) fn from_attributes<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>, data: Bytes) -> Result<Event, CloudEventError> {
    let mut attributes = attributes::Attributes::default();
    for (name, value) in pairs {
        attributes.set(name, value.to_owned())?;
    }
    let mut event = attributes.finish()?;
    event.data = data;
    Ok(event)
}

/// The attributes of an event but for `datacontenttype`, which has a place of its own in every protocol.
pub(crate) fn attributes_of(event: &Event) -> impl Iterator<Item = (&str, &str)> {
    let required = [("specversion", "1.0"), ("id", &event.id), ("source", &event.source), ("type", &event.ty)];
    let optional = [("subject", &event.subject), ("time", &event.time), ("dataschema", &event.dataschema)];
    let optional = optional.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    required.into_iter().chain(optional).chain(event.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// Whether data of this media type is JSON. Absent means yes: the JSON format says so.
fn is_json(datacontenttype: Option<&str>) -> bool {
    let Some(media_type) = datacontenttype.map(|t| essence(t).to_ascii_lowercase()) else { return true };
    media_type.split_once('/').is_some_and(|(_, subtype)| subtype == "json" || subtype.ends_with("+json"))
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn content_type(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_content_type_decides_the_mode() {
        let event = Bytes::from_static(br#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#);
        let batch = Bytes::from([b"[".as_slice(), &event, b"]"].concat());
        let structured = from_http(&content_type("Application/CloudEvents+JSON; charset=utf-8"), &event).unwrap();
        assert!(matches!(structured, Some(Message::One(e)) if e.id == "1"));
        let batched = from_http(&content_type(BATCH), &batch).unwrap();
        assert!(matches!(batched, Some(Message::Batch(events)) if events.len() == 1));
        assert_eq!(from_http(&content_type("application/json"), &event).unwrap(), None);
    }

    #[test]
    fn json_is_known_by_its_subtype() {
        for json in [None, Some("application/json"), Some("text/JSON; charset=utf-8"), Some("application/vnd.api+json")] {
            assert!(is_json(json), "{json:?}");
        }
        for other in [Some("text/plain"), Some("application/jsonl"), Some("json"), Some("application/xml")] {
            assert!(!is_json(other), "{other:?}");
        }
    }
}
