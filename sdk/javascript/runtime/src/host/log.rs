//! `log` and `console`, both to wasi:logging.

use rquickjs::function::{Opt, Rest};
use rquickjs::{Ctx, Error, Function, Object, Value};

use super::Methods;
use crate::bindings::wasi::logging::logging::{self, Level};
use crate::inspect::{json, shown};
use crate::phase::require_handling;
use crate::values::coerced;

/// log.info(message, fields): the fields travel as JSON text in the context.
pub fn object<'js>(ctx: &Ctx<'js>) -> Result<Object<'js>, Error> {
    Methods::of(ctx, "log")?
        .with("trace", |ctx, message, fields| log(ctx, "log.trace", Level::Trace, message, fields))?
        .with("debug", |ctx, message, fields| log(ctx, "log.debug", Level::Debug, message, fields))?
        .with("info", |ctx, message, fields| log(ctx, "log.info", Level::Info, message, fields))?
        .with("warn", |ctx, message, fields| log(ctx, "log.warn", Level::Warn, message, fields))?
        .with("error", |ctx, message, fields| log(ctx, "log.error", Level::Error, message, fields))?
        .frozen()
}

fn log<'js>(ctx: Ctx<'js>, name: &str, level: Level, message: Opt<Value<'js>>, fields: Opt<Value<'js>>) -> Result<(), Error> {
    require_handling(&ctx, name)?;
    let message = message.0.map(|message| shown(&ctx, &message)).unwrap_or_default();
    let context = match fields.0.filter(|fields| !fields.is_undefined() && !fields.is_null()) {
        // An error given as the second argument is named, so that the context stays a JSON object.
        Some(fields) if fields.is_error() => {
            let named = Object::new(ctx.clone())?;
            named.set("error", fields)?;
            json(&ctx, &named.into_value())
        }
        Some(fields) => json(&ctx, &fields),
        None => String::new(),
    };
    logging::log(level, &context, &message);
    Ok(())
}

/// The global `console`.
pub fn install_console(ctx: &Ctx<'_>) -> Result<(), Error> {
    let console = Methods::of(ctx, "console")?
        .with("debug", |ctx, rest| console(ctx, "debug", Level::Debug, rest))?
        .with("log", |ctx, rest| console(ctx, "log", Level::Info, rest))?
        .with("info", |ctx, rest| console(ctx, "info", Level::Info, rest))?
        .with("dir", |ctx, rest| console(ctx, "dir", Level::Info, rest))?
        .with("warn", |ctx, rest| console(ctx, "warn", Level::Warn, rest))?
        .with("error", |ctx, rest| console(ctx, "error", Level::Error, rest))?
        .with("trace", |ctx, rest| console(ctx, "trace", Level::Trace, rest))?
        .with("assert", assert)?
        // Not frozen: programs replace console.log, and it is no capability.
        .object;
    crate::prelude::define_global(ctx, "console", console.into_value())
}

/// What console's lines carry as context, where `log` has its fields.
const CONTEXT: &str = "console";

fn console<'js>(ctx: Ctx<'js>, name: &str, level: Level, arguments: Rest<Value<'js>>) -> Result<(), Error> {
    require_handling(&ctx, &format!("console.{name}"))?;
    let mut line = formatted(&ctx, &arguments.0);
    if name == "trace" {
        line.push_str(&stack(&ctx)?);
    }
    logging::log(level, CONTEXT, &line);
    Ok(())
}

fn assert<'js>(ctx: Ctx<'js>, condition: Opt<Value<'js>>, arguments: Rest<Value<'js>>) -> Result<(), Error> {
    require_handling(&ctx, "console.assert")?;
    let holds = match condition.0 {
        Some(condition) => condition.get::<rquickjs::convert::Coerced<bool>>()?.0,
        None => false,
    };
    if !holds {
        let text = formatted(&ctx, &arguments.0);
        let separator = if text.is_empty() { "" } else { ": " };
        logging::log(Level::Error, CONTEXT, &format!("Assertion failed{separator}{text}"));
    }
    Ok(())
}

/// The arguments with spaces between them; a first argument with `%s`, `%d`, `%i`, `%f`, `%j`, `%o`, `%O` or `%c` takes the following ones
/// into these places.
fn formatted<'js>(ctx: &Ctx<'js>, arguments: &[Value<'js>]) -> String {
    let Some((first, rest)) = arguments.split_first() else {
        return String::new();
    };
    let mut rest = rest.iter();
    let mut line = shown(ctx, first);
    if first.is_string() && line.contains('%') {
        line = with_places_filled(ctx, &line, &mut rest);
    }
    for argument in rest {
        line.push(' ');
        line.push_str(&shown(ctx, argument));
    }
    line
}

fn with_places_filled<'a, 'js: 'a>(ctx: &Ctx<'js>, format: &str, arguments: &mut impl Iterator<Item = &'a Value<'js>>) -> String {
    let mut line = String::new();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        let place = if character == '%' { characters.peek().copied() } else { None };
        match place {
            Some('%') => {
                characters.next();
                line.push('%');
            }
            Some(kind @ ('s' | 'd' | 'i' | 'f' | 'j' | 'o' | 'O' | 'c')) => match arguments.next() {
                Some(argument) => {
                    characters.next();
                    match kind {
                        // Styles have no meaning in a log.
                        'c' => {}
                        'd' | 'i' | 'f' => line.push_str(&number(ctx, argument, kind)),
                        's' => line.push_str(&shown(ctx, argument)),
                        _ => line.push_str(&json(ctx, argument)),
                    }
                }
                None => line.push('%'),
            },
            _ => line.push(character),
        }
    }
    line
}

fn number<'js>(ctx: &Ctx<'js>, argument: &Value<'js>, kind: char) -> String {
    if argument.is_big_int() {
        return coerced(ctx, argument).unwrap_or_default();
    }
    let number = match argument.get::<rquickjs::convert::Coerced<f64>>() {
        Ok(number) if kind == 'i' => number.0.trunc(),
        Ok(number) => number.0,
        Err(_) => {
            ctx.catch();
            f64::NAN
        }
    };
    coerced(ctx, &Value::new_number(ctx.clone(), number)).unwrap_or_default()
}

/// Where we are, as an error would say it.
fn stack(ctx: &Ctx<'_>) -> Result<String, Error> {
    let error: Function = ctx.globals().get("Error")?;
    let here: Value = error.call(())?;
    let described = crate::errors::describe(ctx, &here);
    Ok(described.lines().filter(|line| line.contains(" at ") && !line.contains("(native)")).map(|line| format!("\n{line}")).collect())
}
