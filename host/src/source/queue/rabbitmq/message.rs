//! From a message to an event, and what it is recognised by when it comes again.

use bytes::Bytes;
use lapin::{
    Acker,
    message::Delivery,
    types::{FieldTable, ShortString},
};
use sha2::{Digest, Sha256};

use super::super::DEFAULT_TYPE;
use crate::{
    event::{
        Event,
        cloudevents::amqp::{self, attribute, text},
        is_credential,
    },
    source::http::{MAX_KEY, own_key},
};

/// How often a quorum queue has delivered the message before and got it back.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// What a delivery carries, and how it is acknowledged.
pub(super) struct Message {
    pub(super) acker: Acker,
    /// How often the broker has delivered it before and got it back, as far as it says: classic queues do not count.
    pub(super) times_returned: u64,
    pub(super) event: Event,
    /// What it is recognised by; absent: it never is.
    pub(super) key: Option<String>,
    /// It claims to be a CloudEvent and is none: why.
    pub(super) refused: Option<String>,
}

impl Message {
    /// Read a delivery.
    pub(super) fn of(mut delivery: Delivery, id_header: Option<&str>) -> Self {
        let data = Bytes::from(std::mem::take(&mut delivery.data));
        let properties = &delivery.properties;
        let none = FieldTable::default();
        let headers = properties.headers().as_ref().unwrap_or(&none);
        let message_id = properties.message_id().as_ref().and_then(word);
        let by_header = id_header.and_then(|name| headers.inner().iter().find(|(header, _)| header.as_str().eq_ignore_ascii_case(name)));
        let key = by_header.map(|(_, value)| text(value)).filter(|value| !value.is_empty()).or_else(|| message_id.clone());
        let (mut event, refused) = match amqp::from_message(properties, data.clone()) {
            Ok(Some(event)) => (event, None),
            Ok(None) => (plain(&delivery, message_id.or_else(|| key.clone()), data), None),
            Err(error) => {
                let reason = format!("the message is no CloudEvent though it says so: {error}");
                (plain(&delivery, message_id.or_else(|| key.clone()), data), Some(reason))
            }
        };
        // What a CloudEvent says of itself names it as well as the sender's id for the message.
        let key = key.or_else(|| (!event.source.is_empty()).then(|| own_key(&event))).map(bounded);
        for (name, value) in headers {
            let name = name.as_str().to_ascii_lowercase();
            if name == "traceparent" {
                event.continue_trace(&text(value));
            }
            if attribute(&name).is_none() && !is_credential(&name) {
                event.headers.push((name, text(value)));
            }
        }
        Self { times_returned: times_returned(headers), event, key, refused, acker: delivery.acker }
    }
}

/// The event of a message that is no CloudEvent.
fn plain(delivery: &Delivery, id: Option<String>, data: Bytes) -> Event {
    let properties = &delivery.properties;
    Event {
        id: id.unwrap_or_default(),
        ty: properties.kind().as_ref().and_then(word).unwrap_or_else(|| DEFAULT_TYPE.to_owned()),
        subject: word(&delivery.routing_key),
        time: properties.timestamp().and_then(amqp::time),
        datacontenttype: properties.content_type().as_ref().and_then(word),
        data,
        ..Event::default()
    }
}

