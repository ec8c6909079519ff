//! Whether a node is still what its pool says: a claim keeps a digest of what its node was made with,
//! and what a pool requires is compared with what was bought.
//!
//! A digest of another form says nothing, so that an upgrade replaces no node. What changes from one
//! hour to the next (prices, what is sold, the pool's limits and weights) is no drift.

use headstart_api::{NodeClaim, NodePool, PoolTaint, names};
use headstart_core::node::Node;
use headstart_core::offer::InstanceType;
use kube::ResourceExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::manifest::pool;
use crate::plan::{now, words};

/// Form of the digest: another one for whatever changes it.
const FORM: &str = "1-";

/// Notes on a claim by what it is bought.
pub(super) fn mark(claim: &mut NodeClaim, pool: Option<&NodePool>) {
    if let Some(pool) = pool {
        let hash = hash(pool);
        claim
            .annotations_mut()
            .insert(names::POOL_HASH.to_owned(), hash);
    }
}

/// What of a node differs from what its pool says now, for people.
pub(super) fn of(
    node: &Node,
    claim: &NodeClaim,
    pool: &NodePool,
    read: &pool::Read,
    types: &[InstanceType],
) -> Option<String> {
    let before = claim.annotations().get(names::POOL_HASH);
    if before.is_some_and(|before| before.starts_with(FORM) && *before != hash(pool)) {
        return Some("its pool's labels, taints or provider settings changed".to_owned());
    }
    let name = node.offering.as_ref().map(|it| &it.instance_type);
    let kind = name.and_then(|name| types.iter().find(|kind| kind.name == *name));
    let refused = read.pool.refuses(node, kind)?;
    Some(words::rejection(&refused, now()))
}

/// Of what is given to every node of a pool when it is made.
fn hash(pool: &NodePool) -> String {
    let spec = &pool.spec;
    let set = |taints: &[PoolTaint]| {
        let mut all: Vec<String> = taints
            .iter()
            .map(|taint| json!(taint).to_string())
            .collect();
        all.sort_unstable();
        all
    };
    let (taints, startup) = (set(&spec.taints), set(&spec.startup_taints));
    let given = json!([spec.labels, taints, startup, spec.provider]);
    let digest = Sha256::digest(given.to_string());
    let hex: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{FORM}{hex}")
}

#[cfg(test)]
mod tests {
    use headstart_api::{NodeClaimSpec, NodePoolSpec};

    use super::*;

    #[test]
    fn what_a_node_is_made_with_is_in_the_digest_and_what_it_is_bought_by_is_not() {
        let pool = |spec| NodePool::new("gpu", spec);
        let first = hash(&pool(NodePoolSpec::default()));
        let weight = NodePoolSpec {
            weight: 7,
            ..NodePoolSpec::default()
        };
        assert_eq!(hash(&pool(weight)), first);
        let labels = NodePoolSpec {
            labels: [("team".to_owned(), "a".to_owned())].into(),
            ..NodePoolSpec::default()
        };
        assert_ne!(hash(&pool(labels)), first);
        let mut claim = NodeClaim::new("c", NodeClaimSpec::default());
        mark(&mut claim, Some(&pool(NodePoolSpec::default())));
        assert_eq!(claim.annotations()[names::POOL_HASH], first);
    }
}
