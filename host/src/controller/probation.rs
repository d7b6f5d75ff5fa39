//! After an end that nobody asked for: events that come directly from their source and may have been in flight then.
//!
//! Any of them may be what ended the host, and nothing was written down before its call. So for a while such events become tasks first: the
//! store knows from then on which of them run, and should the host end again those that ran are suspects, which run alone
//! ([`crate::store::Store::alone`]). What was in flight comes again first, and soon: a line (a partition, else the source) is past it after so
//! many events as can have been taken and not acknowledged, and a source after a minute, if it has brought more by then than can have been
//! inside the host. Owned by the controller's loop.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    channel::{Delivery, Intake},
    config::{Config, SourceKind},
    tenant::Tenant,
};

/// What was in flight has come again after this, if the source has brought enough since.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// It has come again after this, or does not come any more.
const LAST: Duration = Duration::from_secs(600);

/// Which events have to become tasks first.
#[derive(Debug)]
pub(crate) struct Probation {
    began: Instant,
    sources: HashMap<(Tenant, Arc<str>), Source>,
}

/// A source in probation.
#[derive(Debug)]
struct Source {
    /// How many of its events can have been inside the host.
    in_flight: u64,
    /// How many can have been taken and not acknowledged.
    unacknowledged: u64,
    brought: u64,
    /// How many of each line have come. A broker assigns no more lines than it has.
    lines: HashMap<Option<Arc<str>>, u64>,
}

impl Probation {
    /// Every source of which events may have been in flight; `own` are those of the embedder, with their credits.
    pub(crate) fn of<'a>(config: &Config, own: impl Iterator<Item = (&'a str, usize)>) -> Self {
        let of_config = config.sources.iter().map(|source| {
            let unacknowledged = match &source.kind {
                SourceKind::Kafka(kafka) => source.in_flight.saturating_add(kafka.commit_batch),
                _ => source.in_flight.saturating_mul(2),
            };
            ((source.tenant.clone(), Arc::from(source.name.as_str())), Source::new(source.in_flight, unacknowledged))
        });
        let own = own.map(|(name, credits)| ((Tenant::default(), Arc::from(name)), Source::new(credits, credits.saturating_mul(2))));
        Self { began: Instant::now(), sources: of_config.chain(own).collect() }
    }

    /// The last end was a stop: nothing was in flight.
    pub(crate) fn none() -> Self {
        Self { began: Instant::now(), sources: HashMap::new() }
    }

    /// There is nobody in probation.
    pub(crate) fn is_over(&self) -> bool {
        self.sources.is_empty()
    }

    /// Whether this event has to become a task first.
    pub(crate) fn takes(&mut self, delivery: &Delivery, now: Instant) -> bool {
        if self.is_over() {
            return false;
        }
        let Intake::Direct { place } = &delivery.intake else { return false };
        let since = now.saturating_duration_since(self.began);
        if since > LAST {
            self.sources.clear();
            return false;
        }
        let key = (delivery.origin.tenant.clone(), delivery.origin.source.clone());
        let Some(source) = self.sources.get_mut(&key) else { return false };
        if since > SOON && source.brought >= source.in_flight.saturating_mul(2) {
            self.sources.remove(&key);
            return false;
        }
        source.brought += 1;
        let come = source.lines.entry(place.as_ref().map(|place| place.line.clone())).or_default();
        *come += 1;
        *come <= source.unacknowledged
    }
}

impl Source {
    fn new(in_flight: usize, unacknowledged: usize) -> Self {
        Self { in_flight: in_flight as u64, unacknowledged: unacknowledged as u64, brought: 0, lines: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        channel::{Credits, InOrder, Origin},
        event::Event,
        receipt::Receipt,
    };

    fn delivery(line: Option<&str>) -> Delivery {
        let place = line.map(|line| InOrder { line: line.into(), at: 0 });
        Delivery {
            event: Arc::new(Event::new("t", "")),
            origin: Arc::new(Origin { tenant: Tenant::default(), source: "orders".into(), kind: "memory".into() }),
            key: None,
            receipt: Receipt::new().0,
            credit: Credits::new(1).try_acquire().unwrap(),
            intake: Intake::Direct { place },
        }
    }

    fn after_a_bad_end(credits: usize) -> (Probation, Instant) {
        let probation = Probation::of(&Config::default(), [("orders", credits)].into_iter());
        let began = probation.began;
        (probation, began)
    }

    fn taken(probation: &mut Probation, line: Option<&str>, of: usize, at: Instant) -> usize {
        (0..of).filter(|_| probation.takes(&delivery(line), at)).count()
    }

    #[test]
    fn a_line_is_past_it_after_as_many_as_can_have_been_taken_and_each_by_itself() {
        let (mut probation, began) = after_a_bad_end(4);
        assert_eq!(taken(&mut probation, Some("a/0"), 100, began), 8);
        assert_eq!(taken(&mut probation, Some("a/1"), 100, began), 8);
        assert_eq!(taken(&mut probation, None, 100, began), 8);
    }

    #[test]
    fn a_source_is_past_it_soon_if_it_brought_enough_and_at_last_whatever_it_brought() {
        let (mut probation, began) = after_a_bad_end(4);
        let (soon, last) = (began + SOON + Duration::from_secs(1), began + LAST + Duration::from_secs(1));
        assert_eq!(taken(&mut probation, Some("a/0"), 3, soon), 3, "a slow one");
        assert_eq!(taken(&mut probation, Some("a/1"), 100, soon), 5, "what has come by then is all that can have been inside");
        let (mut probation, _) = after_a_bad_end(4);
        assert_eq!(taken(&mut probation, None, 100, last), 0);
    }

    #[test]
    fn after_a_stop_nothing_was_in_flight() {
        assert!(!Probation::none().takes(&delivery(None), Instant::now()));
    }

    #[test]
    fn who_waits_for_the_answer_cannot_be_put_off() {
        let (mut probation, began) = after_a_bad_end(4);
        let delivery = Delivery { intake: Intake::Reply { hops: 0 }, ..delivery(None) };
        assert!(!probation.takes(&delivery, began));
    }
}
