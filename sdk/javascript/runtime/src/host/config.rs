//! `config`: what the handler's table in the host's configuration shows it.

use rquickjs::function::Opt;
use rquickjs::object::Property;
use rquickjs::{Ctx, Error, Object, Value};

use super::Methods;
use crate::bindings::wasi::config::store;
use crate::errors::{Kind, throw};
use crate::phase::require_handling;
use crate::values::string_argument;

pub fn object<'js>(ctx: &Ctx<'js>) -> Result<Object<'js>, Error> {
    Methods::of(ctx, "config")?.with("get", get)?.with("all", all)?.frozen()
}

fn get<'js>(ctx: Ctx<'js>, name: Opt<Value<'js>>) -> Result<Option<String>, Error> {
    require_handling(&ctx, "config.get")?;
    let name = string_argument(&ctx, name.0.as_ref(), "the name of config.get")?;
    store::get(&name).map_err(|error| failed(&ctx, &format!("config.get({name:?})"), error))
}

fn all<'js>(ctx: Ctx<'js>) -> Result<Object<'js>, Error> {
    require_handling(&ctx, "config.all")?;
    let values = store::get_all().map_err(|error| failed(&ctx, "config.all()", error))?;
    let object = Object::new(ctx)?;
    for (name, value) in values {
        // Defined, not set: a key may be called `__proto__`.
        object.prop(name, Property::from(value).writable().enumerable().configurable())?;
    }
    Ok(object)
}

fn failed(ctx: &Ctx<'_>, call: &str, error: store::Error) -> Error {
    let (store::Error::Upstream(why) | store::Error::Io(why)) = error;
    throw(ctx, Kind::Error, &format!("{call} failed: {why}"))
}
