//! What `prelude/url.js` is made of: the WHATWG rules, from the `url` crate.

use rquickjs::{Array, Ctx, Error, Function, Object, Value};
use url::{Url, form_urlencoded, quirks};

pub fn natives<'js>(ctx: &Ctx<'js>, native: &Object<'js>) -> Result<(), Error> {
    native.set("urlParse", Function::new(ctx.clone(), parse)?)?;
    native.set("urlSet", Function::new(ctx.clone(), set)?)?;
    native.set("queryParse", Function::new(ctx.clone(), query_parse)?)?;
    native.set("queryWrite", Function::new(ctx.clone(), query_write)?)
}

/// The parts of a URL, or undefined where it is none.
fn parse<'js>(ctx: Ctx<'js>, url: String, base: Option<String>) -> Result<Value<'js>, Error> {
    let parsed = match base {
        Some(base) => Url::parse(&base).and_then(|base| base.join(&url)),
        None => Url::parse(&url),
    };
    match parsed {
        Ok(url) => parts(&ctx, &url),
        Err(_) => Ok(Value::new_undefined(ctx)),
    }
}

/// In the order `prelude/url.js` knows.
fn parts<'js>(ctx: &Ctx<'js>, url: &Url) -> Result<Value<'js>, Error> {
    let origin = quirks::origin(url);
    let all = [
        quirks::href(url),
        quirks::protocol(url),
        quirks::username(url),
        quirks::password(url),
        quirks::host(url),
        quirks::hostname(url),
        quirks::port(url),
        quirks::pathname(url),
        quirks::search(url),
        quirks::hash(url),
        &origin,
    ];
    let array = Array::new(ctx.clone())?;
    for (index, part) in all.into_iter().enumerate() {
        array.set(index, part)?;
    }
    Ok(array.into_value())
}

/// The parts after a setter; undefined where a new href is no URL. Other values that are not valid leave the URL as it was.
fn set<'js>(ctx: Ctx<'js>, href: String, part: usize, value: String) -> Result<Value<'js>, Error> {
    let Ok(mut url) = Url::parse(&href) else {
        return Ok(Value::new_undefined(ctx));
    };
    // A setter that refuses a value leaves the URL as it was, and that is all the standard wants of it; only href throws.
    match part {
        0 => {
            if quirks::set_href(&mut url, &value).is_err() {
                return Ok(Value::new_undefined(ctx));
            }
        }
        1 => drop(quirks::set_protocol(&mut url, &value)),
        2 => drop(quirks::set_username(&mut url, &value)),
        3 => drop(quirks::set_password(&mut url, &value)),
        4 => drop(quirks::set_host(&mut url, &value)),
        5 => drop(quirks::set_hostname(&mut url, &value)),
        6 => drop(quirks::set_port(&mut url, &value)),
        7 => quirks::set_pathname(&mut url, &value),
        8 => quirks::set_search(&mut url, &value),
        9 => quirks::set_hash(&mut url, &value),
        _ => return Ok(Value::new_undefined(ctx)),
    }
    parts(&ctx, &url)
}

/// `a=1&b=2` → [["a", "1"], ["b", "2"]]
fn query_parse<'js>(ctx: Ctx<'js>, query: String) -> Result<Array<'js>, Error> {
    let pairs = Array::new(ctx.clone())?;
    for (index, (name, value)) in form_urlencoded::parse(query.as_bytes()).enumerate() {
        let pair = Array::new(ctx.clone())?;
        pair.set(0, &*name)?;
        pair.set(1, &*value)?;
        pairs.set(index, pair)?;
    }
    Ok(pairs)
}

fn query_write(pairs: Vec<Vec<String>>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for pair in &pairs {
        if let [name, value] = pair.as_slice() {
            query.append_pair(name, value);
        }
    }
    query.finish()
}
