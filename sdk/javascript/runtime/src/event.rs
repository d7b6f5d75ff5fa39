//! The two arguments of `handle`.

use std::rc::Rc;

use rquickjs::object::Property;
use rquickjs::{Ctx, Error, Function, IntoJs, Object, Value};

use crate::bindings::exports::koksmat::plugin::handler::{Context, Event};
use crate::errors::{caught, describe};
use crate::host::text::{lossy, without_mark};
use crate::prelude;
use crate::values::{byte_array, parse_json};

/// The CloudEvent, with json(), text() and bytes().
pub fn event<'js>(ctx: &Ctx<'js>, event: Event) -> Result<Object<'js>, Error> {
    let object = Object::new(ctx.clone())?;
    object.set("id", event.id)?;
    object.set("type", event.type_)?;
    object.set("source", event.source)?;
    object.set("subject", event.subject)?;
    object.set("time", event.time)?;
    object.set("datacontenttype", event.datacontenttype)?;
    object.set("dataschema", event.dataschema)?;
    object.set("attributes", pairs(ctx, event.attributes.into_iter())?)?;
    object.set("headers", pairs(ctx, joined(event.headers).into_iter())?)?;

    // The functions hold the data themselves: `const { json } = event` works. Being no data, they are not listed among it.
    let data: Rc<[u8]> = event.data.into();
    let method =
        |name: &str, function: Function<'js>| object.prop(name, Property::from(function.with_name(name)?).writable().configurable());
    let kept = data.clone();
    method("json", Function::new(ctx.clone(), move |ctx: Ctx<'js>| json(&ctx, &kept))?)?;
    let kept = data.clone();
    method("text", Function::new(ctx.clone(), move || lossy(&kept).into_owned())?)?;
    method("bytes", Function::new(ctx.clone(), move |ctx: Ctx<'js>| byte_array(&ctx, data.to_vec()))?)?;
    Ok(object)
}

/// A body that is not JSON will not be JSON the next time: the error is a Reject.
fn json<'js>(ctx: &Ctx<'js>, data: &[u8]) -> Result<Value<'js>, Error> {
    let why = match std::str::from_utf8(without_mark(data)) {
        Ok("") => "it is empty".to_owned(),
        Ok(text) => match parse_json(ctx, text) {
            Ok(value) => return Ok(value),
            Err(error) => {
                let described = describe(ctx, &caught(ctx, error));
                let message = described.lines().next().unwrap_or_default();
                match message.strip_prefix("SyntaxError: ") {
                    Some(message) => message.to_owned(),
                    None if message.starts_with("RangeError") => "it is nested too deeply".to_owned(),
                    None => message.to_owned(),
                }
            }
        },
        Err(error) => format!("it is not UTF-8, from byte {} on", error.valid_up_to()),
    };
    let class = prelude::function(ctx, |functions| &functions.reject)?;
    let reject: Value = class.as_constructor().ok_or(Error::Unknown)?.construct((format!("the event's data is not JSON: {why}"),))?;
    Err(ctx.throw(reject))
}

pub fn context<'js>(ctx: &Ctx<'js>, context: Context) -> Result<Object<'js>, Error> {
    let object = Object::new(ctx.clone())?;
    object.set("tenant", context.tenant)?;
    object.set("handler", context.handler)?;
    object.set("attempt", context.attempt)?;
    object.set("idempotencyKey", context.idempotency_key)?;
    object.set("deadline", context.deadline as f64)?;
    object.set("fencingToken", context.fencing_token.map(|token| token as f64))?;
    object.set("traceparent", context.traceparent)?;
    Ok(object)
}

/// A header that comes more than once is one string.
fn joined(headers: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut joined: Vec<(String, String)> = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        match joined.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => {
                all.push_str(", ");
                all.push_str(&value);
            }
            None => joined.push((name, value)),
        }
    }
    joined
}

fn pairs<'js>(ctx: &Ctx<'js>, pairs: impl Iterator<Item = (String, String)>) -> Result<Value<'js>, Error> {
    let object = Object::new(ctx.clone())?;
    for (name, value) in pairs {
        // Defined, not set: a name may be `__proto__`.
        object.prop(name, Property::from(value).writable().enumerable().configurable())?;
    }
    object.into_js(ctx)
}
