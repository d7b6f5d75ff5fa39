//! The host as a process, and what is done to it.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use koksmat::control::{Client, Request};
use rand::{Rng, rngs::StdRng};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::Instant,
};

use super::{cuts::Cuts, plan::Plan, progress};

/// How long a host may take to be ready: it may have to build its handlers.
const BOOT: Duration = Duration::from_secs(600);
/// How often it is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(50);
/// What a stop may take besides its deadline: what it reserves for its sources, and the rest.
const BESIDES: Duration = Duration::from_secs(10);

/// When it is enough.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    /// So much time has passed since the host was ready first.
    Passed(Duration),
    /// There were so many faults.
    Faults(u32),
}

impl std::fmt::Display for Until {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passed(time) => write!(f, "for {time:?}"),
            Self::Faults(faults) => write!(f, "until {faults} faults"),
        }
    }
}

/// What was done.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct Done {
    pub(super) kills: u32,
    pub(super) stops: u32,
    pub(super) cuts: u32,
}

impl Done {
    fn all(self) -> u32 {
        self.kills + self.stops + self.cuts
    }
}

/// How the stops went.
#[derive(Debug, Default, Clone, Serialize)]
pub(super) struct Stops {
    pub(super) balanced: u32,
    /// What was wrong with others.
    pub(super) wrong: Vec<String>,
}

/// Whoever harms the host.
pub(super) struct Faults<'a> {
    plan: &'a Plan,
    cuts: &'a Cuts,
    random: StdRng,
    pub(super) done: Done,
    pub(super) stops: Stops,
}

impl<'a> Faults<'a> {
    pub(super) fn new(plan: &'a Plan, cuts: &'a Cuts, random: StdRng) -> Self {
        Self { plan, cuts, random, done: Done::default(), stops: Stops::default() }
    }

    /// Harm the host until it is enough. The host that runs then.
    pub(super) async fn rage(&mut self, until: Until) -> Result<HostProcess, String> {
        let mut host = HostProcess::start(self.plan, self.cuts).await?;
        let began = Instant::now();
        loop {
            let mut wait = Duration::from_millis(self.random.random_range(100..3_000));
            match until {
                Until::Passed(time) if began.elapsed() >= time => return Ok(host),
                Until::Passed(time) => wait = wait.min(time.saturating_sub(began.elapsed())),
                Until::Faults(faults) if self.done.all() >= faults => return Ok(host),
                Until::Faults(_) => {}
            }
            tokio::time::sleep(wait).await;
            if let Some(status) = host.has_ended() {
                return Err(format!("the host ended by itself: {status}"));
            }
            match self.random.random_range(0..if self.cuts.are_there() { 4 } else { 3 }) {
                0 | 1 => {
                    host.kill().await;
                    self.done.kills += 1;
                }
                2 => {
                    let stopped = host.stop(self.plan.drain_deadline).await;
                    self.judge(&stopped);
                    self.done.stops += 1;
                }
                _ => {
                    self.cuts.cut();
                    tokio::time::sleep(Duration::from_millis(self.random.random_range(100..5_000))).await;
                    self.cuts.mend();
                    self.done.cuts += 1;
                    continue;
                }
            }
            progress(format_args!("{} kills, {} stops, {} cuts", self.done.kills, self.done.stops, self.done.cuts));
            host = HostProcess::start(self.plan, self.cuts).await?;
        }
    }

    /// The last stop, with nothing left to do: it has to end well.
    pub(super) async fn end(&mut self, host: HostProcess) -> Result<u32, String> {
        let stopped = host.stop(self.plan.drain_deadline).await;
        self.judge(&stopped);
        Ok(self.done.stops + 1)
    }

