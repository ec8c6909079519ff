//! How many connections to use, and how much to ask for at once, from what the link has given.
//!
//! [`Pace`] begins with all connections, because a cap per connection and a slow start are common
//! and a crowded link is not, and steps down while fewer bring as many bytes: each one left out
//! saves memory, and CPU where that is the limit. Now and then it tries more again.
//! It sees only totals at instants that its caller passes in. Deliberately absent: clocks, and any
//! idea of what a connection is.

use std::time::Duration;

/// How long one judgement looks at the link. Long against a round trip (1 to 100 ms), short
/// against a transfer (seconds).
const WINDOW: Duration = Duration::from_millis(200);

/// More connections stay when they bring at least this much more.
const WORTHWHILE: f64 = 1.08;

/// Fewer connections stay when they bring at least this share.
const AS_GOOD: f64 = 0.97;

/// How long a level that proved best is kept before its neighbours are tried again.
const HOLD: Duration = Duration::from_secs(8);

/// Smallest part asked for: below it the round trip of a request outweighs its bytes.
pub const MIN_PART: u64 = 1 << 20;

/// Largest part asked for: what one broken connection has still to fetch.
pub const MAX_PART: u64 = 64 << 20;

/// Decides the number of connections of one engine.
#[derive(Clone, Debug)]
pub struct Pace {
    max: usize,
    lanes: usize,
    phase: Phase,
    window_start: Duration,
    window_bytes: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    /// The last change has not reached the rate yet.
    Settle(Compared),
    /// This window judges the last change.
    Measure(Compared),
    /// Nothing to judge until then.
    Hold { until: Duration, next: Probe },
}

#[derive(Clone, Copy, Debug)]
enum Probe {
    More,
    Fewer,
}

/// What a change is judged against: nothing yet, or the level before it.
#[derive(Clone, Copy, Debug)]
struct Compared {
    before: Option<(usize, f64)>,
}

impl Pace {
    /// Starts with all of at most `max` connections.
    pub fn new(max: usize) -> Self {
        let max = max.max(1);
        Self {
            max,
            lanes: max,
            phase: Phase::Settle(Compared { before: None }),
            window_start: Duration::ZERO,
            window_bytes: 0,
        }
    }

    /// The number of connections to use now.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Looks at the link at `now`, by when `bytes` had arrived in total. A window in which some
    /// connection had nothing to do (`Load::Idle`) says nothing about the link and is dropped.
    pub fn observe(&mut self, now: Duration, bytes: u64, load: Load) -> usize {
        let span = now.saturating_sub(self.window_start);
        if load == Load::Idle {
            self.begin_window(now, bytes);
            return self.lanes;
        }
        if span < WINDOW {
            return self.lanes;
        }
        let rate = bytes.saturating_sub(self.window_bytes) as f64 / span.as_secs_f64();
        self.begin_window(now, bytes);
        self.judge(now, rate);
        self.lanes
    }

    fn begin_window(&mut self, now: Duration, bytes: u64) {
        self.window_start = now;
        self.window_bytes = bytes;
    }

    fn judge(&mut self, now: Duration, rate: f64) {
        match self.phase.clone() {
            Phase::Settle(compared) => self.phase = Phase::Measure(compared),
            Phase::Measure(Compared { before }) => match before {
                Some((lanes, old)) if lanes < self.lanes && rate < old * WORTHWHILE => {
                    self.lanes = lanes;
                    self.hold(now, Probe::Fewer);
                }
                Some((lanes, old)) if lanes > self.lanes && rate < old * AS_GOOD => {
                    self.lanes = lanes;
                    self.hold(now, Probe::More);
                }
                Some((lanes, _)) if lanes < self.lanes && self.lanes < self.max => {
                    self.change(self.lanes * 2, rate);
                }
                // One step down at a time: windows are noisy, and many small losses add up.
                _ => self.hold(now, Probe::Fewer),
            },
            Phase::Hold { until, .. } if now < until => {}
            Phase::Hold {
                next: Probe::More, ..
            } if self.lanes < self.max => self.change(self.lanes * 2, rate),
            Phase::Hold { .. } if self.lanes > 2 => self.change(self.lanes * 3 / 4, rate),
            Phase::Hold { .. } => self.hold(now, Probe::More),
        }
    }

    fn change(&mut self, lanes: usize, rate: f64) {
        let before = Some((self.lanes, rate));
        self.lanes = lanes.clamp(1, self.max);
        self.phase = Phase::Settle(Compared { before });
    }

    fn hold(&mut self, now: Duration, next: Probe) {
        let until = now + HOLD;
        self.phase = Phase::Hold { until, next };
    }
}

/// Whether every connection had work during a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// All were busy: the rate is the link's.
    Full,
    /// Some waited for work: the rate is the work's.
    Idle,
}

/// How many bytes one request should ask for: about two seconds of what a connection brings
/// (`lane_rate`, bytes per second, zero when unknown), but towards the end never so much that one
/// connection is left working alone: at most half of its share of the `remaining` bytes.
pub fn part_size(lane_rate: u64, remaining: u64, lanes: usize) -> u64 {
    let steady = match lane_rate {
        0 => 8 << 20,
        rate => (rate.saturating_mul(2)).clamp(4 << 20, MAX_PART),
    };
    let share = remaining / (2 * lanes.max(1) as u64);
    steady.min(share.max(MIN_PART)).max(MIN_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a pace against a link that gives `rate(lanes)` bytes per second, for `seconds`.
    fn run(max: usize, seconds: u64, rate: impl Fn(usize) -> f64) -> (usize, f64) {
        let mut pace = Pace::new(max);
        let (mut bytes, mut asked) = (0.0, 0.0);
        for tick in 1..=seconds * 20 {
            let now = Duration::from_millis(tick * 50);
            bytes += rate(pace.lanes()) * 0.05;
            asked += rate(max) * 0.05;
            pace.observe(now, bytes as u64, Load::Full);
        }
        (pace.lanes(), bytes / asked)
    }

    #[test]
    fn a_cap_per_connection_is_answered_with_every_connection_allowed() {
        let (lanes, efficiency) = run(16, 6, |lanes| lanes as f64 * 50e6);
        assert_eq!(lanes, 16);
        assert!(efficiency > 0.93, "{efficiency}");
    }

    #[test]
    fn a_link_that_few_connections_fill_is_not_crowded_by_many() {
        let (lanes, efficiency) = run(16, 60, |lanes| (lanes as f64 * 500e6).min(1e9));
        assert!(lanes <= 6, "{lanes}");
        assert!(efficiency > 0.98, "{efficiency}");
    }

    #[test]
    fn a_window_without_enough_work_changes_nothing() {
        let mut pace = Pace::new(16);
        for tick in 1..200 {
            pace.observe(Duration::from_millis(tick * 50), tick * 1000, Load::Idle);
        }
        assert_eq!(pace.lanes(), 16);
    }

    #[test]
    fn parts_follow_the_rate_and_shrink_towards_the_end() {
        assert_eq!(part_size(0, 10 << 30, 16), 8 << 20);
        assert_eq!(part_size(10 << 20, 10 << 30, 16), 20 << 20);
        assert_eq!(part_size(1 << 30, 10 << 30, 16), MAX_PART);
        assert_eq!(part_size(1 << 30, 64 << 20, 16), 2 << 20);
        assert_eq!(part_size(1 << 30, 1, 16), MIN_PART);
    }
}
