//! Binary content mode: attributes in `ce-` headers, the body is the data, byte for byte.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};

use super::{CloudEventError, attributes::Attributes};
use crate::event::Event;

const PREFIX: &str = "ce-";

/// Whether a message wants to be a CloudEvent in binary mode: it has one of the required attributes.
pub(super) fn is_binary(headers: &HeaderMap) -> bool {
    ["ce-specversion", "ce-id", "ce-source", "ce-type"].iter().any(|name| headers.contains_key(*name))
}

/// Read an event in binary mode. `Content-Type` is its `datacontenttype`.
///
/// # Errors
/// When a required attribute is missing or a value is not valid.
pub fn from_binary(headers: &HeaderMap, body: Bytes) -> Result<Event, CloudEventError> {
    let mut attributes = Attributes::default();
    for (name, value) in headers {
        let name = match name.as_str().strip_prefix(PREFIX) {
            // In binary mode the content type has one place only.
            Some("datacontenttype") => continue,
            Some(name) => name,
            None if name == CONTENT_TYPE => "datacontenttype",
            None => continue,
        };
        let not_utf8 = || CloudEventError::Value { name: name.to_owned(), problem: "is not UTF-8" };
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| not_utf8())?;
        // `Content-Type` is not encoded, and its parameters may be quoted.
        let value = if name == "datacontenttype" { text.to_owned() } else { decode(text).ok_or_else(not_utf8)? };
        attributes.set(name, value)?;
    }
    let mut event = attributes.finish()?;
    event.data = body;
    Ok(event)
}

/// Undo how the binding writes a value into a header (§3.1.3.2): quoted-string first, then one round of percent-encoding. `None`: not UTF-8.
fn decode(value: &str) -> Option<String> {
    let value = unquote(value);
    if !value.contains('%') {
        return Some(value.into_owned());
    }
    let hex = |digit: Option<&u8>| char::from(*digit?).to_digit(16);
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        // A `%` without two hexadecimal digits stands for itself.
        match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

/// The content of a quoted-string (RFC 9110 §5.6.4); anything else as it is.
fn unquote(value: &str) -> Cow<'_, str> {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else { return Cow::Borrowed(value) };
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(fields: &[(&str, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in
            [("ce-specversion", b"1.0".as_slice()), ("ce-id", b"A1"), ("ce-source", b"/shop"), ("ce-type", b"order.created")]
                .iter()
                .chain(fields)
        {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        map
    }

    #[test]
    fn attributes_come_from_headers_and_the_body_is_the_data() {
        let headers = headers(&[
            ("ce-subject", b"42"),
            ("ce-time", b"2018-04-05T17:31:00Z"),
            ("ce-priority", b"high"),
            ("content-type", b"text/plain; charset=\"utf-8\""),
            ("x-other", b"1"),
        ]);
        let event = from_binary(&headers, Bytes::from_static(b"\x00\xff\n ")).unwrap();
        assert_eq!((event.id.as_str(), event.source.as_str(), event.ty.as_str()), ("A1", "/shop", "order.created"));
        assert_eq!(event.subject.as_deref(), Some("42"));
        assert_eq!(event.datacontenttype.as_deref(), Some("text/plain; charset=\"utf-8\""));
        assert_eq!(event.attributes, [("priority".to_owned(), "high".to_owned())].into());
        assert_eq!(event.data, b"\x00\xff\n "[..]);
    }

    #[test]
    fn values_are_unquoted_and_percent_decoded_once() {
        // The first is the example of the specification.
        for (written, meant) in [
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("\"a \\\"b\\\" c\"", "a \"b\" c"),
            ("%2541", "%41"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%E2%82%ac", "€"),
        ] {
            let event = from_binary(&headers(&[("ce-note", written.as_bytes())]), Bytes::new()).unwrap();
            assert_eq!(event.attributes["note"], meant, "{written}");
        }
        let raw = from_binary(&headers(&[("ce-note", "€".as_bytes())]), Bytes::new()).unwrap();
        assert_eq!(raw.attributes["note"], "€");
    }

    #[test]
    fn what_is_not_valid_is_named() {
        for (field, value, error) in [
            ("ce-note", b"%ff".as_slice(), "the attribute \"note\" is not UTF-8"),
            ("ce-note", b"\xff", "the attribute \"note\" is not UTF-8"),
            ("ce-note", b"%0d%0aset-cookie: x", "the attribute \"note\" has control characters in its value"),
            ("ce-id", b"A2", "the attribute \"id\" is there more than once"),
            ("ce-time", b"yesterday", "the attribute \"time\" is not a time as RFC 3339 writes it"),
            ("ce-subject", b"", "the attribute \"subject\" is empty"),
            ("ce-not-a-name", b"x", "\"not-a-name\" cannot be the name of an attribute: names are lower-case letters and digits"),
            ("ce-data", b"x", "\"data\" cannot be the name of an attribute: names are lower-case letters and digits"),
        ] {
            let error_text = from_binary(&headers(&[(field, value)]), Bytes::new()).unwrap_err().to_string();
            assert_eq!(error_text, error);
        }
        for (missing, name) in [("ce-specversion", "specversion"), ("ce-id", "id"), ("ce-source", "source"), ("ce-type", "type")] {
            let mut headers = headers(&[]);
            headers.remove(missing);
            assert!(is_binary(&headers), "the others still say what it wants to be");
            assert_eq!(from_binary(&headers, Bytes::new()).unwrap_err(), CloudEventError::Missing(name));
        }
    }

    #[test]
    fn no_header_makes_it_panic() {
        use rand::{Rng, SeedableRng, rngs::StdRng};
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..20_000 {
            let value: Vec<u8> =
                (0..random.random_range(0..24)).map(|_| *b"%\"\\aF0\xc3\xa9 \xff\t".get(random.random_range(0..11)).unwrap()).collect();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let mut headers = headers(&[]);
                headers.insert("ce-note", value.clone());
                headers.insert("ce-time", value);
                let _ = from_binary(&headers, Bytes::new());
            }
        }
    }
}
