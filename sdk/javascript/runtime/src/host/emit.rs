//! `emit`: new events.

use rquickjs::function::Opt;
use rquickjs::{Ctx, Error, Function, Object, Value};

use super::duration::milliseconds;
use crate::bindings::koksmat::plugin::emit::{self, Outgoing};
use crate::errors::{Kind, throw};
use crate::phase::require_handling;
use crate::values::{coerced, optional, payload, show, string_argument};

pub fn function<'js>(ctx: &Ctx<'js>) -> Result<Function<'js>, Error> {
    Function::new(ctx.clone(), call)?.with_name("emit")
}

/// emit({ type, … }) → the event's id
fn call<'js>(ctx: Ctx<'js>, event: Opt<Value<'js>>) -> Result<String, Error> {
    require_handling(&ctx, "emit")?;
    let Some(event) = event.0.as_ref().filter(|event| !event.is_array()).and_then(|event| event.as_object()) else {
        let got = event.0.as_ref().map_or_else(|| "undefined".to_owned(), |event| show(&ctx, event));
        return Err(throw(
            &ctx,
            Kind::Type,
            &format!("emit takes an event, such as emit({{ type: \"order.reserved\", data }}), not {got}"),
        ));
    };
    let text = |key: &str| -> Result<Option<String>, Error> {
        match optional(event, key)? {
            Some(value) => Ok(Some(string_argument(&ctx, Some(&value), &format!("the `{key}` of emit"))?)),
            None => Ok(None),
        }
    };
    let Some(type_) = text("type")? else {
        return Err(throw(&ctx, Kind::Type, "emit: the event has no `type`"));
    };
    let payload = payload(&ctx, &event.get("data")?, "the `data` of emit")?;
    let datacontenttype = text("datacontenttype")?.or_else(|| payload.as_ref().map(|payload| payload.content_type.to_owned()));
    let outgoing = Outgoing {
        id: text("id")?,
        type_,
        subject: text("subject")?,
        datacontenttype,
        dataschema: text("dataschema")?,
        attributes: attributes(&ctx, event)?,
        data: payload.map(|payload| payload.bytes).unwrap_or_default(),
        queue: text("queue")?,
        after: milliseconds(&ctx, optional(event, "after")?.as_ref(), "the `after` of emit")?,
    };
    emit::emit(&outgoing).map_err(|error| {
        let why = match error {
            emit::Error::Denied(line) => format!("is not allowed by this handler's grants: {line}"),
            emit::Error::Invalid(why) => format!("was refused: {why}"),
        };
        throw(&ctx, Kind::Error, &format!("emit of {:?} {why}", outgoing.type_))
    })
}

/// Extension attributes: text; numbers and booleans in CloudEvents' canonical form, which is JavaScript's too.
fn attributes<'js>(ctx: &Ctx<'js>, event: &Object<'js>) -> Result<Vec<(String, String)>, Error> {
    let Some(value) = optional(event, "attributes")? else {
        return Ok(Vec::new());
    };
    let Some(object) = value.as_object().filter(|_| !value.is_array()) else {
        return Err(throw(ctx, Kind::Type, &format!("the `attributes` of emit must be an object, not {}", show(ctx, &value))));
    };
    let mut attributes = Vec::new();
    for property in object.props::<String, Value>() {
        let (name, value) = property?;
        if value.is_undefined() || value.is_null() {
            continue;
        }
        if !(value.is_string() || value.is_number() || value.is_bool()) {
            let message = format!("the attribute `{name}` of emit must be a string, a number or a boolean, not {}", show(ctx, &value));
            return Err(throw(ctx, Kind::Type, &message));
        }
        attributes.push((name, coerced(ctx, &value)?));
    }
    Ok(attributes)
}
