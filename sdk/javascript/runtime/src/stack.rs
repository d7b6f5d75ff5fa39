//! Two stacks.
//!
//! QuickJS throws a RangeError when its C code has used too much of the *shadow* stack, the one in linear memory; it cannot see the
//! *WebAssembly* stack, where calls, arguments and most locals are. A script's own recursion uses much of both, and the error comes in
//! time. The engine's parser and its JSON functions use little of the first and much of the second: nested a few thousand deep they end
//! the instance with a trap, which no script can catch and whose text says nothing. So they run with a shorter shadow stack.

use std::hint::black_box;

use rquickjs::function::{Rest, This};
use rquickjs::{Ctx, Error, Function, Object, Persistent, Value, qjs};

/// For scripts. The host gives the WebAssembly stack 2 MiB.
pub const SCRIPTS: usize = 512 * 1024;
/// Of the WebAssembly stack, with something to spare.
const REAL: usize = 1_800 * 1024;
/// Measured: what is used of the WebAssembly stack for each byte of the shadow stack, by scripts, by JSON and by the parser.
const BY_SCRIPTS: usize = 3;
const BY_JSON: usize = 20;
const BY_PARSER: usize = 28;

/// Run the parser over a module.
pub fn for_parser<R>(ctx: &Ctx<'_>, run: impl FnOnce() -> R) -> R {
    with_at_most(ctx, BY_PARSER, run)
}

/// Run one of the engine's JSON functions.
pub fn for_json<R>(ctx: &Ctx<'_>, run: impl FnOnce() -> R) -> R {
    with_at_most(ctx, BY_JSON, run)
}

/// Let `run`, which uses so many bytes of the WebAssembly stack for each of the shadow stack, use what scripts have left of it.
fn with_at_most<R>(ctx: &Ctx<'_>, ratio: usize, run: impl FnOnce() -> R) -> R {
    let used = used();
    let more = REAL.saturating_sub(BY_SCRIPTS * used) / ratio;
    // SAFETY: these only move the engine's mark.
    let set = |size: usize| unsafe { qjs::JS_SetMaxStackSize(qjs::JS_GetRuntime(ctx.as_raw().as_ptr()), size as _) };
    set((used + more).min(SCRIPTS));
    let result = run();
    set(SCRIPTS);
    result
}

/// The linker puts the shadow stack at the bottom of the memory, and it grows down from `-zstack-size`.
fn used() -> usize {
    let here = 0_u8;
    SIZE.saturating_sub(black_box(&raw const here).addr())
}

/// `-zstack-size` in build.sh.
const SIZE: usize = 1024 * 1024;

/// Put JSON.parse and JSON.stringify behind functions that do this.
pub fn guard_json(ctx: &Ctx<'_>) -> Result<(), Error> {
    let json: Object = ctx.globals().get("JSON")?;
    for name in ["parse", "stringify"] {
        let original = Persistent::save(ctx, json.get::<_, Function>(name)?);
        let guarded = Function::new(
            ctx.clone(),
            move |ctx: Ctx<'_>, this: This<Persistent<Value<'static>>>, arguments: Rest<Persistent<Value<'static>>>| {
                let original = original.clone().restore(&ctx)?;
                for_json(&ctx, || original.call::<_, Persistent<Value<'static>>>((this, arguments)))
            },
        )?;
        json.set(name, guarded.with_name(name)?)?;
    }
    Ok(())
}
