use std::fmt::Write;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::amount::Resources;
use crate::cache::{Basis, ItemSize, ItemState};
use crate::digest::Sha256;
use crate::label::{Expression, Labels, Term};
use crate::money::HourlyPrice;
use crate::node::NodeDisruption;
use crate::offer::{Boot, CapacityType, OfferingKey, Rates};
use crate::plan::{NewNode, Placement};
use crate::pod::Shape;
use crate::ready::Timing;
use crate::reason::Score;
use crate::snapshot::Wish;

pub(crate) fn image(n: u8) -> Item {
    Item::Image {
        repository: "registry.example/engine".to_owned(),
        pin: Pin::To(Sha256([n; 32])),
    }
}

pub(crate) fn model(n: u8) -> Item {
    Item::Model {
        repo: "org/model".parse().unwrap(),
        pin: Pin::To(format!("{n:040x}").parse().unwrap()),
        files: String::new(),
    }
}

pub(crate) fn unresolved() -> Item {
    Item::Model {
        repo: "org/model".parse().unwrap(),
        pin: Pin::Name("main".to_owned()),
        files: String::new(),
    }
}

pub(crate) fn size(transfer: u64, unpacked: u64, largest_layer: u64) -> ItemSize {
    ItemSize {
        transfer,
        unpacked,
        largest_layer,
        basis: Basis::Known,
    }
}

/// A running node of unknown origin with nothing on it.
pub(crate) fn node(name: &str, zone: &str) -> Node {
    Node {
        name: name.to_owned(),
        labels: Labels::from([
            (label::ZONE.to_owned(), zone.to_owned()),
            (label::HOSTNAME.to_owned(), name.to_owned()),
        ]),
        taints: Vec::new(),
        startup_taints: Vec::new(),
        allocatable: Resources::new(),
        volume_limits: std::collections::BTreeMap::new(),
        state: NodeState::Running,
        pool: None,
        offering: None,
        price: None,
        rates: Rates::default(),
        created: Millis(0),
        disruption: NodeDisruption::default(),
    }
}

const MIB: u64 = 1 << 20;

fn pod(name: &str, phase: Phase, items: &[Item]) -> Pod {
    Pod {
        key: ObjectKey::new("ns", name),
        created: Millis(0),
        phase,
        shape: Shape {
            items: items.to_vec(),
            ..Shape::default()
        }
        .into(),
    }
}

fn bound(node: &str, progress: Progress) -> Phase {
    Phase::Bound {
        node: node.to_owned(),
        progress,
    }
}

fn placed(pod: &str, target: Target, allocatable: u64) -> Placement {
    Placement {
        pod: ObjectKey::new("ns", pod),
        target,
        timing: Timing {
            allocatable: Millis::from_secs(allocatable),
            ..Timing::default()
        },
        runner_up: None,
        relaxed: Vec::new(),
    }
}

fn new_node(zone: &str) -> NewNode {
    NewNode {
        pool: "gpu".to_owned(),
        offering: OfferingKey {
            instance_type: "g6.xlarge".to_owned(),
            zone: zone.to_owned(),
            capacity_type: CapacityType::Spot,
        },
        price: HourlyPrice(0),
        requests: Resources::new(),
        allocatable: Resources::new(),
        pods: Vec::new(),
        timing: Timing::default(),
        score: Score::default(),
        runner_up: None,
    }
}

fn has(snapshot: &mut Snapshot, node: &str, room: u64, states: &[(Item, ItemState)]) {
    let inventory = Inventory {
        observed: snapshot.now,
        items: states.iter().cloned().collect(),
        room: room * MIB,
        fetching: Vec::new(),
    };
    snapshot.inventories.insert(node.to_owned(), inventory);
}

fn wish_for(item: Item, on: Term) -> Wish {
    Wish {
        item,
        nodes: on,
        asked_by: ObjectKey::new("ns", "warm"),
    }
}

