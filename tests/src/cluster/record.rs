//! What a cluster has made, written down before it is used, so that whoever comes next can end it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::cgroups;
use super::machine::{END_WAIT, Machine};
use super::node::Node;
use super::process::Process;

/// Everything of a cluster that outlives the process that made it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// The control plane's machine.
    pub(super) control: Option<Machine>,
    /// What runs there.
    pub(super) processes: Vec<Process>,
    /// First processes that are made or gone, and what runs outside.
    pub(super) roots: Vec<Process>,
    pub(super) nodes: Vec<Node>,
    pub(super) cgroups: Vec<String>,
    /// Ports of this machine that lead to the API server and the registry.
    pub(super) doors: Vec<std::net::SocketAddr>,
}

impl Record {
    /// What was written down in `directory`; nothing if nothing was.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = path(directory);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} cannot be read", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// By rename: half a record would hide what it does not name.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let path = path(directory);
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("write {}", path.display()))
    }

    /// Ends everything that is written down.
    pub(super) fn end(&self) -> Result<()> {
        for root in &self.roots {
            root.kill();
        }
        for process in self.all() {
            process.until_gone(END_WAIT)?;
        }
        for cgroup in &self.cgroups {
            cgroups::remove(cgroup)?;
        }
        Ok(())
    }

    /// Every process, whether it still runs or not.
    pub(super) fn all(&self) -> impl Iterator<Item = &Process> {
        let nodes = self.nodes.iter().flat_map(|node| &node.processes);
        self.roots.iter().chain(&self.processes).chain(nodes)
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join("cluster.json")
}
