//! Sizes of EC2 types: GPU types by table, common families by their published ratio.
//!
//! Sources: AWS's instance type pages for the ratio of memory to vCPU of each family and for the
//! meaning of the size word (`medium` 1 vCPU, `large` 2, `xlarge` 4, `Nxlarge` 4N); the burstable
//! families are listed one by one, as they follow no ratio. A family that is not named here, above
//! all one with local disks whose sizes would matter, is left out rather than guessed.

use std::collections::BTreeMap;

use headstart_core::offer::{Arch, Gpu};

use super::size::{LeftOut, Size, amd, nvidia};

/// Families with 2 GiB of memory per vCPU.
const COMPUTE: [&str; 17] = [
    "c5", "c5a", "c6a", "c6g", "c6gn", "c6i", "c6in", "c7a", "c7g", "c7gn", "c7i", "c7i-flex",
    "c8a", "c8g", "c8gn", "c8i", "c8i-flex",
];

/// Families with 4 GiB of memory per vCPU.
const GENERAL: [&str; 16] = [
    "m5", "m5a", "m5n", "m5zn", "m6a", "m6g", "m6i", "m6in", "m7a", "m7g", "m7i", "m7i-flex",
    "m8a", "m8g", "m8i", "m8i-flex",
];

/// Families with 8 GiB of memory per vCPU.
const MEMORY: [&str; 18] = [
    "r5", "r5a", "r5b", "r5n", "r6a", "r6g", "r6i", "r6in", "r7a", "r7g", "r7i", "r7iz", "r8a",
    "r8g", "r8gb", "r8gn", "r8i", "r8i-flex",
];

/// Burstable families: all three have the same sizes.
const BURSTABLE: [&str; 3] = ["t3", "t3a", "t4g"];

/// vCPU and MiB of the burstable sizes.
const BURSTABLE_SIZES: [(&str, u64, u64); 7] = [
    ("nano", 2, 512),
    ("micro", 2, 1024),
    ("small", 2, 2048),
    ("medium", 2, 4096),
    ("large", 2, 8192),
    ("xlarge", 4, 16384),
    ("2xlarge", 8, 32768),
];

/// First letters of families that are plain machines: sizes that a refreshed price list states are
/// believed for these only, as accelerators would go unnoticed elsewhere.
const PLAIN: [char; 4] = ['c', 'm', 'r', 't'];

/// The size of `name`, or why it is not offered. `stated` is what a price list says of it: vCPUs and
/// MiB.
pub(crate) fn size(
    name: &str,
    gpus: &BTreeMap<String, Size>,
    stated: Option<(u64, u64)>,
) -> Result<Size, LeftOut> {
    let (family, word) = name.split_once('.').ok_or(LeftOut::NoSize)?;
    if word.starts_with("metal") {
        return Err(LeftOut::BareMetal);
    }
    if let Some(size) = gpus.get(name) {
        return match &size.gpu {
            Some(gpu) if gpu.count == 0 => Err(LeftOut::GpuShare),
            _ => Ok(size.clone()),
        };
    }
    let plain = |vcpus, memory_mib| Size::plain(family, arch(family), vcpus, memory_mib);
    if BURSTABLE.contains(&family) {
        let mut sizes = BURSTABLE_SIZES.iter();
        let found = sizes.find(|(size, ..)| *size == word);
        return found
            .map(|(_, vcpus, mib)| plain(*vcpus, *mib))
            .ok_or(LeftOut::NoSize);
    }
    let per_vcpu = [(&COMPUTE[..], 2), (&GENERAL[..], 4), (&MEMORY[..], 8)];
    let ratio = per_vcpu
        .iter()
        .find(|(families, _)| families.contains(&family));
    if let (Some((_, gib)), Some(vcpus)) = (ratio, vcpus(word)) {
        return Ok(plain(vcpus, vcpus * gib * 1024));
    }
    if local_disk(family) {
        return Err(LeftOut::LocalDisk);
    }
    match stated {
        Some((vcpus, memory_mib)) if family.starts_with(PLAIN) => Ok(plain(vcpus, memory_mib)),
        _ => Err(LeftOut::NoSize),
    }
}

