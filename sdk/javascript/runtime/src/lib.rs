//! The generic JavaScript runtime of Koksmat: QuickJS as a component.
//!
//! `load` takes a handler's modules and runs their top level, `handle` calls what they export. In between the host may take a snapshot of
//! the instance: then every event begins with everything loaded.
//!
//! | file | what |
//! |---|---|
//! | `load.rs`, `modules.rs`, `imports.rs` | `load`: the engine, the handler's modules and their imports |
//! | `handle.rs`, `event.rs`, `answer.rs` | `handle`: one call, what goes in and what comes out |
//! | `stack.rs` | how deep things may nest |
//! | `phase.rs` | which of the two is running: the top level may not call the host |
//! | `errors.rs`, `hints.rs`, `inspect.rs` | what went wrong, and values, as text for people |
//! | `host.rs`, `host/` | the module "koksmat" and the globals that need the host |
//! | `prelude.rs`, `prelude/*.js` | the parts that are written in JavaScript |
//! | `values.rs` | between JavaScript's values and Rust's |

mod answer;
mod errors;
mod event;
mod handle;
mod hints;
mod host;
mod imports;
mod inspect;
mod load;
mod modules;
mod phase;
mod prelude;
mod stack;
mod values;

/// Generated from `wit/`.
#[allow(missing_docs, clippy::all)]
mod bindings {
    wit_bindgen::generate!({
        world: "koksmat:runtime/javascript",
        path: ["../../../wit", "wit"],
        generate_all,
    });
}

use bindings::exports::koksmat::plugin::handler;

struct Runtime;

impl bindings::Guest for Runtime {
    fn load(entry: String, modules: Vec<(String, String)>) -> Result<(), String> {
        load::load(&entry, modules)
    }
}

impl handler::Guest for Runtime {
    fn handle(event: handler::Event, ctx: handler::Context) -> Result<handler::Response, handler::Failure> {
        handle::handle(event, ctx)
    }
}

bindings::export!(Runtime with_types_in bindings);
