//! Labels, annotations, finalizers, taints and other names that objects carry.

/// API group, and the prefix of every name below.
pub const GROUP: &str = "headstart.dev";

/// Label on nodes and claims: the pool that bought it.
pub const NODE_POOL: &str = "headstart.dev/node-pool";

/// Label on nodes: the claim they were bought for.
pub const NODE_CLAIM: &str = "headstart.dev/node-claim";

/// Label on node caches: the Node they are for, once it has a name. Labels hold 63 characters; a node
/// with a longer name has none.
pub const NODE: &str = "headstart.dev/node";

/// Label on nodes: `spot`, `on-demand` or `reserved`.
pub const CAPACITY_TYPE: &str = "headstart.dev/capacity-type";

/// Prefix of labels on nodes that say which items are warm; the rest is [`warm_label`]'s.
pub const WARM_PREFIX: &str = "headstart.dev/warm-";

/// Finalizer of claims: the instance is given back before the claim goes.
pub const INSTANCE_FINALIZER: &str = "headstart.dev/instance";

/// Annotation on claims and pools: digest of what a node was bought by; another one is drift.
pub const POOL_HASH: &str = "headstart.dev/pool-hash";

/// Annotation on pods: the Secret of their namespace that holds the Hub token to mount models with.
pub const TOKEN_SECRET: &str = "headstart.dev/token-secret";

/// Scheduling gate put on pods that wait to be steered.
pub const STEERING_GATE: &str = "headstart.dev/steering";

/// Annotation on pods: models they start with, separated by commas.
pub const MODELS: &str = "headstart.dev/models";

/// Annotation on pods: images to fetch besides those of their containers, separated by commas.
pub const IMAGES: &str = "headstart.dev/images";

/// Annotation on pods and namespaces: nothing of Headstart touches them when `true`.
pub const IGNORE: &str = "headstart.dev/ignore";

/// Annotation on pods: `gate` steers by a scheduling gate, `none` not at all; by preference when absent.
pub const STEERING: &str = "headstart.dev/steering";

/// Annotation that the webhook leaves on pods it changed: what was injected, and why.
pub const INJECTED: &str = "headstart.dev/injected";

/// Name of the CSI driver that mounts models.
pub const CSI_DRIVER: &str = "csi.headstart.dev";

/// Attribute of a CSI volume: the model to mount, `hf://org/name[@revision][?include=…]`.
pub const CSI_MODEL: &str = "headstart.dev/model";

/// Attribute of a CSI volume: what a pod gets whose model it may not read or that does not exist.
/// `fail`, which is the default, keeps it from starting; `empty` mounts an empty cache, and so what
/// the pod would have without Headstart.
pub const CSI_ON_REFUSAL: &str = "headstart.dev/on-refusal";

/// Field manager of the control plane, in server-side apply.
pub const FIELD_MANAGER: &str = "headstart";

/// Field manager of agents.
pub const AGENT_FIELD_MANAGER: &str = "headstart-agent";

/// Taint on nodes that were asked to leave.
pub const LEAVING_TAINT: &str = "headstart.dev/leaving";

/// Attribute of a CSI volume: the key of its Secret under which the token is, where it has none of the
/// usual names.
pub const CSI_TOKEN_KEY: &str = "headstart.dev/token-key";

/// Longest name of a label, after its prefix.
const MOST_OF_LABEL: usize = 63;

/// The label on nodes, and on the agent's pods, that says a model is there: `headstart.dev/warm-` and
/// its repository with `--` for the slash, shortened to what a label may have. Nothing for what no
/// repository is called.
///
/// Two long names with the same start and length share a label: it is a preference and no promise.
/// An admission policy computes the same name, which is why it is no hash.
pub fn warm_label(repository: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if repository.is_empty() || !repository.chars().all(plain) {
        return None;
    }
    let most = MOST_OF_LABEL - "warm-".len();
    let name = repository.replace('/', "--");
    let ends_well = name.ends_with(|c: char| c.is_ascii_alphanumeric());
    if name.len() <= most && ends_well {
        return Some(format!("{WARM_PREFIX}{name}"));
    }
    let start: String = name.chars().take(most - 4).collect();
    Some(format!("{WARM_PREFIX}{start}.{}", name.len().min(999)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_label_is_a_label_whatever_the_repository_is_called() {
        let name = |repository: &str| warm_label(repository).unwrap();
        assert_eq!(name("Qwen/Qwen3-8B"), "headstart.dev/warm-Qwen--Qwen3-8B");
        assert_eq!(name("gpt2"), "headstart.dev/warm-gpt2");
        assert_eq!(name("a/b_"), "headstart.dev/warm-a--b_.5");
        let long = format!("org/{}", "x".repeat(92));
        for repository in ["a/b", "a/b_", long.as_str(), &long[..57], &long[..58]] {
            let label = name(repository);
            let (_, label) = label.split_once('/').unwrap();
            assert!(label.len() <= MOST_OF_LABEL, "{label}");
            assert!(
                label.ends_with(|c: char| c.is_ascii_alphanumeric()),
                "{label}"
            );
        }
        assert_eq!(warm_label("a b"), None);
        assert_eq!(warm_label(""), None);
    }
}
