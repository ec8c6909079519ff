//! A fake node as an object, and what is to happen to it when. Pure; time is an argument.
//!
//! What was decided at its creation is in an annotation of its own, so that nothing else need be
//! remembered: pool and catalog may change, a node that boots does not.

use std::collections::BTreeMap;

use headstart_api::names;
use headstart_core::amount::{self, Resources};
use headstart_core::label;
use headstart_core::money::Millis;
use headstart_core::offer::{CapacityType, InstanceType};
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::settings::Settings;
use super::{INTERRUPT, KWOK, PROVIDER, millis};
use crate::Wanted;

/// Annotation on Nodes: what was decided of them, in JSON.
const PLAN: &str = "headstart.dev/kwok";

/// Annotation and label by which KWOK's controller takes nodes that are its. Set once a node is Ready,
/// for the controller makes every node of its Ready at once. It takes a node when it first sees it
/// (v0.8.0, with leases): that is when the label comes, for one that selects nodes by it, and at its
/// own start for one that selects them by the annotation.
const TAKEN: (&str, &str) = ("kwok.x-k8s.io/node", "fake");

/// Notice of an interruption where a pool says nothing.
const NOTICE: Millis = Millis::from_secs(120);

/// What was decided of a node when it was made. Milliseconds from its creation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Plan {
    ready_after: u64,
    gpus_after: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    interrupt_after: Option<u64>,
    notice: u64,
    /// What comes late, by its resource's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    late: BTreeMap<String, i64>,
}

/// A node of this provider, from its metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fake {
    /// When it was made.
    pub(super) created: Millis,
    plan: Plan,
    interrupt: Interrupt,
    leaving: bool,
}

/// What its annotation says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Interrupt {
    None,
    /// Since then.
    Since(Millis),
    /// Since it is seen.
    Unsaid,
}

/// How far a node is, from its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// It is Ready.
    pub(super) ready: bool,
    /// What comes late is there.
    pub(super) complete: bool,
}

/// What is to be done with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing ever.
    Never,
    /// Something, then.
    At(Millis),
    /// Its status is to say this.
    Report(Reached),
    /// Its interruption is to be dated.
    Date,
    /// It is taken away.
    TakeAway,
}

impl Fake {
    /// A node of this provider; none for any other.
    pub(super) fn read(metadata: &ObjectMeta) -> Option<Self> {
        let labels = metadata.labels.as_ref()?;
        if labels.get(PROVIDER)? != KWOK {
            return None;
        }
        let written = |key| metadata.annotations.as_ref()?.get(key);
        // One whose annotation somebody broke is a node that came up long ago.
        let plan = written(PLAN).and_then(|text| serde_json::from_str(text).ok());
        let interrupt = match written(INTERRUPT).map(|text| text.parse::<Timestamp>()) {
            None => Interrupt::None,
            Some(Ok(since)) => Interrupt::Since(millis(since)),
            Some(Err(_)) => Interrupt::Unsaid,
        };
        Some(Self {
            created: millis(metadata.creation_timestamp.as_ref()?.0),
            plan: plan.unwrap_or_default(),
            interrupt,
            leaving: metadata.deletion_timestamp.is_some(),
        })
    }

    /// Whether it was told that it will be taken away.
    pub(super) fn is_interrupted(&self, now: Millis) -> bool {
        match self.interrupt {
            Interrupt::Unsaid => true,
            _ => self.interrupted().is_some_and(|since| since <= now),
        }
    }

    /// When it is ready.
    pub(super) fn ready_at(&self) -> Millis {
        self.created + Millis(self.plan.ready_after)
    }

    fn interrupted(&self) -> Option<Millis> {
        let planned = self.plan.interrupt_after;
        let planned = planned.map(|after| self.created + Millis(after));
        match self.interrupt {
            Interrupt::Since(said) => Some(planned.map_or(said, |planned| planned.min(said))),
            Interrupt::None | Interrupt::Unsaid => planned,
        }
    }

    /// What is to be done now, or when there will be something.
    pub(super) fn due(&self, reached: Reached, now: Millis) -> Due {
        if self.leaving {
            return Due::Never;
        }
        if self.interrupt == Interrupt::Unsaid {
            return Due::Date;
        }
        let gone_at = self
            .interrupted()
            .map(|since| since + Millis(self.plan.notice));
        if gone_at.is_some_and(|at| at <= now) {
            return Due::TakeAway;
        }
        let ready_at = self.ready_at();
        let complete_at = ready_at.max(self.created + Millis(self.plan.gpus_after));
        let should = Reached {
            ready: now >= ready_at,
            complete: now >= complete_at,
        };
        let lacks = (should.ready && !reached.ready) || (should.complete && !reached.complete);
        if lacks {
            return Due::Report(should);
        }
        let next = [ready_at, complete_at].into_iter().chain(gone_at);
        next.filter(|at| *at > now)
            .min()
            .map_or(Due::Never, Due::At)
    }