/// The size of a type with GPUs from its row in the table.
///
/// Disk: the write rate of instance NVMe is not published. The baseline of the type's EBS bandwidth
/// stands in for it where there is NVMe: what AWS gives the type for disks elsewhere. A type without
/// NVMe writes to its root volume, which is the prior's business.
pub(crate) fn gpu_size(
    name: &str,
    gpu: (&str, u32, u64),
    machine: (u64, u64),
    nvme_gb: u64,
    network_mbps: u64,
    ebs_mbps: u64,
) -> Size {
    let family = name.split_once('.').map_or(name, |(family, _)| family);
    let (vcpus, memory_mib) = machine;
    Size {
        gpu: Some(gpus(gpu)),
        network_mbps,
        disk_mbps: if nvme_gb > 0 { ebs_mbps } else { 0 },
        local_nvme_gb: nvme_gb,
        ..Size::plain(family, arch(family), vcpus, memory_mib)
    }
}

/// AWS's name of a GPU as the label has it: upper case, and one name for what other clouds sell too.
fn gpus((name, count, memory_mib): (&str, u32, u64)) -> Gpu {
    match name {
        "rtx-pro-server-6000" => nvidia("RTX-PRO-6000", count, memory_mib),
        _ if name.starts_with("radeon") => amd(&name.to_ascii_uppercase(), count, memory_mib),
        _ => nvidia(&name.to_ascii_uppercase(), count, memory_mib),
    }
}

/// Graviton families have a `g` behind their generation; `a1` was the first.
fn arch(family: &str) -> Arch {
    let attributes = family.trim_start_matches(|c: char| !c.is_ascii_digit());
    let attributes = attributes.trim_start_matches(|c: char| c.is_ascii_digit());
    if attributes.contains('g') || family == "a1" {
        Arch::Arm64
    } else {
        Arch::Amd64
    }
}

/// Families with local disks have a `d` behind their generation.
fn local_disk(family: &str) -> bool {
    let attributes = family.trim_start_matches(|c: char| !c.is_ascii_digit());
    family.starts_with(PLAIN) && attributes.contains('d')
}

/// What the size word says in the families by ratio.
fn vcpus(word: &str) -> Option<u64> {
    match word {
        "medium" => Some(1),
        "large" => Some(2),
        "xlarge" => Some(4),
        _ => {
            let times: u64 = word.strip_suffix("xlarge")?.parse().ok()?;
            (2..=112).contains(&times).then_some(times * 4)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Result<(Arch, i64, u64), LeftOut> {
        size(name, &BTreeMap::new(), None).map(|s| (s.arch, s.cpu_millis, s.memory_mib))
    }

    #[test]
    fn sizes_follow_the_published_ratio_of_their_family() {
        assert_eq!(of("m5.large"), Ok((Arch::Amd64, 2000, 8192)));
        assert_eq!(of("c5.9xlarge"), Ok((Arch::Amd64, 36_000, 73_728)));
        assert_eq!(of("r7i.48xlarge"), Ok((Arch::Amd64, 192_000, 1_572_864)));
        assert_eq!(of("c7g.medium"), Ok((Arch::Arm64, 1000, 2048)));
        assert_eq!(of("t3.medium"), Ok((Arch::Amd64, 2000, 4096)));
        assert_eq!(of("t4g.nano"), Ok((Arch::Arm64, 2000, 512)));
    }

    #[test]
    fn what_is_not_certain_is_left_out_with_its_reason() {
        assert_eq!(of("m5.metal"), Err(LeftOut::BareMetal));
        assert_eq!(of("m6id.large"), Err(LeftOut::LocalDisk));
        assert_eq!(of("c5n.large"), Err(LeftOut::NoSize));
        assert_eq!(of("inf2.xlarge"), Err(LeftOut::NoSize));
        assert_eq!(of("m5"), Err(LeftOut::NoSize));
    }

    #[test]
    fn a_stated_size_is_believed_for_plain_machines_only() {
        let stated = |name| size(name, &BTreeMap::new(), Some((2, 5376)));
        assert_eq!(stated("c5n.large").map(|s| s.memory_mib), Ok(5376));
        assert_eq!(stated("inf2.xlarge"), Err(LeftOut::NoSize));
    }

    #[test]
    fn a_share_of_a_gpu_is_no_gpu() {
        let share = gpu_size("g6f.large", ("l4", 0, 2861), (2, 8192), 100, 1500, 5000);
        let table = BTreeMap::from([("g6f.large".to_owned(), share)]);
        assert_eq!(size("g6f.large", &table, None), Err(LeftOut::GpuShare));
    }
}
