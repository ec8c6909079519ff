use super::*;
use crate::demo::report::sample;

#[test]
fn today_every_span_is_a_stage() {
    let timeline = sample::today();
    for stage in timeline.stages() {
        let span = timeline.span(stage.lane).expect("it ran");
        assert_eq!(stage.took, span.took(Seconds::ZERO), "{:?}", stage.lane);
    }
}

#[test]
fn stages_add_up_to_the_time_to_serving_whatever_overlaps() {
    for weights in [18.0, 59.0, 90.0, 124.5] {
        let timeline = sample::headstart(Seconds(weights));
        let sum: Seconds = timeline.stages().into_iter().map(|stage| stage.took).sum();
        assert!(
            (sum - timeline.serving().unwrap()).0.abs() < 1e-9,
            "{weights}"
        );
    }
}

#[test]
fn bytes_that_arrive_before_the_gpu_hold_nothing_up() {
    let hidden = sample::headstart(Seconds(59.0));
    assert_eq!(hidden.exposed(Lane::Image), Some(Seconds::ZERO));
    assert_eq!(hidden.exposed(Lane::Weights), Some(Seconds::ZERO));
    let late = sample::headstart(Seconds(124.5));
    assert_eq!(late.exposed(Lane::Weights), Some(Seconds(34.5)));
}

#[test]
fn what_is_exposed_is_not_known_before_the_gpu_is_there() {
    let mut timeline = Timeline::new(Order::Headstart);
    timeline.begin(Lane::Gpu, Seconds(26.0));
    timeline.begin(Lane::Image, Seconds(17.0));
    timeline.end(Lane::Image, Seconds(40.0));
    assert_eq!(timeline.exposed(Lane::Image), None);
    timeline.end(Lane::Gpu, Seconds(90.0));
    assert_eq!(timeline.exposed(Lane::Image), Some(Seconds::ZERO));
    assert_eq!(timeline.serving(), None);
}
