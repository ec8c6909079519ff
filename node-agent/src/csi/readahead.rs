//! Reads the weights of a pod that is starting into memory, ahead of it, as far as memory is free.
//!
//! The kernel reads; nothing passes through this process. Pages are charged to the control group of
//! whoever asks first, so the group's own limit bounds it too: under a tight one nothing is read
//! rather than pushing out what was read before.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use headstart_hub::layout::Tree;
use headstart_hub::plan::ModelPlan;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tokio_util::sync::CancellationToken;

/// Bytes asked for at once; the call returns when they are asked for, not when they are there.
const WINDOW: u64 = 8 << 20;

/// Bytes after which memory is looked at again.
const LOOK_AFTER: u64 = 256 << 20;

/// Of the memory that is free, a page cache may take one part in this many: the pod needs the rest.
const SHARE: u64 = 2;

/// Least memory left to the agent's own control group.
const OWN: u64 = 64 << 20;

/// Asks for the files of `plan` in order until memory is short or `stop`; bytes asked for. Blocks.
pub(super) fn read_ahead(plan: &ModelPlan, tree: &Tree, stop: &CancellationToken) -> u64 {
    let blobs = tree.hub().join(plan.repo.cache_dir()).join("blobs");
    let mut asked = 0;
    let mut budget = budget();
    for file in &plan.files {
        let Ok(opened) = File::open(blobs.join(file.etag())) else {
            continue;
        };
        let mut offset = 0;
        while offset < file.size {
            if stop.is_cancelled() || budget < WINDOW {
                return asked;
            }
            let length = WINDOW.min(file.size - offset);
            let (from, bytes) = (offset as i64, length as i64);
            let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
            if posix_fadvise(&opened, from, bytes, advice).is_err() {
                return asked;
            }
            offset += length;
            asked += length;
            budget -= length;
            if asked % LOOK_AFTER < WINDOW {
                budget = budget.min(self::budget());
            }
        }
    }
    asked
}

/// Bytes that may be read into memory now.
fn budget() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = free_memory(&machine).unwrap_or(0) / SHARE;
    group(Path::new("/sys/fs/cgroup")).map_or(machine, |own| machine.min(own))
}

/// Memory nobody uses, bytes: what is only cached may be another pod's weights.
fn free_memory(meminfo: &str) -> Option<u64> {
    let kilobytes = |name: &str| {
        let mut lines = meminfo.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some(kilobytes("MemFree")? * 1024)
}

/// What the control group this process is in may still take, if it has a limit.
fn group(root: &Path) -> Option<u64> {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let v2 = || {
        Some((
            number(root.join("memory.max"))?,
            number(root.join("memory.current"))?,
        ))
    };
    let v1 = || {
        let root = root.join("memory");
        let limit = number(root.join("memory.limit_in_bytes"))?;
        // No limit is written as a very large one.
        let limited = (limit < 1 << 60).then_some(limit)?;
        Some((limited, number(root.join("memory.usage_in_bytes"))?))
    };
    let (limit, used) = v2().or_else(v1)?;
    Some(limit.saturating_sub(used).saturating_sub(OWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_what_nobody_uses() {
        let text = "MemTotal:       16384 kB\nMemFree:         1024 kB\nMemAvailable:    8192 kB\n";
        assert_eq!(free_memory(text), Some(1 << 20));
        assert_eq!(free_memory("MemFree: many\n"), None);
    }

    #[test]
    fn a_control_group_with_a_limit_bounds_it_and_one_without_does_not() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        assert_eq!(group(root.path()), None);
        write("memory.max", "max\n");
        write("memory.current", "1000\n");
        assert_eq!(group(root.path()), None);
        write("memory.max", "300000000\n");
        write("memory.current", "100000000\n");
        assert_eq!(group(root.path()), Some(200_000_000 - OWN));
        write("memory.current", "299999999\n");
        assert_eq!(group(root.path()), Some(0));
    }
}
