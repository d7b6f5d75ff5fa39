//! Koksmat, an embeddable event host: it takes events from queues, databases and webhooks and runs each of them through sandboxed
//! WebAssembly components.
//!
//! ```text
//!  queue ───┐                                                    ┌─ plain ───────────┐
//!  poller ──┤                                                    │                   │
//!  webhook ─┼─► control channel ─► controller: route ─► dispatch ┤                   ├─► handler (WASM) ─► outcome ─► settle
//!  timer ───┤      (bounded)                      (fair, limits) └─ atomic: the lane ┘                                  │
//!  tasks ───┘                                                                                                           │
//!     ▲                                                                                                                 │
//!     └────────────────── the receipt was inside the delivery all along; settle is the only one who answers it ─────────┘
//! ```
//!
//! The modules in the order of an event's way: [`source`] → [`channel`] → [`controller`] → [`plugin`] → [`outcome`] → back by [`receipt`].
//! [`host`] puts them together, [`shutdown`] takes them apart, [`store`] keeps what must survive. `ARCHITECTURE.md` follows one event
//! through the files.
//!
//! An embedder makes a [`Config`], adds [`Source`]s of its own, and calls [`Host::builder`]`…build()`.

mod admin;
mod ambient;
pub mod channel;
pub mod config;
pub mod controller;
pub mod event;
pub mod health;
pub mod host;
mod lane;
pub mod letters;
pub mod listener;
mod nodelay;
pub mod outcome;
pub mod pause;
mod planted;
pub mod plugin;
pub mod receipt;
pub mod reload;
pub mod shutdown;
#[cfg(test)]
mod simulator;
mod sink;
pub mod source;
pub mod store;
mod supervisor;
mod task;
pub mod telemetry;
pub mod tenant;
mod token;

pub use admin::client as control;
pub use config::Config;
pub use event::Event;
pub use host::{BootError, Host, HostBuilder};
pub use letters::{DeadLetters, HandledEvents};
pub use outcome::{Outcome, Response};
pub use pause::{Part, PauseError};
pub use receipt::Answer;
pub use shutdown::{Ledger, Stopped};
pub use source::{Source, SourceContext, SourceError};
