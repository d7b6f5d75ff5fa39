//! `keyvalue`: wasi:keyvalue, and koksmat:plugin/counters for counting without reading.

use rquickjs::function::Opt;
use rquickjs::{Array, Ctx, Error, Object, Value};

use super::Methods;
use super::text::lossy;
use crate::bindings::koksmat::plugin::counters;
use crate::bindings::wasi::keyvalue::{atomics, store};
use crate::errors::{Kind, caught, describe, throw};
use crate::phase::require_handling;
use crate::values::{byte_array, bytes, coerced, json, parse_json, show, string_argument};

pub fn object<'js>(ctx: &Ctx<'js>) -> Result<Object<'js>, Error> {
    Methods::of(ctx, "keyvalue")?
        .with("get", get)?
        .with("getBytes", get_bytes)?
        .with("getJSON", get_json)?
        .with("set", set)?
        .with("delete", delete)?
        .with("exists", exists)?
        .with("keys", keys)?
        .with("increment", increment)?
        .with("add", add)?
        .frozen()
}

/// One call of a method: which, and on what key. It makes the errors.
struct Call<'a, 'js> {
    ctx: &'a Ctx<'js>,
    method: &'static str,
    key: String,
}

impl<'a, 'js> Call<'a, 'js> {
    fn new(ctx: &'a Ctx<'js>, method: &'static str, key: &Opt<Value<'js>>) -> Result<Self, Error> {
        require_handling(ctx, &format!("keyvalue.{method}"))?;
        let key = string_argument(ctx, key.0.as_ref(), &format!("the key of keyvalue.{method}"))?;
        Ok(Self { ctx, method, key })
    }

    /// The bucket is opened for each call: a handle kept in the script's world would be frozen into the snapshot.
    fn bucket(&self) -> Result<store::Bucket, Error> {
        store::open("default").map_err(|error| self.failed(error))
    }

    fn failed(&self, error: store::Error) -> Error {
        let why = match error {
            store::Error::AccessDenied => "is not allowed by this handler's grants".to_owned(),
            store::Error::NoSuchStore => "failed: this handler has no key-value store".to_owned(),
            store::Error::Other(text) => format!("failed: {text}"),
        };
        throw(self.ctx, Kind::Error, &format!("keyvalue.{}({:?}) {why}", self.method, self.key))
    }

    fn read(&self) -> Result<Option<Vec<u8>>, Error> {
        self.bucket()?.get(&self.key).map_err(|error| self.failed(error))
    }

    fn wrong(&self, kind: Kind, message: &str) -> Error {
        throw(self.ctx, kind, &format!("keyvalue.{}({:?}): {message}", self.method, self.key))
    }
}

fn get<'js>(ctx: Ctx<'js>, key: Opt<Value<'js>>) -> Result<Option<String>, Error> {
    let value = Call::new(&ctx, "get", &key)?.read()?;
    Ok(value.map(|bytes| String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())))
}

fn get_bytes<'js>(ctx: Ctx<'js>, key: Opt<Value<'js>>) -> Result<Value<'js>, Error> {
    match Call::new(&ctx, "getBytes", &key)?.read()? {
        Some(bytes) => byte_array(&ctx, bytes),
        None => Ok(Value::new_undefined(ctx)),
    }
}

fn get_json<'js>(ctx: Ctx<'js>, key: Opt<Value<'js>>) -> Result<Value<'js>, Error> {
    let call = Call::new(&ctx, "getJSON", &key)?;
    let Some(bytes) = call.read()? else {
        return Ok(Value::new_undefined(ctx));
    };
    parse_json(&ctx, &lossy(&bytes)).map_err(|error| {
        let why = describe(&ctx, &caught(&ctx, error));
        call.wrong(Kind::Error, &format!("the value is not JSON: {}", why.lines().next().unwrap_or_default()))
    })
}

