//! Values as text, for the log: JSON where it can be, errors with their stack.

use rquickjs::{Ctx, Value};

use crate::errors::{caught, describe};
use crate::prelude;
use crate::values::{coerced, text};

/// One argument of console.log and the like: strings as they are, errors described, the rest as JSON.
pub fn shown<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    match value.as_string() {
        Some(string) => text(string).unwrap_or_default(),
        None => quoted(ctx, value),
    }
}

/// Like `shown`, but a string has its quotes.
pub fn quoted<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    if let Some(object) = value.as_object() {
        if object.is_error() {
            return describe(ctx, value);
        }
    }
    if value.is_object() || value.is_string() || value.is_big_int() {
        return json(ctx, value);
    }
    match coerced(ctx, value) {
        Ok(text) => text,
        // A symbol.
        Err(error) => {
            caught(ctx, error);
            json(ctx, value)
        }
    }
}

/// JSON that never fails: cycles, functions, BigInt, errors, maps and sets become something readable (`prelude/core.js`).
pub fn json<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    let shown = prelude::call::<_, Option<rquickjs::String>>(ctx, |functions| &functions.inspect, (value.clone(),));
    match shown {
        Ok(Some(string)) => text(&string).unwrap_or_default(),
        Ok(None) => "undefined".to_owned(),
        Err(error) => {
            // A getter or toJSON that throws.
            let thrown = caught(ctx, error);
            let why = thrown.as_object().and_then(|thrown| thrown.get::<_, String>("message").ok()).unwrap_or_default();
            format!("[cannot be shown: {why}]")
        }
    }
}
