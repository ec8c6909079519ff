//! What changes when this machine is about to be taken away.
//!
//! Its last minutes belong to its pods: what no pod waits for is stopped and not begun again, which
//! leaves the network to who saves something. What has arrived is kept as ever, since a disk may
//! outlive its machine. What a pod waits for goes on, and begins if it can be there in time.

use headstart_api::{Interruption, InterruptionKind};
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

use super::Agent;

impl Agent {
    /// What the cloud announces now; nothing takes an earlier notice back.
    pub(crate) fn notice(&self, notice: Option<Interruption>) {
        let ends = notice
            .as_ref()
            .and_then(|notice| ends(notice, Timestamp::now()).map(|left| Instant::now() + left));
        self.inner.heard().notice = notice;
        self.inner.queue().ends(ends);
        self.inner.tell();
    }
}

/// How long the machine is left; none where it may stay.
fn ends(notice: &Interruption, now: Timestamp) -> Option<Duration> {
    match notice.kind {
        // Risks may come to nothing, and maintenance is most of an hour away.
        InterruptionKind::AtRisk | InterruptionKind::Maintenance => None,
        // What has no time any more is happening.
        InterruptionKind::Taken => Some(notice.at.as_ref().map_or(Duration::ZERO, |at| {
            Duration::try_from(at.0.duration_since(now)).unwrap_or_default()
        })),
    }
}

#[cfg(test)]
mod tests {
    use headstart_api::NoticeSource;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn only_a_machine_that_is_taken_away_ends_and_one_without_a_time_ends_now() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let notice = |kind, when: Option<i64>| Interruption {
            kind,
            source: NoticeSource::Aws,
            noticed: None,
            at: when.map(|second| Time(at(second))),
        };
        let left = |kind, when| ends(&notice(kind, when), at(100));
        assert_eq!(
            left(InterruptionKind::Taken, Some(220)),
            Some(Duration::from_secs(120))
        );
        assert_eq!(left(InterruptionKind::Taken, Some(7)), Some(Duration::ZERO));
        assert_eq!(left(InterruptionKind::Taken, None), Some(Duration::ZERO));
        assert_eq!(left(InterruptionKind::AtRisk, Some(220)), None);
        assert_eq!(left(InterruptionKind::Maintenance, None), None);
    }
}
