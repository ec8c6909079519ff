//! Finds the disk that a cloud gives with the machine: fast, large, and empty on a new node.
//!
//! A disk counts when every device under its file system is such a disk by its model string, as
//! the clouds' drivers report it. Where it is mounted is the node image's business: EKS puts it
//! below `/mnt/k8s-disks`, GKE and AKS elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

/// Model strings of local disks: EC2 instance store, Google local SSD, Azure local NVMe.
const LOCAL_MODELS: [&str; 4] = [
    "Amazon EC2 NVMe Instance Storage",
    "nvme_card",
    "Microsoft NVMe Direct Disk",
    "Microsoft NVMe Direct Disk v2",
];

/// File systems that a store can live on.
const KINDS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// A mounted file system on local disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalDisk {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its size, bytes.
    pub bytes: u64,
}

/// The largest file system on local disks of this machine, if there is one.
pub fn local_disk() -> Option<LocalDisk> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let found = local_mounts(&mounts, Path::new("/sys"));
    let sized = found.into_iter().filter_map(|mount| {
        let stat = nix::sys::statvfs::statvfs(&mount).ok()?;
        let bytes = stat.blocks() * stat.fragment_size();
        Some(LocalDisk { mount, bytes })
    });
    sized.max_by_key(|disk| disk.bytes)
}

/// Mount points of whole file systems on local disks, from the text of `mountinfo` (proc(5)) and
/// the `sys` file system; of several mounts of one device the first, other than the root.
fn local_mounts(mountinfo: &str, sys: &Path) -> Vec<PathBuf> {
    let mut seen: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else {
            continue;
        };
        let mount: Vec<&str> = mount.split(' ').collect();
        let &[_, _, device, root, place, ..] = mount.as_slice() else {
            continue;
        };
        let kind = kind.split(' ').next().unwrap_or_default();
        let whole = root == "/" && place != "/" && KINDS.contains(&kind);
        if !whole || seen.contains(&device) {
            continue;
        }
        // A partition or an array lies on other devices; a disk on itself.
        if is_local(&sys.join("dev/block").join(device)) {
            seen.push(device);
            // Blanks are written as octal escapes; a disk with one in its path is not chosen.
            if !place.contains('\\') {
                found.push(PathBuf::from(place));
            }
        }
    }
    found
}

/// Whether all that a block device consists of is local.
fn is_local(device: &Path) -> bool {
    let Ok(device) = device.canonicalize() else {
        return false;
    };
    let under: Vec<PathBuf> = match fs::read_dir(device.join("slaves")) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    if !under.is_empty() {
        return under.iter().all(|device| is_local(device));
    }
    let whole = match device.join("partition").exists() {
        true => device.parent().unwrap_or(&device).to_owned(),
        false => device,
    };
    let model = fs::read_to_string(whole.join("device/model")).unwrap_or_default();
    LOCAL_MODELS.contains(&model.trim())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A machine with an EBS root, two instance store disks in an array, and one by itself with a
    /// partition.
    fn sys() -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let at = |path: &str| sys.path().join(path);
        let disk = |name: &str, number: &str, model: &str| {
            fs::create_dir_all(at(&format!("devices/{name}/device"))).unwrap();
            fs::create_dir_all(at(&format!("devices/{name}/slaves"))).unwrap();
            fs::write(
                at(&format!("devices/{name}/device/model")),
                format!("{model}   \n"),
            )
            .unwrap();
            symlink(
                at(&format!("devices/{name}")),
                at(&format!("dev/block/{number}")),
            )
            .unwrap();
        };
        fs::create_dir_all(at("dev/block")).unwrap();
        disk("nvme0n1", "259:0", "Amazon Elastic Block Store");
        disk("nvme1n1", "259:1", "Amazon EC2 NVMe Instance Storage");
        disk("nvme2n1", "259:2", "Amazon EC2 NVMe Instance Storage");
        disk("nvme3n1", "259:3", "Amazon EC2 NVMe Instance Storage");
        fs::create_dir_all(at("devices/nvme3n1/nvme3n1p1")).unwrap();
        fs::write(at("devices/nvme3n1/nvme3n1p1/partition"), "1\n").unwrap();
        symlink(at("devices/nvme3n1/nvme3n1p1"), at("dev/block/259:4")).unwrap();
        fs::create_dir_all(at("devices/md0/slaves")).unwrap();
        for disk in ["nvme1n1", "nvme2n1"] {
            symlink(
                at(&format!("devices/{disk}")),
                at(&format!("devices/md0/slaves/{disk}")),
            )
            .unwrap();
        }
        symlink(at("devices/md0"), at("dev/block/9:0")).unwrap();
        sys
    }

    fn mounts(lines: &str) -> Vec<PathBuf> {
        local_mounts(lines, sys().path())
    }

    #[test]
    fn an_array_and_a_partition_of_local_disks_are_found_and_a_network_disk_is_not() {
        let found = mounts(
            "21 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n\
             22 21 259:0 / /data rw - ext4 /dev/nvme0n1 rw\n\
             23 21 9:0 / /mnt/k8s-disks/0 rw,noatime shared:5 - xfs /dev/md0 rw\n\
             24 21 259:4 / /mnt/one rw - ext4 /dev/nvme3n1p1 rw\n",
        );
        assert_eq!(
            found,
            [Path::new("/mnt/k8s-disks/0"), Path::new("/mnt/one")]
        );
    }

    #[test]
    fn bind_mounts_second_mounts_and_file_systems_without_a_disk_are_passed_over() {
        let found = mounts(
            "23 21 9:0 / /mnt/k8s-disks/0 rw - xfs /dev/md0 rw\n\
             24 21 9:0 /kubelet /var/lib/kubelet rw - xfs /dev/md0 rw\n\
             25 21 9:0 / /mnt/again rw - xfs /dev/md0 rw\n\
             26 21 0:33 / /run rw - tmpfs tmpfs rw\n\
             27 21 259:3 / /mnt/vfat rw - vfat /dev/nvme3n1 rw\n\
             not a line\n",
        );
        assert_eq!(found, [Path::new("/mnt/k8s-disks/0")]);
    }
}
