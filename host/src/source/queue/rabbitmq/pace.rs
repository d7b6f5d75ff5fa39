//! When the broker gets a consumer more, or another one: what becomes of the [`Window`] on a queue.
//!
//! A consumer's prefetch is fixed for its life, so a window opens by consumers that are added. Where only one consumer at a time gets
//! messages that does not help: there the first, with one message in hand, is replaced by one with all. That is done between two messages,
//! with none in our hands, so that the order holds even if it is another host's turn then.

use super::window::Window;

/// Messages that came back this often or more are taken one at a time from a queue with a single active consumer.
const SUSPECT: u64 = 5;
/// The first consumer got so many messages in a row and those that were added none: only one at a time gets any.
const ALONE_AFTER: u32 = 32;

/// What is to be done with the consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Add one with this prefetch.
    Add(u16),
    /// Have one with this prefetch in place of those there are. It is done before the message that was handled is acknowledged.
    Replace(u16),
}

/// The consumers of one connection.
#[derive(Debug)]
pub(super) struct Pace {
    limit: u16,
    window: Window,
    turns: Turns,
}

/// Whose turn it is when a message is delivered.
#[derive(Debug)]
enum Turns {
    /// Every consumer has its turn.
    Shared,
    /// Nobody said; so many in a row were the first one's.
    Unknown { first_in_a_row: u32 },
    /// Only one consumer at a time gets messages.
    Alone { open: bool },
}

impl Pace {
    pub(super) fn new(limit: u16, single_active_consumer: Option<bool>) -> Self {
        let turns = match single_active_consumer {
            Some(true) => Turns::Alone { open: false },
            Some(false) => Turns::Shared,
            None => Turns::Unknown { first_in_a_row: 0 },
        };
        Self { limit, window: Window::new(limit), turns }
    }

    /// A consumer, the first of this connection or one that was added, got a message that had come back so many times.
    pub(super) fn delivered(&mut self, first: bool, times_returned: u64) -> Option<Step> {
        match &mut self.turns {
            Turns::Alone { .. } => return None,
            Turns::Unknown { first_in_a_row } if first && self.window.open() > 1 => *first_in_a_row += 1,
            Turns::Unknown { .. } if !first => self.turns = Turns::Shared,
            Turns::Unknown { .. } | Turns::Shared => {}
        }
        self.window.delivered(times_returned).map(Step::Add)
    }

    /// A message that had come back so many times was handled.
    pub(super) fn handled(&mut self, times_returned: u64) -> Option<Step> {
        match &mut self.turns {
            Turns::Unknown { first_in_a_row } if *first_in_a_row >= ALONE_AFTER => self.turns = Turns::Alone { open: false },
            _ => {}
        }
        match &mut self.turns {
            Turns::Alone { open } if !*open && self.limit > 1 && times_returned < SUSPECT => {
                *open = true;
                Some(Step::Replace(self.limit))
            }
            Turns::Alone { .. } => None,
            Turns::Shared | Turns::Unknown { .. } => self.window.handled().map(Step::Add),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumers_are_added_where_each_has_its_turn() {
        let mut pace = Pace::new(8, Some(false));
        assert_eq!((pace.delivered(true, 2), pace.handled(2)), (None, Some(Step::Add(1))));
        assert_eq!(pace.delivered(true, 0), Some(Step::Add(6)));
        for _ in 0..100 {
            assert_eq!((pace.delivered(true, 0), pace.handled(0)), (None, None));
        }
    }

    #[test]
    fn one_with_all_takes_the_place_of_the_first_where_only_one_has_turns() {
        let mut pace = Pace::new(8, Some(true));
        // What came back often is taken one by one.
        assert_eq!((pace.delivered(true, SUSPECT), pace.handled(SUSPECT)), (None, None));
        assert_eq!((pace.delivered(true, 1), pace.handled(1)), (None, Some(Step::Replace(8))));
        assert_eq!((pace.delivered(true, 0), pace.handled(0)), (None, None));
    }

    #[test]
    fn where_nobody_said_it_is_seen() {
        let mut pace = Pace::new(8, None);
        assert_eq!(pace.delivered(true, 0), Some(Step::Add(7)));
        assert_eq!(pace.handled(0), None);
        let steps: Vec<_> = (0..40).filter_map(|_| pace.delivered(true, 0).or(pace.handled(0))).collect();
        assert_eq!(steps, [Step::Replace(8)]);

        let mut pace = Pace::new(8, None);
        assert_eq!((pace.delivered(true, 0), pace.delivered(false, 0)), (Some(Step::Add(7)), None));
        assert_eq!((0..100).find_map(|_| pace.delivered(true, 0).or(pace.handled(0))), None);
    }
}
