//! Reserves stock for orders.

use koksmat_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
struct Order {
    sku: String,
    quantity: u64,
}

impl Order {
    fn stock_key(&self) -> String {
        format!("stock/{}", self.sku)
    }
}

#[derive(Serialize)]
struct Reserved {
    reserved: u64,
    left: u64,
}

#[handler]
fn handle(event: Event, ctx: Context) -> Result<Response> {
    let order: Order = event.json()?; // a body that does not parse is a reject
    match event.type_.as_str() {
        "stock.delivered" => deliver(&order),
        "order.created" => reserve(&order),
        // What `reserve` emitted comes in like any other event.
        "order.reserved" => {
            log::info!("{} of {} reserved, attempt {}", order.quantity, order.sku, ctx.attempt);
            Ok(Response::empty())
        }
        other => Err(reject(format!("nothing to do for {other}"))),
    }
}

fn deliver(order: &Order) -> Result<Response> {
    let left: u64 = keyvalue::increment(&order.stock_key(), order.quantity)?;
    Ok(Response::text(format!("{left} of {} in stock", order.sku)))
}

/// The new number and the event take effect together, or neither does.
fn reserve(order: &Order) -> Result<Response> {
    let stock: u64 = keyvalue::get(&order.stock_key())?.unwrap_or(0);
    let Some(left) = stock.checked_sub(order.quantity) else {
        return Err(reject("out of stock"));
    };
    keyvalue::set(&order.stock_key(), &left)?;
    emit("order.reserved", order)?;
    Ok(Response::json(&Reserved { reserved: order.quantity, left }))
}
