//! Messages as events: CloudEvents in binary and structured mode, and everything else as it is.
//!
//! Source: [Kafka protocol binding](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md).

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers, Message, Timestamp};

use super::super::DEFAULT_TYPE;
use crate::event::{
    Event,
    cloudevents::{self, CloudEventError},
    is_credential,
};

/// What the names of attributes begin with in headers.
const PREFIX: &str = "ce_";

/// What a message came to.
pub(super) struct Read {
    pub(super) event: Event,
    /// What it is recognised by when it comes again.
    pub(super) key: Arc<str>,
    /// It claims to be a CloudEvent and is none: `event` is what came, to be kept as a dead letter.
    pub(super) invalid: Option<CloudEventError>,
}

/// Reads the messages of a cluster.
#[derive(Default)]
pub(super) struct Reader {
    /// The cluster's id: part of what a message is recognised by.
    cluster: Arc<str>,
    /// What an event that says none has as its source.
    source: String,
    /// Where what a message is recognised by is put together.
    key: String,
    /// The last time and its text: messages of one millisecond come together.
    time: (i64, Option<String>),
}

impl Reader {
    pub(super) fn new(cluster: Arc<str>, source: String) -> Self {
        Self { cluster, source, ..Self::default() }
    }

    /// The event of a message of this topic.
    pub(super) fn read(&mut self, topic: &str, message: &BorrowedMessage<'_>) -> Read {
        let (mut partition, mut offset, mut time) = (itoa::Buffer::new(), itoa::Buffer::new(), itoa::Buffer::new());
        let place = [topic, "/", partition.format(message.partition()), "/", offset.format(message.offset())].concat();
        let millis = match message.timestamp() {
            Timestamp::CreateTime(millis) | Timestamp::LogAppendTime(millis) => Some(millis),
            Timestamp::NotAvailable => None,
        };
        // Offsets begin anew in a topic that was deleted and made again: with the time it is another message.
        self.key.clear();
        [&*self.cluster, "/", &place, "@", time.format(millis.unwrap_or_default())].iter().for_each(|part| self.key.push_str(part));
        let key = self.key.as_str().into();
        let headers = headers(message);
        let data = Bytes::copy_from_slice(message.payload().unwrap_or_default());
        let text_key = message.key().map(text).filter(|key| !key.is_empty());
        let (mut event, invalid) = match cloud_event(&headers, &data) {
            Some(Ok(mut event)) => {
                // What orders the event in Kafka orders it here, be its subject what it may.
                if let Some(key) = text_key.filter(|key| event.subject.as_ref() != Some(key)) {
                    event.attributes.entry("partitionkey".into()).or_insert(key);
                }
                (event, None)
            }
            other => {
                let event = Event {
                    id: place,
                    source: self.source.clone(),
                    ty: DEFAULT_TYPE.into(),
                    subject: text_key,
                    time: millis.and_then(|millis| self.time(millis)),
                    datacontenttype: get(&headers, "content-type").map(str::to_owned),
                    data,
                    ..Event::default()
                };
                (event, other.and_then(Result::err))
            }
        };
        if let Some(traceparent) = get(&headers, "traceparent") {
            event.continue_trace(traceparent);
        }
        event.headers = headers.into_iter().filter(|(name, _)| !name.starts_with(PREFIX) && !is_credential(name)).collect();
        Read { event, key, invalid }
    }

    fn time(&mut self, millis: i64) -> Option<String> {
        if self.time.0 != millis || self.time.1.is_none() {
            self.time = (millis, jiff::Timestamp::from_millisecond(millis).ok().map(|time| time.to_string()));
        }
        self.time.1.clone()
    }
}

/// What a message claims to be; None: no CloudEvent.
fn cloud_event(headers: &[(String, String)], data: &Bytes) -> Option<Result<Event, CloudEventError>> {
    let content_type = get(headers, "content-type").unwrap_or_default();
    if content_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(cloudevents::STRUCTURED)) {
        return Some(cloudevents::from_structured(data));
    }
    let attributes = headers.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.as_str())));
    if !attributes.clone().any(|(name, _)| matches!(name, "specversion" | "id" | "source" | "type")) {
        return None;
    }
    let content_type = get(headers, "content-type").map(|value| ("datacontenttype", value));
    let attributes = attributes.filter(|(name, _)| *name != "datacontenttype").chain(content_type);
    Some(cloudevents::from_attributes(attributes, data.clone()))
}

/// The headers as text, names in lower case. A header without a value has an empty one.
fn headers(message: &BorrowedMessage<'_>) -> Vec<(String, String)> {
    let Some(headers) = message.headers() else { return Vec::new() };
    headers.iter().map(|header| (header.key.to_ascii_lowercase(), text(header.value.unwrap_or_default()))).collect()
}

/// Bytes as text; what is no text as base64.
fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| STANDARD.encode(bytes), str::to_owned)
}

fn get<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}
