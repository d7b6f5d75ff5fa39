//! The threads that compile: they leave the processors to calls, and what is large keeps nobody waiting.

use std::{sync::OnceLock, thread::available_parallelism};

use rayon::{ThreadPool, ThreadPoolBuilder};
use wasmtime::Engine;

/// What is larger is compiled on threads of its own, in bytes: Python's runtime takes ten seconds, and whoever is behind it in the line of a
/// thread pool waits for all of it.
pub(super) const LARGE: usize = 2 << 20;

/// How much compiling threads give way to others, in steps of `nice`.
const GIVE_WAY: i32 = 5;

/// The machine code of a component. Blocks until it is there.
pub(super) fn compile(engine: &Engine, component: &[u8]) -> wasmtime::Result<Vec<u8>> {
    static SMALL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    static BIG: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let (pool, name) = if component.len() > LARGE { (&BIG, "compile large") } else { (&SMALL, "compile") };
    match pool.get_or_init(|| threads(name)) {
        Some(pool) => pool.install(|| engine.precompile_component(component)),
        // Without threads of its own it takes those there are.
        None => engine.precompile_component(component),
    }
}

fn threads(name: &'static str) -> Option<ThreadPool> {
    let threads = ThreadPoolBuilder::new()
        .num_threads(available_parallelism().map_or(1, |n| n.get()))
        .thread_name(move |n| format!("{name} {n}"))
        .start_handler(|_| give_way());
    threads.build().inspect_err(|error| tracing::warn!(%error, "no threads for compiling")).ok()
}

/// On Linux each thread has a priority of its own; elsewhere it would be the whole process's.
fn give_way() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(GIVE_WAY);
}
