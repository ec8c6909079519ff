//! Deploys whose true times are known to the microsecond, seen through stamps as Kubernetes cuts them.

use super::*;

/// Seconds that each stage truly takes.
#[derive(Clone, Debug)]
struct Truth {
    stages: [f64; 4],
    scheduled: f64,
    image: (f64, f64),
    weights: (f64, f64),
    start: f64,
    engine: f64,
    /// Where in a second the pod was created.
    offset: f64,
    /// By how much the node's clock is ahead.
    skew: f64,
}

fn truth() -> impl Strategy<Value = Truth> {
    let span = || 0.0..120.0_f64;
    let bytes = || (0.0..150.0_f64, 0.0..90.0_f64);
    (
        [span(), span(), span(), span()],
        0.0..5.0_f64,
        bytes(),
        bytes(),
        0.0..20.0_f64,
        span(),
        0.0..1.0_f64,
    )
        .prop_map(
            |(stages, scheduled, image, weights, start, engine, offset)| Truth {
                stages,
                scheduled,
                image,
                weights,
                start,
                engine,
                offset,
                skew: 0.0,
            },
        )
}

struct Seen {
    deploy: Deploy,
    wall: f64,
    exposed: f64,
}

fn seen(truth: &Truth) -> Seen {
    let created = truth.offset;
    let mut reached = created;
    let stamps: Vec<f64> = truth
        .stages
        .iter()
        .map(|took| {
            reached += took;
            reached
        })
        .collect();
    let scheduled = reached + truth.scheduled;
    let image = (
        created + truth.image.0,
        created + truth.image.0 + truth.image.1,
    );
    let weights = (
        created + truth.weights.0,
        created + truth.weights.0 + truth.weights.1,
    );
    let startable = scheduled.max(image.1).max(weights.1);
    let started = startable + truth.start;
    let serving = started + truth.engine;
    // The kubelet's clock stamps the start and Ready, in whole seconds.
    let cut = |at: f64| (at + EPOCH as f64).floor() - EPOCH as f64;
    let node = |at: f64| at + truth.skew;
    let pod = pod(
        Some("n1"),
        running(cut(scheduled), cut(node(started)), Some(cut(node(serving)))),
    );
    let names = ["requested", "launched", "registered", "gpuAllocatable"];
    let stages: Vec<(&str, f64)> = names.into_iter().zip(stamps).collect();
    let cache = cache(
        (node(image.0), node(image.1)),
        (node(weights.0), node(weights.1)),
    );
    let objects = objects(pod, Some(claim(&stages)), Some(cache));
    Seen {
        deploy: only(&objects, 10_000.0),
        wall: serving - created,
        exposed: startable - scheduled,
    }
}

fn check_sum(deploy: &Deploy) -> Result<(), TestCaseError> {
    let mut reached = deploy.created;
    for one in &deploy.intervals {
        prop_assert_eq!(one.start, reached);
        prop_assert!(one.end >= one.start);
        reached = one.end;
    }
    let sum: Duration = deploy.intervals.iter().map(Interval::took).sum();
    prop_assert_eq!(sum, deploy.wall());
    Ok(())
}

proptest! {
    #[test]
    fn stages_follow_each_other_and_sum_to_the_true_wall_time_within_a_second(truth in truth()) {
        let Seen { deploy, wall, .. } = seen(&truth);
        check_sum(&deploy)?;
        let error = deploy.wall().as_secs_f64() - wall;
        prop_assert!(error.abs() < 1.0 + 1e-6, "{error} in {deploy:?}");
        prop_assert_eq!(&deploy.remarks, &[]);
    }

    #[test]
    fn exposed_byte_time_is_the_true_one_within_a_second(truth in truth()) {
        let Seen { deploy, exposed, .. } = seen(&truth);
        let error = deploy.exposed().as_secs_f64() - exposed;
        prop_assert!(error.abs() < 1.0 + 1e-6, "{error} in {deploy:?}");
        let waited: Duration = deploy.items.iter().map(|item| item.exposed).max().unwrap();
        prop_assert!(waited <= deploy.exposed());
        for item in &deploy.items {
            prop_assert!(item.exposed_bytes <= item.bytes.unwrap());
        }
    }

    #[test]
    fn whatever_the_node_s_clock_says_nothing_is_negative_and_the_sum_holds(
        truth in truth(),
        skew in -300.0..300.0_f64,
    ) {
        let Seen { deploy, wall, .. } = seen(&Truth { skew, ..truth });
        check_sum(&deploy)?;
        let error = deploy.wall().as_secs_f64() - (wall + skew).max(0.0);
        prop_assert!(error.abs() < 1.0 + 1e-6, "{error}");
        prop_assert!(deploy.hidden() <= deploy.wall());
    }

    #[test]
    fn missing_stamps_change_no_sum(truth in truth(), missing in any::<u8>()) {
        let Seen { deploy, .. } = seen(&truth);
        let stages: Vec<(&str, f64)> = BOUGHT
            .iter()
            .enumerate()
            .filter(|(index, _)| missing & (1 << index) == 0)
            .map(|(_, stage)| *stage)
            .collect();
        let pod = pod(Some("n1"), running(91.0, 93.0, (missing & 16 == 0).then_some(147.0)));
        let cache = (missing & 32 == 0).then(|| cache((18.0, 40.0), (18.5, 70.0)));
        let claim = (missing & 64 == 0).then(|| claim(&stages));
        check_sum(&only(&objects(pod, claim, cache), 200.0))?;
        check_sum(&deploy)?;
    }
}
