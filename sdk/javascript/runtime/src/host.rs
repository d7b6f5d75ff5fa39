//! What handlers reach the host through: the exports of the module "koksmat" and the globals that need the host.

pub mod clock;
pub mod config;
pub mod duration;
pub mod emit;
pub mod http;
pub mod keyvalue;
pub mod log;
pub mod random;
pub mod text;
pub mod url;

use rquickjs::function::IntoJsFunc;
use rquickjs::module::{Declarations, Exports, ModuleDef};
use rquickjs::{Ctx, Error, Function, Object, Value};

use crate::prelude;
use crate::values::object_frozen;

/// The module "koksmat".
pub struct Koksmat;

/// Its name in an import.
pub const MODULE: &str = "koksmat";
/// What can be imported from it.
pub const EXPORTS: &[&str] = &["Reject", "Response", "Retry", "config", "emit", "http", "keyvalue", "log"];

impl ModuleDef for Koksmat {
    fn declare(declarations: &Declarations) -> Result<(), Error> {
        for export in EXPORTS {
            declarations.declare(*export)?;
        }
        Ok(())
    }

    fn evaluate<'js>(ctx: &Ctx<'js>, exports: &Exports<'js>) -> Result<(), Error> {
        exports.export("keyvalue", keyvalue::object(ctx)?)?;
        exports.export("emit", emit::function(ctx)?)?;
        exports.export("log", log::object(ctx)?)?;
        exports.export("config", config::object(ctx)?)?;
        exports.export("http", http::object(ctx)?)?;
        exports.export("Reject", prelude::function(ctx, |functions| &functions.reject)?)?;
        exports.export("Retry", prelude::function(ctx, |functions| &functions.retry)?)?;
        // Parsed only for handlers that mention it (`prelude::prepare`): nobody else can tell the difference.
        let response = match prelude::has_run("response") {
            true => ctx.globals().get("Response")?,
            false => Value::new_undefined(ctx.clone()),
        };
        exports.export("Response", response)?;
        Ok(())
    }
}

/// An object of functions that nobody can change, so that no module can take a capability's place in another. The functions are named
/// `OBJECT.METHOD`: that is what a stack shows.
struct Methods<'js> {
    name: &'static str,
    object: Object<'js>,
}

impl<'js> Methods<'js> {
    fn of(ctx: &Ctx<'js>, name: &'static str) -> Result<Self, Error> {
        Ok(Self { name, object: Object::new(ctx.clone())? })
    }

    fn with<P, F: IntoJsFunc<'js, P> + 'js>(self, method: &str, function: F) -> Result<Self, Error> {
        let ctx = self.object.ctx().clone();
        let function = Function::new(ctx, function)?.with_name(format!("{}.{method}", self.name))?;
        self.object.set(method, function)?;
        Ok(self)
    }

    fn frozen(self) -> Result<Object<'js>, Error> {
        object_frozen(self.object)
    }
}
