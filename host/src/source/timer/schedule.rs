//! When a cron expression comes due, also where the clock is put forward or back.
//!
//! A *fixed-time* job (second, minute and hour are plain numbers: `30 2 * * *`, also lists of them: `0 2,14 * * *`) fires once for each of its
//! times a day: at the first instant after the gap when the time does not exist that day, at the first of the two when it comes twice. Any
//! other job (`*`, `/`, `-` in one of the three) goes by real time: `*/15 * * * *` fires every fifteen minutes through both changes, and times
//! in the gap are no times.

use croner::Cron;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

#[cfg(test)]
mod tests;

/// A list of more times a day than this is treated like a `*/n`.
const MAX_FIXED_TIMES: usize = 288;

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    /// It comes due when any of these does: a list of fixed times is one for each of them, for it is by being fixed that each is known to
    /// fire once a day.
    alternatives: Vec<Cron>,
    zone: TimeZone,
}

/// Why there is no such schedule.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScheduleError {
    #[error("cron = {cron:?} is not understood: {reason}; write five or six fields, or @daily and the like")]
    Cron { cron: String, reason: String },
    #[error(
        "the time zone {zone:?} is not known here: {reason}; write an IANA name such as \"Europe/Oslo\", and see that the system has its time zones (tzdata)"
    )]
    Zone { zone: String, reason: String },
}

impl Schedule {
    /// The schedule of a cron expression in an IANA time zone.
    pub(crate) fn parse(cron: &str, zone: &str) -> Result<Self, ScheduleError> {
        let not_understood = |e: croner::errors::CronError| ScheduleError::Cron { cron: cron.to_owned(), reason: e.to_string() };
        // Before it is taken apart, so that the error speaks of what was written.
        let whole: Cron = cron.parse().map_err(not_understood)?;
        let alternatives = match fixed_times(cron) {
            Some(times) => times.iter().map(|time| time.parse()).collect::<Result<_, _>>().map_err(not_understood)?,
            None => vec![whole],
        };
        let zone = TimeZone::get(zone).map_err(|e| ScheduleError::Zone { zone: zone.to_owned(), reason: e.to_string() })?;
        Ok(Self { alternatives, zone })
    }

    /// The first due time behind `after`; `None`: there is none.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.to_zoned(self.zone.clone());
        self.alternatives.iter().filter_map(|cron| cron.find_next_occurrence(&after, false).ok()).map(|due| due.timestamp()).min()
    }

    /// Pass over the due times in (`last`, `now`] but for the latest `keep`: those and no others lie in (the answer, `now`].
    pub(crate) fn pass(&self, last: Timestamp, now: Timestamp, keep: usize) -> Timestamp {
        if keep == 0 {
            return now;
        }
        // Looked for from the end, in a span that grows until it holds enough: a year of seconds is not counted one by one.
        let mut span = SignedDuration::from_secs(60);
        loop {
            let from = now.checked_sub(span).unwrap_or(last).max(last);
            let dues = self.between(from, now, keep + 1);
            if let [dropped, ..] = dues[..]
                && dues.len() > keep
            {
                return dropped;
            }
            if from == last {
                return last;
            }
            span = span.saturating_mul(2);
        }
    }

    /// The latest `limit` due times in (`from`, `until`], oldest first.
    fn between(&self, from: Timestamp, until: Timestamp, limit: usize) -> Vec<Timestamp> {
        let dues = std::iter::successors(self.next(from), |due| self.next(*due)).take_while(|due| *due <= until);
        let mut latest = std::collections::VecDeque::with_capacity(limit);
        for due in dues {
            if latest.len() == limit {
                latest.pop_front();
            }
            latest.push_back(due);
        }
        latest.into()
    }
}

/// The single times a day of an expression whose second, minute and hour are lists of plain numbers; `None`: it is none such.
fn fixed_times(cron: &str) -> Option<Vec<String>> {
    let fields: Vec<&str> = cron.split_whitespace().collect();
    let (times, days) = fields.split_at_checked(fields.len().checked_sub(3)?)?;
    // Minute and hour, or second, minute and hour. (A seventh field is a year.)
    let (times, days) = if times.len() == 4 { fields.split_at(3) } else { (times, days) };
    let plain = |field: &&str| field.chars().all(|c| c.is_ascii_digit() || c == ',');
    if !matches!(times.len(), 2 | 3) || !times.iter().all(plain) {
        return None;
    }
    let mut expressions = vec![String::new()];
    for field in times {
        expressions = expressions.iter().flat_map(|before| field.split(',').map(move |number| format!("{before}{number} "))).collect();
        if expressions.len() > MAX_FIXED_TIMES {
            return None;
        }
    }
    Some(expressions.into_iter().map(|time| time + &days.join(" ")).collect())
}
