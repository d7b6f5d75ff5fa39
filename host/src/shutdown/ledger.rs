//! What was received and what became of each: `received = done + dead + parked + returned`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use crate::{channel::Origin, telemetry::SourceMetrics};

/// What became of a delivery; of an event with several calls, the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tally {
    Done,
    Dead,
    Parked,
    Returned,
}

/// The counts of one source, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Deliveries that came in; a claim of a task is one.
    pub received: u64,
    /// Handled.
    pub done: u64,
    /// Dead letters.
    pub dead: u64,
    /// Waiting in the store for their next attempt.
    pub parked: u64,
    /// Gone back to where they came from.
    pub returned: u64,
}

impl Counts {
    /// Whether everything received is accounted for.
    pub fn balanced(&self) -> bool {
        self.received == self.done + self.dead + self.parked + self.returned
    }

    fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.done += other.done;
        self.dead += other.dead;
        self.parked += other.parked;
        self.returned += other.returned;
    }
}

/// What was received since the start and what became of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Of all sources.
    #[serde(flatten)]
    pub total: Counts,
    /// Whether it balances, for every source.
    pub balanced: bool,
    /// By source; tenants other than `default` as `tenant/source`.
    pub sources: BTreeMap<String, Counts>,
    /// Started calls that a stop had to cut.
    #[serde(skip)]
    pub cut: u64,
}

/// Where it is counted while the host runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledgers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    sources: BTreeMap<String, Line>,
    cut: u64,
}

/// One source's line, and its metrics at hand: nothing is looked up or allocated on the way of an event.
#[derive(Debug)]
struct Line {
    counts: Counts,
    metrics: SourceMetrics,
}

impl Ledgers {
    fn count(&self, origin: &Origin, count: impl FnOnce(&mut Line)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if origin.tenant.as_str() == crate::tenant::Tenant::DEFAULT
            && let Some(line) = state.sources.get_mut(&*origin.source)
        {
            return count(line);
        }
        let new = || Line { counts: Counts::default(), metrics: SourceMetrics::of(origin) };
        count(state.sources.entry(name_of(origin)).or_insert_with(new));
    }

    /// A delivery came in.
    pub(crate) fn received(&self, origin: &Origin) {
        self.count(origin, |line| {
            line.counts.received += 1;
            line.metrics.received();
        });
    }

    /// A delivery is settled.
    pub(crate) fn ended(&self, origin: &Origin, tally: Tally) {
        self.count(origin, |line| {
            let counts = &mut line.counts;
            match tally {
                Tally::Done => counts.done += 1,
                Tally::Dead => counts.dead += 1,
                Tally::Parked => counts.parked += 1,
                Tally::Returned => counts.returned += 1,
            }
            line.metrics.ended(tally);
        });
    }

    /// An accepted event that no handler wants: it never becomes a task.
    pub(crate) fn unrouted(&self, origin: &Origin) {
        self.received(origin);
        self.ended(origin, Tally::Dead);
    }

    /// A started call was cut.
    pub(crate) fn cut(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).cut += 1;
    }

    /// The counts so far.
    pub(crate) fn ledger(&self) -> Ledger {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sources: BTreeMap<String, Counts> = state.sources.iter().map(|(name, line)| (name.clone(), line.counts)).collect();
        let mut total = Counts::default();
        sources.values().for_each(|counts| total.add(counts));
        Ledger { total, balanced: sources.values().all(Counts::balanced), sources, cut: state.cut }
    }
}

fn name_of(origin: &Origin) -> String {
    if origin.tenant.as_str() == crate::tenant::Tenant::DEFAULT {
        origin.source.to_string()
    } else {
        format!("{}/{}", origin.tenant, origin.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_balances_only_when_everything_is_accounted_for() {
        let ledgers = Ledgers::default();
        let origin = Origin { tenant: Default::default(), source: "orders".into(), kind: "memory".into() };
        ledgers.received(&origin);
        assert!(!ledgers.ledger().balanced);
        ledgers.ended(&origin, Tally::Parked);
        let ledger = ledgers.ledger();
        assert!(ledger.balanced);
        let json = serde_json::to_string(&ledger).unwrap();
        assert_eq!(
            json,
            r#"{"received":1,"done":0,"dead":0,"parked":1,"returned":0,"balanced":true,"sources":{"orders":{"received":1,"done":0,"dead":0,"parked":1,"returned":0}}}"#
        );
    }
}
