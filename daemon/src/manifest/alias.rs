//! Other names of the labels we plan with: deprecated ones, Karpenter's, those of cloud providers.
//!
//! Nodes keep the labels they have and get ours beside them; what is asked of a node is asked by our
//! names. Sources: Kubernetes well-known labels; Karpenter v1 and the clouds' documentation.

use headstart_core::label::{self, Expression, Labels, Operator};

/// How the values of an alias are written.
#[derive(Clone, Copy)]
enum Values {
    /// As ours.
    Same,
    /// As the name of a GPU.
    Gpu,
    /// As a capacity type in other words.
    Capacity,
}

const ALIASES: [(&str, &str, Values); 32] = [
    (
        "failure-domain.beta.kubernetes.io/zone",
        label::ZONE,
        Values::Same,
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        label::REGION,
        Values::Same,
    ),
    ("beta.kubernetes.io/arch", label::ARCH, Values::Same),
    ("beta.kubernetes.io/os", label::OS, Values::Same),
    (
        "beta.kubernetes.io/instance-type",
        label::INSTANCE_TYPE,
        Values::Same,
    ),
    ("topology.ebs.csi.aws.com/zone", label::ZONE, Values::Same),
    ("topology.gke.io/zone", label::ZONE, Values::Same),
    (
        "topology.disk.csi.azure.com/zone",
        label::ZONE,
        Values::Same,
    ),
    (
        "karpenter.sh/capacity-type",
        label::CAPACITY_TYPE,
        Values::Same,
    ),
    ("karpenter.sh/nodepool", label::NODE_POOL, Values::Same),
    (
        "karpenter.k8s.aws/instance-family",
        label::INSTANCE_FAMILY,
        Values::Same,
    ),
    (
        "karpenter.k8s.aws/instance-gpu-name",
        label::GPU_SKU,
        Values::Gpu,
    ),
    (
        "karpenter.k8s.aws/instance-gpu-count",
        label::GPU_COUNT,
        Values::Same,
    ),
    (
        "karpenter.k8s.aws/instance-gpu-memory",
        label::GPU_MEMORY,
        Values::Same,
    ),
    (
        "karpenter.k8s.aws/instance-local-nvme",
        label::LOCAL_NVME,
        Values::Same,
    ),
    (
        "karpenter.k8s.aws/instance-cpu",
        label::INSTANCE_CPU,
        Values::Same,
    ),
    (
        "karpenter.k8s.aws/instance-memory",
        label::INSTANCE_MEMORY,
        Values::Same,
    ),
    (
        "karpenter.k8s.aws/instance-network-bandwidth",
        label::INSTANCE_NETWORK,
        Values::Same,
    ),
    (
        "karpenter.azure.com/sku-gpu-name",
        label::GPU_SKU,
        Values::Gpu,
    ),
    (
        "karpenter.azure.com/sku-gpu-count",
        label::GPU_COUNT,
        Values::Same,
    ),
    (
        "karpenter.azure.com/sku-cpu",
        label::INSTANCE_CPU,
        Values::Same,
    ),
    (
        "karpenter.azure.com/sku-memory",
        label::INSTANCE_MEMORY,
        Values::Same,
    ),
    (
        "karpenter.k8s.gcp/instance-family",
        label::INSTANCE_FAMILY,
        Values::Same,
    ),
    (
        "karpenter.k8s.gcp/instance-gpu-name",
        label::GPU_SKU,
        Values::Gpu,
    ),
    (
        "karpenter.k8s.gcp/instance-gpu-count",
        label::GPU_COUNT,
        Values::Same,
    ),
    (
        "cloud.google.com/gke-accelerator",
        label::GPU_SKU,
        Values::Gpu,
    ),
    (
        "cloud.google.com/machine-family",
        label::INSTANCE_FAMILY,
        Values::Same,
    ),
    (
        "cloud.google.com/gke-spot",
        label::CAPACITY_TYPE,
        Values::Capacity,
    ),
    (
        "cloud.google.com/gke-provisioning",
        label::CAPACITY_TYPE,
        Values::Capacity,
    ),
    (
        "eks.amazonaws.com/capacityType",
        label::CAPACITY_TYPE,
        Values::Capacity,
    ),
    (
        "kubernetes.azure.com/scalesetpriority",
        label::CAPACITY_TYPE,
        Values::Capacity,
    ),
    ("nvidia.com/gpu.product", label::GPU_SKU, Values::Gpu),
];

