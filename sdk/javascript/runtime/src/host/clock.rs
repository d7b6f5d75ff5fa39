//! Time from the host.

use rquickjs::{Ctx, Error, Function, Object};

use crate::bindings::wasi::clocks::{monotonic_clock, wall_clock};

/// Where QuickJS's C library asks for the time: Date.now and `new Date()`. Defining the symbol here takes the place of an import that no
/// host would know.
#[unsafe(no_mangle)]
pub extern "C" fn __rquickjs_host_now_us() -> f64 {
    let now = wall_clock::now();
    now.seconds as f64 * 1e6 + f64::from(now.nanoseconds / 1_000)
}

pub fn natives<'js>(ctx: &Ctx<'js>, native: &Object<'js>) -> Result<(), Error> {
    native.set("monotonic", Function::new(ctx.clone(), monotonic)?.with_name("now")?)
}

/// performance.now(): milliseconds from a beginning that means nothing by itself.
fn monotonic() -> f64 {
    monotonic_clock::now() as f64 / 1e6
}
