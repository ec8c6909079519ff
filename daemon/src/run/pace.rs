//! When the next round starts: soon after an event, so that others belong to the same round, and never
//! so often that a large cluster in which something always changes takes a whole processor, or that the
//! API server is written to more often than [`PER_WRITE`] allows.
//!
//! Time is an argument.

use std::time::{Duration, Instant};

/// Rounds that follow each other leave this many times of what the last one took to others.
const LEAVES: u32 = 4;

/// Longest pause that follows from this: what waits for a node does not wait longer for us.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Rounds that write leave so much time for each write: 200 writes a second at most.
const PER_WRITE: Duration = Duration::from_millis(5);

/// What a round took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// Of a processor.
    pub(super) processor: Duration,
    /// How often it wrote.
    pub(super) writes: u32,
}

/// When rounds start.
#[derive(Debug)]
pub(super) struct Pace {
    /// How long an event waits for others.
    delay: Duration,
    /// When the next round starts.
    next: Instant,
    /// When it may start at the earliest.
    rested: Instant,
}

impl Pace {
    /// The first round starts `interval` after `now`, or after an event.
    pub(super) fn new(delay: Duration, interval: Duration, now: Instant) -> Self {
        Self {
            delay,
            next: now + interval,
            rested: now,
        }
    }

    /// When the next round starts, as far as is known.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Something happened.
    pub(super) fn event(&mut self, now: Instant) {
        self.next = self.next.min(self.rested.max(now + self.delay));
    }

    /// A round is over; the next starts after `pause` if nothing happens.
    pub(super) fn over(&mut self, spent: Spent, pause: Duration, now: Instant) {
        let rest = (spent.processor * LEAVES).min(LONGEST_REST);
        self.rested = now + rest.max(PER_WRITE * spent.writes);
        self.next = self.rested.max(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn took(processor: Duration) -> Spent {
        Spent {
            processor,
            writes: 0,
        }
    }

    #[test]
    fn an_event_starts_a_round_after_the_delay_and_others_do_not_put_it_off() {
        let start = Instant::now();
        let mut pace = Pace::new(100 * MS, 5_000 * MS, start);
        assert_eq!(pace.next(), start + 5_000 * MS);
        pace.event(start + 7 * MS);
        pace.event(start + 90 * MS);
        assert_eq!(pace.next(), start + 107 * MS);
    }

    #[test]
    fn rounds_that_follow_each_other_leave_time_to_others_and_a_quiet_cluster_does_not_wait_for_it()
    {
        let start = Instant::now();
        let mut pace = Pace::new(100 * MS, 5_000 * MS, start);
        pace.over(took(150 * MS), 5_000 * MS, start);
        pace.event(start + 10 * MS);
        assert_eq!(pace.next(), start + 600 * MS);
        pace.over(took(150 * MS), 5_000 * MS, start);
        pace.event(start + 700 * MS);
        assert_eq!(pace.next(), start + 800 * MS);
    }

    #[test]
    fn no_round_is_put_off_for_longer_than_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(100 * MS, 5_000 * MS, start);
        pace.over(took(10_000 * MS), 100 * MS, start);
        pace.event(start);
        assert_eq!(pace.next(), start + LONGEST_REST);
    }

    #[test]
    fn rounds_do_not_write_more_than_two_hundred_times_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(100 * MS, 5_000 * MS, start);
        let spent = Spent {
            processor: MS,
            writes: 200,
        };
        pace.over(spent, 100 * MS, start);
        pace.event(start);
        assert_eq!(pace.next(), start + 1_000 * MS);
    }
}
