//! CloudEvents in messages of AMQP 0-9-1, both ways.
//!
//! The [AMQP protocol binding](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md) is written for
//! AMQP 1.0. Where that has application properties, 0-9-1 has headers: `cloudEvents:NAME`, or `cloudEvents_NAME` for senders that cannot
//! write a colon. The content type is `datacontenttype` in binary mode and says that a message is structured otherwise.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::json;

use super::{CloudEventError, STRUCTURED, attributes_of, essence, from_attributes, from_structured, to_structured};
use crate::event::Event;

const PREFIX: &str = "cloudEvents:";
/// Whoever has one of these means to send an event.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];
/// On disk before the broker confirms it.
const PERSISTENT: u8 = 2;

/// Read what a message carries; `None`: it is no CloudEvent and does not claim to be one.
///
/// # Errors
/// When it claims to be a CloudEvent and is not a valid one.
pub(crate) fn from_message(properties: &BasicProperties, data: Bytes) -> Result<Option<Event>, CloudEventError> {
    let content_type = properties.content_type().as_ref().map(ShortString::as_str).filter(|content_type| !content_type.is_empty());
    let media_type = content_type.map(essence).unwrap_or_default().to_ascii_lowercase();
    if media_type == STRUCTURED {
        return from_structured(&data).map(Some);
    }
    if media_type.starts_with("application/cloudevents") {
        return Err(CloudEventError::Format(media_type));
    }
    let headers = properties.headers().as_ref();
    let attributes = || headers.into_iter().flatten().filter_map(|(name, value)| Some((attribute(name.as_str())?, value)));
    if !attributes().any(|(name, _)| REQUIRED.contains(&name)) {
        return Ok(None);
    }
    let mut pairs = Vec::new();
    for (name, value) in attributes() {
        match (name, canonical(value)) {
            // The content type has one place only; what is null is not there.
            ("datacontenttype", _) | (_, Ok(None)) => {}
            (name, Ok(Some(value))) => pairs.push((name, value)),
            (name, Err(problem)) => return Err(CloudEventError::Value { name: name.to_owned(), problem }),
        }
    }
    pairs.extend(content_type.map(|content_type| ("datacontenttype", content_type.to_owned())));
    from_attributes(pairs.iter().map(|(name, value)| (*name, value.as_str())), data).map(Some)
}

/// The attribute that a header holds.
pub(crate) fn attribute(header: &str) -> Option<&str> {
    let (prefix, name) = header.split_at_checked(PREFIX.len())?;
    let named = prefix.eq_ignore_ascii_case(PREFIX) || prefix.eq_ignore_ascii_case("cloudEvents_");
    (named && !name.is_empty()).then_some(name)
}

/// An event as a message in binary mode.
///
/// # Errors
/// When the event has something that a message has no room for; what it is, as a sentence.
pub(crate) fn to_binary(event: &Event) -> Result<(BasicProperties, Bytes), String> {
    let mut headers = FieldTable::default();
    for (name, value) in attributes_of(event) {
        let header = short(&format!("{PREFIX}{name}")).ok_or_else(|| too_long(&format!("the name of the attribute {name:?}")))?;
        headers.insert(header, AMQPValue::LongString(value.into()));
    }
    if let Some(traceparent) = event.traceparent() {
        headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.into()));
    }
    let mut properties = common(event).with_headers(headers);
    if let Some(content_type) = &event.datacontenttype {
        properties = properties.with_content_type(short(content_type).ok_or_else(|| too_long("datacontenttype"))?);
    }
    Ok((properties, event.data.clone()))
}

/// An event as a message in structured mode.
pub(crate) fn to_message(event: &Event) -> (BasicProperties, Bytes) {
    let mut properties = common(event).with_content_type(format!("{STRUCTURED}; charset=utf-8").into());
    if let Some(traceparent) = event.traceparent() {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.into()));
        properties = properties.with_headers(headers);
    }
    (properties, to_structured(event).into())
}

/// What every message says of its event. The properties are there for those who know nothing of CloudEvents: one that is too long for its
/// place stands in the event all the same.
fn common(event: &Event) -> BasicProperties {
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if let Some(id) = short(&event.id) {
        properties = properties.with_message_id(id);
    }
    if let Some(ty) = short(&event.ty) {
        properties = properties.with_type(ty);
    }
    properties
}

