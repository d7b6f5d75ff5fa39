//! Write [Koksmat](https://github.com/koksmat-dev/koksmat) event handlers in Rust.
//!
//! A handler is a function in a `cdylib` crate. What it changes (keys it sets, events it emits) takes effect together when it returns
//! `Ok`, or not at all.
//!
//! ```no_run
//! use koksmat_sdk::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize, Serialize)]
//! struct Order {
//!     sku: String,
//!     quantity: u64,
//! }
//!
//! #[handler]
//! fn handle(event: Event, ctx: Context) -> Result<Response> {
//!     let order: Order = event.json()?; // a body that does not parse is a reject
//!     let key = format!("stock/{}", order.sku);
//!     let left: u64 = keyvalue::get(&key)?.unwrap_or(0);
//!     if left < order.quantity {
//!         return Err(reject("out of stock"));
//!     }
//!     keyvalue::set(&key, &(left - order.quantity))?;
//!     emit("order.reserved", &order)?;
//!     log::info!("reserved {} of {} in attempt {}", order.quantity, order.sku, ctx.attempt);
//!     Ok(Response::json(&json!({ "reserved": order.quantity })))
//! }
//! # fn main() {}
//! ```
//!
//! # Errors
//!
//! Any error that `?` meets is a [`retry`]: the event comes again, with the handler's back-off, while attempts are left. [`reject`] says
//! that trying again is of no use: the event becomes a dead letter with that reason. A panic is logged and then counts like a retry.
//!
//! # What a component imports
//!
//! Only what the handler uses, and `wasi:logging` for the message of a panic. Key-value, emit and HTTP need a grant in the host's
//! configuration; log, configuration, clock and random do not.
//!
//! # What is different from other targets
//!
//! `wasm32-unknown-unknown` has no operating system: `std::time`, `std::fs`, `std::net`, `std::thread` and `println!` do not work there.
//! Use [`clock`], [`keyvalue`], [`http`] and [`log`]. `HashMap` has the same seed in every instance: take a `BTreeMap` for keys that
//! come from outside.

#![warn(missing_docs)]

// Makes `::koksmat_sdk` a path in this crate's own tests too.
extern crate self as koksmat_sdk;

/// The contract as `wit-bindgen` writes it, for what the other modules leave out (`wasi:keyvalue/batch`, `wasi:random/insecure`).
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::allow_attributes_without_reason, clippy::unwrap_used, reason = "generated")]
#[rustfmt::skip]
pub mod bindings;

pub mod clock;
pub mod config;
pub mod emit;
mod error;
mod event;
mod handler;
pub mod http;
pub mod keyvalue;
pub mod log;
pub mod random;
mod response;

pub use bindings::koksmat::plugin::types::{Context, Event, Response};
pub use emit::emit;
pub use error::{Error, Result, reject, retry};
pub use handler::{Handler, Outcome};
pub use koksmat_sdk_macros::handler;
pub use serde_json::{Value, json};

/// Everything a handler usually needs: `use koksmat_sdk::prelude::*;`
pub mod prelude {
    pub use crate::{
        Context, Error, Event, Response, Result, Value, clock, config, emit, handler, http, json, keyvalue, log, random, reject, retry,
    };
}

/// What `#[handler]` expands to; no part of the interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::handler::call;
}
