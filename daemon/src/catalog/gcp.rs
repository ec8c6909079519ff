//! Sizes of GCE machine types: vCPU and memory from the table of types by zone, GPUs, network and
//! local SSD by the published tables of the accelerator families.
//!
//! Sources: Google's pages on GPU machine types (GPU count, maximum egress per VM) and on local SSD
//! (350 MB/s of writes per 375 GB disk, 4,680 MB/s at most). A3 and G4 are in no table of zones here:
//! their sizes are listed, their zones are not known.

use headstart_core::offer::Arch;

use super::size::{LeftOut, Size, nvidia};

/// One accelerator type: GPU, local SSD in GB, network in Mbit/s.
type Accelerated = (&'static str, (&'static str, u32, u64), u64, u64);

/// GPUs of types whose vCPU and memory the table of zones has.
const ACCELERATED: [Accelerated; 17] = [
    ("g2-standard-4", ("L4", 1, 22888), 0, 10_000),
    ("g2-standard-8", ("L4", 1, 22888), 0, 16_000),
    ("g2-standard-12", ("L4", 1, 22888), 0, 16_000),
    ("g2-standard-16", ("L4", 1, 22888), 0, 32_000),
    ("g2-standard-24", ("L4", 2, 22888), 0, 32_000),
    ("g2-standard-32", ("L4", 1, 22888), 0, 32_000),
    ("g2-standard-48", ("L4", 4, 22888), 0, 50_000),
    ("g2-standard-96", ("L4", 8, 22888), 0, 100_000),
    ("a2-highgpu-1g", ("A100", 1, 40960), 0, 24_000),
    ("a2-highgpu-2g", ("A100", 2, 40960), 0, 32_000),
    ("a2-highgpu-4g", ("A100", 4, 40960), 0, 50_000),
    ("a2-highgpu-8g", ("A100", 8, 40960), 0, 100_000),
    ("a2-megagpu-16g", ("A100", 16, 40960), 0, 100_000),
    ("a2-ultragpu-1g", ("A100", 1, 81920), 375, 24_000),
    ("a2-ultragpu-2g", ("A100", 2, 81920), 750, 32_000),
    ("a2-ultragpu-4g", ("A100", 4, 81920), 1500, 50_000),
    ("a2-ultragpu-8g", ("A100", 8, 81920), 3000, 100_000),
];

/// Types that no table here has in any zone: the same, then vCPU and GiB.
const UNZONED: [(Accelerated, u64, u64); 9] = [
    (("a3-highgpu-1g", ("H100", 1, 81920), 750, 25_000), 26, 234),
    (("a3-highgpu-2g", ("H100", 2, 81920), 1500, 50_000), 52, 468),
    (
        ("a3-highgpu-4g", ("H100", 4, 81920), 3000, 100_000),
        104,
        936,
    ),
    (
        ("a3-highgpu-8g", ("H100", 8, 81920), 6000, 800_000),
        208,
        1872,
    ),
    (
        ("a3-megagpu-8g", ("H100", 8, 81920), 6000, 1_800_000),
        208,
        1872,
    ),
    (
        ("g4-standard-48", ("RTX-PRO-6000", 1, 98304), 0, 50_000),
        48,
        180,
    ),
    (
        ("g4-standard-96", ("RTX-PRO-6000", 2, 98304), 0, 100_000),
        96,
        360,
    ),
    (
        ("g4-standard-192", ("RTX-PRO-6000", 4, 98304), 0, 200_000),
        192,
        720,
    ),
    (
        ("g4-standard-384", ("RTX-PRO-6000", 8, 98304), 0, 400_000),
        384,
        1440,
    ),
];

/// Writes of one local SSD and of all together, in MB/s.
const SSD_WRITE: (u64, u64) = (350, 4680);

/// Size of one local SSD in GB.
const SSD_GB: u64 = 375;

/// What the table of zones says of a type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    /// vCPUs.
    pub(crate) vcpus: u64,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// Whether it has whole cores and is still sold.
    pub(crate) offered: Option<LeftOut>,
    /// Zones that have it.
    pub(crate) zones: Vec<String>,
}

/// The size of `name`, or why it is not offered.
pub(crate) fn size(name: &str, listed: Option<&Listed>) -> Result<Size, LeftOut> {
    if let Some((accelerated, vcpus, gib)) = UNZONED.iter().find(|(a, ..)| a.0 == name) {
        let plain = Size::plain(family(name), Arch::Amd64, *vcpus, gib * 1024);
        return Ok(with_gpu(plain, accelerated));
    }
    if name.starts_with("g4-") {
        return Err(LeftOut::GpuShare);
    }
    let listed = listed.ok_or(LeftOut::NoSize)?;
    if let Some(reason) = listed.offered {
        return Err(reason);
    }
    if name.ends_with("-lssd") {
        return Err(LeftOut::LocalDisk);
    }
    if name.ends_with("-metal") {
        return Err(LeftOut::BareMetal);
    }
    let arch = match family(name) {
        "t2a" | "c4a" | "n4a" => Arch::Arm64,
        _ => Arch::Amd64,
    };
    let plain = Size::plain(family(name), arch, listed.vcpus, listed.memory_mib);
    Ok(match ACCELERATED.iter().find(|known| known.0 == name) {
        Some(known) => with_gpu(plain, known),
        None => plain,
    })
}

/// What GKE labels nodes with this GPU, if it is known: pods select by it.
pub(crate) fn accelerator_label(size: &Size) -> Option<&'static str> {
    let gpu = size.gpu.as_ref()?;
    match (size.family.as_str(), gpu.sku.as_str(), gpu.memory_mib) {
        ("g2", ..) => Some("nvidia-l4"),
        ("a2", _, 40960) => Some("nvidia-tesla-a100"),
        ("a2", ..) => Some("nvidia-a100-80gb"),
        ("a3", ..) if size.network_mbps > 1_000_000 => Some("nvidia-h100-mega-80gb"),
        ("a3", ..) => Some("nvidia-h100-80gb"),
        ("g4", ..) => Some("nvidia-rtx-pro-6000"),
        _ => None,
    }
}

fn with_gpu(plain: Size, known: &Accelerated) -> Size {
    let (_, (sku, count, memory_mib), ssd_gb, network_mbps) = *known;
    let (one, all) = SSD_WRITE;
    Size {
        gpu: Some(nvidia(sku, count, memory_mib)),
        network_mbps,
        disk_mbps: (ssd_gb / SSD_GB * one).min(all) * 8,
        local_nvme_gb: ssd_gb,
        ..plain
    }
}

fn family(name: &str) -> &str {
    name.split_once('-').map_or(name, |(family, _)| family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_network_and_local_ssd_come_from_the_published_tables() {
        let listed = Listed {
            vcpus: 12,
            memory_mib: 170 << 10,
            ..Listed::default()
        };
        let size = size("a2-ultragpu-1g", Some(&listed)).unwrap();
        assert_eq!(size.gpu, Some(nvidia("A100", 1, 81920)));
        assert_eq!((size.local_nvme_gb, size.disk_mbps), (375, 2800));
        assert_eq!(accelerator_label(&size), Some("nvidia-a100-80gb"));
    }

    #[test]
    fn a_share_of_a_gpu_and_an_unlisted_type_are_left_out() {
        assert_eq!(size("g4-standard-6", None), Err(LeftOut::GpuShare));
        assert_eq!(size("c4-standard-8", None), Err(LeftOut::NoSize));
        assert!(size("a3-highgpu-1g", None).is_ok());
    }
}
