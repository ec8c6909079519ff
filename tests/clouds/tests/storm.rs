//! A storm: 600 pods want GPUs that nobody has, for ten minutes.
//!
//! Planner, memory of capacity and provider are the daemon's own, the provider's calls go over HTTP;
//! time is the planner's argument and passes at once.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use headstart_core::amount::{self, NVIDIA_GPU, Resources};
use headstart_core::capacity::{Capacity, Outcome, PROBE_INTERVAL, Refusal as Refused, Scope};
use headstart_core::label::INSTANCE_TYPE;
use headstart_core::money::Millis;
use headstart_core::offer::OfferingKey;
use headstart_core::pod::{ObjectKey, Phase, Pod, Shape};
use headstart_core::pool::NodePool;
use headstart_core::snapshot::{Policy, Snapshot};
use headstart_core::solve;
use headstart_fake_clouds::external::Fleet;
use headstart_fake_clouds::{CLUSTER, Cloud};
use headstart_provider::{Provider, Refusal, Wanted};

/// Pods that want a GPU each.
const PODS: usize = 600;

/// From round to round.
const ROUND: Millis = Millis::from_secs(15);

struct Storm<'a> {
    provider: &'a dyn Provider,
    snapshot: Snapshot,
    capacity: Capacity,
    named: usize,
}

impl Storm<'_> {
    /// One round of the daemon: what is planned is bought, what is served waits no more. Returns what
    /// was bought.
    async fn round(&mut self) -> Vec<OfferingKey> {
        let now = self.snapshot.now;
        let mut asked = self.snapshot.clone();
        let types = asked.types.clone();
        self.capacity.apply(&types, &mut asked.offerings, now);
        let plan = solve::plan(&asked, &Policy::default());
        let wanted: Vec<_> = plan
            .nodes
            .iter()
            .map(|node| self.wanted(&node.offering))
            .collect();
        for wanted in &wanted {
            self.capacity.record(&wanted.offering, &Outcome::Asked, now);
        }
        let calls = wanted.iter().map(|wanted| self.provider.ensure(wanted));
        let mut bought = Vec::new();
        for (answer, node) in join_all(calls).await.into_iter().zip(&plan.nodes) {
            let outcome = match answer {
                Ok(_) => {
                    bought.push(node.offering.clone());
                    self.snapshot
                        .pods
                        .retain(|pod| !node.pods.contains(&pod.key));
                    Outcome::Launched
                }
                Err(Refusal::OutOfCapacity { said }) => Outcome::Refused {
                    scope: Scope::offering(&node.offering),
                    refusal: Refused::NoCapacity,
                    why: said,
                    until: None,
                },
                Err(other) => panic!("{other}"),
            };
            self.capacity.record(&node.offering, &outcome, now);
        }
        self.snapshot.now = now + ROUND;
        bought
    }

    fn wanted(&mut self, offering: &OfferingKey) -> Wanted {
        self.named += 1;
        Wanted {
            claim: format!("gpu-{}", self.named),
            offering: offering.clone(),
            labels: BTreeMap::new(),
            startup_taints: Vec::new(),
            taints: Vec::new(),
            settings: serde_json::Map::new(),
            intent: "{}".to_owned(),
        }
    }
}

/// A pod for nodes of one type.
fn pod(name: String, kind: &str, requests: Resources) -> Pod {
    let shape = Shape {
        namespace: "default".to_owned(),
        requests,
        node_selector: [(INSTANCE_TYPE.to_owned(), kind.to_owned())].into(),
        ..Shape::default()
    };
    Pod {
        key: ObjectKey::new("default", &name),
        created: Millis(0),
        phase: Phase::Pending,
        shape: shape.into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shortage_of_ten_minutes_is_asked_about_seldom_and_holds_up_nobody_else() {
    let fleet = Fleet::start().unwrap();
    let wares = fleet.offerings();
    let short = [&wares.spot, &wares.elsewhere, &wares.on_demand];
    for offering in short {
        fleet.control().stock(offering, 0);
    }
    let provider = fleet.provider(CLUSTER);
    let offers = provider.offers().await.unwrap();
    let cpu = |text: &str| Resources::new().with("cpu", amount::parse("cpu", text).unwrap());
    let gpu = cpu("1").with(NVIDIA_GPU, 1);
    let waiting =
        (0..PODS).map(|n| pod(format!("gpu-{n}"), &wares.spot.instance_type, gpu.clone()));
    let others = (0..3).map(|n| pod(format!("cpu-{n}"), &wares.other.instance_type, cpu("1")));
    let mut storm = Storm {
        provider: &*provider,
        snapshot: Snapshot {
            now: Millis::from_secs(1_000_000),
            pods: waiting.chain(others).collect(),
            pools: vec![NodePool::new("gpu")],
            types: offers.types,
            offerings: offers.offerings,
            ..Snapshot::default()
        },
        capacity: Capacity::default(),
        named: 0,
    };

    let started = storm.snapshot.now;
    assert_eq!(
        storm.round().await,
        std::slice::from_ref(&wares.other),
        "others are served in one round"
    );
    let remembered = storm.capacity.len();
    while storm.snapshot.now < started + Millis::from_secs(600) {
        assert_eq!(storm.round().await, []);
    }
    for offering in short {
        let calls = fleet.control().asked(offering);
        let most = 600_000 / usize::try_from(PROBE_INTERVAL.0).unwrap() + 1;
        assert!((1..=most).contains(&calls), "{calls} calls for {offering}");
    }
    assert_eq!(
        storm.capacity.len(),
        remembered,
        "what is remembered does not grow"
    );
    assert_eq!(fleet.control().machines().len(), 1);

    // Capacity is back.
    fleet.control().restock();
    let back = storm.snapshot.now;
    let scope = Scope::offering(&wares.spot);
    let longest = storm.capacity.interval(&scope, Refused::NoCapacity);
    while storm.round().await.is_empty() {
        assert!(
            storm.snapshot.now <= back + longest,
            "it is not used after {longest}"
        );
    }
    // Budgets double with each success: nobody waits for long once there is enough.
    let mut rounds = 1;
    while !storm.snapshot.pods.is_empty() {
        storm.round().await;
        rounds += 1;
        assert!(rounds < 60, "{} still wait", storm.snapshot.pods.len());
    }
    assert_eq!(fleet.control().bought(), PODS + 1);
    println!("asked again after at most {longest}; all served {rounds} rounds after that");
}
