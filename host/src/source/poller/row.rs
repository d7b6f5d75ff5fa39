//! A row as every database can give it, and as a handler gets it: a JSON object, column → value.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::event::Event;

/// A row: its columns in the order of the statement.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Row(pub(super) Vec<(String, Value)>);

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
    /// What the database says in JSON: a number with all its digits, `true` and `false`, an array, an object.
    Json(String),
}

impl Row {
    /// The value of a column. Names of columns are the same whatever their case, as in SQL.
    pub(super) fn get(&self, column: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)).map(|(_, value)| value)
    }

    /// The event that says: there is this row.
    pub(super) fn into_event(self, id: String, table: Option<&str>) -> Event {
        event(id, table, self.to_json())
    }

    /// The row as a JSON object. Of two columns with one name the last is kept.
    pub(super) fn to_json(&self) -> String {
        let columns: BTreeMap<&str, &Value> = self.0.iter().map(|(name, value)| (name.as_str(), value)).collect();
        // Nothing in it can fail: its keys are text.
        serde_json::to_string(&columns).unwrap_or_default()
    }
}

/// The event that says: there is this row. `json` is the row as a JSON object.
pub(super) fn event(id: String, table: Option<&str>, json: String) -> Event {
    Event {
        id,
        ty: "koksmat.database.row".into(),
        subject: table.map(str::to_owned),
        datacontenttype: Some("application/json".into()),
        data: json.into(),
        ..Event::default()
    }
}

/// Numbers stay numbers, with all their digits; bytes become base64; a number that JSON does not know (infinity) becomes null.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Integer(n) => serializer.serialize_i64(*n),
            Self::Real(n) => serializer.serialize_f64(*n),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Blob(bytes) => serializer.serialize_str(&STANDARD.encode(bytes)),
            Self::Json(text) => match serde_json::from_str::<&RawValue>(text) {
                Ok(json) => json.serialize(serializer),
                Err(_) => serializer.serialize_str(text),
            },
        }
    }
}

impl Value {
    /// The value as JSON text.
    pub(super) fn to_json(&self) -> Box<RawValue> {
        to_raw_value(self).unwrap_or_default()
    }

    /// The value as a part of a key or an id.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Integer(n) => n.to_string(),
            Self::Real(n) => n.to_string(),
            Self::Text(text) | Self::Json(text) => text.clone(),
            Self::Blob(bytes) => STANDARD.encode(bytes),
        }
    }

    /// Whether a condition with this value holds: SQL's truth, and the word `true`.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Null | Self::Blob(_) => false,
            Self::Integer(n) => *n != 0,
            Self::Real(n) => *n != 0.0,
            Self::Text(text) | Self::Json(text) => text.eq_ignore_ascii_case("true") || text.trim().parse::<f64>().is_ok_and(|n| n != 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_a_json_object() {
        let row = Row(vec![
            ("id".into(), Value::Integer(i64::MAX)),
            ("price".into(), Value::Real(1.5)),
            ("name".into(), Value::Text("Blåbær \"øl\"".into())),
            ("photo".into(), Value::Blob(vec![0, 255])),
            ("paid".into(), Value::Null),
            ("infinite".into(), Value::Real(f64::INFINITY)),
            ("exact".into(), Value::Json("12345678901234567890.10".into())),
        ]);
        assert_eq!(
            row.to_json(),
            r#"{"exact":12345678901234567890.10,"id":9223372036854775807,"infinite":null,"name":"Blåbær \"øl\"","paid":null,"photo":"AP8=","price":1.5}"#
        );
    }

    #[test]
    fn truth_is_that_of_sql() {
        for holds in [
            Value::Integer(1),
            Value::Integer(-1),
            Value::Real(0.1),
            Value::Text("1".into()),
            Value::Text("TRUE".into()),
            Value::Json("true".into()),
        ] {
            assert!(holds.is_true(), "{holds:?}");
        }
        for fails in
            [Value::Null, Value::Integer(0), Value::Real(0.0), Value::Text("0".into()), Value::Text("no".into()), Value::Json("0.0".into())]
        {
            assert!(!fails.is_true(), "{fails:?}");
        }
    }
}
