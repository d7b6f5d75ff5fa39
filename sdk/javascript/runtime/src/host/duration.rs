//! Durations as handlers write them: `"5s"`, `"250ms"`, `"1.5h"`, or a number of milliseconds.

use rquickjs::{Ctx, Error, Value};

use crate::errors::{Kind, throw};
use crate::values::show;

/// Milliseconds, or `None` where nothing was given. `what` names the place in the error, for example "the `after` of emit".
pub fn milliseconds<'js>(ctx: &Ctx<'js>, value: Option<&Value<'js>>, what: &str) -> Result<Option<u64>, Error> {
    let Some(value) = value.filter(|value| !value.is_undefined() && !value.is_null()) else {
        return Ok(None);
    };
    let parsed = match value.as_string() {
        Some(text) => parse(&crate::values::text(text)?),
        None => value.as_number().and_then(whole),
    };
    match parsed {
        Some(milliseconds) => Ok(Some(milliseconds)),
        None => {
            let message = format!(
                "{what} must be a number of milliseconds or text such as \"250ms\", \"5s\", \"2m\" or \"1h\", not {}",
                show(ctx, value)
            );
            Err(throw(ctx, Kind::Type, &message))
        }
    }
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return None,
    };
    let number = number.trim_end();
    // Rust's float syntax knows signs, exponents and infinities; a duration does not.
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    whole(number.parse::<f64>().ok()? * factor)
}

fn whole(milliseconds: f64) -> Option<u64> {
    (milliseconds.is_finite() && milliseconds >= 0.0).then(|| milliseconds.round() as u64)
}