    fn judge(&mut self, stopped: &Result<(ExitStatus, String), String>) {
        match stopped {
            Ok((status, ledger)) => {
                let balanced = serde_json::from_str::<Value>(ledger).is_ok_and(|line| line["ledger"]["balanced"] == true);
                // A call that a deadline had to cut is no mistake of the host.
                let good = matches!(status.code(), Some(0 | 3));
                if balanced && good {
                    self.stops.balanced += 1;
                } else {
                    self.stops.wrong.push(format!("{status}: {}", ledger.trim()));
                }
            }
            Err(why) => self.stops.wrong.push(why.clone()),
        }
    }
}

/// A host that runs.
pub(super) struct HostProcess {
    child: Child,
    client: Client,
}

impl HostProcess {
    /// Start a host and wait until it is ready.
    async fn start(plan: &Plan, cuts: &Cuts) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let log = std::fs::File::options().create(true).append(true).open(&plan.log);
        let log = log.map_err(|error| format!("cannot write {}: {error}", plan.log.display()))?;
        let mut child = Command::new(own)
            .arg("run")
            .arg(&plan.file)
            .envs(cuts.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A Ctrl-C is for the test, which ends what it started.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start the host: {error}"))?;
        let client = Client::of(&plan.store).map_err(|error| error.to_string())?;
        let until = Instant::now() + BOOT;
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("the host did not start: {status}"));
            }
            if matches!(client.send(Request::get("/api/status")).await, Ok(status) if status["health"]["ready"] == true) {
                return Ok(Self { child, client });
            }
            if Instant::now() >= until {
                return Err(format!("the host was not ready within {BOOT:?}"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    async fn kill(mut self) {
        // It may have ended at this very moment.
        let _ = self.child.kill().await;
    }

    /// SIGTERM. How it ended, and what it wrote to standard output.
    async fn stop(self, deadline: Option<Duration>) -> Result<(ExitStatus, String), String> {
        let Some(pid) = self.child.id() else { return Err("the host had ended before its stop".into()) };
        let signal = Command::new("kill").arg("-TERM").arg(pid.to_string()).status().await;
        signal.map_err(|error| format!("cannot send a signal: {error}"))?;
        let ended = self.child.wait_with_output();
        let ended = match deadline {
            Some(deadline) => tokio::time::timeout(deadline + BESIDES, ended).await,
            None => Ok(ended.await),
        };
        match ended {
            Ok(Ok(output)) => Ok((output.status, String::from_utf8_lossy(&output.stdout).into_owned())),
            Ok(Err(error)) => Err(format!("cannot wait for the host: {error}")),
            Err(_) => Err("a stop outlasted its deadline".into()),
        }
    }

    /// Wait until the observers have nothing left to do, at most so long. How many events still wait then; of those that a broker holds it is
    /// not known how many they are, and they count as one.
    pub(super) async fn settle(&self, plan: &Plan, long: Duration) -> u64 {
        let until = Instant::now() + long;
        let mut before = false;
        loop {
            // What a broker holds, first: when it is taken it is inside the host, and then it may wait in the store.
            let held = plan.brokers_hold_something().await;
            let status = self.client.send(Request::get("/api/status")).await.unwrap_or_default();
            let waiting: Option<u64> =
                status["queues"].as_array().map(|queues| queues.iter().filter(|queue| is_ours(queue)).map(count).sum());
            let inside = plan.feeds_brokers() && status["ledger"]["balanced"] != true;
            let settled = waiting == Some(0) && !held && !inside;
            // Seen twice: between two questions of the first time something may have gone on.
            if settled && (before || !plan.feeds_brokers()) {
                return 0;
            }
            before = settled;
            if Instant::now() >= until {
                return waiting.map_or(u64::MAX, |waiting| waiting.saturating_add(held.into()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn is_ours(queue: &Value) -> bool {
    queue["handler"].as_str().is_some_and(|handler| handler.starts_with(super::plan::PREFIX))
}

fn count(queue: &Value) -> u64 {
    ["ready", "later", "running"].iter().filter_map(|state| queue[state].as_u64()).sum()
}
