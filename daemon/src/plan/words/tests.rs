use std::fmt::Write as _;

use expect_test::expect;
use headstart_core::amount::MEMORY;
use headstart_core::money::HourlyPrice;
use headstart_core::offer::{CapacityType, OfferingKey};
use headstart_core::pod::ObjectKey;
use headstart_core::pool::NODES;

use super::*;

const NOW: Millis = Millis::from_secs(1000);

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| (*v).to_owned()).collect()
}

fn usd(usd: f64) -> HourlyPrice {
    HourlyPrice::from_usd(usd).unwrap()
}

fn offering(instance_type: &str, capacity_type: CapacityType) -> OfferingKey {
    OfferingKey {
        instance_type: instance_type.to_owned(),
        zone: "us-east-1a".to_owned(),
        capacity_type,
    }
}

fn expr(operator: Operator, values: &[&str]) -> Expression {
    Expression {
        key: "zone".to_owned(),
        operator,
        values: strings(values),
    }
}

/// One of each.
fn rejections() -> Vec<Rejection> {
    let (pod, pool) = (Origin::Pod, Origin::Pool);
    vec![
        Rejection::PoolNotReady {
            why: "being deleted".to_owned(),
        },
        Rejection::PoolLimit {
            resource: CPU.to_owned(),
            used: 96_000,
            adding: 8500,
            limit: 100_000,
        },
        Rejection::PoolLimit {
            resource: NODES.to_owned(),
            used: 3,
            adding: 1,
            limit: 3,
        },
        Rejection::Unavailable {
            until: Millis::from_secs(1180),
            why: "InsufficientInstanceCapacity".to_owned(),
        },
        Rejection::NotSold,
        Rejection::LaunchBudget { allowed: 2 },
        Rejection::Price {
            price: usd(0.81),
            cap: usd(0.5),
            by: pod,
        },
        Rejection::GpuSku {
            found: Some("T4".to_owned()),
            wanted: strings(&["L4", "A10G"]),
            by: pod,
        },
        Rejection::GpuSku {
            found: None,
            wanted: strings(&["L4"]),
            by: pool,
        },
        Rejection::GpuCount {
            found: 8,
            most: 1,
            by: pod,
        },
        Rejection::CapacityType {
            found: CapacityType::Spot,
            wanted: vec![CapacityType::OnDemand],
            by: pool,
        },
        Rejection::Family {
            found: "g4dn".to_owned(),
            by: pool,
        },
        Rejection::TypePattern {
            pattern: "^g6\\.".to_owned(),
            by: pod,
        },
        Rejection::SpotWithoutDiscount {
            price: usd(55.04),
            on_demand: usd(55.04),
        },
        Rejection::Label {
            expression: expr(Operator::In, &["a", "b"]),
            found: Some("c".to_owned()),
            by: pod,
        },
        Rejection::Label {
            expression: expr(Operator::Gt, &["4"]),
            found: None,
            by: pool,
        },
        Rejection::Taint(Taint {
            key: "nvidia.com/gpu".to_owned(),
            value: "present".to_owned(),
            effect: Effect::NoSchedule,
        }),
        Rejection::Resource {
            resource: MEMORY.to_owned(),
            asked: 40 << 30,
            free: 13 << 30,
        },
        Rejection::Resource {
            resource: "nvidia.com/gpu".to_owned(),
            asked: 2,
            free: 1,
        },
        Rejection::HostPort { port: 8080 },
        Rejection::Volume { claim: key("data") },
        Rejection::AttachLimit {
            driver: "ebs.csi.aws.com".to_owned(),
            limit: 27,
        },
        Rejection::Spread {
            key: "zone".to_owned(),
            max_skew: 1,
        },
        Rejection::Affinity {
            key: "zone".to_owned(),
        },
        Rejection::AntiAffinity {
            key: "zone".to_owned(),
        },
        Rejection::Leaving,
        Rejection::Dedicated,
        Rejection::PodSelector {
            pool: "inference".to_owned(),
        },
        Rejection::MinValues {
            key: "zone".to_owned(),
            wanted: 3,
            found: 1,
        },
        Rejection::GroupDomain {
            key: "zone".to_owned(),
        },
    ]
}

