//! A clock: cron with a time zone.
//!
//! A firing is a task in the store, keyed by its due time, and what the timer remembers (the last due time) is written with it: a crash
//! neither loses nor doubles one. Nothing fires early. The clock may jump: the timer never sleeps long without looking at it; after a
//! jump ahead (the machine was suspended) the firings in between are missed ones, after a jump back none fires a second time.
//!
//! When an hour does not exist or comes twice, see [`schedule`].

use std::{pin::Pin, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::clock::{Clock, SystemClock};
pub(crate) use self::schedule::Schedule;
use super::{AcceptRequest, Source, SourceContext, SourceError, backoff::Backoff};
use crate::{
    config::{Missed, Overlap, TIMER_BACKLOG as BACKLOG, TimerConfig},
    event::Event,
    store::{Accepted, StoreError},
};

mod clock;
mod schedule;
#[cfg(test)]
mod tests;

/// Under which name the last firing is in the store.
const STATE: &str = "last";
/// The longest the timer sleeps without looking at the clock.
const LONGEST_SLEEP: SignedDuration = SignedDuration::from_secs(30);
/// When the clock has moved on this far since it was last looked at, the host slept. The other way, it was set back.
const JUMP: SignedDuration = SignedDuration::from_secs(60);
/// How often a firing that has to wait for an earlier one looks again.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_millis(250);
/// The most missed firings that are made up for; of more, the latest.
const MOST_MISSED: usize = 1000;

/// A source that fires when a clock says so.
pub struct TimerSource {
    config: TimerConfig,
    clock: Arc<dyn Clock>,
}

impl TimerSource {
    /// A source that fires as `config` says, by the clock of the system.
    pub fn new(config: TimerConfig) -> Self {
        Self { config, clock: Arc::new(SystemClock) }
    }

    #[cfg(test)]
    fn with_clock(config: TimerConfig, clock: Arc<dyn Clock>) -> Self {
        Self { config, clock }
    }
}

impl Source for TimerSource {
    fn kind(&self) -> &str {
        "timer"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        Box::pin(async move {
            let schedule = Schedule::parse(&self.config.cron, &self.config.zone).map_err(SourceError::new)?;
            let stopping = ctx.stopping().clone();
            let timer = Timer { config: &self.config, clock: &*self.clock, schedule, ctx };
            // A firing is either accepted or it is not: the store finishes what it was handed.
            let _ = stopping.run_until_cancelled(timer.run()).await;
            Ok(())
        })
    }
}

struct Timer<'a> {
    config: &'a TimerConfig,
    clock: &'a dyn Clock,
    schedule: Schedule,
    ctx: SourceContext,
}

/// What the store remembers.
#[derive(Serialize, Deserialize)]
struct State {
    /// What was due until then is dealt with.
    last: String,
    /// By which schedule: a firing of another one was never missed.
    cron: String,
    zone: String,
}

/// What became of a firing.
enum Fired {
    /// It is dealt with: accepted, or skipped.
    Settled,
    /// Not yet: earlier ones have to be settled first.
    Waits,
}

/// Why a firing has to be tried again.
#[derive(Debug, thiserror::Error)]
enum TimerError {
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
    #[error("{BACKLOG} firings are not settled yet; the next one waits for its handlers")]
    Full,
}

