//! Math.random and crypto.

use std::cell::Cell;

use rquickjs::function::Opt;
use rquickjs::{Ctx, Error, Function, Object, Value, qjs};

use crate::bindings::wasi::random::random;
use crate::errors::{Kind, throw, throw_dom};
use crate::phase::{self, Phase};
use crate::values::show;

/// What the top level of a module draws from: always the same, so that the same sources give the same snapshot.
const FIXED: u64 = 0x9E37_79B9_7F4A_7C15;

thread_local! {
    /// State of the generator; 0 is not seeded yet, which is how every instance of a snapshot begins.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// Forget the seed. When loading is done: the next draw, in an instance that handles an event, asks the host.
pub fn unseed() {
    STATE.set(0);
}

pub fn natives<'js>(ctx: &Ctx<'js>, native: &Object<'js>) -> Result<(), Error> {
    native.set("random", Function::new(ctx.clone(), draw)?.with_name("random")?)?;
    native.set("randomUUID", Function::new(ctx.clone(), random_uuid)?.with_name("randomUUID")?)?;
    native.set("getRandomValues", Function::new(ctx.clone(), get_random_values)?.with_name("getRandomValues")?)
}

/// Math.random: xorshift64*, 53 bits of it.
fn draw() -> f64 {
    let mut state = STATE.get();
    if state == 0 {
        state = match phase::current() {
            Phase::Loading => FIXED,
            Phase::Handling => random::get_random_u64().max(1),
        };
    }
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    STATE.set(state);
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
}

fn random_uuid(ctx: Ctx<'_>) -> Result<String, Error> {
    phase::require_handling(&ctx, "crypto.randomUUID")?;
    let mut bytes = random::get_random_bytes(16);
    // Version 4, variant 1 (RFC 9562).
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}

const MOST: usize = 65_536;

fn get_random_values<'js>(ctx: Ctx<'js>, array: Opt<Value<'js>>) -> Result<Value<'js>, Error> {
    phase::require_handling(&ctx, "crypto.getRandomValues")?;
    let array = array.0.unwrap_or_else(|| Value::new_undefined(ctx.clone()));
    // SAFETY: a question about a live value.
    let kind = unsafe { qjs::JS_GetTypedArrayType(array.as_raw()) };
    let integers = kind >= 0
        && !matches!(
            kind as u32,
            qjs::JSTypedArrayEnum_JS_TYPED_ARRAY_FLOAT16
                | qjs::JSTypedArrayEnum_JS_TYPED_ARRAY_FLOAT32
                | qjs::JSTypedArrayEnum_JS_TYPED_ARRAY_FLOAT64
        );
    if !integers {
        let message = format!("crypto.getRandomValues fills a typed array of integers, not {}", show(&ctx, &array));
        return Err(throw(&ctx, Kind::Type, &message));
    }
    let (mut offset, mut length, mut width) = (0, 0, 0);
    // SAFETY: the typed array was checked above; nothing of JavaScript runs between asking for its memory and writing to it.
    unsafe {
        let raw = ctx.as_raw().as_ptr();
        let buffer = qjs::JS_GetTypedArrayBuffer(raw, array.as_raw(), &mut offset, &mut length, &mut width);
        if qjs::JS_IsException(buffer) {
            return Err(Error::Exception);
        }
        let (offset, length) = (offset as usize, length as usize);
        let mut size = 0;
        let start = qjs::JS_GetArrayBuffer(raw, &mut size, buffer);
        qjs::JS_FreeValue(raw, buffer);
        if length > MOST {
            let message = format!("crypto.getRandomValues gives at most {MOST} bytes at once, not {length}");
            return Err(throw_dom(&ctx, "QuotaExceededError", &message));
        }
        if length > 0 {
            if start.is_null() || offset + length > size as usize {
                return Err(throw(&ctx, Kind::Type, "crypto.getRandomValues: the array's buffer is detached"));
            }
            let bytes = random::get_random_bytes(length as u64);
            std::slice::from_raw_parts_mut(start.add(offset), length).copy_from_slice(&bytes);
        }
    }
    Ok(array)
}
