//! The runtime's own JavaScript: what is shorter and clearer there than in Rust.
//!
//! `core.js` runs for every handler. The other parts are parsed when a handler's source mentions one of their names, and otherwise at the
//! first use, so that a handler which has no URLs pays nothing for them. Each file is one function of `native`, an object of helpers,
//! that returns what it defines. Their frames are left out when errors are described.

use std::cell::RefCell;

use rquickjs::context::EvalOptions;
use rquickjs::function::IntoArgs;
use rquickjs::object::{Accessor, Property};
use rquickjs::{Ctx, Error, FromJs, Function, Object, Persistent, Value};

use crate::host::{clock, duration, http, random, text, url};
use crate::values::{bytes, json};

/// What Rust calls of the prelude.
pub struct Functions {
    /// The classes that `throw` decides by.
    pub reject: Persistent<Function<'static>>,
    pub retry: Persistent<Function<'static>>,
    /// Value → JSON for the log.
    pub inspect: Persistent<Function<'static>>,
}

thread_local! {
    static FUNCTIONS: RefCell<Option<Functions>> = const { RefCell::new(None) };
    static PARTS: RefCell<Vec<(&'static str, Persistent<Object<'static>>)>> = const { RefCell::new(Vec::new()) };
}

struct Part {
    name: &'static str,
    source: &'static str,
    /// What it adds to the globals.
    globals: &'static [&'static str],
    /// Words in a handler's source that mean it will be needed; its globals are such words too.
    words: &'static [&'static str],
}

const PARTS_OF_PRELUDE: &[Part] = &[
    Part { name: "response", source: include_str!("prelude/response.js"), globals: &["Headers", "Response"], words: &["http"] },
    Part { name: "http", source: include_str!("prelude/http.js"), globals: &[], words: &["http"] },
    Part { name: "text", source: include_str!("prelude/text.js"), globals: &["TextDecoder", "TextEncoder"], words: &[] },
    Part { name: "url", source: include_str!("prelude/url.js"), globals: &["URL", "URLSearchParams"], words: &[] },
    Part { name: "clone", source: include_str!("prelude/clone.js"), globals: &["structuredClone"], words: &[] },
];

/// Run `core.js` and put the globals of the other parts in place. Before any module of the user.
pub fn install(ctx: &Ctx<'_>) -> Result<(), Error> {
    let core = run(ctx, "core", include_str!("prelude/core.js"))?;
    let function =
        |name: &str| -> Result<Persistent<Function<'static>>, Error> { Ok(Persistent::save(ctx, core.get::<_, Function>(name)?)) };
    let functions = Functions { reject: function("Reject")?, retry: function("Retry")?, inspect: function("inspect")? };
    FUNCTIONS.set(Some(functions));
    keep(ctx, "core", core);

    for part in PARTS_OF_PRELUDE {
        for &global in part.globals {
            lazy_global(ctx, part.name, global)?;
        }
    }
    Ok(())
}

/// Parse now what the handler's sources will want, so that the snapshot has it.
pub fn prepare<'a>(ctx: &Ctx<'_>, sources: impl Iterator<Item = &'a str> + Clone) -> Result<(), Error> {
    for part in PARTS_OF_PRELUDE {
        let mut words = part.globals.iter().chain(part.words);
        if words.any(|word| sources.clone().any(|source| source.contains(word))) {
            for &global in part.globals {
                // Reading the global puts the real thing in its place.
                ctx.globals().get::<_, Value>(global)?;
            }
            self::part(ctx, part.name)?;
        }
    }
    Ok(())
}

/// The object a part returned; runs the part if it has not run yet.
pub fn part<'js>(ctx: &Ctx<'js>, name: &'static str) -> Result<Object<'js>, Error> {
    let kept = PARTS.with_borrow(|parts| parts.iter().find(|(kept, _)| *kept == name).map(|(_, object)| object.clone()));
    if let Some(object) = kept {
        return object.restore(ctx);
    }
    let part = PARTS_OF_PRELUDE.iter().find(|part| part.name == name).ok_or(Error::Unknown)?;
    let object = run(ctx, part.name, part.source)?;
    keep(ctx, part.name, object.clone());
    Ok(object)
}

pub fn has_run(name: &str) -> bool {
    PARTS.with_borrow(|parts| parts.iter().any(|(kept, _)| *kept == name))
}