fn set<'js>(ctx: Ctx<'js>, key: Opt<Value<'js>>, value: Opt<Value<'js>>) -> Result<(), Error> {
    let call = Call::new(&ctx, "set", &key)?;
    let value = value.0.unwrap_or_else(|| Value::new_undefined(ctx.clone()));
    let bytes = match bytes(&value)? {
        Some(bytes) => bytes,
        None if value.is_string() || value.is_number() || value.is_bool() || value.is_big_int() => coerced(&ctx, &value)?.into_bytes(),
        None if value.is_undefined() || value.is_null() => {
            let message = format!("there is no value, it is {}; to remove a key use keyvalue.delete", show(&ctx, &value));
            return Err(call.wrong(Kind::Type, &message));
        }
        None if value.is_promise() || value.is_function() || value.is_symbol() => {
            return Err(call.wrong(Kind::Type, &format!("the value cannot be stored: it is {}", show(&ctx, &value))));
        }
        None => json(&ctx, &value, "the value of keyvalue.set")?.into_bytes(),
    };
    call.bucket()?.set(&call.key, &bytes).map_err(|error| call.failed(error))
}

fn delete<'js>(ctx: Ctx<'js>, key: Opt<Value<'js>>) -> Result<(), Error> {
    let call = Call::new(&ctx, "delete", &key)?;
    call.bucket()?.delete(&call.key).map_err(|error| call.failed(error))
}

fn exists<'js>(ctx: Ctx<'js>, key: Opt<Value<'js>>) -> Result<bool, Error> {
    let call = Call::new(&ctx, "exists", &key)?;
    call.bucket()?.exists(&call.key).map_err(|error| call.failed(error))
}

/// All keys that begin with the prefix, page after page. wasi:keyvalue lists without a prefix, so the choice is made here.
fn keys<'js>(ctx: Ctx<'js>, prefix: Opt<Value<'js>>) -> Result<Array<'js>, Error> {
    require_handling(&ctx, "keyvalue.keys")?;
    let key = match prefix.0.as_ref().filter(|prefix| !prefix.is_undefined()) {
        Some(prefix) => string_argument(&ctx, Some(prefix), "the prefix of keyvalue.keys")?,
        None => String::new(),
    };
    let call = Call { ctx: &ctx, method: "keys", key };
    let bucket = call.bucket()?;
    let found = Array::new(ctx.clone())?;
    let mut count = 0;
    let mut cursor = None;
    loop {
        let page = bucket.list_keys(cursor).map_err(|error| call.failed(error))?;
        for key in page.keys.into_iter().filter(|key| key.starts_with(&call.key)) {
            found.set(count, key)?;
            count += 1;
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(found);
        }
    }
}

/// Adds to the number under the key and returns the new one. That reads the key; `add` does not.
fn increment<'js>(ctx: Ctx<'js>, key: Opt<Value<'js>>, delta: Opt<Value<'js>>) -> Result<f64, Error> {
    let call = Call::new(&ctx, "increment", &key)?;
    let delta = match delta.0.as_ref().filter(|delta| !delta.is_undefined()) {
        Some(value) => match whole(&ctx, value)?.and_then(|delta| u64::try_from(delta).ok()) {
            Some(delta) => delta,
            None => {
                let message = format!("the delta must be a whole number, 0 or more, not {}", show(&ctx, value));
                return Err(call.wrong(Kind::Type, &message));
            }
        },
        None => 1,
    };
    let bucket = call.bucket()?;
    atomics::increment(&bucket, &call.key, delta).map(|value| value as f64).map_err(|error| call.failed(error))
}

fn add<'js>(ctx: Ctx<'js>, key: Opt<Value<'js>>, delta: Opt<Value<'js>>) -> Result<(), Error> {
    let call = Call::new(&ctx, "add", &key)?;
    let value = delta.0.unwrap_or_else(|| Value::new_undefined(ctx.clone()));
    let Some(delta) = whole(&ctx, &value)?.and_then(|delta| i64::try_from(delta).ok()) else {
        return Err(call.wrong(Kind::Type, &format!("the delta must be a whole number, not {}", show(&ctx, &value))));
    };
    counters::add(&call.key, delta).map_err(|error| call.failed(error))
}

/// The largest number up to which JavaScript's numbers are exact.
const EXACT: f64 = 9_007_199_254_740_991.0;

/// A number or BigInt without a fraction; `None` for anything else.
fn whole<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> Result<Option<i128>, Error> {
    if value.is_big_int() {
        return Ok(coerced(ctx, value)?.parse().ok());
    }
    Ok(value.as_number().filter(|number| number.fract() == 0.0 && number.abs() <= EXACT).map(|number| number as i128))
}