fn alias(key: &str) -> Option<(&'static str, Values)> {
    let found = ALIASES.iter().find(|(other, ..)| *other == key)?;
    Some((found.1, found.2))
}

/// Our name of a label.
pub(crate) fn key(key: &str) -> &str {
    alias(key).map_or(key, |(ours, _)| ours)
}

/// A condition, asked by our names.
pub(crate) fn expression(asked: Expression) -> Expression {
    let Some((ours, values)) = alias(&asked.key) else {
        return asked;
    };
    let operator = match (values, asked.operator) {
        // These labels exist on spot nodes only.
        (Values::Capacity, Operator::Exists) => {
            return Expression::equals(ours, "spot");
        }
        (Values::Capacity, Operator::DoesNotExist) => {
            return Expression {
                key: ours.to_owned(),
                operator: Operator::NotIn,
                values: vec!["spot".to_owned()],
            };
        }
        (_, operator) => operator,
    };
    Expression {
        key: ours.to_owned(),
        operator,
        values: asked.values.iter().map(|v| value(values, v)).collect(),
    }
}

/// Puts our names beside the labels that a node has.
pub(crate) fn add_ours(labels: &mut Labels) {
    for (other, ours, values) in ALIASES {
        if !labels.contains_key(ours)
            && let Some(found) = labels.get(other)
        {
            let ours_value = value(values, found);
            labels.insert(ours.to_owned(), ours_value);
        }
    }
}

fn value(values: Values, found: &str) -> String {
    match values {
        Values::Same => found.to_owned(),
        Values::Gpu => gpu_sku(found),
        Values::Capacity => match found.to_ascii_lowercase().as_str() {
            "true" | "spot" => "spot",
            "reservation" | "reserved" | "capacity_block" => "reserved",
            _ => "on-demand",
        }
        .to_owned(),
    }
}

/// The model of a GPU as we write it: upper case, without maker, form factor and memory. `A10G` and
/// `A10` stay different.
pub(crate) fn gpu_sku(found: &str) -> String {
    let upper = found.trim().to_ascii_uppercase().replace([' ', '_'], "-");
    let mut words: Vec<&str> = upper.split('-').filter(|word| !word.is_empty()).collect();
    for maker in ["NVIDIA", "AMD", "TESLA"] {
        if words.len() > 1 && words[0] == maker {
            words.remove(0);
        }
    }
    let detail = |word: &&str| {
        let memory = word
            .strip_suffix("GB")
            .is_some_and(|size| !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit()));
        let form = [
            "SXM", "SXM2", "SXM3", "SXM4", "SXM5", "PCIE", "NVL", "HBM2", "HBM3", "HBM3E", "MEGA",
            "SHARED",
        ];
        memory || form.contains(word)
    };
    let end = words
        .iter()
        .skip(1)
        .position(detail)
        .map_or(words.len(), |at| at + 1);
    words.truncate(end);
    words.join("-")
}

/// Memory of one GPU in MiB, where the name of the model says it: `A100-80GB`.
pub(crate) fn gpu_memory_in_name(found: &str) -> Option<&str> {
    found.split(['-', ' ', '_']).skip(1).find(|word| {
        let upper = word.to_ascii_uppercase();
        upper
            .strip_suffix("GB")
            .is_some_and(|size| !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit()))
    })
}
