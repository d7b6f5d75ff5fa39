//! From where on rows are looked at, so that a large table of rows that are done costs no more than a small one.
//!
//! A look at the whole table passes by every row that has a mark. Most of what is new has higher keys than all before it, so in between only
//! rows behind the last one that was taken are looked at. What is new in front of it, or came back, waits for the next look at all: those are
//! made so seldom that they take a tenth of the time, and as often as anybody asks where they cost nothing.

use std::time::{Duration, Instant};

use super::Value;

/// How long after a look at all rows there is none, as a multiple of what it took.
const REST: u32 = 9;
/// But no longer than this: a look that took long may have waited for a lock.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// How long none is made while each look finds as much as it may take: then whatever is new in front has its turn.
const WHILE_THERE_IS_MORE: Duration = Duration::from_secs(1);

/// What the next look is at.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Look {
    /// All rows.
    Whole,
    /// Rows with higher keys.
    Behind(Value),
    /// None: a look at all rows took long, and there is nothing to be behind of.
    Rest,
}

/// The looks that were made.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// The last row that was taken while everything in front of it had been looked at.
    behind: Option<Value>,
    /// When the last look at all rows ended, and how long it took.
    whole: Option<(Instant, Duration)>,
    /// The last look found as much as it could take.
    is_more: bool,
    /// The last look was not at all rows.
    passed_by: bool,
}

impl Looks {
    pub(super) fn next(&self, now: Instant) -> Look {
        match &self.behind {
            _ if self.whole_is_due(now) => Look::Whole,
            Some(behind) => Look::Behind(behind.clone()),
            None => Look::Rest,
        }
    }

    /// The last look passed by rows in front, and did not find as much as it could take.
    pub(super) fn passed_by(&self) -> bool {
        self.passed_by && !self.is_more
    }

    /// It is time for a look at all rows.
    pub(super) fn whole_is_due(&self, now: Instant) -> bool {
        let Some((ended, took)) = self.whole else { return true };
        let rest = (took * REST).min(LONGEST_REST);
        now >= ended + if self.is_more { rest.max(WHILE_THERE_IS_MORE) } else { rest }
    }

    /// A look ended; it took rows up to `last`, and `is_more`: as many as it could.
    pub(super) fn looked(&mut self, look: &Look, began: Instant, now: Instant, last: Option<&Value>, is_more: bool) {
        self.passed_by = *look != Look::Whole;
        self.is_more = is_more;
        match look {
            Look::Whole => {
                self.whole = Some((now, now - began));
                // A look that took little of what is far behind stays where it was: the last row it took may be one that came back.
                if is_more || self.behind.is_none() {
                    self.behind = last.cloned();
                }
            }
            Look::Behind(_) => self.behind = last.cloned().or_else(|| self.behind.take()),
            Look::Rest => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A table, and the moment in which the last look ended.
    struct Table(Looks, Instant);

    impl Table {
        fn new() -> Self {
            Self(Looks::default(), Instant::now())
        }

        fn after(&self, rest: u64) -> Look {
            self.0.next(self.1 + ms(rest))
        }

        /// A look that begins so much later and takes so long. It takes rows up to `last`.
        fn look(&mut self, later: u64, takes: u64, last: Option<i64>, is_more: bool) -> Look {
            let began = self.1 + ms(later);
            let look = self.0.next(began);
            self.1 = began + ms(takes);
            self.0.looked(&look, began, self.1, last.map(Value::Integer).as_ref(), is_more);
            look
        }
    }

    fn behind(key: i64) -> Look {
        Look::Behind(Value::Integer(key))
    }

    #[test]
    fn looks_at_all_rows_take_a_tenth_of_the_time() {
        let mut table = Table::new();
        assert_eq!(table.look(0, 100, Some(7), false), Look::Whole);
        assert_eq!(table.after(899), behind(7));
        assert_eq!(table.after(900), Look::Whole);
        assert_eq!(table.look(10, 0, Some(9), false), behind(7));
        assert_eq!(table.look(10, 0, None, false), behind(9));
        assert_eq!(table.after(0), behind(9));
        assert_eq!(table.after(880), Look::Whole);
    }

    #[test]
    fn what_costs_nothing_is_looked_at_each_time() {
        let mut table = Table::new();
        table.look(0, 0, Some(7), false);
        assert_eq!(table.after(0), Look::Whole);
    }

    #[test]
    fn while_there_is_more_looks_go_on_where_the_last_one_ended_for_a_second() {
        let mut table = Table::new();
        table.look(0, 1, Some(100), true);
        assert_eq!(table.look(0, 1, Some(200), true), behind(100));
        assert_eq!(table.after(998), behind(200));
        assert_eq!(table.after(999), Look::Whole);
        assert!(!table.0.passed_by());
        table.look(0, 1, Some(250), false);
        assert!(table.0.passed_by() && table.0.whole_is_due(table.1 + ms(7)), "what is in front has its turn");
        table.look(7, 1, None, false);
        assert!(!table.0.passed_by());
    }

    #[test]
    fn a_row_that_came_back_does_not_move_the_place_back() {
        let mut table = Table::new();
        table.look(0, 100, Some(1_000), false);
        assert_eq!(table.look(900, 100, Some(3), false), Look::Whole);
        assert_eq!(table.after(1), behind(1_000));
    }

    #[test]
    fn where_nothing_was_taken_yet_there_is_a_rest() {
        let mut table = Table::new();
        table.look(0, 100, None, false);
        assert_eq!(table.look(899, 0, None, false), Look::Rest);
        assert_eq!(table.after(1), Look::Whole);
    }

    #[test]
    fn a_look_that_waited_for_a_lock_is_not_paid_for_with_minutes() {
        let mut table = Table::new();
        table.look(0, 60_000, Some(1), false);
        assert_eq!(table.after(5_000), Look::Whole);
    }
}
