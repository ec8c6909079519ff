//! What happened when in one deploy, and which stage each second of it belongs to.
//!
//! A [`Timeline`] has one span per lane, in full-scale seconds since the pod that could not be
//! scheduled; it is the same while it grows and when it is done. [`Timeline::stages`] divides its
//! whole length among the lanes without a gap or an overlap, so the stages always add up to the
//! time to serving. Deliberately absent: the clock.

use headstart_core::quantity::Bytes;
use serde::Serialize;

use super::scenario::Seconds;

/// In which order things are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// One after the other.
    Today,
    /// Bytes from the moment the network is up.
    Headstart,
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Lane {
    Network,
    Kubelet,
    Gpu,
    Image,
    Container,
    Weights,
    Engine,
}

/// From when to when; without an end it is under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) start: Seconds,
    pub(crate) end: Option<Seconds>,
    pub(crate) moved: Option<Moved>,
}

/// Full-scale bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) done: Bytes,
    pub(crate) total: Bytes,
}

/// One deploy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Timeline {
    pub(crate) order: Order,
    spans: [Option<Span>; Lane::ALL.len()],
}

/// The seconds that the time to serving owes to a lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stage {
    pub(crate) lane: Lane,
    pub(crate) took: Seconds,
}

impl Order {
    /// The lanes in the order in which they can hold the deploy up.
    fn causes(self) -> [Lane; Lane::ALL.len()] {
        use Lane::{Container, Engine, Gpu, Image, Kubelet, Network, Weights};
        match self {
            Self::Today => [Network, Kubelet, Gpu, Image, Container, Weights, Engine],
            Self::Headstart => [Network, Kubelet, Gpu, Image, Weights, Container, Engine],
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Today => "today",
            Self::Headstart => "Headstart",
        }
    }
}

impl Lane {
    /// In the order they are drawn.
    pub(crate) const ALL: [Self; 7] = [
        Self::Network,
        Self::Kubelet,
        Self::Gpu,
        Self::Image,
        Self::Container,
        Self::Weights,
        Self::Engine,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Network => "node boots",
            Self::Kubelet => "kubelet Ready",
            Self::Gpu => "GPU allocatable",
            Self::Image => "image",
            Self::Container => "container, imports",
            Self::Weights => "weights",
            Self::Engine => "engine starts",
        }
    }

    /// Whether it is bytes that take the time.
    pub(crate) fn is_bytes(self) -> bool {
        matches!(self, Self::Image | Self::Weights)
    }
}

impl Timeline {
    pub(crate) fn new(order: Order) -> Self {
        Self {
            order,
            spans: [None; Lane::ALL.len()],
        }
    }

    pub(crate) fn span(&self, lane: Lane) -> Option<Span> {
        self.spans[lane as usize]
    }

    pub(crate) fn begin(&mut self, lane: Lane, start: Seconds) {
        self.spans[lane as usize] = Some(Span {
            start,
            end: None,
            moved: None,
        });
    }

    /// Notes how far a lane that has begun is.
    pub(crate) fn progress(&mut self, lane: Lane, moved: Moved) {
        if let Some(span) = &mut self.spans[lane as usize] {
            span.moved = Some(moved);
        }
    }

    pub(crate) fn end(&mut self, lane: Lane, end: Seconds) {
        if let Some(span) = &mut self.spans[lane as usize] {
            span.end = Some(end);
        }
    }

    /// When it serves; none before.
    pub(crate) fn serving(&self) -> Option<Seconds> {
        self.span(Lane::Engine)?.end
    }

    /// Every second up to serving, by what it was spent waiting for, in the order it was.
    pub(crate) fn stages(&self) -> Vec<Stage> {
        let mut reached = Seconds::ZERO;
        let mut stages = Vec::new();
        for lane in self.order.causes() {
            let end = self.span(lane).and_then(|span| span.end);
            let end = end.unwrap_or(reached).max(reached);
            stages.push(Stage {
                lane,
                took: end - reached,
            });
            reached = end;
        }
        stages
    }

    /// What of a lane the deploy had to wait for; none while that is not known, because the GPU
    /// cannot be allocated yet.
    pub(crate) fn exposed(&self, lane: Lane) -> Option<Seconds> {
        let gpu_done = self.span(Lane::Gpu)?.end.is_some();
        let lane_done = self.span(lane)?.end.is_some();
        (gpu_done && lane_done).then(|| self.stage(lane))
    }

    /// The seconds that `lane` held the deploy up.
    pub(crate) fn stage(&self, lane: Lane) -> Seconds {
        let of_lane = |stage: &Stage| stage.lane == lane;
        self.stages()
            .into_iter()
            .find(of_lane)
            .map_or(Seconds::ZERO, |stage| stage.took)
    }
}

impl Span {
    /// How long it took, or has taken by `now`.
    pub(crate) fn took(&self, now: Seconds) -> Seconds {
        self.end.unwrap_or(now).max(self.start) - self.start
    }
}

#[cfg(test)]
mod tests;
