//! Keeps a source running: one that returns or panics before the host stops is started again with back-off, counted and shown.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;

use crate::{
    source::{Source, SourceContext},
    task::panic_text,
    telemetry,
};

const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);

/// Run `source` until the host stops.
pub(crate) async fn supervise(source: Arc<dyn Source>, ctx: SourceContext) {
    let mut wait = SHORTEST;
    loop {
        let started = tokio::time::Instant::now();
        let ended = AssertUnwindSafe(source.run(ctx.clone())).catch_unwind().await;
        if ctx.stopping.is_cancelled() {
            return;
        }
        let why = match ended {
            Ok(Ok(())) => "it returned before the host stopped".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("it panicked: {}", panic_text(&*panic)),
        };
        ctx.unready(&why);
        ctx.health.source_restarted(&ctx.origin);
        metrics::counter!(telemetry::SOURCE_RESTARTS, "tenant" => ctx.origin.tenant.to_string(), "source" => ctx.origin.source.clone())
            .increment(1);
        if started.elapsed() > LONGEST {
            wait = SHORTEST;
        }
        tokio::select! {
            () = ctx.stopping.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LONGEST);
    }
}
