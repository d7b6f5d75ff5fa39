//! Values with a form of their own. Errors name the form that is expected and never the value, which may be a misplaced secret.

use std::{borrow::Cow, fmt, marker::PhantomData, path::PathBuf, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IntoDeserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use toml::Spanned;

use crate::config::{document::Span, units};

/// A value and its place in the file.
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// A table. Without it serde would take an array for one, value by value in the order of the fields.
pub(crate) struct Table<T>(pub(crate) T);

/// A duration: `200ms`, `5s`, `2m`, `1h`, `7d`.
pub(crate) struct Time(pub(crate) Duration);

/// A duration, or `none`.
pub(crate) struct TimeOrNone(pub(crate) Option<Duration>);

/// A size: `64MiB`, `10KB`, or a number of bytes.
pub(crate) struct Size(pub(crate) u64);

/// A share: `10%`, `0.5%`.
pub(crate) struct Percent(pub(crate) f64);

/// The first and the longest wait: `200ms..30s`.
pub(crate) struct Backoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

/// `env:NAME` or `file:PATH`: where a value is that does not belong in the file. What else is written there is kept apart and must not
/// be shown.
pub(crate) enum Reference {
    /// The environment variable of this name.
    Env(String),
    /// The content of this file.
    File(PathBuf),
    /// The value itself.
    Literal(String),
}

/// What `wasi:config` shows: a string, a number, true or false.
pub(crate) struct ConfigValue(pub(crate) String);

/// A setting of a client library: a string, a number, true or false, or a reference to one.
pub(crate) struct Setting(pub(crate) Reference);

/// The key-value grant.
pub(crate) enum Keyvalue {
    /// `true`
    All,
    /// `false`
    None,
    /// `"stock/"`
    Prefix(String),
}

/// One of them, or an array.
pub(crate) struct OneOrMany<T>(pub(crate) Vec<At<T>>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        let span = spanned.span();
        Ok(Self { value: spanned.into_inner(), span })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Form<T> {
            type Value = Table<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table, `{ key = value }`")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Table)
            }
        }
        deserializer.deserialize_any(Form(PhantomData))
    }
}

/// A value that is written as a string of a certain form.
struct Text<F, T> {
    read: F,
    expected: &'static str,
    value: PhantomData<T>,
}

/// Read a string by `read`; `None` is an error that says what was `expected`.
fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(Text { read, expected, value: PhantomData })
}

impl<T, F: FnOnce(&str) -> Option<T>> Visitor<'_> for Text<F, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).ok_or_else(|| E::custom(format_args!("expected {}", self.expected)))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, units::DURATION, units::duration).map(Self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, units::PERCENT, units::percent).map(Self)
    }
}

impl<'de> Deserialize<'de> for TimeOrNone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a duration with its unit, such as `30s`, or `none`";
        text(deserializer, expected, |text| if text == "none" { Some(None) } else { units::duration(text).map(Some) }).map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(units::SIZE)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                units::size(text).map(Size).ok_or_else(|| E::custom(format_args!("expected {}", units::SIZE)))
            }

            fn visit_i64<E: Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::custom(format_args!("expected {}", units::SIZE)))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl<'de> Deserialize<'de> for Backoff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "the first and the longest wait, such as `200ms..30s`", |text| {
            let (min, max) = text.split_once("..")?;
            Some(Self { min: units::duration(min)?, max: units::duration(max)? })
        })
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a reference, `env:NAME` or `file:PATH`", |text| Some(Self::parse(text)))
    }
}

impl Keyvalue {
    /// The prefix of the keys that are granted; absent: none.
    pub(crate) fn granted(&self) -> Option<String> {
        match self {
            Self::All => Some(String::new()),
            Self::None => None,
            Self::Prefix(prefix) => Some(prefix.clone()),
        }
    }
}

impl Reference {
    fn parse(text: &str) -> Self {
        if let Some(name) = text.strip_prefix("env:") {
            Self::Env(name.to_owned())
        } else if let Some(path) = text.strip_prefix("file:") {
            Self::File(path.into())
        } else {
            Self::Literal(text.to_owned())
        }
    }
}

impl<'de> Deserialize<'de> for ConfigValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = ConfigValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number, true or false")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ConfigValue, E> {
                Ok(ConfigValue(text.to_owned()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<ConfigValue, E> {
                Ok(ConfigValue(number.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<ConfigValue, E> {
                Ok(ConfigValue(number.to_string()))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<ConfigValue, E> {
                Ok(ConfigValue(value.to_string()))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ConfigValue::deserialize(deserializer).map(|value| Self(Reference::parse(&value.0)))
    }
}

impl<'de> Deserialize<'de> for Keyvalue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = Keyvalue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or the prefix of the keys that are granted")
            }

            fn visit_bool<E: Error>(self, all: bool) -> Result<Keyvalue, E> {
                Ok(if all { Keyvalue::All } else { Keyvalue::None })
            }

            fn visit_str<E: Error>(self, prefix: &str) -> Result<Keyvalue, E> {
                Ok(Keyvalue::Prefix(prefix.to_owned()))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        enum Either<T> {
            One(T),
            Many(Vec<At<T>>),
        }

        impl<'de, T: Deserialize<'de>> Deserialize<'de> for Either<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Form(PhantomData))
            }
        }

        struct Form<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Form<T> {
            type Value = Either<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one or an array of them")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = seq.next_element()? {
                    many.push(one);
                }
                Ok(Either::Many(many))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Either::One)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(text.into_deserializer()).map(Either::One)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                T::deserialize(number.into_deserializer()).map(Either::One)
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(Either::One)
            }
        }

        let At { value, span } = At::deserialize(deserializer)?;
        Ok(match value {
            Either::One(value) => Self(vec![At { value, span }]),
            Either::Many(many) => Self(many),
        })
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// Where a value is and how it is read does not show in the schema.
macro_rules! same_schema {
    ($($wrapper:ident),*) => {$(
        impl<T: JsonSchema> JsonSchema for $wrapper<T> {
            fn inline_schema() -> bool {
                T::inline_schema()
            }

            fn schema_name() -> Cow<'static, str> {
                T::schema_name()
            }

            fn schema_id() -> Cow<'static, str> {
                T::schema_id()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                T::json_schema(generator)
            }
        }
    )*};
}

same_schema!(At, Table);

/// The schemas of values: what editors complete and underline.
macro_rules! value_schema {
    ($type:ident, $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

value_schema!(Percent, { "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%$", "examples": ["10%", "0.5%"] });
value_schema!(Time, { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "examples": ["200ms", "5s", "7d"] });
value_schema!(TimeOrNone, { "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d)|none)$", "examples": ["30s", "none"] });
value_schema!(Size, { "type": ["string", "integer"], "pattern": "^[0-9]+([KMG]i?B|B)?$", "minimum": 0, "examples": ["64MiB", "10KB"] });
value_schema!(Backoff, { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)\\.\\.[0-9]+(ms|s|m|h|d)$", "examples": ["200ms..30s"] });
value_schema!(Reference, { "type": "string", "examples": ["env:NAME", "file:PATH"] });
value_schema!(ConfigValue, { "type": ["string", "number", "boolean"] });
value_schema!(Setting, { "type": ["string", "number", "boolean"] });
value_schema!(Keyvalue, { "type": ["boolean", "string"], "examples": [true, "stock/"] });
