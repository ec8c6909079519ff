//! When what is planned is bought: once no more pods come and it is known what they need, and not much
//! later.
//!
//! - Pods of one deploy come one by one. Bought for as they come, each gets a node of its own where one
//!   larger node would cost less.
//! - A machine finds its intent where it starts, before it can ask anybody. What is not in it then is
//!   fetched only once there is an API server to ask, minutes later; the answers of registries and of
//!   the Hub take less than a second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headstart_core::pod::ObjectKey;

/// Pods that are to be bought for, and since when that is planned.
#[derive(Debug)]
pub(super) struct Batch {
    /// How long no pod must have come.
    idle: Duration,
    /// Longest wait.
    most: Duration,
    seen: BTreeMap<ObjectKey, Instant>,
}

impl Batch {
    pub(super) fn new(idle: Duration, most: Duration) -> Self {
        let seen = BTreeMap::new();
        Self { idle, most, seen }
    }

    /// Whether to wait with the purchases that are planned for `pods`; `is_asked` says whether what one
    /// of them needs is about to be known.
    pub(super) fn waits<'p>(
        &mut self,
        pods: impl Iterator<Item = &'p ObjectKey>,
        is_asked: impl Fn(&ObjectKey) -> bool,
        now: Instant,
    ) -> bool {
        let mut asked = false;
        let mut seen = BTreeMap::new();
        for pod in pods {
            let since = self.seen.get(pod).copied();
            seen.insert(pod.clone(), since.unwrap_or(now));
            asked |= is_asked(pod);
        }
        self.seen = seen;
        let (first, last) = (self.seen.values().min(), self.seen.values().max());
        let (Some(first), Some(last)) = (first, last) else {
            return false;
        };
        now - *first < self.most && (asked || now - *last < self.idle)
    }

    /// Whether purchases are waited with.
    pub(super) fn is_open(&self) -> bool {
        !self.seen.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_millis(500);
    const MOST: Duration = Duration::from_secs(3);

    fn pods(count: usize) -> Vec<ObjectKey> {
        let named = |number| ObjectKey::new("default", format!("pod-{number}"));
        (0..count).map(named).collect()
    }

    #[test]
    fn pods_that_come_one_by_one_are_bought_for_together() {
        let (mut batch, start) = (Batch::new(IDLE, MOST), Instant::now());
        let pods = pods(3);
        for count in 1..=3 {
            let now = start + Duration::from_millis(400) * u32::try_from(count).unwrap();
            assert!(batch.waits(pods[..count].iter(), |_| false, now));
        }
        let last = start + Duration::from_millis(1200);
        assert!(batch.waits(pods.iter(), |_| false, last + IDLE / 2));
        assert!(!batch.waits(pods.iter(), |_| false, last + IDLE));
        assert!(batch.is_open());
        assert!(!batch.waits([].iter(), |_| false, last + IDLE));
        assert!(!batch.is_open());
    }

    #[test]
    fn a_pod_whose_image_is_being_asked_for_waits_for_the_answer_but_not_for_ever() {
        let (mut batch, start) = (Batch::new(IDLE, MOST), Instant::now());
        let pods = pods(2);
        assert!(batch.waits(pods.iter(), |_| false, start));
        let asked = |pod: &ObjectKey| *pod == pods[1];
        assert!(batch.waits(pods.iter(), asked, start + IDLE * 2));
        assert!(!batch.waits(pods.iter(), |_| false, start + IDLE * 2));
        assert!(!batch.waits(pods.iter(), asked, start + MOST));
    }

    #[test]
    fn pods_that_never_stop_coming_are_bought_for_all_the_same() {
        let (mut batch, start) = (Batch::new(IDLE, MOST), Instant::now());
        let pods = pods(40);
        let waited = (1..40).take_while(|count| {
            let now = start + Duration::from_millis(100) * u32::try_from(*count).unwrap();
            batch.waits(pods[..*count].iter(), |_| false, now)
        });
        assert_eq!(waited.count(), 30);
    }
}
