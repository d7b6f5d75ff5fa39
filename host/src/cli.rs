//! The commands, one file each.

mod backup;
mod build;
mod check;
mod crash_test;
mod dead_letters;
mod dev;
mod new;
mod pause;
mod plugins;
mod queues;
mod reload;
mod replay;
mod run;
mod schema;
mod send;
mod status;
mod target;
mod test;
mod trial;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Runs events from queues, databases and webhooks through sandboxed WebAssembly components.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the host until SIGTERM or SIGINT, then drain and print the ledger
    Run(Place),
    /// Run the host for whoever writes its handlers: what is saved serves, what is wrong is shown where it is
    Dev(dev::Dev),
    /// Check the configuration and build and load every handler; serves and binds nothing
    Check(Place),
    /// Build and compile every handler into the cache, so that `run` starts at once
    Build(Place),
    /// Send an event to a queue of a running host
    Send(send::Send),
    /// Make a handler from a template
    New(new::New),
    /// Show what a running host does: sources, queues, the lane, what failed
    Status(status::Status),
    /// Show what waits in the store, from which source and for which handler
    Queues(queues::Queues),
    /// Have a source take nothing new, or a handler start no more calls
    Pause(pause::Pause),
    /// Have what is paused go on
    Resume(pause::Pause),
    /// Have the configuration and the code that are there now serve
    Reload(reload::Reload),
    /// Show which versions of the handlers serve and served
    Plugins(plugins::Plugins),
    /// Have an earlier version of a handler serve, until its files say something else
    Rollback(plugins::Rollback),
    /// Have the new version of a handler serve that has a share of its calls
    Promote(plugins::Promote),
    /// Copy the store to a file, beside a running host
    Backup(backup::Backup),
    /// Put such a copy in the place of the store; no host runs
    Restore(backup::Restore),
    /// Look at, replay or purge dead letters
    DeadLetters(dead_letters::DeadLetters),
    /// Run a configuration under load while its host is killed, stopped and cut from its databases
    CrashTest(crash_test::CrashTest),
    /// Have events handled again that were handled before
    Replay(replay::Replay),
    /// Run a handler on an event that failed, with its host calls answered from the recording
    Test(test::Test),
    /// Print the JSON Schema of koksmat.toml
    Schema,
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
}

/// Why a command did not do what it was asked, and the exit code that says so.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// It did not start, or what it talks to failed.
    pub(crate) fn start(text: impl ToString) -> Self {
        Self { code: 1, text: text.to_string() }
    }

    /// Wrong usage or configuration.
    pub(crate) fn usage(text: impl ToString) -> Self {
        Self { code: 2, text: text.to_string() }
    }

    /// Say it on standard error.
    #[expect(clippy::print_stderr, reason = "a command's errors go to standard error")]
    pub(crate) fn report(self) -> ExitCode {
        eprintln!("{}", self.text);
        ExitCode::from(self.code)
    }
}

impl From<koksmat::config::Problems> for Failure {
    fn from(problems: koksmat::config::Problems) -> Self {
        Self::usage(problems)
    }
}

impl Arguments {
    /// Set up the log as the command has it.
    pub(crate) fn init_logs(&self) {
        match &self.command {
            Command::Dev(dev) => koksmat::telemetry::init_dev_logs(dev.folder()),
            _ => koksmat::telemetry::init_logs(),
        }
    }

    pub(crate) async fn run(self) -> Result<u8, Failure> {
        match self.command {
            Command::Run(place) => run::run(&place.path).await,
            Command::Dev(dev) => dev.run().await,
            Command::Check(place) => check::check(&place.path).await,
            Command::Build(place) => build::build(&place.path).await,
            Command::Send(send) => send.run().await,
            Command::New(new) => new.run(),
            Command::Status(status) => status.run().await,
            Command::Queues(queues) => queues.run().await,
            Command::Pause(pause) => pause.pause().await,
            Command::Resume(pause) => pause.resume().await,
            Command::Reload(reload) => reload.run().await,
            Command::Plugins(plugins) => plugins.run().await,
            Command::Rollback(rollback) => rollback.run().await,
            Command::Promote(promote) => promote.run().await,
            Command::Backup(backup) => backup.run().await,
            Command::Restore(restore) => restore.run().await,
            Command::DeadLetters(dead_letters) => dead_letters.run().await,
            Command::CrashTest(crash_test) => crash_test.run().await,
            Command::Replay(replay) => replay.run().await,
            Command::Test(test) => test.run().await,
            Command::Schema => schema::print(),
        }
    }
}

/// Answer on standard output. A reader that went away (`koksmat … | head`) has had what it wanted.
fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write;

    let _ = writeln!(std::io::stdout(), "{line}");
}

/// How long something took or is ago, in the two largest units.
fn age(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match (hours, minutes, seconds) {
        (0, 0, 0) => format!("{ms} ms"),
        (0, 0, _) => format!("{seconds} s"),
        (0, ..) => format!("{minutes} m {} s", seconds % 60),
        (..24, ..) => format!("{hours} h {} m", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// Problems that do not keep the host from running.
fn warn(config: &koksmat::Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}
