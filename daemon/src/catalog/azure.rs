//! Sizes of Azure VMs: GPU sizes by table, D, E and F of versions 5 and 6 by their published ratio.
//!
//! Sources: Microsoft's pages on VM sizes. In the ratio families the number is the count of vCPUs and
//! the letters behind it say the ratio; sizes with constrained vCPUs (`E8-4s`), with local disks
//! (`d`) and the largest of the E series, which have less memory than the ratio says, are left out.

use headstart_core::offer::{Arch, Gpu};

use super::size::{LeftOut, Size, amd, nvidia};

/// One GPU size: vCPUs, GiB, GPU, local NVMe in GB, network and disk in Mbit/s.
struct Known {
    name: &'static str,
    vcpus: u64,
    gib: u64,
    gpu: (&'static str, u32, u64),
    nvme_gb: u64,
    network_mbps: u64,
    disk_mbps: u64,
}

/// `(name, vCPUs, GiB, GPU, NVMe GB, network Mbit/s, disk Mbit/s)`. The disk is the published limit
/// for remote disks: that of the local ones is not published.
const fn known(
    name: &'static str,
    vcpus: u64,
    gib: u64,
    gpu: (&'static str, u32, u64),
    nvme_gb: u64,
    network_mbps: u64,
    disk_mbps: u64,
) -> Known {
    Known {
        name,
        vcpus,
        gib,
        gpu,
        nvme_gb,
        network_mbps,
        disk_mbps,
    }
}

/// Sizes with whole GPUs that are still sold.
const GPU_SIZES: [Known; 17] = [
    known("NC4as_T4_v3", 4, 28, ("T4", 1, 16384), 0, 8000, 0),
    known("NC8as_T4_v3", 8, 56, ("T4", 1, 16384), 0, 8000, 0),
    known("NC16as_T4_v3", 16, 110, ("T4", 1, 16384), 0, 8000, 0),
    known("NC64as_T4_v3", 64, 440, ("T4", 4, 16384), 0, 32000, 0),
    known(
        "NC24ads_A100_v4",
        24,
        220,
        ("A100", 1, 81920),
        960,
        20000,
        8000,
    ),
    known(
        "NC48ads_A100_v4",
        48,
        440,
        ("A100", 2, 81920),
        1920,
        40000,
        16000,
    ),
    known(
        "NC96ads_A100_v4",
        96,
        880,
        ("A100", 4, 81920),
        3840,
        80000,
        32000,
    ),
    known(
        "NC40ads_H100_v5",
        40,
        320,
        ("H100", 1, 95830),
        3840,
        40000,
        24000,
    ),
    known(
        "NC80adis_H100_v5",
        80,
        640,
        ("H100", 2, 95830),
        7680,
        80000,
        56000,
    ),
    known("ND40rs_v2", 40, 672, ("V100", 8, 32768), 0, 24000, 0),
    known("ND96asr_v4", 96, 900, ("A100", 8, 40960), 6000, 0, 0),
    known("ND96amsr_A100_v4", 96, 1900, ("A100", 8, 81920), 6400, 0, 0),
    known(
        "ND96isr_H100_v5",
        96,
        1900,
        ("H100", 8, 81920),
        28000,
        80000,
        4896,
    ),
    known(
        "ND96isr_H200_v5",
        96,
        1850,
        ("H200", 8, 144384),
        28000,
        80000,
        0,
    ),
    known(
        "ND96isr_MI300X_v5",
        96,
        1850,
        ("MI300X", 8, 196608),
        28000,
        80000,
        0,
    ),
    known("NV36ads_A10_v5", 36, 440, ("A10", 1, 24576), 0, 40000, 0),
    known("NV72ads_A10_v5", 72, 880, ("A10", 2, 24576), 0, 80000, 0),
];

/// Sizes that have a share of a GPU, by what their names contain.
const SHARES: [&str; 8] = [
    "NV6ads_A10",
    "NV12ads_A10",
    "NV18ads_A10",
    "_V620",
    "_V710",
    "NV4as_v4",
    "NV8as_v4",
    "NV16as_v4",
];

/// Series by letters behind the number and version: GiB per vCPU, architecture, and the most vCPUs
/// up to which the ratio holds.
const RATIOS: [(char, &str, &str, u64, Arch, u64); 20] = [
    ('D', "", "v5", 4, Arch::Amd64, 96),
    ('D', "s", "v5", 4, Arch::Amd64, 96),
    ('D', "as", "v5", 4, Arch::Amd64, 96),
    ('D', "ls", "v5", 2, Arch::Amd64, 96),
    ('E', "", "v5", 8, Arch::Amd64, 64),
    ('E', "s", "v5", 8, Arch::Amd64, 64),
    ('E', "as", "v5", 8, Arch::Amd64, 64),
    ('D', "s", "v6", 4, Arch::Amd64, 192),
    ('D', "as", "v6", 4, Arch::Amd64, 96),
    ('D', "ls", "v6", 2, Arch::Amd64, 128),
    ('D', "als", "v6", 2, Arch::Amd64, 96),
    ('D', "ps", "v6", 4, Arch::Arm64, 96),
    ('D', "pls", "v6", 2, Arch::Arm64, 96),
    ('E', "s", "v6", 8, Arch::Amd64, 64),
    ('E', "as", "v6", 8, Arch::Amd64, 64),
    ('E', "ps", "v6", 8, Arch::Arm64, 64),
    ('F', "as", "v6", 4, Arch::Amd64, 64),
    ('F', "als", "v6", 2, Arch::Amd64, 64),
    ('F', "ams", "v6", 8, Arch::Amd64, 64),
    ('D', "s", "v4", 4, Arch::Amd64, 64),
];

/// The size of `name`, or why it is not offered.
pub(crate) fn size(name: &str) -> Result<Size, LeftOut> {
    let short = name.strip_prefix("Standard_").ok_or(LeftOut::NoSize)?;
    if short.ends_with("_Promo")
        || short.starts_with("NC") && short.ends_with("s_v3") && !short.contains("T4")
    {
        return Err(LeftOut::Retired);
    }
    if let Some(known) = GPU_SIZES.iter().find(|known| known.name == short) {
        return Ok(Size {
            gpu: Some(gpu(known.gpu)),
            network_mbps: known.network_mbps,
            disk_mbps: known.disk_mbps,
            local_nvme_gb: known.nvme_gb,
            ..Size::plain(&family(short), Arch::Amd64, known.vcpus, known.gib * 1024)
        });
    }
    if SHARES.iter().any(|share| short.contains(share)) {
        return Err(LeftOut::GpuShare);
    }
    let (head, version) = short.split_once('_').ok_or(LeftOut::NoSize)?;
    let mut letters = head.chars();
    let series = letters.next().ok_or(LeftOut::NoSize)?;
    let rest = letters.as_str();
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, attributes) = rest.split_at(digits);
    let vcpus: u64 = number.parse().map_err(|_| LeftOut::NoSize)?;
    let ratio = RATIOS
        .iter()
        .find(|(s, a, v, ..)| (*s, *a, *v) == (series, attributes, version));
    match ratio {
        Some((.., gib, arch, most)) if vcpus <= *most => Ok(Size::plain(
            &family(short),
            *arch,
            vcpus,
            vcpus * gib * 1024,
        )),
        None if attributes.contains('d') && matches!(series, 'D' | 'E' | 'F') => {
            Err(LeftOut::LocalDisk)
        }
        _ => Err(LeftOut::NoSize),
    }
}

fn gpu((sku, count, memory_mib): (&str, u32, u64)) -> Gpu {
    match sku {
        "MI300X" => amd(sku, count, memory_mib),
        _ => nvidia(sku, count, memory_mib),
    }
}

/// A size's name without its number: `NCads_A100_v4`.
fn family(short: &str) -> String {
    let digits = |c: char| c.is_ascii_digit();
    let Some(start) = short.find(digits) else {
        return short.to_owned();
    };
    let (series, rest) = short.split_at(start);
    [series, rest.trim_start_matches(digits)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Result<(String, i64, u64), LeftOut> {
        size(name).map(|s| (s.family, s.cpu_millis, s.memory_mib))
    }

    #[test]
    fn sizes_follow_table_or_ratio() {
        let expected = ("Ds_v5".to_owned(), 4000, 16384);
        assert_eq!(of("Standard_D4s_v5"), Ok(expected));
        let expected = ("Fams_v6".to_owned(), 8000, 65536);
        assert_eq!(of("Standard_F8ams_v6"), Ok(expected));
        let expected = ("NCads_A100_v4".to_owned(), 24_000, 225_280);
        assert_eq!(of("Standard_NC24ads_A100_v4"), Ok(expected));
    }

    #[test]
    fn what_is_not_certain_is_left_out_with_its_reason() {
        assert_eq!(of("Standard_E96s_v5"), Err(LeftOut::NoSize));
        assert_eq!(of("Standard_E8-4s_v5"), Err(LeftOut::NoSize));
        assert_eq!(of("Standard_D4ds_v5"), Err(LeftOut::LocalDisk));
        assert_eq!(of("Standard_NV6ads_A10_v5"), Err(LeftOut::GpuShare));
        assert_eq!(of("Standard_NC6s_v3"), Err(LeftOut::Retired));
        assert_eq!(of("Basic_A0"), Err(LeftOut::NoSize));
        assert_eq!(of("Standard_"), Err(LeftOut::NoSize));
    }
}
