//! Nodes, what they have and what room they have, and what follows for labels and gated pods.
//!
//! Room counts what is bound and what was promised to a pod that is on its way; a promise ends when its
//! pod is seen bound, or after a while. A wrong guess costs nothing: the scheduler takes another node
//! where the one that is nominated does not do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use headstart_api::{InterruptionKind, ItemPhase, NodeCache, names};
use headstart_core::amount::{self, Container, Resources, Role, pod_requests};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::admits;
use crate::admission::inject;

/// Most warm labels on one node. A Node is sent to every kubelet and scheduler that watches it.
const MOST_LABELS: usize = 16;

/// How long room is kept for a pod that was led to a node.
const PROMISE: Duration = Duration::from_secs(30);

/// What a watch says.
pub(super) enum Event {
    /// Of nodes.
    Node(watcher::Event<core::Node>),
    /// Of what agents report.
    Cache(watcher::Event<NodeCache>),
    /// Of pods that have a node.
    Pod(watcher::Event<core::Pod>),
    /// Of the agent's own pods.
    Agent(watcher::Event<core::Pod>),
}

/// An object with warm labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Labelled {
    /// A node.
    Node(String),
    /// The agent's pod on one.
    Agent { namespace: String, name: String },
}

/// Labels to be given, or taken where they are null.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) of: Labelled,
    pub(super) labels: BTreeMap<String, Value>,
}

/// All of it.
#[derive(Default)]
pub(super) struct View {
    nodes: Kept<Machine>,
    /// Models, by the name of the object: a node's, or a claim's. Of a machine that will be taken away
    /// none.
    caches: Kept<Vec<String>>,
    used: Kept<Used>,
    agents: Kept<Agent>,
    promised: HashMap<String, (Used, Instant)>,
    /// What pods use, by node; follows from `used`.
    taken: HashMap<String, Resources>,
}

struct Machine {
    claim: Option<String>,
    labels: BTreeMap<String, String>,
    taints: Vec<core::Taint>,
    is_cordoned: bool,
    room: Resources,
}

#[derive(Clone)]
struct Used {
    node: String,
    amount: Resources,
}

struct Agent {
    node: String,
    warm: BTreeSet<String>,
}

/// Objects of one watch, by name. While it lists anew, the old ones stand.
struct Kept<T> {
    objects: HashMap<String, T>,
    listing: Option<HashMap<String, T>>,
    is_listed: bool,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            listing: None,
            is_listed: false,
        }
    }
}

