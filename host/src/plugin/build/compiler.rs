//! Compiling leaves the processors to calls, and what is large keeps nobody waiting.

use std::thread::available_parallelism;

use rayon::ThreadPoolBuilder;
use wasmtime::Engine;

/// What is larger takes seconds, in bytes.
pub(super) const LARGE: usize = 2 << 20;

/// The machine code of a component. Blocks until it is there.
///
/// On threads of its own, which end with it: in the line of a pool a small component would wait for all functions of a large one before it, and
/// threads that stay keep what they had allocated, which is a lot.
pub(super) fn compile(engine: &Engine, component: &[u8]) -> wasmtime::Result<Vec<u8>> {
    let processors = available_parallelism().map_or(1, |n| n.get());
    // A small one is soon done, and leaves a processor to calls alone.
    let threads = if component.len() > LARGE { processors } else { (processors / 2).max(1) };
    let threads = ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("compile {n}")).start_handler(|_| give_way());
    match threads.build() {
        Ok(threads) => threads.install(|| engine.precompile_component(component)),
        Err(error) => {
            tracing::warn!(%error, "no threads for compiling: it is done with those there are");
            engine.precompile_component(component)
        }
    }
}

/// Run when nothing else wants to. A priority that is merely low would not do: whoever wakes up waits for the time slice of what runs, and only
/// what is idle by policy is put aside at once. Elsewhere than on Linux the system decides.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        let parameter = libc::sched_param { sched_priority: 0 };
        // SAFETY: `parameter` lives, and 0 is the calling thread. Where it is refused the thread runs as any other.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameter) };
    }
}