/// Call one of the prelude's functions.
pub fn call<'js, A, R>(ctx: &Ctx<'js>, which: impl FnOnce(&Functions) -> &Persistent<Function<'static>>, arguments: A) -> Result<R, Error>
where
    A: IntoArgs<'js>,
    R: FromJs<'js>,
{
    function(ctx, which)?.call(arguments)
}

pub fn function<'js>(ctx: &Ctx<'js>, which: impl FnOnce(&Functions) -> &Persistent<Function<'static>>) -> Result<Function<'js>, Error> {
    FUNCTIONS.with_borrow(|functions| functions.as_ref().map(|functions| which(functions).clone())).ok_or(Error::Unknown)?.restore(ctx)
}

fn keep<'js>(ctx: &Ctx<'js>, name: &'static str, object: Object<'js>) {
    PARTS.with_borrow_mut(|parts| parts.push((name, Persistent::save(ctx, object))));
}

fn run<'js>(ctx: &Ctx<'js>, name: &str, source: &str) -> Result<Object<'js>, Error> {
    let mut options = EvalOptions::default();
    options.filename = Some(format!("koksmat:{name}.js"));
    let define: Function = ctx.eval_with_options(source, options)?;
    define.call((native(ctx)?,))
}

/// An accessor that puts the real thing in its own place when it is first read.
fn lazy_global(ctx: &Ctx<'_>, part_name: &'static str, global: &'static str) -> Result<(), Error> {
    // `Persistent` because closures cannot be generic over the context's lifetime.
    let get = move |ctx: Ctx<'_>| -> Result<Persistent<Value<'static>>, Error> {
        let value: Value = part(&ctx, part_name)?.get(global)?;
        define_global(&ctx, global, value.clone())?;
        Ok(Persistent::save(&ctx, value))
    };
    let set = move |ctx: Ctx<'_>, value: Persistent<Value<'static>>| -> Result<(), Error> {
        let value = value.restore(&ctx)?;
        define_global(&ctx, global, value)
    };
    ctx.globals().prop(global, Accessor::new(get, set).configurable())
}

/// As the web has them: writable, configurable, not enumerable.
pub fn define_global<'js>(ctx: &Ctx<'js>, name: &str, value: Value<'js>) -> Result<(), Error> {
    ctx.globals().prop(name, Property::from(value).writable().configurable())
}

/// The helpers the prelude's files are given.
fn native<'js>(ctx: &Ctx<'js>) -> Result<Object<'js>, Error> {
    let native = Object::new(ctx.clone())?;
    native.set("describe", Function::new(ctx.clone(), describe)?)?;
    native.set("duration", Function::new(ctx.clone(), duration_of)?)?;
    native.set("bytes", Function::new(ctx.clone(), bytes_of)?)?;
    native.set("json", Function::new(ctx.clone(), json_of)?)?;
    native.set("part", Function::new(ctx.clone(), part_of)?)?;
    text::natives(ctx, &native)?;
    url::natives(ctx, &native)?;
    http::natives(ctx, &native)?;
    random::natives(ctx, &native)?;
    clock::natives(ctx, &native)?;
    Ok(native)
}

fn describe<'js>(ctx: Ctx<'js>, error: Value<'js>) -> String {
    crate::errors::describe(&ctx, &error)
}

fn duration_of<'js>(ctx: Ctx<'js>, value: Value<'js>, what: String) -> Result<Option<f64>, Error> {
    Ok(duration::milliseconds(&ctx, Some(&value), &what)?.map(|milliseconds| milliseconds as f64))
}

/// A copy of the bytes of a buffer or view, else undefined.
fn bytes_of<'js>(ctx: Ctx<'js>, value: Value<'js>) -> Result<Value<'js>, Error> {
    match bytes(&value)? {
        Some(bytes) => crate::values::byte_array(&ctx, bytes),
        None => Ok(Value::new_undefined(ctx)),
    }
}

fn json_of<'js>(ctx: Ctx<'js>, value: Value<'js>, what: String) -> Result<String, Error> {
    json(&ctx, &value, &what)
}

fn part_of<'js>(ctx: Ctx<'js>, name: String) -> Result<Object<'js>, Error> {
    let part_name = PARTS_OF_PRELUDE.iter().map(|part| part.name).find(|known| *known == name).ok_or(Error::Unknown)?;
    part(&ctx, part_name)
}
