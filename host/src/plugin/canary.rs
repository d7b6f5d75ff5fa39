//! A new version that takes a share of the events until it is known whether it is as good as the old one. No I/O, no clock of its own.
//!
//! Errors are compared by a sequential probability ratio test (A. Wald, "Sequential Tests of Statistical Hypotheses", Annals of Mathematical
//! Statistics 16, 1945): as good as the old one and the errors that are allowed on top, against twice as many on top again. It may be looked
//! at after every call, and decides as soon as there is reason enough: five calls that fail in a row are, one is not.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::config::CanaryConfig;

/// How probable it may be that a good version is rolled back, or a bad one promoted.
const DOUBT: f64 = 0.05;
/// A version is not slow by less than this, in microseconds: so much the machine does by itself.
const SLACK: u64 = 5_000;

/// What is to become of a new version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nobody knows yet.
    Wait,
    /// It is as good as the old one.
    Promote,
    /// It is worse, and how.
    RollBack(String),
}

/// Which version a call ran on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Old,
    New,
}

/// What is known of two versions that serve side by side.
#[derive(Debug)]
pub(crate) struct Comparison {
    config: CanaryConfig,
    scores: Mutex<Scores>,
}

#[derive(Debug, Default)]
struct Scores {
    old: Score,
    new: Score,
    verdict: Option<Verdict>,
}

/// What became of first attempts.
#[derive(Debug, Default)]
struct Score {
    calls: u64,
    errors: u64,
    took: Durations,
}

impl Comparison {
    pub(crate) fn new(config: CanaryConfig) -> Self {
        Self { config, scores: Mutex::default() }
    }

    /// Whether a call is one of the new version's: as long as nothing is decided, its share of the events or keys.
    pub(crate) fn takes(&self, key: &str) -> bool {
        share_of(key) < self.config.share && self.scores().verdict.is_none()
    }

    /// A call has ended, `since` the new version began to serve. A verdict other than [`Verdict::Wait`] is given once.
    pub(crate) fn ended(&self, side: Side, failed: bool, took: Duration, since: Duration) -> Verdict {
        let mut scores = self.scores();
        if scores.verdict.is_some() {
            return Verdict::Wait;
        }
        let score = match side {
            Side::Old => &mut scores.old,
            Side::New => &mut scores.new,
        };
        score.calls += 1;
        score.errors += u64::from(failed);
        score.took.add(took);
        let verdict = judge(&self.config, &scores.old, &scores.new, since);
        if verdict != Verdict::Wait {
            scores.verdict = Some(verdict.clone());
        }
        verdict
    }