/// A text that can name something: neither empty nor with control characters in it.
fn word(text: &ShortString) -> Option<String> {
    let text = text.as_str();
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// A key stands in an index of the store: a long one is recognised by its digest.
fn bounded(key: String) -> String {
    if key.len() <= MAX_KEY { key } else { format!("sha256:{}", hex::encode(Sha256::digest(key))) }
}

fn times_returned(headers: &FieldTable) -> u64 {
    headers.inner().get(DELIVERY_COUNT).and_then(|count| text(count).parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use lapin::{BasicProperties, types::AMQPValue};

    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(fields: &[(&str, &str)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in fields {
            table.insert((*name).into(), AMQPValue::LongString((*value).into()));
        }
        table
    }

    fn delivery(properties: BasicProperties, data: &str) -> Delivery {
        let mut delivery = Delivery::mock(1, "shop".into(), "orders.new".into(), false, data.as_bytes().to_vec());
        delivery.properties = properties;
        delivery
    }

    fn message(properties: BasicProperties, data: &str) -> Message {
        Message::of(delivery(properties, data), Some("X-Order"))
    }

    #[test]
    fn a_message_becomes_an_event_named_by_its_properties() {
        let properties = BasicProperties::default()
            .with_message_id("m-1".into())
            .with_type("order.created".into())
            .with_timestamp(1_522_949_460)
            .with_content_type("text/plain".into())
            .with_headers(headers(&[("Region", "eu"), ("Authorization", "Basic x"), ("traceparent", TRACE)]));
        let Message { event, key, refused, .. } = message(properties, "hello");
        assert_eq!((event.id.as_str(), event.ty.as_str(), event.subject.as_deref()), ("m-1", "order.created", Some("orders.new")));
        assert_eq!((event.time.as_deref(), event.datacontenttype.as_deref()), (Some("2018-04-05T17:31:00Z"), Some("text/plain")));
        assert_eq!((key.as_deref(), refused), (Some("m-1"), None));
        let headers = [("region", "eu"), ("traceparent", TRACE)];
        assert_eq!(event.headers, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(event.traceparent(), Some(TRACE));
        assert_eq!(event.data, b"hello"[..]);
    }

    #[test]
    fn a_message_is_recognised_by_the_header_then_by_its_id_else_never() {
        let id = BasicProperties::default().with_message_id("m-1".into());
        let both = message(id.clone().with_headers(headers(&[("x-order", "7")])), "");
        assert_eq!((both.key.as_deref(), both.event.id.as_str()), (Some("7"), "m-1"));
        let header = message(BasicProperties::default().with_headers(headers(&[("x-order", "7")])), "");
        assert_eq!((header.key.as_deref(), header.event.id.as_str()), (Some("7"), "7"));
        assert_eq!(message(id, "").key.as_deref(), Some("m-1"));
        let neither = message(BasicProperties::default(), "");
        assert_eq!((neither.key, neither.event.id.as_str(), neither.event.ty.as_str()), (None, "", DEFAULT_TYPE));
        let long = message(BasicProperties::default().with_headers(headers(&[("x-order", &"7".repeat(5_000))])), "");
        assert_eq!(long.key.unwrap().len(), "sha256:".len() + 64);
    }

    #[test]
    fn a_cloudevent_keeps_what_it_says_of_itself() {
        let json = r#"{"specversion":"1.0","id":"7","source":"/shop","type":"order.created"}"#;
        let structured = BasicProperties::default().with_content_type("application/cloudevents+json".into());
        let Message { event, key, .. } = message(structured.clone(), json);
        assert_eq!((event.id.as_str(), event.ty.as_str(), event.subject), ("7", "order.created", None));
        assert_eq!(key.as_deref(), Some("/shop|7"));
        assert_eq!(message(structured.with_message_id("m-1".into()), json).key.as_deref(), Some("m-1"));
    }

    #[test]
    fn what_says_that_it_is_a_cloudevent_and_is_none_is_refused_with_the_reason_and_what_it_was() {
        let structured = BasicProperties::default().with_content_type("application/cloudevents+json".into()).with_message_id("m-1".into());
        let Message { event, key, refused, .. } = message(structured, r#"{"specversion":"1.0","id":"7"}"#);
        assert_eq!(
            refused.as_deref(),
            Some("the message is no CloudEvent though it says so: the required attribute \"source\" is missing")
        );
        assert_eq!((event.id.as_str(), key.as_deref()), ("m-1", Some("m-1")));
        assert_eq!(event.data, br#"{"specversion":"1.0","id":"7"}"#[..]);
    }

    #[test]
    fn a_quorum_queue_says_how_often_a_message_came_back() {
        let mut counted = FieldTable::default();
        counted.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(3));
        assert_eq!(message(BasicProperties::default().with_headers(counted), "").times_returned, 3);
        assert_eq!(message(BasicProperties::default(), "").times_returned, 0);
    }
}
