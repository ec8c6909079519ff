//! The control groups of nodes, in either version of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// How long the last processes of a group may take to leave it.
const EMPTY_WAIT: Duration = Duration::from_secs(20);

/// Makes the group in every hierarchy; what a child needs before it can hold a process is filled
/// in.
pub(super) fn make(name: &str) -> Result<()> {
    for root in hierarchies()? {
        let group = root.join(name);
        fs::create_dir_all(&group).with_context(|| format!("make {}", group.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let above = root.join(file);
            if above.exists() && !unified() {
                fs::copy(&above, group.join(file))
                    .with_context(|| format!("set {file} of {}", group.display()))?;
            }
        }
        if unified() {
            let wanted = "+cpuset +cpu +io +memory +pids +hugetlb";
            for controller in wanted.split(' ') {
                // What the kernel lacks cannot be passed on.
                let _ = fs::write(root.join("cgroup.subtree_control"), controller);
                let _ = fs::write(group.join("cgroup.subtree_control"), controller);
            }
        }
    }
    Ok(())
}

/// Removes the group and all below it once its processes are gone.
pub(super) fn remove(name: &str) -> Result<()> {
    let deadline = Instant::now() + EMPTY_WAIT;
    for root in hierarchies()? {
        let group = root.join(name);
        while group.exists() {
            match remove_tree(&group) {
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("remove {}", group.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
                Ok(()) => {}
            }
        }
    }
    Ok(())
}

/// A group's files cannot be removed and need not be.
fn remove_tree(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

fn hierarchies() -> Result<Vec<PathBuf>> {
    if unified() {
        return Ok(vec![ROOT.into()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(ROOT).context("no control groups are mounted")? {
        let entry = entry?;
        // Links are second names of one hierarchy.
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}
