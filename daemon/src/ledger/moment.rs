//! Moments, as objects carry them.
//!
//! Kubernetes writes most times in whole seconds, rounded down; Headstart's own objects carry
//! microseconds. A moment does not know which it was: what follows from it is said where it is used.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How much later than it says a moment in whole seconds may have been.
pub(crate) const GRAIN: Duration = Duration::from_secs(1);

/// Microseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment(pub(crate) i64);

impl Moment {
    /// The moment of a timestamp, rounded down to a microsecond.
    pub(crate) fn of(time: Timestamp) -> Self {
        Self(time.as_microsecond())
    }

    /// The moment an object says.
    pub(crate) fn at(time: &Time) -> Self {
        Self(time.0.as_microsecond())
    }

    /// Now, by this machine's clock.
    pub(crate) fn now() -> Self {
        Self::of(Timestamp::now())
    }

    /// How long after `earlier`; nothing if it is not.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Later by `span`.
    pub(crate) fn plus(self, span: Duration) -> Self {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// Earlier by `span`.
    pub(crate) fn minus(self, span: Duration) -> Self {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// As milliseconds since 1970, for programs.
    pub(crate) fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

/// How much of the span from `start` to `end` lies between `from` and `to`.
pub(crate) fn overlap(start: Moment, end: Moment, from: Moment, to: Moment) -> Duration {
    end.min(to).since(start.max(from))
}
