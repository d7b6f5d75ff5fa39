//! Whether the modules' top level is running or an event is being handled.
//!
//! The top level runs before the snapshot is taken, so what it asked the host for would be frozen into every later call. It may not ask.

use std::cell::Cell;

use rquickjs::{Ctx, Error};

use crate::errors::{Kind, throw};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Loading,
    Handling,
}

thread_local! {
    static PHASE: Cell<Phase> = const { Cell::new(Phase::Loading) };
}

pub fn current() -> Phase {
    PHASE.get()
}

pub fn set(phase: Phase) {
    PHASE.set(phase);
}

/// To be asked by everything that calls the host. `what` is its name as the user knows it.
pub fn require_handling(ctx: &Ctx<'_>, what: &str) -> Result<(), Error> {
    match current() {
        Phase::Handling => Ok(()),
        Phase::Loading => {
            let message = format!("`{what}` was called at the module's top level: host calls are only possible inside handle");
            Err(throw(ctx, Kind::Error, &message))
        }
    }
}