impl Timer<'_> {
    async fn run(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut last = self.keep_trying(&mut backoff, || self.begin()).await;
        let mut seen = self.clock.now();
        loop {
            if self.ctx.is_paused() {
                self.ctx.resumed().await;
                // What came due meanwhile was missed.
                seen = self.clock.now();
                last = self.pass_missed(last, seen);
            }
            let now = self.clock.now();
            last = self.after_jump(last, seen, now);
            seen = now;
            let Some(due) = self.schedule.next(last) else {
                self.ctx.unready(format_args!("cron = {:?} never comes due in {}", self.config.cron, self.config.zone));
                return std::future::pending().await;
            };
            if due > now {
                self.clock.sleep_until(due.min(now + LONGEST_SLEEP)).await;
                continue;
            }
            match self.keep_trying(&mut backoff, || self.fire(due)).await {
                Fired::Settled => last = due,
                Fired::Waits => self.clock.sleep_until(self.clock.now() + LOOK_AGAIN).await,
            }
            // What came due while the store was waited for is late, not missed.
            seen = self.clock.now();
        }
    }

    /// Until when everything is dealt with, at the start.
    async fn begin(&self) -> Result<Timestamp, TimerError> {
        let now = self.clock.now();
        let stored = self.ctx.state(STATE).await?.into_iter().find(|(name, _)| name == STATE);
        let state = stored.and_then(|(_, bytes)| serde_json::from_slice::<State>(&bytes).ok());
        let same = state.filter(|state| state.cron == self.config.cron && state.zone == self.config.zone);
        match same.and_then(|state| state.last.parse().ok()) {
            Some(last) => Ok(self.pass_missed(last, now)),
            None => {
                self.ctx.set_state(vec![self.state(now)]).await?;
                Ok(now)
            }
        }
    }

    /// Until when everything is dealt with, when the clock may have jumped from `seen` to `now`.
    fn after_jump(&self, last: Timestamp, seen: Timestamp, now: Timestamp) -> Timestamp {
        if last > now + JUMP {
            // Without this a clock that once was far ahead would silence the timer until then. Keys see to it that nothing fires twice.
            tracing::warn!(source = %self.ctx.origin().source, %last, %now, "the clock went back");
            return now;
        }
        if now > seen + JUMP { self.pass_missed(last, now) } else { last }
    }

    /// Pass over those firings in (`last`, `now`] that are not to be made up for. Answers until when everything is dealt with.
    fn pass_missed(&self, last: Timestamp, now: Timestamp) -> Timestamp {
        let make_up = match self.config.missed {
            Missed::Skip => 0,
            Missed::Once => 1,
            Missed::All => MOST_MISSED,
        };
        let passed = self.schedule.pass(last, now, make_up);
        if let Some(first) = self.schedule.next(last).filter(|first| *first <= passed) {
            tracing::info!(source = %self.ctx.origin().source, missed = ?self.config.missed, %first, until = %passed, "missed firings are passed over");
        }
        passed
    }

    async fn fire(&self, due: Timestamp) -> Result<Fired, TimerError> {
        if self.config.overlap != Overlap::Allow && self.ctx.unsettled().await? > 0 {
            if self.config.overlap == Overlap::Queue {
                return Ok(Fired::Waits);
            }
            tracing::info!(source = %self.ctx.origin().source, %due, "an earlier firing is not settled: this one is skipped");
            self.ctx.set_state(vec![self.state(due)]).await?;
            return Ok(Fired::Settled);
        }
        match self.ctx.accept(self.request(due)).await? {
            Accepted::New { .. } => Ok(Fired::Settled),
            Accepted::Duplicate { .. } => {
                self.ctx.set_state(vec![self.state(due)]).await?;
                Ok(Fired::Settled)
            }
            Accepted::Full => Err(TimerError::Full),
        }
    }

    fn request(&self, due: Timestamp) -> AcceptRequest {
        let name = due.to_string();
        AcceptRequest {
            event: Event {
                id: name.clone(),
                ty: "koksmat.timer.due".into(),
                subject: Some(self.ctx.origin().source.to_string()),
                time: Some(name.clone()),
                datacontenttype: Some("application/json".into()),
                data: json!({ "due": name, "zone": self.config.zone }).to_string().into(),
                ..Event::default()
            },
            key: Some(name),
            backlog: Some(BACKLOG),
            state: vec![self.state(due)],
            ..AcceptRequest::default()
        }
    }

    fn state(&self, last: Timestamp) -> (String, Option<Vec<u8>>) {
        let state = State { last: last.to_string(), cron: self.config.cron.clone(), zone: self.config.zone.clone() };
        (STATE.into(), Some(json!(state).to_string().into_bytes()))
    }

    /// Until it works.
    async fn keep_trying<T, F>(&self, backoff: &mut Backoff, operation: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, TimerError>>,
    {
        loop {
            match operation().await {
                Ok(done) => {
                    backoff.reset();
                    self.ctx.ready();
                    return done;
                }
                Err(error) => {
                    self.ctx.unready(error);
                    let wait = SignedDuration::try_from(backoff.after_failure()).unwrap_or(LONGEST_SLEEP);
                    self.clock.sleep_until(self.clock.now() + wait).await;
                }
            }
        }
    }
}
