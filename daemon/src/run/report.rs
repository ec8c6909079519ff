//! Statuses that differ from what was last reported.

use std::collections::BTreeMap;

use headstart_core::money::HourlyPrice;
use headstart_core::node::NodeState;
use headstart_core::plan::{Prefetch, Target};
use headstart_core::pod::ObjectKey;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt as _;

use super::round::Rounds;
use super::say::{Reason, Say};
use super::status::{self, SeenOf};
use super::wish::{self, Selected};
use super::write::Write;

impl Rounds {
    /// What is to be reported.
    pub(super) fn report(&mut self, lists: &[Prefetch]) -> Vec<Write> {
        let mut writes = Vec::new();
        if self.calls.is_some() {
            self.report_claims(&mut writes);
        }
        self.report_pools(&mut writes);
        self.report_prefetches(lists, &mut writes);
        writes
    }

    fn report_claims(&mut self, writes: &mut Vec<Write>) {
        let claims: Vec<_> = self.picture.claims.values().cloned().collect();
        for claim in claims {
            let name = claim.name_any();
            let node = self.nodes.of_claim(&name);
            let planned = node.and_then(|node| self.mind.node(node));
            let seen = SeenOf {
                node: node
                    .and_then(|node| self.picture.nodes.get(node))
                    .map(|seen| &seen.raw.object),
                cache: self.picture.caches.get(&name).map(|seen| &*seen.object),
                complete: planned.is_some_and(|node| node.state == NodeState::Running),
                instance: self.ensured.get(&name),
                refused: self.refused.get(&name).cloned(),
            };
            let now = status::of_claim(&claim, &seen);
            if claim.status.as_ref() != Some(&now) {
                writes.push(Write::ClaimStatus {
                    name,
                    status: Box::new(now),
                });
            } else {
                self.ensured.remove(&name);
                self.learn(&claim);
            }
        }
    }

    fn report_pools(&mut self, writes: &mut Vec<Write>) {
        for (name, seen) in &self.picture.pools {
            let nodes: Vec<Option<HourlyPrice>> = self
                .mind
                .snapshot
                .nodes
                .iter()
                .filter(|node| node.pool.as_ref() == Some(name))
                .map(|node| node.price)
                .collect();
            let problems = seen.read.as_ref().err().map(|problems| problems.join("; "));
            let blocked = self.blocked.get(name).map(|(_, why)| why.as_str());
            let ready = match (&problems, blocked) {
                (Some(problems), _) => Err(("Unreadable", problems.as_str())),
                (None, Some(why)) => Err(("ProviderRefused", why)),
                (None, None) => Ok(()),
            };
            let before = self.pool_statuses.get(name).unwrap_or(&seen.status);
            let now = status::of_pool(before, &seen.metadata, ready, &nodes);
            if *before == now {
                continue;
            }
            if let Some(problems) = &problems {
                self.speaker.say(Say {
                    about: ObjectReference {
                        api_version: Some("headstart.dev/v1alpha1".to_owned()),
                        kind: Some("NodePool".to_owned()),
                        name: Some(name.clone()),
                        uid: seen.metadata.uid.clone(),
                        ..ObjectReference::default()
                    },
                    reason: Reason::PoolUnreadable,
                    note: format!("it buys nothing until this is right: {problems}"),
                    news: String::new(),
                });
            }
            self.pool_statuses.insert(name.clone(), now.clone());
            writes.push(Write::PoolStatus {
                name: name.clone(),
                status: Box::new(now),
            });
        }
        let pools = &self.picture.pools;
        self.pool_statuses
            .retain(|name, _| pools.contains_key(name));
    }

    fn report_prefetches(&mut self, lists: &[Prefetch], writes: &mut Vec<Write>) {
        let wishes = self.picture.book.wishes();
        let skipped: BTreeMap<&str, &Prefetch> = match wishes.len() {
            0 => BTreeMap::new(),
            _ => lists
                .iter()
                .filter_map(|list| match &list.target {
                    Target::Node(name) => Some((name.as_str(), list)),
                    Target::New(_) => None,
                })
                .collect(),
        };
        let snapshot = &self.mind.snapshot;
        for (placed, _, problems) in wishes {
            let key = ObjectKey::new(&placed.namespace, &placed.name);
            let wishes: Vec<_> = snapshot
                .wishes
                .iter()
                .filter(|wish| wish.asked_by == key)
                .cloned()
                .collect();
            let nodes = snapshot.nodes.iter().filter(|node| {
                super::intent::is_told(node)
                    && wishes
                        .first()
                        .is_none_or(|wish| wish.nodes.matches(&node.labels))
            });
            let nodes = nodes.map(|node| Selected {
                name: &node.name,
                inventory: snapshot.inventories.get(&node.name),
                skipped: skipped.get(&*node.name).map_or(&[], |list| &list.skipped),
            });
            let seen = placed.object.status.clone().unwrap_or_default();
            let before = self.prefetch_statuses.get(&key).unwrap_or(&seen);
            let metadata = &placed.object.metadata;
            let now = wish::status(before, metadata, &wishes, &problems, nodes);
            if *before != now {
                self.prefetch_statuses.insert(key.clone(), now.clone());
                writes.push(Write::PrefetchStatus {
                    key,
                    status: Box::new(now),
                });
            }
        }
    }
}
