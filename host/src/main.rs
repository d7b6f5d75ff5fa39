//! The `koksmat` command: flags → command → exit code. Everything it does is in the library.

mod cli;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mimalloc::MiMalloc;

/// An event is made by one thread and dropped by another, which the system's allocator pays for with locks: with it a host that takes events
/// from Kafka is slower by up to a half, as its threads happen to share arenas.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    arguments.init_logs();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::Failure::start(format!("cannot start the runtime: {error}")).report(),
    };
    runtime.spawn(give_back_memory());
    let ended = runtime.block_on(arguments.run());
    // A boot that was stopped may still compile on a thread of its own, which nobody waits for.
    runtime.shutdown_background();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}

/// Have freed memory returned to the system. mimalloc does so when it is asked for more, a second after it was freed at the earliest: what a
/// compile had taken, tens of megabytes and more, would stay with a host that has little to do afterwards.
async fn give_back_memory() {
    let mut now_and_then = tokio::time::interval(Duration::from_secs(5));
    loop {
        now_and_then.tick().await;
        // SAFETY: it takes no pointer and may be called from any thread at any time; without force, it touches what is free and expired alone.
        unsafe { libmimalloc_sys::mi_collect(false) };
    }
}