/// Images 1 to 3 of 10, 20 and 30 MiB, models of 100, 200 and 300; at second 1,000.
fn world() -> Snapshot {
    let mut items = BTreeMap::new();
    for n in 1..=3_u8 {
        let bytes = u64::from(n) * 10 * MIB;
        items.insert(image(n), size(bytes, 2 * bytes, bytes / 2));
        items.insert(model(n), size(10 * bytes, 10 * bytes, 0));
    }
    Snapshot {
        now: Millis::from_secs(1_000),
        items,
        ..Snapshot::default()
    }
}

fn name(item: &Item) -> String {
    let (kind, n) = match item {
        Item::Image {
            pin: Pin::To(digest),
            ..
        } => ("image", digest.0[0].to_string()),
        Item::Model {
            pin: Pin::To(commit),
            ..
        } => ("model", commit.to_string()[38..].to_owned()),
        Item::Image {
            pin: Pin::Name(name),
            ..
        }
        | Item::Model {
            pin: Pin::Name(name),
            ..
        } => ("name", name.clone()),
    };
    format!("{kind} {}", n.trim_start_matches('0'))
}

fn check(snapshot: &Snapshot, plan: &Plan, expected: Expect) {
    let mut text = String::new();
    for list in prefetch(snapshot, &Policy::default(), plan) {
        writeln!(text, "{:?}", list.target).unwrap();
        for item in &list.items {
            let bytes = item.bytes / MIB;
            let line = format!("  {:?} {}: {bytes} MiB", item.urgency, name(&item.item));
            let from = item.peers.join(", ");
            let from = if from.is_empty() {
                from
            } else {
                format!(" from {from}")
            };
            writeln!(text, "{line}{from}").unwrap();
        }
        for (item, why) in &list.skipped {
            writeln!(text, "  not {}: {why:?}", name(item)).unwrap();
        }
    }
    expected.assert_eq(&text);
}