#[test]
fn every_rejection_is_a_sentence_with_its_numbers() {
    let mut said = String::new();
    for reason in rejections() {
        let _ = writeln!(
            said,
            "{}: {}",
            rejection_code(&reason),
            rejection(&reason, NOW)
        );
    }
    expect![[r#"
        PoolNotReady: the pool may not buy now: being deleted
        PoolLimit: the pool's limit of CPU is reached: 96 in use and planned, 8500m more would be over 100
        PoolLimit: the pool's limit of nodes is reached: 3 in use and planned, 1 more would be over 3
        Unavailable: the cloud said InsufficientInstanceCapacity; not asked again for 180 s
        NotSold: not sold in that zone under that capacity type
        LaunchBudget: 2 of it asked for already, which is as many as may be in one round
        Price: 0.81 USD/h over the pod's cap of 0.50 USD/h
        GpuSku: GPU T4, the pod asks for one of L4, A10G
        GpuSku: no GPU, the pool asks for L4
        GpuCount: 8 GPUs, the pod allows at most 1
        CapacityType: spot, the pool asks for on-demand
        Family: family g4dn is not one that the pool allows
        TypePattern: its name does not match the pod's pattern "^g6\\."
        SpotWithoutDiscount: spot at 55.04 USD/h is no discount on on-demand at 55.04 USD/h
        Label: the pod asks for zone in a, b, the label is c
        Label: the pool asks for zone > 4, the label is absent
        Taint: taint nvidia.com/gpu=present:NoSchedule is not tolerated
        Resource: 40Gi asked for, 13Gi free of memory
        Resource: 2 asked for, 1 free of nvidia.com/gpu
        HostPort: host port 8080 is taken
        Volume: volume claim default/data cannot be used there
        AttachLimit: driver ebs.csi.aws.com attaches 27 volumes, all in use
        Spread: spread over zone would exceed a skew of 1
        Affinity: no pod that its affinity asks for is in that zone
        AntiAffinity: a pod that anti-affinity keeps apart is in that zone
        Leaving: takes no pods: cordoned, being deleted or not Ready
        Dedicated: one of the two pods needs the node for itself
        PodSelector: the pool inference serves other pods
        MinValues: the pool asks for 3 different values of zone, 1 would be left
        GroupDomain: members of its group run in another zone
    "#]].assert_eq(&said);
}

#[test]
fn every_condition_on_a_label_is_said() {
    let mut said = String::new();
    for (operator, values) in [
        (Operator::In, &["a"][..]),
        (Operator::In, &["a", "b", "c", "d", "e", "f", "g", "h"]),
        (Operator::NotIn, &["a"]),
        (Operator::NotIn, &["a", "b"]),
        (Operator::Exists, &[]),
        (Operator::DoesNotExist, &[]),
        (Operator::Gt, &["1"]),
        (Operator::Lt, &["1"]),
        (Operator::Gte, &["1"]),
        (Operator::Lte, &["1"]),
    ] {
        let _ = writeln!(said, "{}", expression(&expr(operator, values)));
    }
    expect![[r#"
        zone = a
        zone in a, b, c, d, e, f and 2 more
        zone not a
        zone not in a, b
        zone to be there
        zone to be absent
        zone > 1
        zone < 1
        zone >= 1
        zone <= 1
    "#]]
    .assert_eq(&said);
}

fn over_the_cap(count: usize) -> Tally {
    Tally {
        rejection: Rejection::Price {
            price: usd(0.81),
            cap: usd(0.5),
            by: Origin::Pod,
        },
        count,
        example: "g6.xlarge".to_owned(),
    }
}

#[test]
fn every_reason_for_not_serving_is_said_line_by_line() {
    let nothing = NotServed::NoCandidate {
        nodes: Vec::new(),
        offerings: Vec::new(),
    };
    let tallied = NotServed::NoCandidate {
        nodes: vec![Tally {
            rejection: Rejection::Leaving,
            count: 1,
            example: "node-1".to_owned(),
        }],
        offerings: vec![
            ("gpu".to_owned(), vec![over_the_cap(1), over_the_cap(12)]),
            ("cpu".to_owned(), Vec::new()),
        ],
    };
    let impossible = NotServed::Impossible {
        what: "volume claim default/data is lost".to_owned(),
    };
    let group = NotServed::Group {
        group: key("ray"),
        role: "worker".to_owned(),
        placed: 1,
        minimum: 4,
        because: Some(Box::new(impossible.clone())),
    };
    let mut said = String::new();
    for reason in [nothing, tallied, impossible, group] {
        for line in not_served(&reason, NOW) {
            let _ = writeln!(said, "{line}");
        }
        said.push_str("--\n");
    }
    expect![[r#"
        no node exists
        no pool is there to buy from
        --
        no node that exists can take it:
          node-1 excluded: takes no pods: cordoned, being deleted or not Ready
        pool gpu can buy nothing for it:
          13 offerings excluded, such as g6.xlarge: 0.81 USD/h over the pod's cap of 0.50 USD/h
        pool cpu has nothing to buy
        --
        cannot be met anywhere: volume claim default/data is lost
        --
        its group default/ray is placed as a whole or not at all: 1 of role worker can be, 4 must be
        the next one is not, as
          cannot be met anywhere: volume claim default/data is lost
        --
    "#]]
    .assert_eq(&said);
}

fn timed(seconds: u64) -> Timing {
    Timing {
        allocatable: Millis::from_secs(seconds),
        ..Timing::default()
    }
}

#[test]
fn the_runner_up_lost_by_seconds_and_dollars() {
    let score = |money: i64, waiting: i64| Score {
        money: Money(money * 1_000_000),
        waiting: Money(waiting * 1_000_000),
        risk: Money(0),
    };
    let second = |what, money, waiting, seconds| RunnerUp {
        what,
        score: score(money, waiting),
        timing: timed(seconds),
    };
    let cold = Candidate::Offering {
        pool: "gpu".to_owned(),
        offering: offering("g6.xlarge", CapacityType::OnDemand),
    };
    let node = Candidate::Node("b".to_owned());
    let said = [
        runner_up(
            &score(60, 40),
            &timed(14),
            &second(node.clone(), 0, 370, 131),
        ),
        runner_up(
            &score(410, 0),
            &timed(147),
            &second(cold.clone(), 805, 0, 147),
        ),
        runner_up(&score(100, 90), &timed(190), &second(cold, 300, 40, 150)),
        runner_up(&score(1, 1), &timed(9), &second(node, 1, 1, 9)),
    ];
    expect![[r#"
        chosen over node b: serves in 14 s instead of 131 s, for 0.0600 USD more; the time saved is worth 0.33 USD
        chosen over g6.xlarge on-demand in us-east-1a (pool gpu): serves in 147 s as that would, for 0.40 USD less
        chosen over g6.xlarge on-demand in us-east-1a (pool gpu): serves in 190 s instead of 150 s, for 0.20 USD less; the time lost is worth 0.0500 USD
        chosen over node b: serves in 9.0 s as that would, at the same cost; equal in the sum, the first by name was taken"#]].assert_eq(&said.join("\n"));
}

#[test]
fn every_reason_to_keep_a_node_is_said() {
    let pod = || key("web");
    let reasons = [
        Kept::Used {
            percent: 60,
            threshold: 20,
        },
        Kept::TooSoon {
            since: Millis::from_secs(40),
            after: Millis::from_secs(300),
        },
        Kept::Starting,
        Kept::PodStarting(pod()),
        Kept::PodForbids(pod()),
        Kept::PodBudget {
            pod: pod(),
            budget: key("pdb"),
        },
        Kept::PodStuck {
            pod: pod(),
            why: Box::new(NotServed::Impossible {
                what: "its volume is here".to_owned(),
            }),
        },
        Kept::Group(key("ray")),
        Kept::NodeForbids,
        Kept::Budget { allowed: 1 },
        Kept::Nominated(pod()),
        Kept::Cheapest,
        Kept::Foreign,
        Kept::Standby,
        Kept::NotTried { simulated: 500 },
    ];
    let said: Vec<String> = reasons.iter().flat_map(|r| kept(r, NOW)).collect();
    expect![[r#"
        60 % of it is requested, under-used would be below 20 %
        empty or under-used for 40 s only, 300 s is asked for
        it is starting, or fetching for a pod that waits for it
        pod default/web on it is starting
        pod default/web on it may not be moved
        budget default/pdb of pod default/web on it is used up
        pod default/web on it fits nowhere else:
          cannot be met anywhere: its volume is here
        group default/ray, of which a member runs on it, cannot be moved as a whole
        an annotation of the node forbids it
        the pool lets 1 node go at once
        pod default/web is about to run on it
        nothing else would be cheaper
        it belongs to no pool of ours
        it stands by, which is what it is for
        500 removals were simulated before its turn, as many as one round may"#]]
    .assert_eq(&said.join("\n"));
}

#[test]
fn every_reason_not_to_fetch_is_said() {
    let reasons = [
        NotFetched::Present,
        NotFetched::Unresolved {
            name: "latest".to_owned(),
        },
        NotFetched::SizeUnknown,
        NotFetched::Budget {
            bytes: 16_000_000_000,
            left: 1_000_000_000,
        },
        NotFetched::Room {
            bytes: 16_000_000_000,
            room: 12_000_000,
        },
        NotFetched::NoInventory { age: None },
        NotFetched::NoInventory {
            age: Some(Millis::from_secs(400)),
        },
    ];
    let said: Vec<String> = reasons.iter().map(not_fetched).collect();
    expect![[r#"
        is there and verified
        latest is not resolved to a digest or commit yet
        its size is not known, so no room can be kept for it
        16.0 GB needed, 1.0 GB left of the budget ahead of demand
        16.0 GB needed, 12.0 MB of room on the disk
        its agent has reported nothing
        its agent's last report is 400 s old"#]]
    .assert_eq(&said.join("\n"));
}

#[test]
fn the_remaining_words_are_said() {
    let reasons = [
        DisruptionReason::Empty,
        DisruptionReason::Underused,
        DisruptionReason::Replaceable,
        DisruptionReason::Drifted,
        DisruptionReason::Expired,
    ];
    let mut said: Vec<&str> = reasons.into_iter().map(disruption).collect();
    said.extend(
        [
            Relaxed::Affinity,
            Relaxed::AntiAffinity,
            Relaxed::NodeAffinity,
            Relaxed::Spread,
            Relaxed::Taint,
        ]
        .map(relaxed),
    );
    said.extend([Urgency::Demand, Urgency::Ahead].map(urgency));
    expect![[r#"
        nothing but daemons runs on it
        its pods fit elsewhere
        something cheaper would do
        it differs from what its pool says now
        it is too old
        preferred pod affinity
        preferred pod anti-affinity
        preferred node affinity
        topology spread with ScheduleAnyway
        PreferNoSchedule taint
        a pod waits for it
        ahead of demand"#]]
    .assert_eq(&said.join("\n"));
}
