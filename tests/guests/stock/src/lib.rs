//! What benchmarks measure: reads a small JSON body (190 bytes or so), changes one field, answers with it. No effects.

use koksmat_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
struct Movement {
    id: String,
    sku: String,
    name: String,
    warehouse: String,
    quantity: i64,
    price: f64,
    tags: Vec<String>,
}

#[handler]
fn handle(event: Event) -> Result<Response> {
    let mut movement: Movement = event.json()?;
    movement.name = movement.name.to_uppercase();
    Ok(Response::json(&movement))
}