#[test]
fn a_new_node_gets_images_then_weights_by_when_its_pods_need_them_and_shared_items_once() {
    let mut snapshot = world();
    snapshot.pods = vec![
        pod("a", Phase::Pending, &[image(1), model(1)]),
        pod(
            "b",
            Phase::Pending,
            &[image(1), image(2), model(1), model(2)],
        ),
    ];
    let plan = Plan {
        nodes: vec![new_node("z1")],
        placements: vec![
            placed("b", Target::New(0), 90),
            placed("a", Target::New(0), 90),
        ],
        unserved: Vec::new(),
    };
    check(
        &snapshot,
        &plan,
        expect![[r#"
            New(0)
              Demand image 1: 10 MiB
              Demand image 2: 20 MiB
              Demand model 1: 100 MiB
              Demand model 2: 200 MiB
        "#]],
    );
}

#[test]
fn the_pod_of_higher_priority_is_served_first() {
    let mut snapshot = world();
    let mut urgent = pod("z", Phase::Pending, &[image(3)]);
    urgent.shape.priority = 10;
    snapshot.pods = vec![pod("a", Phase::Pending, &[image(1)]), urgent];
    let plan = Plan {
        nodes: vec![new_node("z1")],
        placements: vec![
            placed("a", Target::New(0), 90),
            placed("z", Target::New(0), 90),
        ],
        unserved: Vec::new(),
    };
    check(
        &snapshot,
        &plan,
        expect![[r#"
            New(0)
              Demand image 3: 30 MiB
              Demand image 1: 10 MiB
        "#]],
    );
}

#[test]
fn a_pod_that_is_starting_on_its_node_comes_before_one_that_is_to_come() {
    let mut snapshot = world();
    snapshot.nodes = vec![node("n1", "z1")];
    snapshot.pods = vec![
        pod("a", Phase::Pending, &[image(1), model(1)]),
        pod("b", bound("n1", Progress::Starting), &[image(2), model(2)]),
        pod("c", bound("n1", Progress::Terminating), &[image(3)]),
    ];
    has(
        &mut snapshot,
        "n1",
        1_000,
        &[(image(2), ItemState::Partial { bytes: 15 * MIB })],
    );
    let plan = Plan {
        placements: vec![placed("a", Target::Node("n1".to_owned()), 60)],
        ..Plan::default()
    };
    check(
        &snapshot,
        &plan,
        expect![[r#"
            Node("n1")
              Demand image 2: 5 MiB
              Demand model 2: 200 MiB
              Demand image 1: 10 MiB
              Demand model 1: 100 MiB
        "#]],
    );
}

#[test]
fn only_fresh_reports_of_nodes_in_the_same_zone_make_a_peer() {
    let mut snapshot = world();
    let verified = [(image(1), ItemState::Verified)];
    snapshot.nodes = vec![
        node("near", "z1"),
        node("far", "z2"),
        node("stale", "z1"),
        node("partial", "z1"),
        node("leaving", "z1"),
        node("stopped", "z1"),
        node("starting", "z1"),
    ];
    snapshot.nodes[4].state = NodeState::Leaving;
    snapshot.nodes[5].state = NodeState::Standby {
        boot: Boot::default(),
    };
    snapshot.nodes[6].state = NodeState::Starting {
        expected: snapshot.now,
    };
    for node in [
        "near", "far", "stale", "leaving", "stopped", "starting", "gone",
    ] {
        has(&mut snapshot, node, 0, &verified);
    }
    has(
        &mut snapshot,
        "partial",
        0,
        &[(image(1), ItemState::Partial { bytes: 1 })],
    );
    snapshot.inventories.get_mut("stale").unwrap().observed = Millis::from_secs(699);
    snapshot.pods = vec![pod("a", Phase::Pending, &[image(1)])];
    let plan = Plan {
        nodes: vec![new_node("z1")],
        placements: vec![placed("a", Target::New(0), 90)],
        unserved: Vec::new(),
    };
    check(
        &snapshot,
        &plan,
        expect![[r#"
            New(0)
              Demand image 1: 10 MiB from near, starting
        "#]],
    );
}

#[test]
fn a_node_whose_report_is_stale_gets_the_whole_list_and_no_wishes() {
    let mut snapshot = world();
    snapshot.nodes = vec![node("n1", "z1"), node("n2", "z1")];
    has(
        &mut snapshot,
        "n1",
        1_000,
        &[(image(1), ItemState::Verified)],
    );
    snapshot.inventories.get_mut("n1").unwrap().observed = Millis::from_secs(600);
    snapshot.pods = vec![pod("a", Phase::Pending, &[image(1)])];
    snapshot.wishes = vec![wish_for(model(1), Term::default())];
    let plan = Plan {
        placements: vec![placed("a", Target::Node("n1".to_owned()), 0)],
        ..Plan::default()
    };
    check(
        &snapshot,
        &plan,
        expect![[r#"
            Node("n1")
              Demand image 1: 10 MiB
              not model 1: NoInventory { age: Some(Millis(400000)) }
            Node("n2")
              not model 1: NoInventory { age: None }
        "#]],
    );
}

#[test]
fn a_standby_node_that_is_chosen_fetches_what_its_disk_lacks() {
    let mut snapshot = world();
    snapshot.nodes = vec![node("n1", "z1"), node("n2", "z1")];
    for node in &mut snapshot.nodes {
        node.state = NodeState::Standby {
            boot: Boot::default(),
        };
    }
    has(
        &mut snapshot,
        "n1",
        1_000,
        &[(image(1), ItemState::Verified)],
    );
    snapshot.now = Millis::from_secs(90_000);
    snapshot.pods = vec![pod("a", Phase::Pending, &[image(1), model(1)])];
    snapshot.wishes = vec![wish_for(model(2), Term::default())];
    let plan = Plan {
        placements: vec![placed("a", Target::Node("n1".to_owned()), 30)],
        ..Plan::default()
    };
    check(
        &snapshot,
        &plan,
        expect![[r#"
            Node("n1")
              Demand model 1: 100 MiB
              not image 1: Present
        "#]],
    );
}

#[test]
fn every_item_that_is_not_fetched_has_its_reason() {
    let mut snapshot = world();
    snapshot.nodes = vec![node("n1", "z1")];
    let items = [
        image(1),
        image(2),
        image(9),
        unresolved(),
        model(1),
        model(3),
    ];
    snapshot.pods = vec![pod("a", Phase::Pending, &items)];
    has(&mut snapshot, "n1", 250, &[(image(1), ItemState::Verified)]);
    snapshot.wishes = [model(2), image(3), image(2)]
        .map(|item| wish_for(item, Term::default()))
        .to_vec();
    let plan = Plan {
        placements: vec![placed("a", Target::Node("n1".to_owned()), 0)],
        ..Plan::default()
    };
    check(
        &snapshot,
        &plan,
        expect![[r#"
            Node("n1")
              Demand image 2: 20 MiB
              Demand model 1: 100 MiB
              Ahead image 3: 30 MiB
              not image 1: Present
              not image 9: SizeUnknown
              not name main: Unresolved { name: "main" }
              not model 3: Room { bytes: 314572800, room: 115343360 }
              not model 2: Room { bytes: 209715200, room: 115343360 }
        "#]],
    );
}

#[test]
fn what_a_pod_waits_for_may_evict_what_no_pod_uses_and_a_wish_nothing() {
    let mut snapshot = world();
    snapshot.nodes = vec![node("n1", "z1")];
    let all = [
        (model(1), ItemState::Verified),
        (model(2), ItemState::Verified),
    ];
    has(&mut snapshot, "n1", 10, &all);
    snapshot.pods = vec![
        pod("r", bound("n1", Progress::Running), &[model(2)]),
        pod("a", Phase::Pending, &[image(2), model(3)]),
    ];
    snapshot.wishes = vec![wish_for(image(1), Term::default())];
    let plan = Plan {
        placements: vec![placed("a", Target::Node("n1".to_owned()), 0)],
        ..Plan::default()
    };
    check(
        &snapshot,
        &plan,
        expect![[r#"
            Node("n1")
              Demand image 2: 20 MiB
              not model 3: Room { bytes: 314572800, room: 73400320 }
              not image 1: Room { bytes: 20971520, room: 0 }
        "#]],
    );
}

#[test]
fn wishes_stay_within_the_budget_of_bytes_most_wanted_first() {
    let mut snapshot = world();
    snapshot.nodes = vec![node("n1", "z1"), node("n2", "z2")];
    let huge = Item::Model {
        repo: "org/huge".parse().unwrap(),
        pin: Pin::To(format!("{:040x}", 7).parse().unwrap()),
        files: String::new(),
    };
    snapshot
        .items
        .insert(huge.clone(), size(65 << 30, 65 << 30, 0));
    for node in ["n1", "n2"] {
        has(&mut snapshot, node, 1 << 20, &[]);
    }
    let zone = Term(vec![Expression::equals(label::ZONE, "z1")]);
    snapshot.wishes = vec![
        wish_for(huge, Term::default()),
        wish_for(model(2), zone),
        wish_for(model(1), Term::default()),
    ];
    check(
        &snapshot,
        &Plan::default(),
        expect![[r#"
            Node("n1")
              Ahead model 2: 200 MiB
              Ahead model 1: 100 MiB
              not model 7: Budget { bytes: 69793218560, left: 68719476736 }
            Node("n2")
              Ahead model 1: 100 MiB
              not model 7: Budget { bytes: 69793218560, left: 68719476736 }
        "#]],
    );
}

#[test]
fn no_list_of_peers_grows_with_the_cluster_and_nodes_are_given_different_ones() {
    let mut snapshot = world();
    for n in 0..100 {
        let name = format!("n{n:02}");
        snapshot.nodes.push(node(&name, "z1"));
        has(&mut snapshot, &name, 0, &[(image(1), ItemState::Verified)]);
    }
    snapshot.pods = ["a", "b"]
        .map(|name| pod(name, Phase::Pending, &[image(1)]))
        .to_vec();
    let plan = Plan {
        nodes: vec![new_node("z1"), new_node("z1")],
        placements: vec![
            placed("a", Target::New(0), 90),
            placed("b", Target::New(1), 90),
        ],
        unserved: Vec::new(),
    };
    let lists = prefetch(&snapshot, &Policy::default(), &plan);
    let peers: Vec<_> = lists.iter().map(|list| &list.items[0].peers).collect();
    assert!(peers.iter().all(|peers| peers.len() == MOST_PEERS));
    assert_ne!(peers[0], peers[1]);
}

fn any_item() -> impl Strategy<Value = Item> {
    prop_oneof![
        (1_u8..5).prop_map(image),
        (1_u8..5).prop_map(model),
        Just(unresolved()),
    ]
}

fn any_state() -> impl Strategy<Value = ItemState> {
    prop_oneof![
        Just(ItemState::Verified),
        Just(ItemState::Unknown),
        (0..400 * MIB).prop_map(|bytes| ItemState::Partial { bytes }),
    ]
}

prop_compose! {
    fn any_world()(
        nodes in prop::collection::vec(
            (0_u8..3, 0_u64..600, prop::collection::btree_map(any_item(), any_state(), 0..6), 0_u64..600, any::<bool>()),
            1..5,
        ),
        pods in prop::collection::vec(
            (0_usize..7, prop::collection::vec(any_item(), 0..5), 0_i32..3, 0_u64..3),
            0..8,
        ),
        wishes in prop::collection::vec(any_item(), 0..6),
    ) -> (Snapshot, Plan) {
        let mut snapshot = world();
        for (n, (zone, age, items, room, reported)) in nodes.iter().enumerate() {
            let name = format!("n{n}");
            let mut node = node(&name, &format!("z{zone}"));
            if *zone == 2 {
                node.state = NodeState::Starting { expected: snapshot.now };
            }
            snapshot.nodes.push(node);
            if *reported {
                let inventory = Inventory {
                    observed: snapshot.now - Millis::from_secs(*age),
                    items: items.clone(),
                    room: room * MIB,
                    fetching: Vec::new(),
                };
                snapshot.inventories.insert(name, inventory);
            }
        }
        let mut plan = Plan { nodes: vec![new_node("z1")], ..Plan::default() };
        for (n, (place, items, priority, seconds)) in pods.iter().enumerate() {
            let name = format!("p{n}");
            let there = format!("n{}", place % nodes.len());
            let phase = match place {
                0..3 => bound(&there, [Progress::Starting, Progress::Running, Progress::Terminating][*place]),
                _ => Phase::Pending,
            };
            if phase == Phase::Pending {
                let target = if *place == 6 { Target::New(0) } else { Target::Node(there) };
                plan.placements.push(placed(&name, target, *seconds));
            }
            let mut pod = pod(&name, phase, items);
            pod.shape.priority = *priority;
            snapshot.pods.push(pod);
        }
        snapshot.wishes = wishes.into_iter().map(|item| wish_for(item, Term::default())).collect();
        (snapshot, plan)
    }
}

/// Evicts as an agent does: whole items that no pod uses, until there is room.
fn make_room(
    inventory: &mut Inventory,
    bytes: u64,
    used: &BTreeSet<Item>,
    sizes: &BTreeMap<Item, ItemSize>,
) {
    while inventory.room < bytes {
        let unused = inventory.items.keys().find(|item| !used.contains(item));
        let Some(item) = unused.cloned() else { return };
        let state = inventory.items.remove(&item).unwrap();
        if let Some(size) = sizes.get(&item) {
            inventory.room += needs::on_disk(*size, state);
        }
    }
}

/// What pods on `node` use, or will use.
fn used_on(snapshot: &Snapshot, plan: &Plan, node: &str) -> BTreeSet<Item> {
    let to_come = plan
        .placements
        .iter()
        .filter(|placement| matches!(&placement.target, Target::Node(name) if name == node));
    let to_come: BTreeSet<&ObjectKey> = to_come.map(|placement| &placement.pod).collect();
    let pods = snapshot.pods.iter().filter(|pod| match &pod.phase {
        Phase::Pending => to_come.contains(&pod.key),
        Phase::Bound { node: on, progress } => on == node && *progress != Progress::Terminating,
    });
    pods.flat_map(|pod| pod.shape.items.iter().cloned())
        .collect()
}

#[test]
fn a_part_of_an_item_makes_no_more_room_than_it_takes() {
    let mut snapshot = world();
    snapshot.nodes = vec![node("n1", "z1")];
    let part = ItemState::Partial { bytes: 10 * MIB };
    has(&mut snapshot, "n1", 5, &[(model(3), part)]);
    snapshot.pods = vec![pod("a", bound("n1", Progress::Starting), &[image(1)])];
    check(
        &snapshot,
        &Plan::default(),
        expect![[r#"
            Node("n1")
              not image 1: Room { bytes: 20971520, room: 15728640 }
        "#]],
    );
}

proptest! {
    #[test]
    fn the_order_of_the_input_means_nothing((snapshot, plan) in any_world()) {
        let policy = Policy::default();
        let mut other = snapshot.clone();
        other.nodes.reverse();
        other.pods.reverse();
        let mut turned = plan.clone();
        turned.placements.reverse();
        prop_assert_eq!(prefetch(&snapshot, &policy, &plan), prefetch(&other, &policy, &turned));
    }

    #[test]
    fn every_item_is_named_once_resolved_and_within_budget_and_room((snapshot, plan) in any_world()) {
        let policy = Policy { ahead_of_demand: 150 * MIB, ..Policy::default() };
        for list in prefetch(&snapshot, &policy, &plan) {
            let mut seen = BTreeSet::new();
            let named = list.items.iter().map(|item| &item.item);
            for item in named.chain(list.skipped.iter().map(|skipped| &skipped.0)) {
                prop_assert!(seen.insert(item.clone()), "twice {}", name(item));
            }
            let inventory = match &list.target {
                Target::Node(name) => snapshot.inventories.get(name).filter(|inventory| {
                    snapshot.now - inventory.observed <= policy.inventory_age
                }),
                Target::New(_) => None,
            };
            let (mut ahead, mut disk, mut late) = (0, 0, false);
            for fetched in &list.items {
                prop_assert!(fetched.item != unresolved());
                prop_assert!(
                    inventory.is_none_or(|i| i.items.get(&fetched.item) != Some(&ItemState::Verified))
                );
                prop_assert!(fetched.bytes <= snapshot.items[&fetched.item].transfer);
                if fetched.urgency == Urgency::Ahead {
                    late = true;
                    ahead += fetched.bytes;
                    disk += needs::unpacked(snapshot.items[&fetched.item], fetched.bytes);
                } else {
                    prop_assert!(!late, "a wish before what a pod waits for");
                }
            }
            prop_assert!(ahead <= policy.ahead_of_demand);
            prop_assert!(!late || inventory.is_some());
            prop_assert!(disk <= inventory.map_or(0, |inventory| inventory.room));
        }
    }

    #[test]
    fn fetching_what_is_listed_leaves_nothing_to_fetch((snapshot, plan) in any_world()) {
        let policy = Policy::default();
        let mut after = snapshot.clone();
        for list in prefetch(&snapshot, &policy, &plan) {
            let Target::Node(name) = &list.target else { continue };
            let inventory = after.inventories.entry(name.clone()).or_default();
            if snapshot.now - inventory.observed > policy.inventory_age {
                inventory.items.clear();
                inventory.room = u64::MAX;
            }
            inventory.observed = snapshot.now;
            for fetched in list.items {
                let disk = needs::unpacked(snapshot.items[&fetched.item], fetched.bytes);
                if fetched.urgency == Urgency::Demand {
                    make_room(inventory, disk, &used_on(&snapshot, &plan, name), &snapshot.items);
                }
                inventory.room = inventory.room.saturating_sub(disk);
                inventory.items.insert(fetched.item, ItemState::Verified);
            }
        }
        for list in prefetch(&after, &policy, &plan) {
            if matches!(list.target, Target::Node(_)) {
                let demand: Vec<_> = list
                    .items
                    .iter()
                    .filter(|item| item.urgency == Urgency::Demand)
                    .collect();
                prop_assert!(demand.is_empty(), "{demand:?}");
            }
        }
    }
}
