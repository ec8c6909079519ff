//! Token buckets: how often an API may be called. Pure; time is an argument.

use std::time::{Duration, Instant};

/// A bucket that holds up to `size` tokens and regains `rate` of them per second.
#[derive(Clone, Debug)]
pub struct Bucket {
    size: f64,
    rate: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(size: u32, rate: f64, now: Instant) -> Self {
        let size = f64::from(size.max(1));
        Self {
            size,
            rate: rate.max(0.001),
            tokens: size,
            at: now,
        }
    }

    /// Takes a token, and says how long to wait until it counts: tokens may be owed, so that callers
    /// are served in the order they came.
    pub fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.size) - 1.0;
        Duration::from_secs_f64((-self.tokens / self.rate).max(0.0))
    }

    /// The cloud says that it was too often: nothing is left.
    pub fn drain(&mut self, now: Instant) {
        self.at = self.at.max(now);
        self.tokens = self.tokens.min(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_calls_come_at_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, 2.0, start);
        let waits: Vec<_> = (0..5).map(|_| bucket.take(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 500, 1000]);
        let later = start + Duration::from_secs(1);
        assert_eq!(bucket.take(later).as_millis(), 500);
        let much_later = start + Duration::from_secs(1000);
        let waits: Vec<_> = (0..4)
            .map(|_| bucket.take(much_later).as_millis())
            .collect();
        assert_eq!(waits, [0, 0, 0, 500]);
    }

    #[test]
    fn a_drained_bucket_waits_even_for_the_first() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, 2.0, start);
        bucket.drain(start);
        assert_eq!(bucket.take(start).as_millis(), 500);
    }
}
