//! What becomes of a machine that was sold, on a thread of its own.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Asked, Boot, INTENT, Machines, Offer, Shared, provider_id};
use crate::cluster::{Early, Gpus, NodeOptions};

/// How often a node that is an object only says that it lives.
const BEAT: Duration = Duration::from_secs(5);

/// How soon it is noticed that a machine was given back.
const LOOK: Duration = Duration::from_millis(50);

impl Shared {
    /// Boots it, unless it is given back before.
    pub(super) fn bring_up(&self, claim: &str, asked: &Asked) -> Result<()> {
        let (offer, boot, at, number) = {
            let state = self.state();
            let Some(machine) = state.machines.get(claim) else {
                return Ok(());
            };
            let offer = state.offers.get(machine.offer).cloned();
            let Some(offer) = offer else { return Ok(()) };
            (offer, state.boot.clone(), machine.at, machine.number)
        };
        if !self.wait(claim, at + boot.network) {
            return Ok(());
        }
        match self.kind {
            Machines::Real => self.real(claim, asked, &offer, &boot),
            Machines::Objects => self.object(claim, asked, &offer, &boot, (at, number)),
        }
    }

    fn real(&self, claim: &str, asked: &Asked, offer: &Offer, boot: &Boot) -> Result<()> {
        let taints = asked.taints.iter();
        let intent = format!("/var/lib/{INTENT}");
        let command = boot.agent.iter();
        let gpus = (offer.gpus > 0).then(|| Gpus {
            count: offer.gpus,
            after: boot.gpus.saturating_sub(boot.kubelet),
        });
        let options = NodeOptions {
            rate: offer.rate.clone(),
            gpus,
            labels: asked.labels.clone().into_iter().collect(),
            taints: taints
                .map(|taint| format!("{}={}:{}", taint.key, taint.value, taint.effect))
                .collect(),
            provider_id: Some(provider_id(claim)),
            early: Some(Early {
                files: vec![(INTENT.to_owned(), asked.intent.clone())],
                command: command
                    .map(|part| part.replace("{intent}", &intent))
                    .collect(),
                kubelet_after: boot.kubelet.saturating_sub(boot.network),
            }),
        };
        match self.state().machines.get_mut(claim) {
            Some(machine) if machine.state != "ending" => machine.starting = true,
            _ => return Ok(()),
        }
        let started = self.cluster.add_node(&options);
        let wanted = {
            let mut state = self.state();
            let machine = state.machines.get_mut(claim);
            machine.is_some_and(|machine| {
                machine.starting = false;
                machine.node = started.as_ref().ok().map(|node| node.name().to_owned());
                machine.state != "ending"
            })
        };
        if !wanted {
            self.end(claim);
        }
        started.map(drop)
    }

    /// A Node object, ready at its time and its GPUs at theirs, until it is given back.
    fn object(
        &self,
        claim: &str,
        asked: &Asked,
        offer: &Offer,
        boot: &Boot,
        (at, number): (Instant, usize),
    ) -> Result<()> {
        if !self.wait(claim, at + boot.kubelet) {
            return Ok(());
        }
        let name = format!("m{number}");
        let mut labels = asked.labels.clone();
        labels.insert("kubernetes.io/hostname".to_owned(), name.clone());
        let taints: Vec<Value> = asked
            .taints
            .iter()
            .map(|one| json!({"key": one.key, "value": one.value, "effect": one.effect}))
            .collect();
        let api = self.cluster.api();
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "spec": {"providerID": provider_id(claim), "taints": taints},
        });
        api.create("/api/v1/nodes", &node)?;
        if let Some(machine) = self.state().machines.get_mut(claim) {
            machine.node = Some(name.clone());
        }
        let path = format!("/api/v1/nodes/{name}");
        while self.wait(claim, Instant::now()) {
            let gpus = match at.elapsed() >= boot.gpus {
                true => offer.gpus,
                false => 0,
            };
            let status = ready(gpus);
            // Gone with its cluster, or by somebody's hand: a kubelet would not make it anew.
            if api.patch(&format!("{path}/status"), &status).is_err() {
                break;
            }
            let next = match at.elapsed() < boot.gpus {
                true => at + boot.gpus,
                false => Instant::now() + BEAT,
            };
            if !self.wait(claim, next.min(Instant::now() + BEAT)) {
                break;
            }
        }
        Ok(())
    }

    /// Waits until `until`, and says whether the machine is still wanted.
    pub(super) fn wait(&self, claim: &str, until: Instant) -> bool {
        loop {
            let wanted = self
                .state()
                .machines
                .get(claim)
                .is_some_and(|one| one.state != "ending");
            let left = until.saturating_duration_since(Instant::now());
            if !wanted || left.is_zero() {
                return wanted;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    /// Takes a machine away. Its Node object stays. One whose programs are being started goes once
    /// they are.
    pub(super) fn end(&self, claim: &str) {
        let node = {
            let mut state = self.state();
            let Some(machine) = state.machines.get_mut(claim) else {
                return;
            };
            machine.state = "ending";
            if machine.starting {
                return;
            }
            machine.node.clone()
        };
        if let (Machines::Real, Some(node)) = (self.kind, node)
            && let Err(error) = self.cluster.remove_node(&node)
        {
            eprintln!("{node} of {claim} goes on: {error:#}");
        }
        self.state().machines.remove(claim);
    }
}

fn ready(gpus: usize) -> Value {
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let mut resources = json!({
        "cpu": "2", "memory": "16Gi", "pods": "110", "ephemeral-storage": "100Gi",
    });
    if gpus > 0 {
        resources["nvidia.com/gpu"] = json!(gpus.to_string());
    }
    json!({"status": {
        "capacity": resources, "allocatable": resources,
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
    }})
}
