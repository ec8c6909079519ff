//! Directory trees as data, to hold one unpacker's work against another's.
//!
//! Everything that a container could notice is in a [`Node`], save access and change times.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sha2::Digest as _;

/// One name in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number; zero unless it is a device.
    pub rdev: u64,
    /// Modification time, seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Size and sha256 of a file, target of a link.
    pub content: String,
    /// The first name of the same file, when it has several in this tree.
    pub same_as: Option<PathBuf>,
}

/// All names below `root`, by their path from there. The root itself is left out.
pub fn walk(root: &Path) -> io::Result<BTreeMap<PathBuf, Node>> {
    let mut paths = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            }
            paths.push(entry.path());
        }
    }
    paths.sort();
    let mut first = HashMap::new();
    let mut tree = BTreeMap::new();
    for path in paths {
        let name = path
            .strip_prefix(root)
            .map_err(io::Error::other)?
            .to_owned();
        let mut node = node(&path)?;
        let found = fs::symlink_metadata(&path)?;
        if !found.is_dir() && found.nlink() > 1 {
            let earlier = first.entry(found.ino()).or_insert_with(|| name.clone());
            node.same_as = Some(earlier.clone());
        }
        tree.insert(name, node);
    }
    Ok(tree)
}

/// What differs, one line for each name and thing; modification times only where `timed` says so.
pub fn differences(
    left: &BTreeMap<PathBuf, Node>,
    right: &BTreeMap<PathBuf, Node>,
    timed: impl Fn(&Path, &Node) -> bool,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, node) in left {
        let Some(other) = right.get(path) else {
            lines.push(format!("{path:?}: only on the left"));
            continue;
        };
        let mut other = other.clone();
        if !timed(path, node) {
            other.mtime = node.mtime;
        }
        if other != *node {
            lines.push(format!("{path:?}:\n  {node:?}\n  {other:?}"));
        }
    }
    let missing = right.keys().filter(|path| !left.contains_key(*path));
    lines.extend(missing.map(|path| format!("{path:?}: only on the right")));
    lines
}

fn node(path: &Path) -> io::Result<Node> {
    let found = fs::symlink_metadata(path)?;
    let kind = found.file_type();
    let device = kind.is_char_device() || kind.is_block_device();
    Ok(Node {
        mode: found.mode(),
        uid: found.uid(),
        gid: found.gid(),
        rdev: if device { found.rdev() } else { 0 },
        mtime: (found.mtime(), found.mtime_nsec()),
        xattrs: xattrs(path)?,
        content: if kind.is_file() {
            let mut hash = sha2::Sha256::new();
            hash.update(fs::read(path)?);
            let digest = headstart_core::digest::Sha256(hash.finalize().into());
            format!("{} {digest}", found.len())
        } else if kind.is_symlink() {
            fs::read_link(path)?
                .as_os_str()
                .as_bytes()
                .escape_ascii()
                .to_string()
        } else {
            String::new()
        },
        same_as: None,
    })
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice())?;
    let mut xattrs = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0) {
        if name.is_empty() {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
        value.truncate(length);
        xattrs.insert(name.escape_ascii().to_string(), value);
    }
    Ok(xattrs)
}