/// A text of at most 255 bytes, which is all that many places of a message hold.
fn short(text: &str) -> Option<ShortString> {
    ShortString::try_new(text).ok()
}

fn too_long(what: &str) -> String {
    format!("{what} is longer than the 255 bytes that a message of RabbitMQ has for it")
}

/// An attribute's value in its canonical string form; `None` for null.
fn canonical(value: &AMQPValue) -> Result<Option<String>, &'static str> {
    Ok(Some(match value {
        AMQPValue::Void => return Ok(None),
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).map_err(|_| "is not UTF-8")?.to_owned(),
        AMQPValue::ShortString(text) => text.as_str().to_owned(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ByteArray(bytes) => BASE64.encode(bytes.as_slice()),
        AMQPValue::Timestamp(seconds) => time(*seconds).ok_or("is not a time")?,
        other => integer(other).ok_or("is not a string, a boolean, an integer, bytes or a time")?.to_string(),
    }))
}

/// A time that AMQP 0-9-1 has as seconds; `None`: out of range, as what somebody took for milliseconds may be.
pub(crate) fn time(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok()?;
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

fn integer(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::ShortShortInt(n) => i64::from(*n),
        AMQPValue::ShortShortUInt(n) => i64::from(*n),
        AMQPValue::ShortInt(n) => i64::from(*n),
        AMQPValue::ShortUInt(n) => i64::from(*n),
        AMQPValue::LongInt(n) => i64::from(*n),
        AMQPValue::LongUInt(n) => i64::from(*n),
        AMQPValue::LongLongInt(n) => *n,
        _ => return None,
    })
}

