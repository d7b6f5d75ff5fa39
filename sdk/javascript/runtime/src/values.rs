//! Between JavaScript values and Rust's.

use rquickjs::{Ctx, Error, Object, String as JsString, TypedArray, Value, qjs};

use crate::errors::{Kind, throw};
use crate::stack;

/// The text of a JavaScript string. A lone surrogate, which UTF-8 cannot carry, becomes U+FFFD as everywhere on the web; the library's
/// own conversion fails on it.
pub fn text(string: &JsString<'_>) -> Result<String, Error> {
    let ctx = string.ctx().as_raw().as_ptr();
    let mut length = 0;
    // SAFETY: the context is alive as long as the string is; what JS_ToCStringLen2 returns is `length` bytes until it is freed.
    unsafe {
        let start = qjs::JS_ToCStringLen2(ctx, &mut length, string.as_raw(), false);
        if start.is_null() {
            return Err(Error::Exception);
        }
        let bytes = std::slice::from_raw_parts(start.cast::<u8>(), length as usize);
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => replace_surrogates(bytes),
        };
        qjs::JS_FreeCString(ctx, start);
        Ok(text)
    }
}

/// QuickJS writes a lone surrogate as three bytes, ED A0..BF xx; `from_utf8_lossy` would make three replacement characters of them.
fn replace_surrogates(bytes: &[u8]) -> String {
    let mut clean = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == 0xED && bytes.get(at + 1).is_some_and(|next| *next >= 0xA0) {
            clean.extend_from_slice("\u{FFFD}".as_bytes());
            at += 3;
        } else {
            clean.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&clean).into_owned()
}

/// The text of a value that must be a string; `what` names it in the error.
pub fn string_argument<'js>(ctx: &Ctx<'js>, value: Option<&Value<'js>>, what: &str) -> Result<String, Error> {
    match value.and_then(|value| value.as_string()) {
        Some(string) => text(string),
        None => {
            let got = value.map_or_else(|| "undefined".to_owned(), |value| show(ctx, value));
            Err(throw(ctx, Kind::Type, &format!("{what} must be a string, not {got}")))
        }
    }
}

/// What `String(value)` gives. Throws for symbols and for objects whose `toString` throws.
pub fn coerced<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> Result<String, Error> {
    if let Some(string) = value.as_string() {
        return text(string);
    }
    // SAFETY: JS_ToString returns a new reference or the exception mark, which is checked before the value is taken over.
    let converted = unsafe {
        let raw = qjs::JS_ToString(ctx.as_raw().as_ptr(), value.as_raw());
        if qjs::JS_IsException(raw) {
            return Err(Error::Exception);
        }
        Value::from_raw(ctx.clone(), raw)
    };
    text(converted.as_string().ok_or(Error::Unknown)?)
}

/// The bytes of an ArrayBuffer, a typed array or a DataView; `None` for anything else.
pub fn bytes<'js>(value: &Value<'js>) -> Result<Option<Vec<u8>>, Error> {
    let Some(object) = value.as_object() else {
        return Ok(None);
    };
    let ctx = object.ctx().as_raw().as_ptr();
    // SAFETY: plain questions about a live value; the buffers' bytes are copied before any JavaScript can run again.
    unsafe {
        if qjs::JS_IsArrayBuffer(value.as_raw()) {
            return buffer_bytes(ctx, value.as_raw(), 0, None).map(Some);
        }
        if qjs::JS_GetTypedArrayType(value.as_raw()) >= 0 {
            let (mut offset, mut length, mut width) = (0, 0, 0);
            let buffer = qjs::JS_GetTypedArrayBuffer(ctx, value.as_raw(), &mut offset, &mut length, &mut width);
            if qjs::JS_IsException(buffer) {
                return Err(Error::Exception);
            }
            let copied = buffer_bytes(ctx, buffer, offset as usize, Some(length as usize));
            qjs::JS_FreeValue(ctx, buffer);
            return copied.map(Some);
        }
        if qjs::JS_IsDataView(value.as_raw()) {
            let buffer: Value = object.get("buffer")?;
            let offset: usize = object.get("byteOffset")?;
            let length: usize = object.get("byteLength")?;
            return buffer_bytes(ctx, buffer.as_raw(), offset, Some(length)).map(Some);
        }
    }
    Ok(None)
}

