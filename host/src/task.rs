//! Every background task of the host is started here, so that each has a name and none is anonymous.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

/// Run `future` beside everything else. `name` is what logs and a debugger show.
#[expect(clippy::disallowed_methods, reason = "the one place that may")]
pub(crate) fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future.instrument(tracing::trace_span!("task", name)))
}

/// What a panic said, as far as it can be told.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a text")
}
