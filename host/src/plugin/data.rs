//! Bytes in documents for people.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Bytes: text where they are text, else `{"base64": …}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data(pub Bytes);

/// Bytes, or how many there were, where they are not kept: `{"cut": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Part {
    /// There was no room for them.
    Cut {
        /// How many there were.
        cut: usize,
    },
    /// All of them.
    Whole(Data),
}

impl Part {
    /// All of them.
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole(Data(bytes))
    }

    /// How long it is as JSON.
    pub(crate) fn cost(&self) -> usize {
        serde_json::to_string(self).map_or(usize::MAX, |json| json.len())
    }

    /// What is left when there is no room for it.
    pub(crate) fn cut(&self) -> Self {
        match self {
            Self::Whole(Data(bytes)) => Self::Cut { cut: bytes.len() },
            cut => cut.clone(),
        }
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Encoded { base64: STANDARD.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match TextOr::deserialize(deserializer)? {
            TextOr::Text(text) => Ok(Self(text.into())),
            TextOr::Bytes(Encoded { base64 }) => STANDARD.decode(base64).map(|bytes| Self(bytes.into())).map_err(D::Error::custom),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    base64: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOr {
    Text(String),
    Bytes(Encoded),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_where_they_are_and_come_back() {
        for (bytes, json) in [(&b"caf\xc3\xa9"[..], r#""café""#), (b"", r#""""#), (b"\xff\x00", r#"{"base64":"/wA="}"#)] {
            let part = Part::whole(Bytes::copy_from_slice(bytes));
            assert_eq!(serde_json::to_string(&part).unwrap(), json);
            assert_eq!(serde_json::from_str::<Part>(json).unwrap(), part);
        }
        assert_eq!(serde_json::from_str::<Part>(r#"{"cut":7}"#).unwrap(), Part::Cut { cut: 7 });
    }
}
