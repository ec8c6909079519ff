//! From files and flags to one snapshot: manifests, catalog, sizes.
//!
//! Everything is read before anything is judged, and every problem of every file is said.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use headstart_core::label::{ARCH, INSTANCE_TYPE, Operator, REGION, ZONE};
use headstart_core::money::Millis;
use headstart_core::offer::{Arch, Rates};
use headstart_core::pod::Phase;
use headstart_core::pool::NodePool;
use headstart_core::snapshot::{Policy, Snapshot};

use super::items;
use crate::catalog::choose::{CatalogArgs, Hint, market};
use crate::manifest;

/// What `plan` and `explain` work on.
#[derive(Debug, Clone, Args)]
pub(crate) struct Inputs {
    /// Manifests of what is to run: pods, workloads, Ray and LeaderWorkerSet objects, and whatever
    /// they refer to. `-` is standard input
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub(crate) pods: Vec<PathBuf>,
    /// Manifests of node pools: what may be bought
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub(crate) node_pool: Vec<PathBuf>,
    /// Manifests of nodes that exist, with the pods on them
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub(crate) nodes: Vec<PathBuf>,
    /// Manifests of node caches: what each node has
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub(crate) caches: Vec<PathBuf>,
    /// Sizes of images and models: YAML with a list under `items:`, each with image or model,
    /// transfer, for images unpacked and largestLayer, and digest or commit if it is resolved. What
    /// is not named is assumed
    #[arg(long, value_name = "FILE")]
    pub(crate) items: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
}

/// Everything that is planned with.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// The world.
    pub(crate) snapshot: Snapshot,
    /// How to plan.
    pub(crate) policy: Policy,
    /// Where prices come from.
    pub(crate) prices: Vec<String>,
    /// What was assumed or left out.
    pub(crate) notes: Vec<String>,
}

