//! The `koksmat` command: flags → command → exit code. Everything it does is in the library.

mod cli;
mod memory;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    memory::return_from_time_to_time();
    let arguments = cli::Arguments::parse();
    arguments.init_logs();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::Failure::start(format!("cannot start the runtime: {error}")).report(),
    };
    let ended = runtime.block_on(arguments.run());
    // A boot that was stopped may still compile on a thread of its own, which nobody waits for.
    runtime.shutdown_background();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}
