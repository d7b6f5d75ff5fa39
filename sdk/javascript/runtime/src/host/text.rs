//! UTF-8 for TextEncoder, TextDecoder and Response.

use rquickjs::function::Opt;
use rquickjs::{Ctx, Error, Function, Object, String as JsString, Value};

use crate::errors::{Kind, throw};
use crate::values::{byte_array, bytes, text};

pub fn natives<'js>(ctx: &Ctx<'js>, native: &Object<'js>) -> Result<(), Error> {
    native.set("encode", Function::new(ctx.clone(), encode)?)?;
    native.set("decode", Function::new(ctx.clone(), decode)?)?;
    native.set("incomplete", Function::new(ctx.clone(), incomplete)?)
}

/// Bytes as text, with replacement characters for what is not UTF-8, and without a byte order mark.
pub fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(without_mark(bytes))
}

pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

fn encode<'js>(ctx: Ctx<'js>, string: JsString<'js>) -> Result<Value<'js>, Error> {
    byte_array(&ctx, text(&string)?.into_bytes())
}

/// decode(bytes, dropMark, fatal)
fn decode<'js>(ctx: Ctx<'js>, value: Value<'js>, drop_mark: bool, fatal: Opt<bool>) -> Result<String, Error> {
    let all = bytes(&value)?.unwrap_or_default();
    let input = if drop_mark { without_mark(&all) } else { &all };
    match std::str::from_utf8(input) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) if fatal.0.unwrap_or(false) => {
            let message = format!("TextDecoder.decode: the data is not UTF-8, from byte {} on", error.valid_up_to());
            Err(throw(&ctx, Kind::Type, &message))
        }
        Err(_) => Ok(String::from_utf8_lossy(input).into_owned()),
    }
}

/// How many bytes at the end begin a character that more bytes could complete.
fn incomplete(value: Value<'_>) -> Result<usize, Error> {
    let all = bytes(&value)?.unwrap_or_default();
    // A character is at most four bytes: look at the last three.
    let tail = &all[all.len().saturating_sub(3)..];
    for start in 0..tail.len() {
        if let Err(error) = std::str::from_utf8(&tail[start..]) {
            if error.valid_up_to() == 0 && error.error_len().is_none() {
                return Ok(tail.len() - start);
            }
        }
    }
    Ok(0)
}
