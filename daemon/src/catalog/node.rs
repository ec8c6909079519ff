//! What a node of each cloud's Kubernetes keeps for itself, and how long it takes to come up.
//!
//! Reservations follow the clouds' published formulas, for the clouds' default of 110 pods:
//! - EKS: memory 255 MiB + 11 MiB per pod; CPU 6 % of the first core, 1 % of the second, 0.5 % of the
//!   next two, 0.25 % of the rest; eviction below 100 MiB. (awslabs/amazon-eks-ami, nodeadm)
//! - GKE: memory 25 % of the first 4 GiB, 20 % of the next 4, 10 % of the next 8, 6 % of the next 112,
//!   2 % of the rest; CPU as EKS; eviction below 100 MiB. (GKE, "Plan node sizes")
//! - AKS 1.29 and later: memory the lesser of 20 MB per pod + 50 MB and a quarter; CPU 60, 100, 140,
//!   180, 260, 420, 740 millicores for 1, 2, 4, 8, 16, 32, 64 cores; eviction below 100 MiB. (AKS,
//!   "Node resource reservations")
//!
//! On EC2 and Azure the system sees less memory than is advertised: 7.5 % is taken off, the default of
//! the Karpenter providers of both. Google's formula is stated on the advertised memory.
//!
//! Boot times are published figures of others, the lowest of each range; none was measured by us.

use headstart_core::amount::{CPU, EPHEMERAL_STORAGE, MEMORY, PODS, Resources};
use headstart_core::money::Millis;
use headstart_core::offer::Boot;

use super::Cloud;

/// Pods on a node: the default of GKE and of Kubernetes itself. EKS without prefix delegation allows
/// fewer on small types, AKS with overlay networking more.
pub(crate) const MAX_PODS: i64 = 110;

/// Size of the root disk that a node is taken to have, in bytes, where it has no local NVMe.
const ROOT_DISK: i64 = 100 << 30;

const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;

/// Ephemeral storage of a node: its local NVMe where it has some.
pub(crate) fn disk(local_nvme: u64) -> i64 {
    match i64::try_from(local_nvme) {
        Ok(0) | Err(_) => ROOT_DISK,
        Ok(local) => local,
    }
}

/// What the system and the kubelet keep of `capacity`.
pub(crate) fn overhead(cloud: Cloud, capacity: &Resources) -> Resources {
    let (cpu, memory) = (capacity.of(CPU), capacity.of(MEMORY));
    let pods = capacity.of(PODS);
    let (cpu_kept, memory_kept) = match cloud {
        Cloud::Aws => (stepped_cpu(cpu), (255 + 11 * pods) * MIB + unseen(memory)),
        Cloud::Gcp => (stepped_cpu(cpu), stepped_memory(memory)),
        Cloud::Azure => (
            aks_cpu(cpu),
            (20_000_000 * pods + 50_000_000).min(memory / 4) + unseen(memory),
        ),
    };
    Resources::new()
        .with(CPU, cpu_kept.min(cpu))
        .with(MEMORY, (memory_kept + 100 * MIB).min(memory))
        // The kubelet evicts below a tenth of its disk.
        .with(EPHEMERAL_STORAGE, capacity.of(EPHEMERAL_STORAGE) / 10)
}

/// How long a node takes to come up.
///
/// EKS: network 17 s and the agent 2 s later, Ready 26 s, GPUs 90 s (node-latency-for-k8s,
/// k8s-device-plugin#291). GKE: GPU nodes Ready after 180 s at best, GPUs a minute later; the agent is
/// a DaemonSet, 3 s after Ready. AKS: Ready after 480 s at best, the rest as on GKE. For nodes without
/// GPU on GKE and AKS no other figure is known.
pub(crate) fn boot(cloud: Cloud, with_gpu: Option<&headstart_core::offer::Gpu>) -> Boot {
    let (agent, ready, gpu) = match cloud {
        Cloud::Aws => (19, 26, 90),
        Cloud::Gcp => (183, 180, 240),
        Cloud::Azure => (483, 480, 540),
    };
    Boot {
        agent: Millis::from_secs(agent),
        ready: Millis::from_secs(ready),
        allocatable: Millis::from_secs(if with_gpu.is_some() { gpu } else { ready }),
    }
}

/// Memory that the machine is sold with and its system does not see.
fn unseen(memory: i64) -> i64 {
    memory / 1000 * 75
}

/// Millicores kept of `cpu` by EKS and GKE.
fn stepped_cpu(cpu: i64) -> i64 {
    // Per ten thousand of each step.
    let steps = [(1000, 600), (1000, 100), (2000, 50), (i64::MAX, 25)];
    kept_by_steps(cpu, &steps)
}

/// Bytes kept of `memory` by GKE.
fn stepped_memory(memory: i64) -> i64 {
    if memory < GIB {
        return 255 * MIB;
    }
    let steps = [
        (4 * GIB, 2500),
        (4 * GIB, 2000),
        (8 * GIB, 1000),
        (112 * GIB, 600),
        (i64::MAX, 200),
    ];
    kept_by_steps(memory, &steps)
}

/// Adds up shares (per ten thousand) of successive steps, rounded up.
fn kept_by_steps(mut amount: i64, steps: &[(i64, i64)]) -> i64 {
    let mut kept: i128 = 0;
    for (width, share) in steps {
        let part = amount.clamp(0, *width);
        kept += i128::from(part) * i128::from(*share);
        amount -= part;
    }
    i64::try_from(kept.div_euclid(10_000) + i128::from(kept % 10_000 > 0)).unwrap_or(i64::MAX)
}

/// Millicores kept of `cpu` by AKS; between and beyond the published sizes as between 8 and 64 cores:
/// 10 per core.
fn aks_cpu(cpu: i64) -> i64 {
    let cores = cpu / 1000;
    match cores {
        ..=1 => 60,
        2 | 3 => 100,
        4..=7 => 140,
        _ => 100 + 10 * cores,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(cloud: Cloud, cores: i64, gib: i64) -> (i64, i64) {
        let capacity = Resources::new()
            .with(CPU, cores * 1000)
            .with(MEMORY, gib * GIB)
            .with(PODS, MAX_PODS);
        let overhead = overhead(cloud, &capacity);
        (overhead.of(CPU), overhead.of(MEMORY) / MIB)
    }

    #[test]
    fn reservations_follow_the_published_formulas() {
        // 60 + 10 + 10; 255 + 11 x 110 + 100 + 7.5 % of 16 GiB
        assert_eq!(kept(Cloud::Aws, 4, 16), (80, 1565 + 1228));
        // 1 GiB + 0.8 GiB + 0.8 GiB + 100
        assert_eq!(kept(Cloud::Gcp, 4, 16), (80, 2662 + 100));
        // 20 x 110 + 50 MB, 100 MiB, 7.5 % of 16 GiB
        assert_eq!(kept(Cloud::Azure, 4, 16), (140, 2145 + 100 + 1229));
        // As many as the table says for 8, 16, 32 and 64 cores.
        for (cores, millis) in [(8, 180), (16, 260), (32, 420), (64, 740)] {
            assert_eq!(kept(Cloud::Azure, cores, 64).0, millis);
        }
    }

    #[test]
    fn a_tiny_machine_keeps_no_more_than_it_has() {
        for cloud in [Cloud::Aws, Cloud::Gcp, Cloud::Azure] {
            let capacity = Resources::new().with(CPU, 10).with(MEMORY, MIB);
            assert!(overhead(cloud, &capacity).fits(&capacity));
        }
    }
}
