//! Compiling leaves the processors to calls, and what is large keeps nobody waiting.

use std::thread::available_parallelism;

use rayon::ThreadPoolBuilder;
use wasmtime::Engine;

/// What is larger takes seconds, in bytes.
pub(super) const LARGE: usize = 2 << 20;

/// How much compiling threads give way to others, in steps of `nice`.
const GIVE_WAY: i32 = 19;

/// The machine code of a component. Blocks until it is there.
///
/// On threads of its own, which end with it: in the line of a pool a small component would wait for all functions of a large one before it, and
/// threads that stay keep what they had allocated, which is a lot.
pub(super) fn compile(engine: &Engine, component: &[u8]) -> wasmtime::Result<Vec<u8>> {
    let threads = ThreadPoolBuilder::new()
        .num_threads(available_parallelism().map_or(1, |n| n.get()))
        .thread_name(|n| format!("compile {n}"))
        .start_handler(|_| give_way());
    match threads.build() {
        Ok(threads) => threads.install(|| engine.precompile_component(component)),
        Err(error) => {
            tracing::warn!(%error, "no threads for compiling: it is done with those there are");
            engine.precompile_component(component)
        }
    }
}

/// On Linux each thread has a priority of its own; elsewhere it would be the whole process's.
fn give_way() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(GIVE_WAY);
}