/// A header's value as text, whatever it is: tables and lists as JSON.
pub(crate) fn text(value: &AMQPValue) -> String {
    match tree(value, 0) {
        serde_json::Value::String(text) => text,
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Tables within tables: a sender's nesting is not the depth of our stack.
const MAX_DEPTH: u8 = 8;

fn tree(value: &AMQPValue, depth: u8) -> serde_json::Value {
    match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        AMQPValue::ShortString(text) => text.as_str().into(),
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::Float(value) => json!(value),
        AMQPValue::Double(value) => json!(value),
        AMQPValue::ByteArray(bytes) => BASE64.encode(bytes.as_slice()).into(),
        AMQPValue::Timestamp(seconds) => time(*seconds).map_or_else(|| json!(seconds), Into::into),
        AMQPValue::DecimalValue(decimal) => json!(f64::from(decimal.value) / 10f64.powi(i32::from(decimal.scale))),
        AMQPValue::FieldArray(values) if depth < MAX_DEPTH => values.as_slice().iter().map(|value| tree(value, depth + 1)).collect(),
        AMQPValue::FieldTable(table) if depth < MAX_DEPTH => {
            table.into_iter().map(|(name, value)| (name.as_str().to_owned(), tree(value, depth + 1))).collect()
        }
        other => integer(other).map_or(serde_json::Value::Null, Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(fields: &[(&str, AMQPValue)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in fields {
            table.insert((*name).into(), value.clone());
        }
        table
    }

    fn long(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    fn event() -> Event {
        Event {
            id: "A1".into(),
            source: "/shop".into(),
            ty: "order.created".into(),
            subject: Some("42".into()),
            time: Some("2018-04-05T17:31:00Z".into()),
            datacontenttype: Some("application/json".into()),
            attributes: [
                ("priority".to_owned(), "high".to_owned()),
                ("traceparent".to_owned(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            ]
            .into(),
            data: Bytes::from_static(br#"{"n":1.0}"#),
            ..Event::default()
        }
    }

    #[test]
    fn an_event_comes_back_from_either_mode_byte_for_byte() {
        for (properties, data) in [to_binary(&event()).unwrap(), to_message(&event())] {
            assert_eq!(from_message(&properties, data).unwrap().as_ref(), Some(&event()));
            assert_eq!(properties.message_id().as_ref().map(ShortString::as_str), Some("A1"));
            assert_eq!(properties.kind().as_ref().map(ShortString::as_str), Some("order.created"));
            assert_eq!(*properties.delivery_mode(), Some(PERSISTENT));
            assert!(properties.headers().as_ref().unwrap().contains_key("traceparent"));
        }
    }

    #[test]
    fn attributes_come_with_either_prefix_and_any_type_the_binding_allows() {
        let headers = table(&[
            ("cloudEvents_specversion", long("1.0")),
            ("cloudEvents:id", long("1")),
            ("cloudEvents_source", long("/s")),
            ("cloudEvents:type", long("t")),
            ("cloudEvents:time", AMQPValue::Timestamp(1_522_949_460)),
            ("cloudEvents:count", AMQPValue::LongInt(-7)),
            ("cloudEvents:urgent", AMQPValue::Boolean(true)),
            ("cloudEvents:bytes", AMQPValue::ByteArray(vec![0, 255].into())),
            ("cloudEvents:nothing", AMQPValue::Void),
            ("other", long("x")),
        ]);
        let properties = BasicProperties::default().with_headers(headers).with_content_type("text/plain".into());
        let event = from_message(&properties, Bytes::from_static(b"\xff")).unwrap().unwrap();
        assert_eq!(event.time.as_deref(), Some("2018-04-05T17:31:00Z"));
        assert_eq!(event.datacontenttype.as_deref(), Some("text/plain"));
        let extensions = [("bytes", "AP8="), ("count", "-7"), ("urgent", "true")];
        assert_eq!(event.attributes, extensions.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(event.data, b"\xff"[..]);
    }

    #[test]
    fn what_does_not_claim_to_be_an_event_is_none_and_what_claims_to_must_be_one() {
        let of = |properties: BasicProperties, data: &'static str| from_message(&properties, Bytes::from_static(data.as_bytes()));
        let plain = BasicProperties::default();
        assert_eq!(of(plain.clone(), "{}"), Ok(None));
        assert_eq!(of(plain.clone().with_headers(table(&[("cloudEvents:note", long("x"))])), "{}"), Ok(None));
        let structured = plain.clone().with_content_type("Application/CloudEvents+JSON; charset=utf-8".into());
        assert!(matches!(of(structured.clone(), "not JSON"), Err(CloudEventError::Json(_))));
        assert_eq!(of(structured, r#"{"specversion":"1.0"}"#), Err(CloudEventError::Missing("id")));
        let batch = plain.clone().with_content_type(super::super::BATCH.into());
        assert!(matches!(of(batch, "[]"), Err(CloudEventError::Format(_))));
        let binary = plain.clone().with_headers(table(&[("cloudEvents:id", long("1"))]));
        assert_eq!(of(binary, ""), Err(CloudEventError::Missing("specversion")));
        let float = plain.with_headers(table(&[("cloudEvents:id", AMQPValue::Double(1.5))]));
        assert!(of(float, "").unwrap_err().to_string().starts_with("the attribute \"id\" is not a string"));
    }

    #[test]
    fn what_a_message_has_no_room_for_is_left_out_where_it_stands_elsewhere_and_refused_where_it_does_not() {
        let longish = "x".repeat(300);
        let (properties, data) = to_binary(&Event { id: longish.clone(), ty: longish.clone(), ..event() }).unwrap();
        assert_eq!((properties.message_id(), properties.kind()), (&None, &None));
        assert_eq!(from_message(&properties, data).unwrap().unwrap().id, longish);
        let refused = to_binary(&Event { datacontenttype: Some(longish), ..event() }).unwrap_err();
        assert!(refused.starts_with("datacontenttype is longer"), "{refused}");
    }

    #[test]
    fn any_header_becomes_text() {
        let death = table(&[("reason", long("expired")), ("count", AMQPValue::LongLongInt(2))]);
        for (value, text) in [
            (long("plain"), "plain"),
            (AMQPValue::LongInt(7), "7"),
            (AMQPValue::Boolean(false), "false"),
            (AMQPValue::Void, ""),
            (AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()), r#"[{"count":2,"reason":"expired"}]"#),
        ] {
            assert_eq!(super::text(&value), text);
        }
        let deep = (0..100).fold(long("x"), |inner, _| AMQPValue::FieldArray(vec![inner].into()));
        assert!(super::text(&deep).len() < 100);
    }
}
