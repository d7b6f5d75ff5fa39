//! Time from the host. While the top level runs there is none: what it read would be frozen into the snapshot, so clocks stand at 0, and
//! a handler that has no snapshot yet sees the same.

use rquickjs::{Ctx, Error, Function, Object};

use crate::bindings::wasi::clocks::{monotonic_clock, wall_clock};
use crate::phase::{self, Phase};

/// Where QuickJS's C library asks for the time: Date.now and `new Date()`. Defining the symbol here takes the place of an import that no
/// host would know.
#[unsafe(no_mangle)]
pub extern "C" fn __rquickjs_host_now_us() -> f64 {
    if phase::current() == Phase::Loading {
        return 0.0;
    }
    let now = wall_clock::now();
    now.seconds as f64 * 1e6 + f64::from(now.nanoseconds / 1_000)
}

pub fn natives<'js>(ctx: &Ctx<'js>, native: &Object<'js>) -> Result<(), Error> {
    native.set("monotonic", Function::new(ctx.clone(), monotonic)?.with_name("now")?)
}

/// performance.now(): milliseconds from a beginning that means nothing by itself.
fn monotonic() -> f64 {
    match phase::current() {
        Phase::Loading => 0.0,
        Phase::Handling => monotonic_clock::now() as f64 / 1e6,
    }
}
