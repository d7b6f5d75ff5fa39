//! `koksmat crash-test`: a configuration under load while its host is killed, stopped and cut from its databases.
//!
//! ```text
//! plan (what is fed, the changed configuration) → load + faults, side by side → calm → verdict
//! ```
//!
//! A handler of the test's own, the *observer*, subscribes to every source that is fed, beside the handlers that are there. What it counts in
//! key-value must be one for each event; what it tells the test by HTTP shows how often calls were repeated.

mod cuts;
mod faults;
mod feed;
mod observer;
mod plan;
mod verdict;

use std::{path::PathBuf, time::Duration};

use jiff::{Span, SpanRelativeTo};
use koksmat::shutdown::signals::Signals;
use rand::{SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use self::{cuts::Cuts, faults::Until, feed::Feed, observer::Observer, plan::Plan, verdict::Verdict};
use super::{Failure, say};

/// The exit code when a promise was not kept.
const NOT_KEPT: u8 = 5;
/// How long what was accepted may take to be handled once nothing goes wrong any more.
const CALM: Duration = Duration::from_secs(120);

/// Run a configuration under load while its host is killed, stopped and cut from its databases, and tell what was lost or done twice.
///
/// The handlers run for real, and so does what they call: give it a configuration that names test systems. Embedded queues and webhooks are
/// fed, and of Kafka and RabbitMQ topics and queues of the test's own, beside those that the configuration names; an embedded store is a fresh
/// one, a store in PostgreSQL is the one that the configuration names.
#[derive(Debug, clap::Args)]
pub(crate) struct CrashTest {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// How long it is under load: `60s`, `10m`
    #[arg(long, default_value = "60s", value_parser = duration)]
    r#for: Duration,
    /// Until there were so many kills, stops and cuts, instead of for a time
    #[arg(long, conflicts_with = "for")]
    faults: Option<u32>,
    /// Repeat the choices of an earlier test; by default by chance
    #[arg(long)]
    seed: Option<u64>,
    /// Events a second for each source that is fed
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// The CloudEvents type of what is fed to queues
    #[arg(long, short = 't')]
    r#type: Option<String>,
    /// The data of every event: text, or `@FILE`
    #[arg(long, short, default_value = "{}")]
    data: String,
    /// The verdict as one JSON document
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let span = text.parse::<Span>().map_err(|_| "a duration with its unit, such as `60s` or `10m`".to_owned())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|error| error.to_string())?;
    Duration::try_from(duration).map_err(|_| "a duration is not negative".to_owned())
}

impl CrashTest {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let mut signals = Signals::arm().map_err(|error| Failure::start(format!("cannot arm the signals: {error}")))?;
        tokio::select! {
            biased;
            // What was begun is dropped: the host is killed, the changed configuration is gone.
            signal = signals.next() => Err(Failure::start(format!(
                "{signal}: ended before there was a verdict; topics and queues of brokers that were made for it are left, their names begin with {}",
                plan::PREFIX
            ))),
            ended = self.carry_out() => ended,
        }
    }

    async fn carry_out(self) -> Result<u8, Failure> {
        let seed = self.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
        let data = match self.data.strip_prefix('@') {
            Some(file) => std::fs::read(file).map_err(|error| Failure::usage(format!("cannot read {file}: {error}")))?,
            None => self.data.clone().into_bytes(),
        };
        let observer = Observer::start().await.map_err(Failure::start)?;
        let plan = Plan::of(&self.path, seed, observer.address()).await?;
        let code = self.carry_out_plan(&plan, seed, &data, &observer).await;
        plan.remove_stand_ins().await.iter().for_each(|left| progress(format_args!("{left}")));
        code
    }

    async fn carry_out_plan(&self, plan: &Plan, seed: u64, data: &[u8], observer: &Observer) -> Result<u8, Failure> {
        let cuts = Cuts::start(&plan.references).await.map_err(Failure::start)?;
        let until = self.faults.map_or(Until::Passed(self.r#for), Until::Faults);
        progress(format_args!("seed {seed}: {} {until}; log: {}", plan.fed_names(), plan.log.display()));

        let enough = CancellationToken::new();
        let feed = Feed::start(plan, self.rate, self.r#type.as_deref(), data, &enough);
        let mut faults = faults::Faults::new(plan, &cuts, StdRng::seed_from_u64(seed));
        let host = faults.rage(until).await;
        enough.cancel();
        let fed = feed.stop().await;
        let host = match host {
            Ok(host) => host,
            Err(error) => return Err(plan.failed(error)),
        };
        progress(format_args!("calm: {} events were accepted, waiting until they are handled", fed.len()));
        let waiting = host.settle(plan, CALM).await;
        let ended = faults.end(host).await.map_err(|error| plan.failed(error))?;
        let verdict = Verdict::of(plan, seed, &fed, observer, &faults, waiting, ended).await.map_err(|error| plan.failed(error))?;

        if self.json {
            say(format_args!("{}", serde_json::to_string(&verdict).unwrap_or_default()));
        } else {
            say(format_args!("{}", verdict.text().trim_end()));
        }
        if verdict.kept {
            return Ok(0);
        }
        progress(format_args!("the store and the log are kept in {}", plan.keep().display()));
        Ok(NOT_KEPT)
    }
}

/// Tell how it goes, beside what is asked for.
#[expect(clippy::print_stderr, reason = "a command's progress goes to standard error")]
fn progress(line: std::fmt::Arguments<'_>) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert!(duration("90").is_err() && duration("-1s").is_err());
    }
}