/// # Safety
/// `buffer` must be an ArrayBuffer of the context.
unsafe fn buffer_bytes(ctx: *mut qjs::JSContext, buffer: qjs::JSValue, offset: usize, length: Option<usize>) -> Result<Vec<u8>, Error> {
    let mut size = 0;
    // SAFETY: the caller's promise; the slice lives only for the copy.
    unsafe {
        let start = qjs::JS_GetArrayBuffer(ctx, &mut size, buffer);
        if start.is_null() {
            // An empty buffer has no address, a detached one has thrown.
            return if qjs::JS_HasException(ctx) { Err(Error::Exception) } else { Ok(Vec::new()) };
        }
        let all = std::slice::from_raw_parts(start, size as usize);
        let end = length.map_or(all.len(), |length| offset + length);
        Ok(all.get(offset..end).unwrap_or_default().to_vec())
    }
}

/// A new Uint8Array.
pub fn byte_array<'js>(ctx: &Ctx<'js>, bytes: Vec<u8>) -> Result<Value<'js>, Error> {
    Ok(TypedArray::<u8>::new(ctx.clone(), bytes)?.into_value())
}

/// Text or bytes as they go out: of an event's data and of a response's body.
pub struct Payload {
    pub bytes: Vec<u8>,
    pub content_type: &'static str,
}

pub const TEXT: &str = "text/plain; charset=utf-8";
pub const BYTES: &str = "application/octet-stream";
pub const JSON: &str = "application/json";

/// `None` for undefined: there is no data. `what` names the value in an error.
pub fn payload<'js>(ctx: &Ctx<'js>, value: &Value<'js>, what: &str) -> Result<Option<Payload>, Error> {
    if value.is_undefined() {
        return Ok(None);
    }
    if let Some(string) = value.as_string() {
        return Ok(Some(Payload { bytes: text(string)?.into_bytes(), content_type: TEXT }));
    }
    if let Some(bytes) = bytes(value)? {
        return Ok(Some(Payload { bytes, content_type: BYTES }));
    }
    let json = json(ctx, value, what)?;
    Ok(Some(Payload { bytes: json.into_bytes(), content_type: JSON }))
}

/// `JSON.parse`.
pub fn parse_json<'js>(ctx: &Ctx<'js>, text: &str) -> Result<Value<'js>, Error> {
    stack::for_json(ctx, || ctx.json_parse(text))
}

/// `JSON.stringify`, with an error that says which value it was about.
pub fn json<'js>(ctx: &Ctx<'js>, value: &Value<'js>, what: &str) -> Result<String, Error> {
    match stack::for_json(ctx, || ctx.json_stringify(value.clone())) {
        Ok(Some(string)) => text(&string),
        Ok(None) => Err(throw(ctx, Kind::Type, &format!("{what} cannot be JSON: it is {}", show(ctx, value)))),
        Err(error) => {
            if !error.is_exception() {
                return Err(error);
            }
            // A cycle or a BigInt; what a `toJSON` threw itself is passed on as it is.
            let thrown = ctx.catch();
            let own = thrown
                .as_object()
                .is_some_and(|object| object.is_error() && object.get::<_, String>("name").is_ok_and(|name| name == "TypeError"));
            if own {
                if let Some(object) = thrown.as_object() {
                    let message: String = object.get("message").unwrap_or_default();
                    object.set("message", format!("{what} cannot be JSON: {message}"))?;
                }
            }
            Err(ctx.throw(thrown))
        }
    }
}

/// A value in a few words for an error message: `undefined`, `"text"`, `an array`, `a function`.
pub fn show<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    if let Some(string) = value.as_string() {
        let text = text(string).unwrap_or_default();
        let mut cut: String = text.chars().take(60).collect();
        if cut.len() < text.len() {
            cut.push('…');
        }
        return format!("{cut:?}");
    }
    if value.is_symbol() {
        return "a symbol".to_owned();
    }
    if value.is_function() {
        return "a function".to_owned();
    }
    if value.is_promise() {
        return "a promise (is an `await` missing?)".to_owned();
    }
    if value.is_array() {
        return "an array".to_owned();
    }
    if value.is_object() {
        return "an object".to_owned();
    }
    let shown = coerced(ctx, value).unwrap_or_else(|_| {
        ctx.catch();
        "a value".to_owned()
    });
    if value.is_big_int() { format!("{shown}n") } else { shown }
}

/// A property that may not be there; undefined and null count as absent.
pub fn optional<'js>(object: &Object<'js>, key: &str) -> Result<Option<Value<'js>>, Error> {
    let value: Value = object.get(key)?;
    Ok(Some(value).filter(|value| !value.is_undefined() && !value.is_null()))
}

/// `Object.freeze`.
pub fn object_frozen(object: Object<'_>) -> Result<Object<'_>, Error> {
    // SAFETY: a live object of a live context.
    match unsafe { qjs::JS_FreezeObject(object.ctx().as_raw().as_ptr(), object.as_raw()) } {
        0.. => Ok(object),
        _ => Err(Error::Exception),
    }
}
