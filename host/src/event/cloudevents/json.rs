//! The JSON event format: one event (structured mode) or an array of them (batched mode).

use std::fmt;

use base64::{
    Engine,
    engine::DecodePaddingMode,
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD},
};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
    ser::{Serialize, SerializeMap, Serializer},
};
use serde_json::value::RawValue;

use super::{CloudEventError, MAX_BATCH, attributes::Attributes, is_json};
use crate::event::Event;

/// Base64 with or without its padding.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Read one event in structured mode.
///
/// Its data is the decoded `data_base64`; or the exact text of `data`; or, where `data` is a string and `datacontenttype` says that it is
/// not JSON, that string.
///
/// # Errors
/// When it is not a valid CloudEvent.
pub fn from_structured(json: &[u8]) -> Result<Event, CloudEventError> {
    let members = serde_json::from_slice(json).map_err(not_json)?;
    event(members)
}

/// Read a batch of events.
///
/// # Errors
/// When one of them is not a valid CloudEvent (the error names which), or there are more than [`MAX_BATCH`].
pub fn from_batch(json: &[u8]) -> Result<Vec<Event>, CloudEventError> {
    let batch: Vec<&RawValue> = serde_json::from_slice(json).map_err(not_json)?;
    if batch.len() > MAX_BATCH {
        return Err(CloudEventError::TooMany(batch.len()));
    }
    let read = |(index, json): (usize, &&RawValue)| {
        from_structured(json.get().as_bytes()).map_err(|error| CloudEventError::InBatch { index, error: error.into() })
    };
    batch.iter().enumerate().map(read).collect()
}

/// Write an event in structured mode; its `headers` are not part of a CloudEvent.
///
/// Reading it back gives the same attributes and, byte for byte, the same data.
pub fn to_structured(event: &Event) -> String {
    // Strings, maps with string keys and text that was JSON before: nothing here can fail.
    serde_json::to_string(&Structured(event)).unwrap_or_default()
}

/// The members of a JSON object, each once, their values untouched.
struct Members<'a>(Vec<(String, &'a RawValue)>);

fn event(Members(members): Members<'_>) -> Result<Event, CloudEventError> {
    let mut attributes = Attributes::default();
    let (mut data, mut base64) = (None, None);
    for (name, value) in members {
        match (name.as_str(), value.get()) {
            ("data", value) => data = Some(value),
            // Null means "not there" for everything but data, where it is a value.
            (_, "null") => {}
            ("data_base64", value) => base64 = Some(serde_json::from_str::<String>(value).map_err(|_| CloudEventError::Base64)?),
            (name, value) => attributes.set(name, canonical(name, value)?)?,
        }
    }
    let json = is_json(attributes.datacontenttype());
    let data = match (data, base64) {
        (Some(_), Some(_)) => return Err(CloudEventError::TwoData),
        (None, None) => Bytes::new(),
        (None, Some(base64)) => BASE64.decode(base64).map_err(|_| CloudEventError::Base64)?.into(),
        (Some(text), None) => {
            if attributes.datacontenttype().is_none() {
                // What the format implies is said, or it would be lost with the format.
                attributes.set("datacontenttype", "application/json".to_owned())?;
            }
            match serde_json::from_str::<String>(text) {
                Ok(string) if !json => string.into(),
                _ => Bytes::copy_from_slice(text.as_bytes()),
            }
        }
    };
    let mut event = attributes.finish()?;
    event.data = data;
    Ok(event)
}

/// The canonical string form of an attribute's value: strings, and for extensions booleans and 32-bit integers.
fn canonical(name: &str, json: &str) -> Result<String, CloudEventError> {
    const CORE: [&str; 8] = ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"];
    if let Ok(string) = serde_json::from_str(json) {
        return Ok(string);
    }
    let is_core = CORE.contains(&name);
    if !is_core && (json == "true" || json == "false" || json.parse::<i32>().is_ok()) {
        return Ok(json.to_owned());
    }
    let problem = if is_core { "is not a string" } else { "is not a string, a boolean or a 32-bit integer" };
    Err(CloudEventError::Value { name: name.to_owned(), problem })
}

