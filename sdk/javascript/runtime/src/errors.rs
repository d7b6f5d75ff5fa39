//! Errors on their way in and out: throwing into JavaScript, and describing what JavaScript threw for the handler's author.

use std::ffi::CString;

use rquickjs::{Ctx, Error, Object, Value, qjs};

use crate::hints;
use crate::values::{coerced, text};

/// Which of JavaScript's error classes to throw.
#[derive(Clone, Copy)]
pub enum Kind {
    Error,
    Reference,
    Syntax,
    Type,
}

/// QuickJS formats messages into a buffer of 256 bytes.
const FORMATTED: usize = 255;

/// Throw into JavaScript. Returns the error that says an exception is pending.
pub fn throw(ctx: &Ctx<'_>, kind: Kind, message: &str) -> Error {
    let raw = ctx.as_raw().as_ptr();
    let short = CString::new(message.replace('\0', "\u{FFFD}")).unwrap_or_default();
    // SAFETY: the format takes one C string, which lives until the call has returned; each of these leaves its exception pending.
    unsafe {
        let format = c"%s".as_ptr();
        match kind {
            Kind::Error => qjs::JS_ThrowPlainError(raw, format, short.as_ptr()),
            Kind::Reference => qjs::JS_ThrowReferenceError(raw, format, short.as_ptr()),
            Kind::Syntax => qjs::JS_ThrowSyntaxError(raw, format, short.as_ptr()),
            Kind::Type => qjs::JS_ThrowTypeError(raw, format, short.as_ptr()),
        };
    }
    if message.len() > FORMATTED || message.contains('\0') {
        let thrown = ctx.catch();
        if let Some(object) = thrown.as_object() {
            // Out of memory at worst; then the shorter message stands.
            let _ = object.set("message", message);
        }
        return ctx.throw(thrown);
    }
    Error::Exception
}

/// Throw a DOMException of the given name.
pub fn throw_dom(ctx: &Ctx<'_>, name: &str, message: &str) -> Error {
    let name = CString::new(name).unwrap_or_default();
    let message = CString::new(message.replace('\0', "\u{FFFD}")).unwrap_or_default();
    // SAFETY: as in `throw`.
    unsafe {
        qjs::JS_ThrowDOMException(ctx.as_raw().as_ptr(), name.as_ptr(), c"%s".as_ptr(), message.as_ptr());
    }
    Error::Exception
}

/// Give the pending exception a property, for example `code`. Returns the error again.
pub fn with_property(ctx: &Ctx<'_>, error: Error, name: &str, value: &str) -> Error {
    if !error.is_exception() {
        return error;
    }
    let thrown = ctx.catch();
    if let Some(object) = thrown.as_object() {
        let _ = object.set(name, value);
    }
    ctx.throw(thrown)
}

/// The value behind an `Error` of a call into JavaScript. An error of the binding itself (a conversion, memory) becomes text.
pub fn caught<'js>(ctx: &Ctx<'js>, error: Error) -> Value<'js> {
    if !error.is_exception() {
        // Turned into an exception, so that everything is described in one way.
        throw(ctx, Kind::Type, &error.to_string());
    }
    ctx.catch()
}

/// Longer descriptions are cut: they travel into logs and dead letters.
const LONGEST: usize = 16 * 1024;
/// How far a chain of causes is followed; also what ends a circle of them.
const DEEPEST: usize = 8;

/// What was thrown, as text for the handler's author: `Name: message`, the stack in the user's own files, and the causes.
pub fn describe<'js>(ctx: &Ctx<'js>, thrown: &Value<'js>) -> String {
    let mut text = String::new();
    describe_into(ctx, thrown, &mut text, 0);
    if text.len() > LONGEST {
        let mut end = LONGEST;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("… (cut)");
    }
    text
}

fn describe_into<'js>(ctx: &Ctx<'js>, thrown: &Value<'js>, out: &mut String, depth: usize) {
    let Some(error) = thrown.as_object().filter(|object| is_error(object)) else {
        out.push_str("thrown: ");
        out.push_str(&crate::inspect::quoted(ctx, thrown));
        return;
    };
    let message = property(ctx, error, "message");
    let name = class_name(ctx, error);
    let message = match hints::for_missing_global(&name, &message) {
        Some(hint) => hint,
        None => message,
    };
    out.push_str(&name);
    if !message.is_empty() {
        out.push_str(": ");
        out.push_str(&message);
    }
    for line in property(ctx, error, "stack").lines().filter(|line| is_users_frame(line)) {
        out.push('\n');
        out.push_str(line);
    }
    if depth == DEEPEST {
        return;
    }
    if let Some(errors) = get(ctx, error, "errors").and_then(|errors| errors.into_array()) {
        // AggregateError, as Promise.any throws it.
        let count = errors.len();
        for (index, inner) in errors.iter::<Value>().take(DEEPEST).enumerate() {
            let Ok(inner) = inner else { break };
            out.push_str(&format!("\nerror {} of {count}: ", index + 1));
            describe_into(ctx, &inner, out, depth + 1);
        }
    }
    if let Some(cause) = get(ctx, error, "cause").filter(|cause| !cause.is_undefined()) {
        out.push_str("\ncaused by: ");
        describe_into(ctx, &cause, out, depth + 1);
    }
}

/// Errors and what is made like them (DOMException).
fn is_error(object: &Object<'_>) -> bool {
    // SAFETY: a question about a live value.
    if unsafe { qjs::JS_IsError(object.as_raw()) } {
        return true;
    }
    let ctx = object.ctx();
    let error: Result<Object, _> = ctx.globals().get("Error");
    match error {
        Ok(error) => object.is_instance_of(error.as_value()),
        Err(_) => {
            ctx.catch();
            false
        }
    }
}

/// `name`, or the class's own name where the class did not set one.
fn class_name<'js>(ctx: &Ctx<'js>, error: &Object<'js>) -> String {
    let name = property(ctx, error, "name");
    if name.is_empty() || name == "Error" {
        let constructor = get(ctx, error, "constructor").and_then(|constructor| constructor.into_object());
        let class = constructor.map(|class| property(ctx, &class, "name")).unwrap_or_default();
        if !class.is_empty() {
            return class;
        }
    }
    if name.is_empty() { "Error".to_owned() } else { name }
}

/// A frame of the runtime's own scripts would only send the reader to a file that is not theirs.
fn is_users_frame(line: &str) -> bool {
    !line.trim().is_empty() && !line.contains("(koksmat:") && !line.contains("at koksmat:")
}

/// Getters of a thrown object may throw themselves: then there is nothing.
fn get<'js>(ctx: &Ctx<'js>, object: &Object<'js>, key: &str) -> Option<Value<'js>> {
    match object.get::<_, Value>(key) {
        Ok(value) => Some(value),
        Err(_) => {
            ctx.catch();
            None
        }
    }
}

fn property<'js>(ctx: &Ctx<'js>, object: &Object<'js>, key: &str) -> String {
    let Some(value) = get(ctx, object, key) else {
        return String::new();
    };
    if value.is_undefined() || value.is_null() {
        return String::new();
    }
    let converted = match value.as_string() {
        Some(string) => text(string),
        None => coerced(ctx, &value),
    };
    converted.unwrap_or_else(|_| {
        ctx.catch();
        String::new()
    })
}
