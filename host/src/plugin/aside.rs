//! Calls that compute for long make room for those that do not.
//!
//! A worker of the runtime that is busy with a guest does nothing else until the next tick, and what stands in line behind the guest waits
//! too. So a call that has shown to be heavy moves to threads that have nothing else to do; between threads the kernel shares the
//! processors, and favours those that mostly wait.

use std::{
    pin::Pin,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// A call that has computed for longer than this is heavy. Less would count in calls that the kernel made wait.
const LIGHT: Duration = Duration::from_millis(8);

/// Where heavy calls run: as many threads as there are processors, started when the first such call is seen.
pub(crate) struct Aside(OnceLock<Option<Runtime>>);

impl Aside {
    pub(crate) fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Run a call to its end: here while it is light, then aside. `heavy` is what is remembered of its handler: how the last call was.
    ///
    /// Dropping the future ends the call, wherever it is.
    pub(crate) async fn run<T: Send + 'static>(&self, heavy: &AtomicBool, call: Pin<Box<impl Future<Output = T> + Send + 'static>>) -> T {
        let mut call = Timed { call, computed: Duration::ZERO };
        let ended = if heavy.load(Ordering::Relaxed) {
            None
        } else {
            let here = std::future::poll_fn(|cx| match Pin::new(&mut call).poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending if call.is_heavy() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            here.await
        };
        let (ended, was_heavy) = match ended {
            Some(ended) => ended,
            None => self.elsewhere(call).await,
        };
        heavy.store(was_heavy, Ordering::Relaxed);
        ended
    }

    async fn elsewhere<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> T {
        let Some(threads) = self.0.get_or_init(threads) else { return call.await };
        match AbortOnDropHandle::new(threads.spawn(call)).await {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Nobody but the drop of this future ends it, and the threads live as long as who can call.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// None when the system gives no more threads: then heavy calls run where the others do.
fn threads() -> Option<Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = Builder::new_multi_thread();
    // Between any two turns of guests, of which each takes a tick, they look at clocks, connections and who else wants to run.
    threads.worker_threads(processors).event_interval(1).global_queue_interval(1).thread_name("heavy calls").enable_all();
    let threads = threads.build();
    threads.inspect_err(|error| tracing::warn!(%error, "no threads for heavy calls: they may delay others")).ok()
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(threads) = self.0.take().flatten() {
            threads.shutdown_background();
        }
    }
}

/// A call, and how long it has computed. It ends with whether that was long.
struct Timed<F> {
    call: Pin<Box<F>>,
    computed: Duration,
}

impl<F> Timed<F> {
    fn is_heavy(&self) -> bool {
        self.computed > LIGHT
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = (F::Output, bool);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let began = Instant::now();
        let polled = self.call.as_mut().poll(cx);
        self.computed += began.elapsed();
        polled.map(|ended| (ended, self.is_heavy()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes for this long before and after a pause; the threads it did so on.
    async fn compute(long: Duration) -> [std::thread::ThreadId; 2] {
        let spin = || {
            let began = Instant::now();
            while began.elapsed() < long {}
            std::thread::current().id()
        };
        let before = spin();
        tokio::task::yield_now().await;
        [before, spin()]
    }

    #[tokio::test]
    async fn a_heavy_call_moves_and_the_next_one_of_its_handler_begins_aside() {
        let (aside, heavy, here) = (Aside::new(), AtomicBool::new(false), std::thread::current().id());
        let [before, after] = aside.run(&heavy, Box::pin(compute(2 * LIGHT))).await;
        assert!(before == here && after != here && heavy.load(Ordering::Relaxed));
        let [before, after] = aside.run(&heavy, Box::pin(compute(Duration::ZERO))).await;
        assert!(before != here && after != here, "its handler was heavy the last time");
    }

    #[tokio::test]
    async fn a_panic_and_a_drop_reach_a_call_that_moved() {
        let (aside, heavy) = (Aside::new(), AtomicBool::new(true));
        let dropped = tokio_util::sync::CancellationToken::new();
        let guard = dropped.clone().drop_guard();
        let call = aside.run(
            &heavy,
            Box::pin(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            }),
        );
        assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
        dropped.cancelled().await;
        let panics = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(
            aside.run(&heavy, Box::pin(async { panic!("by the test") })),
        ));
        assert!(panics.await.is_err());
    }
}