fn not_json(error: serde_json::Error) -> CloudEventError {
    CloudEventError::Json(error.to_string())
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    // Two readers of the same event must not come to different values.
                    if members.len() == MAX_MEMBERS {
                        return Err(A::Error::custom(format_args!("more than {MAX_MEMBERS} members")));
                    }
                    if members.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom(format_args!("the member {name:?} is there more than once")));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The most members one event may have; more are no event's attributes but an attempt to keep the host busy.
const MAX_MEMBERS: usize = 256;

/// An event as its JSON form.
struct Structured<'a>(&'a Event);

impl Serialize for Structured<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in [("specversion", "1.0"), ("id", &event.id), ("source", &event.source), ("type", &event.ty)] {
            map.serialize_entry(name, value)?;
        }
        let optional = [
            ("subject", &event.subject),
            ("time", &event.time),
            ("datacontenttype", &event.datacontenttype),
            ("dataschema", &event.dataschema),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                map.serialize_entry(name, value)?;
            }
        }
        for (name, value) in &event.attributes {
            map.serialize_entry(name, value)?;
        }
        match Data::of(event) {
            Data::None => {}
            Data::Json(json) => map.serialize_entry("data", json)?,
            Data::Text(text) => map.serialize_entry("data", text)?,
            Data::Bytes(bytes) => map.serialize_entry("data_base64", &STANDARD.encode(bytes))?,
        }
        map.end()
    }
}

