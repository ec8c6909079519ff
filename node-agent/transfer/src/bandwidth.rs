//! One bandwidth limit for everything an engine fetches.

use std::sync::Mutex;
use std::time::Duration;

use headstart_core::quantity::Rate;
use tokio::time::Instant;

/// Bytes that may be taken at once after a pause: a tenth of a second of the rate.
const BURST: f64 = 0.1;

/// A token bucket that may be overdrawn by one piece: whoever takes pays by waiting afterwards,
/// so pieces are never split.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    bucket: Option<Mutex<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Bandwidth {
    pub(crate) fn new(limit: Option<Rate>) -> Self {
        let bucket = limit.map(|rate| {
            let per_second = (rate.0 as f64).max(1.0);
            Mutex::new(Bucket {
                per_second,
                tokens: per_second * BURST,
                at: Instant::now(),
            })
        });
        Self { bucket }
    }

    /// Takes `bytes` and waits until the rate allows them.
    pub(crate) async fn take(&self, bytes: usize) {
        let Some(bucket) = &self.bucket else { return };
        let debt = {
            let mut bucket = bucket.lock().unwrap_or_else(|e| e.into_inner());
            let now = Instant::now();
            let earned = (now - bucket.at).as_secs_f64() * bucket.per_second;
            bucket.tokens = (bucket.tokens + earned).min(bucket.per_second * BURST);
            bucket.at = now;
            bucket.tokens -= bytes as f64;
            -bucket.tokens / bucket.per_second
        };
        if debt > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(debt)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_takers_together_get_the_rate_and_no_more() {
        let bandwidth = Bandwidth::new(Some(Rate(1_000_000)));
        let start = Instant::now();
        let takers = (0..10).map(|_| async {
            for _ in 0..100 {
                bandwidth.take(10_000).await;
            }
        });
        futures_util::future::join_all(takers).await;
        let seconds = start.elapsed().as_secs_f64();
        assert!((9.8..10.1).contains(&seconds), "{seconds}");
    }
}
