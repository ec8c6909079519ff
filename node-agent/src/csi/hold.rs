//! How long a call may wait for weights, and what is said when it ends without them.
//!
//! The kubelet cancels a call after two minutes, and waits twice as long after each failed one
//! (0.5 s, 1 s, … 2 min). So few long calls: each is held as long as is safe, and only a pod's first
//! ends early, once, to say in its Events how long it will be.
//!
//! Time is an argument: nothing here looks at a clock.

use std::time::Duration;

use headstart_core::quantity::Bytes;

/// How long the kubelet is kept waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldRules {
    /// Longest time for one call; the kubelet cancels at 120 s.
    pub most: Duration,
    /// When the first call for a volume says how long it will be, if that is more than it could
    /// wait for.
    pub first: Duration,
    /// How long after a volume was first asked for it is mounted with what is there.
    pub deadline: Duration,
}

impl Default for HoldRules {
    /// 110 s, 10 s, ten minutes.
    fn default() -> Self {
        Self {
            most: Duration::from_secs(110),
            first: Duration::from_secs(10),
            deadline: Duration::from_secs(600),
        }
    }
}

/// Whether a call has told of its volume's progress before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Before,
    NotYet,
}

/// What a call that lacks weights does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Waits on.
    Wait,
    /// Ends, to be made again.
    Tell,
    /// Mounts what there is.
    Mount,
}

impl HoldRules {
    /// What a call does that began `held` ago, for a volume first asked for `asked` ago, when the
    /// weights are expected after `left`.
    pub(super) fn next(
        &self,
        held: Duration,
        asked: Duration,
        left: Option<Duration>,
        told: Told,
    ) -> Next {
        if asked >= self.deadline {
            return Next::Mount;
        }
        let rest = self.most.saturating_sub(held);
        // The call after this one would find the deadline passed: better to stay for it.
        let ends = asked + rest >= self.deadline;
        let is_long = left.is_none_or(|left| left > rest);
        match told {
            _ if rest.is_zero() => Next::Tell,
            Told::NotYet if held >= self.first && is_long && !ends => Next::Tell,
            _ => Next::Wait,
        }
    }
}

/// How far one model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) done: u64,
    pub(super) total: u64,
    /// Bytes that were there when this call began.
    pub(super) before: u64,
}

impl Pace {
    /// When the rest will be there, if it goes on as in this call of `held`; nothing if no byte came.
    pub(super) fn left(&self, held: Duration) -> Option<Duration> {
        let came = self.done.saturating_sub(self.before);
        let missing = self.total.saturating_sub(self.done);
        if missing == 0 {
            return Some(Duration::ZERO);
        }
        let seconds = held.as_secs_f64() * missing as f64 / came as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// `42 % of 16.4 GB, about 31 s left`.
    pub(super) fn sentence(&self, held: Duration) -> String {
        let percent = match self.total {
            0 => 0,
            total => u128::from(self.done) * 100 / u128::from(total),
        };
        let left = match self.left(held) {
            Some(left) if self.done < self.total => format!("about {} left", spoken(left)),
            Some(_) => "being verified".to_owned(),
            None => "no byte arrived lately".to_owned(),
        };
        format!("{percent} % of {}, {left}", Bytes(self.total))
    }
}

fn spoken(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{} s", seconds.max(1)),
        seconds @ 120..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn next(held: u64, asked: u64, left: Option<u64>, told: Told) -> Next {
        let left = left.map(seconds);
        HoldRules::default().next(seconds(held), seconds(asked), left, told)
    }

    #[test]
    fn a_call_is_held_as_long_as_is_safe_and_the_first_tells_early_of_a_long_wait() {
        use Next::{Mount, Tell, Wait};
        use Told::{Before, NotYet};
        for (held, asked, left, told, expected) in [
            (0, 0, None, NotYet, Wait),
            (10, 10, Some(300), NotYet, Tell),
            (10, 10, None, NotYet, Tell),
            // It will be there before the call must end.
            (10, 10, Some(90), NotYet, Wait),
            (10, 21, Some(300), Before, Wait),
            (110, 121, Some(300), Before, Tell),
            (110, 110, Some(1), NotYet, Tell),
            // No call ends just before the deadline.
            (10, 530, Some(300), NotYet, Wait),
            (70, 600, Some(1), Before, Mount),
        ] {
            let found = next(held, asked, left, told);
            assert_eq!(found, expected, "{held} {asked} {left:?} {told:?}");
        }
    }

    #[test]
    fn progress_is_a_share_a_size_and_a_time() {
        let pace = |done, total, before| Pace {
            done,
            total,
            before,
        };
        for (pace, held, said) in [
            (
                pace(6_888_000_000, 16_400_000_000, 3_858_000_000),
                10,
                "42 % of 16.4 GB, about 31 s left",
            ),
            (
                pace(0, 16_400_000_000, 0),
                10,
                "0 % of 16.4 GB, no byte arrived lately",
            ),
            (
                pace(1_000_000, 1_000_000, 0),
                10,
                "100 % of 1.00 MB, being verified",
            ),
            (
                pace(1_000_000, 400_000_000, 0),
                1,
                "0 % of 400 MB, about 7 min left",
            ),
            (pace(0, 0, 0), 0, "0 % of 0 B, being verified"),
        ] {
            assert_eq!(pace.sentence(seconds(held)), said);
        }
        let forever = pace(1, u64::MAX, 0).sentence(seconds(3600));
        assert!(forever.starts_with("0 % of"), "{forever}");
    }
}
