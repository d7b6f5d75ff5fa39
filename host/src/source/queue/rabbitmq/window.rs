//! How many messages the broker may have put into our hands at once.
//!
//! A quorum queue counts how often it got a message back because its consumer went away, and gives up on it at a limit (20 by default from
//! RabbitMQ 4.0 on). It counts for every message that was in the consumer's hands, begun or not: a host that dies again and again with a
//! full prefetch would push healthy messages over the limit. So the window opens at once only when the broker says that nothing waits that
//! came back before; while something does, the window is never larger than the number of messages handled on this connection, and one more.
//!
//! Why that is enough: a message at place `p` of those that came back is in our hands only if the window is as large as `p` minus what
//! was handled, so at least half of those before it were handled. Each time it is counted, its place is half of what it was: some
//! `log2(limit)` times, and once for the first time it was in a full window. After that it is counted only when it is alone in our hands,
//! and then the host's end may well be its own doing.

/// The window of one connection.
#[derive(Debug)]
pub(super) struct Window {
    limit: u16,
    open: u16,
    handled: u64,
}

impl Window {
    /// A window that may have `limit` messages in the end. It begins with one.
    pub(super) fn new(limit: u16) -> Self {
        Self { limit, open: 1, handled: 0 }
    }

    /// How many messages may be in our hands.
    pub(super) fn open(&self) -> u16 {
        self.open
    }

    /// A message came that the broker got back so many times; by how much the window opens.
    pub(super) fn delivered(&mut self, times_returned: u64) -> Option<u16> {
        // What came back is delivered before what is new.
        (times_returned == 0).then(|| self.grow_to(self.limit)).flatten()
    }

    /// A message was handled; by how much the window opens.
    pub(super) fn handled(&mut self) -> Option<u16> {
        self.handled += 1;
        let twice = self.open.saturating_mul(2).min(self.limit);
        (u64::from(twice) <= self.handled + 1).then(|| self.grow_to(twice)).flatten()
    }

    fn grow_to(&mut self, size: u16) -> Option<u16> {
        let by = size - self.open;
        self.open = size;
        (by > 0).then_some(by)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn it_opens_at_once_when_nothing_came_back_and_step_by_step_otherwise() {
        let mut window = Window::new(256);
        assert_eq!((window.open(), window.delivered(0), window.open()), (1, Some(255), 256));
        assert_eq!((window.delivered(0), window.handled()), (None, None));

        let mut window = Window::new(6);
        let steps: Vec<_> = (0..8).map(|_| (window.delivered(1), window.handled())).collect();
        assert_eq!(steps.iter().filter_map(|(delivered, _)| *delivered).count(), 0);
        assert_eq!(steps.iter().map(|(_, handled)| handled.unwrap_or(0)).collect::<Vec<_>>(), [1, 0, 2, 0, 2, 0, 0, 0]);
        assert_eq!(window.open(), 6);
    }

    #[test]
    fn it_never_holds_more_than_was_handled_and_one_while_something_came_back() {
        let mut window = Window::new(2_000);
        for handled in 1..3_000 {
            window.handled();
            assert!(u64::from(window.open()) <= handled + 1);
        }
        assert_eq!(window.open(), 2_000);
    }

    /// A quorum queue as RabbitMQ has it: what comes back is counted and delivered before what is new.
    struct Queue {
        returned: VecDeque<(usize, u64)>,
        fresh: VecDeque<usize>,
    }

    impl Queue {
        fn take(&mut self) -> Option<(usize, u64)> {
            self.returned.pop_front().or_else(|| Some((self.fresh.pop_front()?, 0)))
        }
    }

    #[test]
    fn no_message_is_counted_often_however_a_host_dies_as_long_as_it_handles_something() {
        let mut random = StdRng::seed_from_u64(11);
        for at_the_end in [true, false] {
            let mut queue = Queue { returned: VecDeque::new(), fresh: (0..10_000).collect() };
            let mut most = 0;
            for life in 0..400 {
                let (mut window, mut hands) = (Window::new(256), VecDeque::new());
                // Few at first, so that every kill hits a window that has just opened; then any number.
                let handles = if life < 200 { random.random_range(1..4) } else { random.random_range(1..300) };
                let mut handled = 0;
                while handled < handles {
                    while hands.len() < usize::from(window.open()) {
                        let Some(message) = queue.take() else { break };
                        window.delivered(message.1);
                        hands.push_back(message);
                    }
                    if hands.pop_front().is_none() {
                        break;
                    }
                    window.handled();
                    handled += 1;
                }
                let back = hands.into_iter().map(|(message, count)| (message, count + 1));
                most = back.clone().map(|(_, count)| count).max().unwrap_or(0).max(most);
                if at_the_end {
                    queue.returned.extend(back);
                } else {
                    back.rev().for_each(|message| queue.returned.push_front(message));
                }
            }
            assert!(most <= 11, "a message came back {most} times, at the end of the line: {at_the_end}");
        }
    }
}
