use koksmat_sdk::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Greeting {
    name: String,
}

#[handler]
fn handle(event: Event, _ctx: Context) -> Result<Response> {
    let greeting: Greeting = event.json()?;
    let key = format!("greeted/{}", greeting.name);
    let times: u64 = keyvalue::get(&key)?.unwrap_or(0) + 1;
    keyvalue::set(&key, &times)?;
    log::info!("hello {}, {times} times", greeting.name);
    Ok(Response::empty())
}
