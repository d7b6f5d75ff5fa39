//! The `koksmat` command: flags → command → exit code. Everything it does is in the library.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
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