impl<T> Kept<T> {
    fn hear<K: kube::Resource>(
        &mut self,
        event: watcher::Event<K>,
        read: impl Fn(&K) -> Option<T>,
    ) {
        let key = |object: &K| {
            let meta = object.meta();
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default())
        };
        match event {
            watcher::Event::Init => self.listing = Some(HashMap::new()),
            watcher::Event::InitApply(object) => {
                if let (Some(value), Some(listing)) = (read(&object), &mut self.listing) {
                    listing.insert(key(&object), value);
                }
            }
            watcher::Event::InitDone => {
                if let Some(listing) = self.listing.take() {
                    self.objects = listing;
                }
                self.is_listed = true;
            }
            watcher::Event::Apply(object) => {
                match read(&object) {
                    Some(value) => self.objects.insert(key(&object), value),
                    None => self.objects.remove(&key(&object)),
                };
            }
            watcher::Event::Delete(object) => {
                self.objects.remove(&key(&object));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&T> {
        self.objects.get(&format!("/{name}"))
    }
}

impl View {
    pub(super) fn hear(&mut self, event: Event) {
        match event {
            Event::Node(event) => self.nodes.hear(event, |node| Some(machine(node))),
            Event::Cache(event) => self.caches.hear(event, |cache| Some(verified(cache))),
            Event::Agent(event) => self.agents.hear(event, agent),
            Event::Pod(event) => self.hear_pod(event),
        }
    }

    fn hear_pod(&mut self, event: watcher::Event<core::Pod>) {
        let (old, new) = match &event {
            watcher::Event::Apply(pod) | watcher::Event::Delete(pod) => {
                self.promised
                    .remove(pod.metadata.uid.as_deref().unwrap_or_default());
                let key = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
                let is_here = matches!(&event, watcher::Event::Apply(_));
                let new = used(pod).filter(|_| is_here);
                (self.used.objects.get(&key).cloned(), new)
            }
            _ => (None, None),
        };
        let is_done = matches!(&event, watcher::Event::InitDone);
        self.used.hear(event, used);
        if is_done {
            self.taken.clear();
            let all: Vec<Used> = self.used.objects.values().cloned().collect();
            for used in all {
                self.take(&used);
            }
            return;
        }
        if let Some(old) = old
            && let Some(taken) = self.taken.get_mut(&old.node)
        {
            taken.subtract(&old.amount);
        }
        if let Some(new) = new {
            self.take(&new);
        }
    }

    fn take(&mut self, used: &Used) {
        let taken = self.taken.entry(used.node.clone()).or_default();
        taken.add(&used.amount);
    }

    /// Models that a node has, those that were wanted first.
    fn warm<'v>(&'v self, name: &str, machine: &'v Machine) -> impl Iterator<Item = &'v str> {
        let own = self.caches.get(name);
        let claimed = machine
            .claim
            .as_ref()
            .and_then(|claim| self.caches.get(claim));
        own.into_iter().chain(claimed).flatten().map(String::as_str)
    }

    /// Labels that each node is to have, at most [`MOST_LABELS`].
    pub(super) fn labels(&self) -> BTreeMap<&str, BTreeSet<String>> {
        let mut labels = BTreeMap::new();
        for (key, machine) in &self.nodes.objects {
            let name = key.trim_start_matches('/');
            let warm = self.warm(name, machine).filter_map(names::warm_label);
            let mut kept = BTreeSet::new();
            for label in warm {
                if kept.len() < MOST_LABELS {
                    kept.insert(label);
                }
            }
            labels.insert(name, kept);
        }
        labels
    }

    /// What is to be written so that nodes and the agent's pods have their labels; nothing before all
    /// is known.
    pub(super) fn changes(&self) -> Vec<Change> {
        if !(self.nodes.is_listed && self.caches.is_listed && self.agents.is_listed) {
            return Vec::new();
        }
        let labels = self.labels();
        let mut changes = Vec::new();
        let none = BTreeSet::new();
        for (key, machine) in &self.nodes.objects {
            let name = key.trim_start_matches('/');
            let has = machine
                .labels
                .keys()
                .filter(|key| key.starts_with(names::WARM_PREFIX));
            let has: BTreeSet<String> = has.cloned().collect();
            let wanted = labels.get(name).unwrap_or(&none);
            changes.extend(change(Labelled::Node(name.to_owned()), &has, wanted));
        }
        for (key, agent) in &self.agents.objects {
            let (namespace, name) = key.split_once('/').unwrap_or_default();
            let wanted = labels.get(agent.node.as_str()).unwrap_or(&none);
            let of = Labelled::Agent {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            };
            changes.extend(change(of, &agent.warm, wanted));
        }
        changes
    }

    /// Where a gated pod is to go: of the nodes that have most of its models and room for it, the one
    /// that it fills best.
    pub(super) fn target(&mut self, pod: &core::Pod, now: Instant) -> super::Choice {
        use super::Choice;
        if !(self.nodes.is_listed && self.caches.is_listed && self.used.is_listed) {
            return Choice::Wait;
        }
        self.promised.retain(|_, (_, until)| *until > now);
        let Some(spec) = &pod.spec else {
            return Choice::Anywhere;
        };
        let models = inject::mounted(spec).unwrap_or_default();
        let asked = requests(spec);
        let wanted: Vec<&str> = models.iter().map(|model| model.repo.as_str()).collect();
        let mut promised: HashMap<&str, Resources> = HashMap::new();
        for (used, _) in self.promised.values() {
            promised.entry(&used.node).or_default().add(&used.amount);
        }
        let mut best: Option<(usize, i64, &str)> = None;
        for (key, machine) in &self.nodes.objects {
            let name = key.trim_start_matches('/');
            let warm: BTreeSet<&str> = self.warm(name, machine).collect();
            let hits = wanted.iter().filter(|model| warm.contains(*model)).count();
            let says = admits::Machine {
                name,
                labels: &machine.labels,
                taints: &machine.taints,
            };
            if hits == 0 || machine.is_cordoned || !says.admits(spec) {
                continue;
            }
            let mut room = machine.room.clone();
            for used in [self.taken.get(name), promised.get(name)]
                .into_iter()
                .flatten()
            {
                room.subtract(used);
            }
            if !asked.fits(&room) {
                continue;
            }
            let left = room.of(amount::NVIDIA_GPU) - asked.of(amount::NVIDIA_GPU);
            let better =
                best.is_none_or(|(most, least, other)| (hits, -left, other) > (most, -least, name));
            if better {
                best = Some((hits, left, name));
            }
        }
        let Some((_, _, node)) = best else {
            return Choice::Anywhere;
        };
        let node = node.to_owned();
        if let Some(uid) = &pod.metadata.uid {
            let used = Used {
                node: node.clone(),
                amount: asked,
            };
            self.promised.insert(uid.clone(), (used, now + PROMISE));
        }
        Choice::Node(node)
    }
}

fn change(of: Labelled, has: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Option<Change> {
    let gone = has
        .difference(wanted)
        .map(|label| (label.clone(), Value::Null));
    let new = wanted
        .difference(has)
        .map(|label| (label.clone(), json!("")));
    let labels: BTreeMap<String, Value> = gone.chain(new).collect();
    (!labels.is_empty()).then_some(Change { of, labels })
}

fn machine(node: &core::Node) -> Machine {
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.as_ref();
    Machine {
        claim: node.labels().get(names::NODE_CLAIM).cloned(),
        labels: node.labels().clone(),
        taints: spec.taints.unwrap_or_default(),
        is_cordoned: spec.unschedulable == Some(true) || node.metadata.deletion_timestamp.is_some(),
        room: amounts(status.and_then(|status| status.allocatable.as_ref())),
    }
}

/// Models of which every byte is there, those that are wanted first.
fn verified(cache: &NodeCache) -> Vec<String> {
    let notice = cache
        .status
        .as_ref()
        .and_then(|it| it.interruption.as_ref());
    if notice.is_some_and(|notice| notice.kind == InterruptionKind::Taken) {
        return Vec::new();
    }
    let status = cache.status.iter().flat_map(|status| &status.items);
    let verified = status.filter(|item| item.state == Some(ItemPhase::Verified));
    let model = |text: &String| text.split('@').next().unwrap_or_default().to_owned();
    let mut models: Vec<String> = verified
        .filter_map(|item| item.model.as_ref().map(model))
        .collect();
    let wanted: Vec<String> = cache
        .spec
        .items
        .iter()
        .filter_map(|item| item.model.as_ref().map(model))
        .collect();
    let rank = |name: &String| {
        wanted
            .iter()
            .position(|one| one == name)
            .unwrap_or(usize::MAX)
    };
    models.sort_by_key(rank);
    models.dedup();
    models
}

fn agent(pod: &core::Pod) -> Option<Agent> {
    let node = pod.spec.as_ref()?.node_name.clone()?;
    let warm = pod
        .labels()
        .keys()
        .filter(|key| key.starts_with(names::WARM_PREFIX));
    Some(Agent {
        node,
        warm: warm.cloned().collect(),
    })
}

fn used(pod: &core::Pod) -> Option<Used> {
    let spec = pod.spec.as_ref()?;
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let is_over = matches!(phase, Some("Succeeded" | "Failed"));
    let node = spec.node_name.clone().filter(|_| !is_over)?;
    Some(Used {
        node,
        amount: requests(spec),
    })
}

/// What a pod asks for. What cannot be read counts as nothing: the scheduler counts again.
fn requests(spec: &core::PodSpec) -> Resources {
    let of = |container: &core::Container, role| {
        let resources = container.resources.as_ref();
        let mut requests = amounts(resources.and_then(|all| all.limits.as_ref()));
        let asked = amounts(resources.and_then(|all| all.requests.as_ref()));
        for (name, amount) in asked.iter() {
            requests.set(name, amount);
        }
        Container { requests, role }
    };
    let init = spec.init_containers.iter().flatten().map(|container| {
        let role = match container.restart_policy.as_deref() {
            Some("Always") => Role::Sidecar,
            _ => Role::Init,
        };
        of(container, role)
    });
    let main = spec
        .containers
        .iter()
        .map(|container| of(container, Role::Main));
    let containers: Vec<Container> = init.chain(main).collect();
    let level = spec
        .resources
        .as_ref()
        .and_then(|all| all.requests.as_ref());
    let requests = pod_requests(
        &containers,
        &amounts(level),
        &amounts(spec.overhead.as_ref()),
    );
    requests.with(amount::PODS, 1)
}

fn amounts(quantities: Option<&BTreeMap<String, Quantity>>) -> Resources {
    let mut amounts = Resources::new();
    for (name, quantity) in quantities.into_iter().flatten() {
        // Larger than this nothing is, and sums of it can be counted.
        if let Ok(amount) = amount::parse(name, &quantity.0)
            && amount < i64::MAX >> 8
        {
            amounts.set(name, amount);
        }
    }
    amounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_has_that_is_taken_away_attracts_nobody() {
        let of = |kind: Option<&str>| {
            let notice = kind.map(|kind| json!({"kind": kind, "source": "gcp"}));
            let cache = json!({
                "apiVersion": "headstart.dev/v1alpha1", "kind": "NodeCache",
                "metadata": {"name": "n"}, "spec": {"generation": 1},
                "status": {"interruption": notice, "items": [
                    {"model": "org/m@0123456789abcdef0123456789abcdef01234567", "state": "Verified"},
                ]},
            });
            verified(&serde_json::from_value(cache).unwrap())
        };
        assert_eq!(of(None), ["org/m"]);
        // It may stay for as long as any other.
        assert_eq!(of(Some("AtRisk")), ["org/m"]);
        assert_eq!(of(Some("Taken")), Vec::<String>::new());
    }
}
