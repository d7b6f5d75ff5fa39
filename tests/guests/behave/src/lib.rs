//! A component that does what the event says: `{"do": "trap"}`. The README lists what there is.

mod hostile;
mod step;

use koksmat_sdk::prelude::*;
use step::Step;

#[handler]
fn handle(event: Event, ctx: Context) -> Result<Response> {
    let step: Step = event.json()?;
    step::run(step, &event, &ctx)
}