    fn scores(&self) -> MutexGuard<'_, Scores> {
        self.scores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of calls")]
fn judge(config: &CanaryConfig, old: &Score, new: &Score, since: Duration) -> Verdict {
    let (calls, errors) = (new.calls as f64, new.errors as f64);
    // As if half a call more had failed: with few calls a rate of none is no certainty.
    let base = (old.errors as f64 + 0.5) / (old.calls as f64 + 1.0);
    let base = if old.calls == 0 { 0.0 } else { base };
    let good = (base + config.max_errors).clamp(0.001, 0.97);
    let bad = (good + 2.0 * config.max_errors.max(0.01)).min(0.99);
    let evidence = errors * (bad / good).ln() + (calls - errors) * ((1.0 - bad) / (1.0 - good)).ln();
    let enough = ((1.0 - DOUBT) / DOUBT).ln();
    if evidence >= enough {
        let percent = |errors: f64, calls: f64| 100.0 * errors / calls.max(1.0);
        return Verdict::RollBack(format!(
            "{errors} of its {calls} calls failed ({:.1} %), of the old version's {:.1} %",
            percent(errors, calls),
            percent(old.errors as f64, old.calls as f64)
        ));
    }
    if new.calls < config.min_calls || since < config.time {
        return Verdict::Wait;
    }
    if let (Some(before), Some(now)) = (old.took.most(), new.took.most())
        && now > before + SLACK
        && now as f64 > before as f64 * config.max_slowdown
    {
        return Verdict::RollBack(format!(
            "nine of ten of its calls took up to {} ms, of the old version's {} ms",
            now / 1_000,
            before / 1_000
        ));
    }
    if evidence <= -enough { Verdict::Promote } else { Verdict::Wait }
}

/// Where a key stands between 0 and 1: the same for every event of it, whatever the host.
fn share_of(key: &str) -> f64 {
    // FNV-1a, and a last mixing, for keys that differ in their last letters alone.
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    #[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
    let share = ((mixed ^ (mixed >> 33)) >> 11) as f64 / (1_u64 << 53) as f64;
    share
}

/// How long calls took, in steps of about a fifth.
#[derive(Debug, Clone)]
struct Durations {
    counts: [u32; Self::STEPS],
}

impl Default for Durations {
    fn default() -> Self {
        Self { counts: [0; Self::STEPS] }
    }
}

impl Durations {
    const STEPS: usize = 128;

    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "a bucket")]
    fn add(&mut self, took: Duration) {
        let step = ((took.as_micros().max(1) as f64).log2() * 4.0) as usize;
        self.counts[step.min(Self::STEPS - 1)] += 1;
    }

    /// What nine of ten did not exceed, in microseconds.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "a bucket")]
    fn most(&self) -> Option<u64> {
        let all: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        let mut seen = 0;
        let step = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            all > 0 && seen * 10 >= all * 9
        })?;
        Some(2_f64.powf((step + 1) as f64 / 4.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn config() -> CanaryConfig {
        CanaryConfig { share: 0.1, max_errors: 0.01, min_calls: 200, time: Duration::from_secs(120), ..CanaryConfig::default() }
    }

    fn calls_of_new(comparison: &Comparison) -> u64 {
        comparison.scores().new.calls
    }

    /// A run of calls with these error rates, ten a second; the verdict and how many calls of the new version it took.
    fn run(seed: u64, old: f64, new: f64) -> (Verdict, u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let comparison = Comparison::new(config());
        for n in 0..200_000_u64 {
            let is_new = comparison.takes(&format!("{seed}-{n}"));
            let (side, rate) = if is_new { (Side::New, new) } else { (Side::Old, old) };
            let took = Duration::from_micros(random.random_range(500..900));
            let verdict = comparison.ended(side, random.random_bool(rate), took, Duration::from_millis(n * 100));
            if verdict != Verdict::Wait {
                return (verdict, calls_of_new(&comparison));
            }
        }
        (Verdict::Wait, calls_of_new(&comparison))
    }

    #[test]
    fn five_points_more_are_rolled_back_within_500_calls_in_95_of_100_runs() {
        let soon =
            (0..100).map(|seed| run(seed, 0.01, 0.06)).filter(|(verdict, calls)| matches!(verdict, Verdict::RollBack(_)) && *calls <= 500);
        let count = soon.count();
        assert!(count >= 95, "{count}");
    }

    #[test]
    fn an_equal_version_is_promoted_in_95_of_100_runs() {
        let promoted = (0..100).map(|seed| run(1_000 + seed, 0.01, 0.01)).filter(|(verdict, _)| *verdict == Verdict::Promote).count();
        assert!(promoted >= 95, "{promoted}");
    }

    #[test]
    fn one_that_fails_always_is_rolled_back_at_once_and_nothing_goes_to_it_any_more() {
        let comparison = Comparison::new(CanaryConfig { share: 1.0, ..config() });
        let mut calls = 0;
        while comparison.takes("key") {
            calls += 1;
            comparison.ended(Side::New, true, Duration::from_millis(1), Duration::ZERO);
        }
        assert!((2..=6).contains(&calls), "{calls}");
    }

    #[test]
    fn one_that_is_much_slower_is_rolled_back_when_there_were_calls_enough() {
        let comparison = Comparison::new(config());
        let mut verdict = Verdict::Wait;
        for n in 0..400 {
            comparison.ended(Side::Old, false, Duration::from_millis(2), Duration::from_secs(n));
            verdict = comparison.ended(Side::New, false, Duration::from_millis(30), Duration::from_secs(n));
            if verdict != Verdict::Wait {
                break;
            }
        }
        assert!(matches!(&verdict, Verdict::RollBack(why) if why.contains("took up to")), "{verdict:?}");
    }

    #[test]
    fn a_share_of_the_keys_is_that_share_and_each_key_stays_where_it_is() {
        let comparison = Comparison::new(config());
        let new = (0..10_000).filter(|n| comparison.takes(&format!("key-{n}"))).count();
        assert!((850..1150).contains(&new), "{new}");
        assert_eq!(comparison.takes("key-7"), comparison.takes("key-7"));
    }
}