/// The most readable form that gives the same bytes back.
enum Data<'a> {
    None,
    Json(&'a RawValue),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Data<'a> {
    fn of(event: &'a Event) -> Self {
        let Some(datacontenttype) = event.datacontenttype.as_deref() else {
            return if event.data.is_empty() { Self::None } else { Self::Bytes(&event.data) };
        };
        if event.data.is_empty() {
            return Self::None;
        }
        if !is_json(Some(datacontenttype)) {
            return std::str::from_utf8(&event.data).map_or(Self::Bytes(&event.data), Self::Text);
        }
        match serde_json::from_slice::<&RawValue>(&event.data) {
            // Space around a value would be lost.
            Ok(json) if json.get().len() == event.data.len() => Self::Json(json),
            _ => Self::Bytes(&event.data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: &str = r#""specversion":"1.0","id":"A1","source":"/shop","type":"order.created""#;

    fn read(more: &str) -> Result<Event, CloudEventError> {
        from_structured(format!("{{{REQUIRED}{more}}}").as_bytes())
    }

    #[test]
    fn data_is_the_exact_text_of_its_json() {
        let event = read(",\"datacontenttype\":\"application/json\",\"data\": { \"a\" : 1.0,\n \"b\":\"\\u00e9\" } ").unwrap();
        assert_eq!(event.data, b"{ \"a\" : 1.0,\n \"b\":\"\\u00e9\" }"[..]);
        assert_eq!(read(r#","data":"text""#).unwrap().data, b"\"text\""[..], "no content type means JSON");
        assert_eq!(read(r#","data":"text""#).unwrap().datacontenttype.as_deref(), Some("application/json"), "and it is said");
        assert_eq!(read(r#","data":null"#).unwrap().data, b"null"[..]);
        assert_eq!(read("").unwrap().data, b""[..]);
        assert_eq!(read("").unwrap().datacontenttype, None);
    }

    #[test]
    fn a_string_of_another_content_type_is_the_data() {
        assert_eq!(read(r#","datacontenttype":"text/plain","data":"a\nb é""#).unwrap().data, "a\nb é".as_bytes());
        assert_eq!(read(r#","datacontenttype":"text/xml","data":{"a":1}"#).unwrap().data, br#"{"a":1}"#[..]);
    }

    #[test]
    fn base64_is_decoded() {
        assert_eq!(read(r#","data_base64":"AP8=""#).unwrap().data, b"\x00\xff"[..]);
        assert_eq!(read(r#","data_base64":"AP8""#).unwrap().data, b"\x00\xff"[..]);
        assert_eq!(read(r#","data_base64":"***""#).unwrap_err(), CloudEventError::Base64);
        assert_eq!(read(r#","data_base64":7"#).unwrap_err(), CloudEventError::Base64);
        assert_eq!(read(r#","data":1,"data_base64":"AP8=""#).unwrap_err(), CloudEventError::TwoData);
    }

    #[test]
    fn extensions_get_their_canonical_string_form() {
        let event = read(r#","flag":true,"count":-7,"word":"a\"b","nothing":null"#).unwrap();
        let attributes: Vec<_> = event.attributes.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(attributes, [("count", "-7"), ("flag", "true"), ("word", "a\"b")]);
    }

    #[test]
    fn what_is_not_valid_is_named() {
        for (more, error) in [
            (r#","list":[1]"#, "the attribute \"list\" is not a string, a boolean or a 32-bit integer"),
            (r#","share":0.5"#, "the attribute \"share\" is not a string, a boolean or a 32-bit integer"),
            (r#","big":2147483648"#, "the attribute \"big\" is not a string, a boolean or a 32-bit integer"),
            (r#","subject":7"#, "the attribute \"subject\" is not a string"),
            (r#","subject":"""#, "the attribute \"subject\" is empty"),
            (r#","time":"25 o'clock""#, "the attribute \"time\" is not a time as RFC 3339 writes it"),
            (r#","Upper":"x""#, "\"Upper\" cannot be the name of an attribute: names are lower-case letters and digits"),
            (r#","note":"a\u0000b""#, "the attribute \"note\" has control characters in its value"),
        ] {
            assert_eq!(read(more).unwrap_err().to_string(), error);
        }
        for (json, error) in [
            (r#"{"specversion":"1.0","id":"1","source":"/s"}"#, "the required attribute \"type\" is missing"),
            (r#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#, "specversion is \"0.3\"; only \"1.0\" is known"),
            (r#"{"id":"1","source":"/s","type":"t"}"#, "the required attribute \"specversion\" is missing"),
            (r#"{"specversion":"1.0","id":"","source":"/s","type":"t"}"#, "the attribute \"id\" is empty"),
        ] {
            assert_eq!(from_structured(json.as_bytes()).unwrap_err().to_string(), error);
        }
        for (json, part) in
            [("[]", "a JSON object"), ("", "EOF"), ("{\"id\":\"1\",\"id\":\"2\"}", "more than once"), ("{\"id\":\"\\ud800\"}", "id")]
        {
            let error = from_structured(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn a_batch_is_valid_as_a_whole_or_not_at_all() {
        let good = format!("{{{REQUIRED}}}");
        assert_eq!(from_batch(format!("[{good}, {good}]").as_bytes()).unwrap().len(), 2);
        assert_eq!(from_batch(b"[]").unwrap(), []);
        let error = from_batch(format!("[{good},{{\"id\":\"2\"}}]").as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "event 1 of the batch (the first is 0): the required attribute \"specversion\" is missing");
        assert!(matches!(from_batch(good.as_bytes()), Err(CloudEventError::Json(_))));
        let many = format!("[{}0]", "0,".repeat(MAX_BATCH));
        assert_eq!(from_batch(many.as_bytes()), Err(CloudEventError::TooMany(MAX_BATCH + 1)));
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for (datacontenttype, data) in [
            (None, b"".as_slice()),
            (None, b"{\"a\":1}"),
            (None, b"\xff\x00"),
            (Some("application/json"), b"{ \"a\" : 1.0 }"),
            (Some("application/json"), b"{\"a\":1}\n"),
            (Some("application/json"), b"not json"),
            (Some("application/json"), b"\"text\""),
            (Some("text/plain"), "naïve \"text\"\n".as_bytes()),
            (Some("text/plain"), b"{\"a\":1}"),
            (Some("image/png"), b"\x89PNG\r\n"),
        ] {
            let event = Event {
                source: "/shop".into(),
                subject: Some("42".into()),
                time: Some("2018-04-05T17:31:00Z".into()),
                datacontenttype: datacontenttype.map(Into::into),
                attributes: [("partitionkey".to_owned(), "k".to_owned())].into(),
                ..Event::new("order.created", data)
            };
            let json = to_structured(&event);
            assert_eq!(from_structured(json.as_bytes()).unwrap(), event, "{json}");
        }
    }

    #[test]
    fn deep_data_is_carried_and_not_walked() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(&format!(",\"data\":{deep}")).unwrap().data, deep.as_bytes());
    }
}
