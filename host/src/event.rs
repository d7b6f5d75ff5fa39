//! What travels: one event, as CloudEvents 1.0 has it, with bytes as data.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub mod cloudevents;

/// One thing that happened.
///
/// The fields are the context attributes of [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md);
/// `data` is never interpreted by the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Unique within `source`.
    pub id: String,
    /// URI reference of what made the event. Sources of this host use `/TENANT/SOURCE`.
    pub source: String,
    /// What happened: `order.created`.
    #[serde(rename = "type")]
    pub ty: String,
    /// What it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When, as RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The media type of `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// The schema that `data` adheres to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataschema: Option<String>,
    /// Extension attributes in their canonical string form.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// What the transport carried besides; names are lower case. Never signatures, cookies or credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The payload. It is stored beside the rest, not inside it.
    #[serde(skip)]
    pub data: Bytes,
}

/// Whether a header may hold what proves who somebody is: no handler sees it.
pub(crate) fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "authorization" | "proxy-authorization" | "cookie" | "set-cookie" | "x-api-key")
        || name.contains("signature")
        || name.ends_with("-token")
}

impl Event {
    /// An event of this type with a new UUID v7 as its id; the source fills in where it came from.
    pub fn new(ty: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self { id: uuid::Uuid::now_v7().to_string(), ty: ty.into(), data: data.into(), ..Self::default() }
    }

    /// An event whose data is `value` as JSON.
    ///
    /// # Errors
    /// When `value` has no JSON form (a map whose keys are not strings).
    pub fn json(ty: impl Into<String>, value: &impl Serialize) -> Result<Self, serde_json::Error> {
        let mut event = Self::new(ty, serde_json::to_vec(value)?);
        event.datacontenttype = Some("application/json".into());
        Ok(event)
    }

    /// The W3C trace context the event carries, if any.
    pub fn traceparent(&self) -> Option<&str> {
        self.attributes.get("traceparent").map(String::as_str)
    }

    /// Carry the sender's W3C trace on, unless the event has one of its own or `traceparent` is none.
    pub(crate) fn continue_trace(&mut self, traceparent: &str) {
        let is_trace = traceparent.len() == 55 && traceparent.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
        if is_trace && self.traceparent().is_none() {
            self.attributes.insert("traceparent".to_owned(), traceparent.to_owned());
        }
    }
}