/// Reads it all. `now` is the moment that is planned for.
///
/// # Errors
/// One line per problem.
pub(crate) fn assemble(inputs: &Inputs, now: Millis) -> Result<Assembled, Vec<String>> {
    let mut problems = Vec::new();
    let given = match &inputs.items {
        None => Ok(Default::default()),
        Some(path) => read(path)
            .map_err(|problem| vec![problem])
            .and_then(|bytes| {
                let text = String::from_utf8_lossy(&bytes);
                items::read(&path.display().to_string(), &text)
            }),
    };
    let given = given.unwrap_or_else(|found| {
        problems.extend(found);
        Default::default()
    });
    let mut sources = Vec::new();
    let mut seen = BTreeSet::new();
    let files = [
        &inputs.pods,
        &inputs.node_pool,
        &inputs.nodes,
        &inputs.caches,
    ];
    for path in files.into_iter().flatten() {
        // One file may hold both, and be named twice.
        if !seen.insert(path) {
            continue;
        }
        match read(path) {
            Ok(bytes) => sources.push((path.display().to_string(), bytes)),
            Err(problem) => problems.push(problem),
        }
    }
    let manifests = match manifest::read(&sources) {
        Ok(manifests) => Some(manifests),
        Err(found) => {
            problems.extend(found.iter().map(ToString::to_string));
            None
        }
    };
    let mut notes = Vec::new();
    let mut snapshot = Snapshot::default();
    if let Some(manifests) = manifests {
        notes.extend(manifests.notes().iter().map(ToString::to_string));
        snapshot = manifests.into_snapshot(now);
        if snapshot.pools.is_empty() {
            let named: Vec<String> = inputs
                .node_pool
                .iter()
                .map(|p| p.display().to_string())
                .collect();
            problems.push(format!(
                "{}: no object of kind NodePool (headstart.dev/v1alpha1): nothing says what may be \
                 bought",
                named.join(", ")
            ));
        }
    }
    // Without manifests, a region that only a pool names would be missed: say what is certain.
    let hint = hint(&snapshot.pools);
    let skip = snapshot.pools.is_empty() && inputs.catalog.region.is_none();
    let market = match market(&inputs.catalog, &hint) {
        Ok(market) => market,
        Err(_) if skip && inputs.catalog.catalog.is_empty() => Default::default(),
        Err(found) => {
            problems.extend(found);
            Default::default()
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    snapshot.types = market.types;
    snapshot.offerings = market.offerings;
    notes.extend(default_arch(&mut snapshot));
    notes.extend(items::complete(&mut snapshot, given));
    known_types(&mut snapshot);
    Ok(Assembled {
        snapshot,
        policy: Policy::default(),
        prices: market.basis,
        notes,
    })
}

/// Completes nodes whose type the catalog knows: rates, and the labels that follow from the type and
/// that no other agent sets.
fn known_types(snapshot: &mut Snapshot) {
    let types = &snapshot.types;
    for node in &mut snapshot.nodes {
        let name = node.labels.get(INSTANCE_TYPE);
        let Some(kind) = name.and_then(|name| types.iter().find(|kind| kind.name == *name)) else {
            continue;
        };
        if node.rates == Rates::default() {
            node.rates = kind.rates;
        }
        for (key, value) in kind.node_labels() {
            node.labels.entry(key).or_insert(value);
        }
    }
}

/// Plans pods that name no architecture for amd64, if no pool names one either: a manifest does not
/// say what its images are built for, and an arm64 node that is cheaper would be no use to most.
fn default_arch(snapshot: &mut Snapshot) -> Option<String> {
    let by_pools = |pool: &NodePool| pool.requirements.iter().any(|r| r.expression.key == ARCH);
    let sold = |arch| snapshot.types.iter().any(|kind| kind.arch == arch);
    if snapshot.pools.iter().any(by_pools) || !sold(Arch::Arm64) || !sold(Arch::Amd64) {
        return None;
    }
    let mut any = false;
    for pod in &mut snapshot.pods {
        let shape = &mut pod.shape;
        let mut affinity = shape.node_affinity.iter().flat_map(|term| &term.0);
        let named = affinity.any(|e| e.key == ARCH) || shape.node_selector.contains_key(ARCH);
        if pod.phase == Phase::Pending && !named {
            let amd64 = Arch::Amd64.as_str().to_owned();
            shape.node_selector.insert(ARCH.to_owned(), amd64);
            any = true;
        }
    }
    any.then(|| {
        format!(
            "pods are planned for amd64, as neither they nor a pool name {ARCH} and nobody says \
             what their images are built for"
        )
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = match path.to_str() {
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
        }
        _ => std::fs::read(path),
    };
    read.map_err(|error| format!("{}: cannot be read: {error}", path.display()))
}

/// The region and zones that all pools agree on.
fn hint(pools: &[NodePool]) -> Hint {
    let allowed = |pool: &NodePool, key: &str| -> Option<BTreeSet<String>> {
        let requirements = pool.requirements.iter().map(|r| &r.expression);
        let values = requirements
            .filter(|e| e.key == key && e.operator == Operator::In)
            .map(|e| e.values.iter().cloned().collect());
        values.reduce(|a: BTreeSet<String>, b| a.intersection(&b).cloned().collect())
    };
    let all = |key| -> Option<BTreeSet<String>> {
        let each: Option<Vec<_>> = pools.iter().map(|pool| allowed(pool, key)).collect();
        each.map(|each| each.into_iter().flatten().collect())
    };
    let region = match all(REGION).map(|names| names.into_iter().collect::<Vec<_>>()) {
        Some(names) if names.len() == 1 => names.into_iter().next(),
        _ => None,
    };
    Hint {
        region,
        zones: all(ZONE).unwrap_or_default().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use headstart_core::label::Expression;
    use headstart_core::pool::PoolRequirement;

    use super::*;

    fn pool(conditions: &[(&str, &[&str])]) -> NodePool {
        let mut pool = NodePool::new("p");
        pool.requirements = conditions
            .iter()
            .map(|(key, values)| PoolRequirement {
                expression: Expression {
                    key: (*key).to_owned(),
                    operator: Operator::In,
                    values: values.iter().map(|v| (*v).to_owned()).collect(),
                },
                min_values: None,
            })
            .collect();
        pool
    }

    #[test]
    fn pools_hint_at_a_region_only_if_all_name_one() {
        let one = pool(&[
            (REGION, &["us-east-1"]),
            (ZONE, &["us-east-1b", "us-east-1a"]),
        ]);
        let hinted = hint(std::slice::from_ref(&one));
        assert_eq!(hinted.region.as_deref(), Some("us-east-1"));
        assert_eq!(hinted.zones, ["us-east-1a", "us-east-1b"]);
        assert_eq!(hint(&[one.clone(), pool(&[])]), Hint::default());
        let other = pool(&[(REGION, &["eu-west-1"])]);
        assert_eq!(hint(&[one, other]).region, None);
    }
}
