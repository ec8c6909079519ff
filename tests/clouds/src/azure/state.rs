//! What this Azure keeps: agent pools and machines as they were written, operations, tokens, and what
//! it was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;

use super::MACHINES;
use crate::control::{Control, Life, Machine};

/// Everything.
#[derive(Debug)]
pub(super) struct State {
    pub(super) control: Control,
    inner: Mutex<Inner>,
}

/// What is behind the lock.
#[derive(Debug, Default)]
pub(super) struct Inner {
    /// Agent pools by name, and machines of [`MACHINES`] by `gpus/name`.
    pub(super) kept: BTreeMap<String, Kept>,
    pub(super) operations: BTreeMap<String, Operation>,
    recorded: Vec<Recorded>,
    /// Tokens of earlier ones are expired.
    generation: u64,
    number: u64,
    /// What is under way besides: the cluster's own operations.
    pub(super) busy: bool,
}

/// An agent pool, or a machine of one.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// As it was written.
    pub(super) body: Value,
    pub(super) etag: u64,
    /// Why it failed.
    pub(super) failed: Option<(String, String)>,
    /// Machines that it was given, by id. Empty for a pool that people made.
    pub(super) machines: BTreeSet<String>,
}

/// Something that goes on behind its answer.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// How often it has still to be asked before it ends.
    pub(super) looks: usize,
    pub(super) error: Option<(String, String)>,
}

/// A request that Resource Manager let in.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Method.
    pub method: String,
    /// Path.
    pub path: String,
    /// Parameters.
    pub query: BTreeMap<String, String>,
    /// `If-Match`, or `If-None-Match`.
    pub condition: Option<String>,
    /// JSON.
    pub body: Option<Value>,
    /// Who sent it, in its own words.
    pub agent: String,
}

/// Whether a request is let in.
pub(super) enum Entry {
    Allowed,
    Expired,
    Unknown,
}

impl State {
    pub(super) fn new() -> Self {
        let mut inner = Inner::default();
        for (name, mode) in [("system", "System"), (MACHINES, "Machines")] {
            let body = serde_json::json!({"properties": {
                "count": 1, "vmSize": "Standard_D4ds_v5", "mode": mode, "osType": "Linux",
                "type": "VirtualMachineScaleSets",
            }});
            let kept = Kept {
                body,
                ..Kept::default()
            };
            inner.kept.insert(name.to_owned(), kept);
        }
        Self {
            control: Control::default(),
            inner: Mutex::new(inner),
        }
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that holds now.
    pub(super) fn token(&self) -> String {
        format!("token-{}", self.inner().generation)
    }

    /// All tokens end.
    pub(super) fn expire(&self) {
        self.inner().generation += 1;
    }

    /// A number that nothing else has.
    pub(super) fn number(&self) -> u64 {
        let mut inner = self.inner();
        inner.number += 1;
        inner.number
    }

    pub(super) fn admit(&self, headers: &HeaderMap) -> Entry {
        let shown = headers.get(http::header::AUTHORIZATION);
        let shown = shown.and_then(|value| value.to_str().ok()).unwrap_or("");
        let Some(token) = shown.strip_prefix("Bearer token-") else {
            return Entry::Unknown;
        };
        match token.parse::<u64>() {
            Ok(generation) if generation == self.inner().generation => Entry::Allowed,
            Ok(_) => Entry::Expired,
            Err(_) => Entry::Unknown,
        }
    }

    pub(super) fn record(
        &self,
        method: &Method,
        path: &str,
        query: &BTreeMap<String, String>,
        headers: &HeaderMap,
        body: &Bytes,
    ) {
        let header = |name: &str| {
            let value = headers.get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        self.inner().recorded.push(Recorded {
            method: method.to_string(),
            path: path.to_owned(),
            query: query.clone(),
            condition: header("if-match").or_else(|| header("if-none-match")),
            body: serde_json::from_slice(body).ok(),
            agent: header("user-agent").unwrap_or_default(),
        });
    }

    pub(super) fn recorded(&self) -> Vec<Recorded> {
        self.inner().recorded.clone()
    }

    /// Machines there are by the truth, and those that can be seen now: each look brings hidden ones
    /// nearer.
    pub(super) fn look(&self) -> Seen {
        // Held meanwhile, so that nothing is bought between what is seen and what is kept.
        let mut inner = self.inner();
        let visible = self.control.list();
        let visible = visible.into_iter().map(|machine| machine.id).collect();
        let all = self.control.machines().into_iter();
        let all = all.map(|machine| (machine.id.clone(), machine)).collect();
        let seen = Seen { all, visible };
        // What has lost its machines is gone itself, but for an interrupted one, whose pool stays.
        inner.kept.retain(|_, kept| {
            kept.failed.is_some() || kept.machines.is_empty() || !seen.of(kept).is_empty()
        });
        seen
    }
}

/// What a look has seen.
pub(super) struct Seen {
    all: BTreeMap<String, Machine>,
    visible: BTreeSet<String>,
}

impl Seen {
    /// Machines of a pool.
    pub(super) fn of<'a>(&'a self, kept: &'a Kept) -> Vec<&'a Machine> {
        let ids = kept.machines.iter();
        ids.filter_map(|id| self.all.get(id)).collect()
    }

    /// Whether all of them can be seen.
    pub(super) fn is_visible(&self, kept: &Kept) -> bool {
        let mut machines = self.of(kept).into_iter();
        machines.all(|machine| self.visible.contains(&machine.id))
    }

    /// Those of a pool that are listed: not the ones that were taken away.
    pub(super) fn listed<'a>(&'a self, kept: &'a Kept) -> Vec<&'a Machine> {
        let mut machines = self.of(kept);
        machines.retain(|machine| {
            machine.life != Life::Interrupted && self.visible.contains(&machine.id)
        });
        machines
    }

    /// `provisioningState`.
    pub(super) fn state(&self, kept: &Kept) -> &'static str {
        let ends = |machine: &&Machine| matches!(machine.life, Life::Ending(_));
        match () {
            () if kept.failed.is_some() => "Failed",
            () if self.of(kept).iter().any(ends) => "Deleting",
            () if self.is_visible(kept) => "Succeeded",
            () => "Creating",
        }
    }
}

/// Agent pools, and what people do with them.
#[derive(Debug)]
pub struct Pools<'a> {
    state: &'a State,
}

impl<'a> Pools<'a> {
    pub(super) fn of(state: &'a State) -> Self {
        Self { state }
    }

    /// Names of all that there are.
    pub fn names(&self) -> Vec<String> {
        let inner = self.state.inner();
        let names = inner.kept.keys().filter(|name| !name.contains('/'));
        names.cloned().collect()
    }

    /// A person makes one.
    pub fn add(&self, name: &str) {
        let kept = Kept {
            body: serde_json::json!({"properties": {"mode": "User", "tags": {"team": "vision"}}}),
            ..Kept::default()
        };
        self.state.inner().kept.insert(name.to_owned(), kept);
    }

    /// One fails after it was accepted, for want of capacity.
    pub fn fail(&self, name: &str) {
        if let Some(kept) = self.state.inner().kept.get_mut(name) {
            let words = "Allocation failed. We do not have sufficient capacity.";
            kept.failed = Some(("ZonalAllocationFailed".to_owned(), words.to_owned()));
        }
    }

    /// The cluster does something during which no pool can be changed.
    pub fn occupy(&self) {
        self.state.inner().busy = true;
    }
}
