//! Compiling leaves the processors to calls, and what is large keeps nobody waiting.

use std::thread::available_parallelism;

use rayon::ThreadPoolBuilder;
use wasmtime::Engine;

/// What is larger takes seconds, in bytes.
pub(super) const LARGE: usize = 2 << 20;

/// How much compiling what is large gives way to others, in steps of `nice`.
#[cfg(target_os = "linux")]
const LARGE_GIVES_WAY: libc::c_int = 10;

/// The machine code of a component. Blocks until it is there. `others_serve`: there are calls to give way to.
///
/// On threads of its own, which end with it: in the line of a pool a small component would wait for all functions of a large one before it, and
/// threads that stay keep what they had allocated, which is a lot.
pub(super) fn compile(engine: &Engine, component: &[u8], others_serve: bool) -> wasmtime::Result<Vec<u8>> {
    let is_large = component.len() > LARGE;
    let processors = available_parallelism().map_or(1, |n| n.get());
    // A small one is soon done, and leaves processors to calls alone.
    let threads = if is_large || !others_serve { processors } else { (processors / 2).max(1) };
    let threads = ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("compile {n}")).start_handler(move |_| {
        if is_large || others_serve {
            give_way(is_large);
        }
    });
    match threads.build() {
        Ok(threads) => threads.install(|| engine.precompile_component(component)),
        Err(error) => {
            tracing::warn!(%error, "no threads for compiling: it is done with those there are");
            engine.precompile_component(component)
        }
    }
}

/// What is small runs when nothing else wants to. A priority that is merely low would not do: whoever wakes up waits for the time slice of what
/// runs, and only what is idle by policy is put aside at once. What is large would never come to its end like that on a machine that is busy.
///
/// Elsewhere than on Linux, where threads have no priorities of their own, the system decides.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "there is no such thing"))]
fn give_way(is_large: bool) {
    #[cfg(target_os = "linux")]
    {
        let parameter = libc::sched_param { sched_priority: 0 };
        // SAFETY: `parameter` lives; both mean the calling thread alone. Where it is refused the thread runs as any other.
        unsafe {
            if is_large {
                libc::nice(LARGE_GIVES_WAY);
            } else {
                libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameter);
            }
        }
    }
}
