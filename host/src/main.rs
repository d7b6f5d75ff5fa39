//! The `koksmat` command: flags → command → exit code. Everything it does is in the library.
#![allow(clippy::print_stdout, reason = "a command answers on standard output")]

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Safe: nothing else runs yet. A pipe that was closed (`koksmat … | head`) ends the command and is no panic.
    let arguments = cli::Arguments::parse();
    koksmat::telemetry::init_logs();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::Failure::start(format!("cannot start the runtime: {error}")).report(),
    };
    match runtime.block_on(arguments.run()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}
