//! What a real handler does: reads and writes keys, emits, logs, reads its configuration.
//!
//! `{"sku": "tea", "quantity": 2}` takes 2 from `stock/tea`, counts `sold`, emits `order.reserved` (or the configured `emits`) with the
//! order and answers `{"reserved": 2, "left": …, "currency": …}`. Too little stock is a reject; an event of type `stock.delivered` adds.

use koksmat_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
struct Order {
    sku: String,
    quantity: u64,
}

#[derive(Serialize)]
struct Reserved {
    reserved: u64,
    left: u64,
    currency: String,
}

#[handler]
fn handle(event: Event, ctx: Context) -> Result<Response> {
    let order: Order = event.json()?;
    let key = format!("stock/{}", order.sku);
    if event.type_ == "stock.delivered" {
        keyvalue::add(&key, order.quantity as i64)?;
        return Ok(Response::empty());
    }
    let stock: u64 = keyvalue::get(&key)?.unwrap_or(0);
    let Some(left) = stock.checked_sub(order.quantity) else { return Err(reject("out of stock")) };
    keyvalue::set(&key, &left)?;
    keyvalue::add("sold", order.quantity as i64)?;
    let emits = config::get("emits")?.unwrap_or_else(|| "order.reserved".into());
    emit::event(emits).subject(&order.sku).json(&order)?.send()?;
    log::info!("reserved {} of {}, attempt {}", order.quantity, order.sku, ctx.attempt);
    let currency = config::get("currency")?.unwrap_or_else(|| "EUR".into());
    Ok(Response::json(&Reserved { reserved: order.quantity, left, currency }))
}
