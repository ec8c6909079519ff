//! A report as a default run would give it, in round numbers.

use std::time::Duration;

use headstart_core::quantity::{Bytes, Rate};

use super::{Deploy, Fetch, Opened, Report};
use crate::demo::scenario::{Cloud, Network, Scales, Scenario, Seconds, VLLM_8B};
use crate::demo::timeline::{Lane, Moved, Order, Timeline};

const IMAGE: Bytes = Bytes(10_800_000_000);
const MODEL: Bytes = Bytes(16_000_000_000);

pub(crate) fn scenario() -> Scenario {
    Scenario {
        boot: Cloud::Eks.boot(),
        network: Network {
            link: Rate(625_000_000),
            per_connection: Rate(50_000_000),
        },
        image: IMAGE,
        model: MODEL,
        engine: VLLM_8B,
    }
}

pub(crate) fn report() -> Report {
    let fetch = |lane, real, seconds| Fetch {
        lane,
        fetched: Bytes(real),
        took: Duration::from_secs(seconds),
        bound: "link".to_owned(),
    };
    let deploy = |timeline, fetches| Deploy {
        timeline,
        fetches,
        opened: Opened::default(),
    };
    Report {
        scenario: scenario(),
        scales: Scales {
            time: 6.0,
            bytes: 100.0,
        },
        today: deploy(
            today(),
            vec![
                fetch(Lane::Image, 108_000_000, 12),
                fetch(Lane::Weights, 160_000_000, 13),
            ],
        ),
        headstart: deploy(
            headstart(Seconds(59.0)),
            vec![
                fetch(Lane::Image, 108_000_000, 3),
                fetch(Lane::Weights, 160_000_000, 7),
            ],
        ),
        empty: deploy(headstart(Seconds(18.0)), Vec::new()),
        took: Duration::from_secs(80),
        containerd: None,
    }
}

/// Stages of 17, 9, 64, 72, 18, 80 and 39 seconds.
pub(crate) fn today() -> Timeline {
    let mut timeline = Timeline::new(Order::Today);
    lane(&mut timeline, Lane::Network, 0.0, 17.0);
    lane(&mut timeline, Lane::Kubelet, 17.0, 26.0);
    lane(&mut timeline, Lane::Gpu, 26.0, 90.0);
    bytes(&mut timeline, Lane::Image, IMAGE, 90.0, 162.0);
    lane(&mut timeline, Lane::Container, 162.0, 180.0);
    bytes(&mut timeline, Lane::Weights, MODEL, 180.0, 260.0);
    lane(&mut timeline, Lane::Engine, 260.0, 299.0);
    timeline
}

/// With the weights there at `weights`.
pub(crate) fn headstart(weights: Seconds) -> Timeline {
    let mut timeline = Timeline::new(Order::Headstart);
    let pod = weights.0.max(90.0);
    lane(&mut timeline, Lane::Network, 0.0, 17.0);
    lane(&mut timeline, Lane::Kubelet, 17.0, 26.0);
    lane(&mut timeline, Lane::Gpu, 26.0, 90.0);
    bytes(&mut timeline, Lane::Image, IMAGE, 17.0, 35.0);
    bytes(&mut timeline, Lane::Weights, MODEL, 17.0, weights.0);
    lane(&mut timeline, Lane::Container, pod, pod + 18.0);
    lane(&mut timeline, Lane::Engine, pod + 18.0, pod + 57.0);
    timeline
}

fn lane(timeline: &mut Timeline, lane: Lane, start: f64, end: f64) {
    timeline.begin(lane, Seconds(start));
    timeline.end(lane, Seconds(end));
}

fn bytes(timeline: &mut Timeline, lane: Lane, total: Bytes, start: f64, end: f64) {
    timeline.begin(lane, Seconds(start));
    timeline.progress(lane, Moved { done: total, total });
    timeline.end(lane, Seconds(end));
}