    /// Changes a Node so that it says how far it is.
    pub(super) fn report(&self, reached: Reached, now: Timestamp) -> Value {
        let mut status = json!({"conditions": [condition(reached.ready, now)]});
        if reached.complete {
            let late: BTreeMap<&str, String> = self
                .plan
                .late
                .iter()
                .map(|(name, count)| (name.as_str(), count.to_string()))
                .collect();
            status["capacity"] = json!(late);
            status["allocatable"] = json!(late);
        }
        let mut patch = json!({"status": status});
        if reached.ready {
            let (key, value) = TAKEN;
            patch["metadata"] = json!({"annotations": {key: value}, "labels": {key: value}});
        }
        patch
    }

    /// How far it is.
    pub(super) fn reached(&self, status: Option<&NodeStatus>) -> Reached {
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        let has = |name: &String| allocatable.is_some_and(|all| all.contains_key(name));
        Reached {
            ready: conditions.any(|one| one.type_ == "Ready" && one.status == "True"),
            complete: self.plan.late.keys().all(has),
        }
    }
}

/// As its Node's `spec.providerID` is.
pub(super) fn provider_id(name: &str) -> String {
    format!("{KWOK}://{name}")
}

/// The Node of a machine that begins to boot: there, not Ready, without what comes late.
pub(super) fn make(
    wanted: &Wanted,
    kind: &InstanceType,
    settings: &Settings,
) -> Result<Node, serde_json::Error> {
    let name = &wanted.claim;
    let spot = wanted.offering.capacity_type == CapacityType::Spot;
    let is_late = |name: &str| kind.gpu.as_ref().is_some_and(|gpu| gpu.resource == name);
    let allocatable = kind.allocatable();
    let late = allocatable.iter().filter(|(name, _)| is_late(name));
    let boot = kind.boot;
    let plan = Plan {
        ready_after: settings.ready_after.map_or(boot.ready, |span| span.0).0,
        gpus_after: settings
            .gpus_after
            .map_or(boot.allocatable, |span| span.0)
            .0,
        interrupt_after: settings
            .interrupt_after
            .filter(|_| spot)
            .map(|span| span.0.0),
        notice: settings.notice.map_or(NOTICE, |span| span.0).0,
        late: late.map(|(name, count)| (name.to_owned(), count)).collect(),
    };
    let mut labels = kind.node_labels();
    labels.extend(wanted.labels.clone());
    let own = [
        (label::HOSTNAME, name.as_str()),
        (label::ZONE, &wanted.offering.zone),
        (label::INSTANCE_TYPE, &wanted.offering.instance_type),
        (names::CAPACITY_TYPE, wanted.offering.capacity_type.as_str()),
        (names::NODE_CLAIM, name),
        (PROVIDER, KWOK),
        ("type", KWOK),
    ];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let early = |all: &Resources| {
        let amounts = all.iter().filter(|(name, _)| !is_late(name));
        let written = amounts.map(|(name, amount)| {
            let unit = if name == amount::CPU { "m" } else { "" };
            (name.to_owned(), format!("{amount}{unit}"))
        });
        written.collect::<BTreeMap<_, _>>()
    };
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name, "labels": labels,
            "annotations": {PLAN: serde_json::to_string(&plan)?},
        },
        "spec": {"providerID": provider_id(name), "taints": wanted.first_taints().collect::<Vec<_>>()},
        "status": {
            "capacity": early(&kind.capacity), "allocatable": early(&allocatable),
            "conditions": [condition(false, Timestamp::now())],
            "addresses": [{"type": "Hostname", "address": name}],
            "nodeInfo": {
                "architecture": kind.arch.as_str(), "operatingSystem": "linux",
                "kubeletVersion": "fake", "kubeProxyVersion": "", "containerRuntimeVersion": "",
                "osImage": "", "kernelVersion": "", "machineID": "", "systemUUID": "", "bootID": "",
            },
        },
    }))
}

fn condition(ready: bool, now: Timestamp) -> Value {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (status, reason, message) = match ready {
        true => ("True", "KubeletReady", "a node that is only an object"),
        false => ("False", "KubeletNotReady", "boots"),
    };
    json!({
        "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    })
}
