//! What a handler returned, as the response.

use rquickjs::{Array, Ctx, Error, Function, Value};

use crate::bindings::exports::koksmat::plugin::handler::Response;
use crate::prelude;
use crate::values::{bytes, payload, text};

/// A thenable that is no promise, such as a library's own kind, becomes one; everything else stays as it is.
pub fn promised<'js>(ctx: &Ctx<'js>, returned: Value<'js>) -> Result<Value<'js>, Error> {
    if returned.is_promise() {
        return Ok(returned);
    }
    let Some(object) = returned.as_object() else {
        return Ok(returned);
    };
    if !object.get::<_, Value>("then")?.is_function() {
        return Ok(returned);
    }
    let (promise, resolve, _) = ctx.promise()?;
    resolve.call::<_, ()>((returned,))?;
    Ok(promise.into_value())
}

pub fn response<'js>(ctx: &Ctx<'js>, value: Value<'js>) -> Result<Response, Error> {
    if value.is_undefined() || value.is_null() {
        return Ok(Response { status: 204, headers: Vec::new(), body: Vec::new() });
    }
    if let Some(response) = explicit(ctx, &value)? {
        return Ok(response);
    }
    let payload = payload(ctx, &value, "what handle returned")?.ok_or(Error::Unknown)?;
    Ok(Response { status: 200, headers: vec![("content-type".to_owned(), payload.content_type.to_owned())], body: payload.bytes })
}

/// Headers that are about one connection, and the length, which is the body's own: not to be passed on when a handler returns what
/// http.fetch gave it.
const OF_THE_CONNECTION: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A `Response`.
fn explicit<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> Result<Option<Response>, Error> {
    // Without the class there is no object of it.
    if !value.is_object() || !prelude::has_run("response") {
        return Ok(None);
    }
    let unwrap: Function = prelude::part(ctx, "response")?.get("unwrap")?;
    let Some(parts) = unwrap.call::<_, Value>((value.clone(),))?.into_array() else {
        return Ok(None);
    };
    let status: u16 = parts.get(0)?;
    let flat: Array = parts.get(1)?;
    let body: Value = parts.get(2)?;
    let mut headers = Vec::with_capacity(flat.len() / 2);
    for index in (0..flat.len()).step_by(2) {
        let name = text(&flat.get::<rquickjs::String>(index)?)?;
        if !OF_THE_CONNECTION.contains(&name.as_str()) {
            headers.push((name, text(&flat.get::<rquickjs::String>(index + 1)?)?));
        }
    }
    let body = match body.as_string() {
        Some(string) => text(string)?.into_bytes(),
        None => bytes(&body)?.unwrap_or_default(),
    };
    Ok(Some(Response { status, headers, body }))
}
