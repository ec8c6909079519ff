//! Confined unpacker for container image layers: one layer's compressed stream in, one directory
//! out, the digest of the tar stream (its diff id) beside it.
//!
//! - The result equals what containerd's own serial unpack of the layer gives: same order, same
//!   replacements, same errors. Nothing is improved upon.
//! - Nothing outside the staging directory is written, read or followed, whatever the archive says:
//!   a path is walked one name at a time from the root's descriptor, symbolic links are read and
//!   never followed by the kernel.
//! - Inflating, hashing and writing run side by side over a handful of buffers: memory does not
//!   grow with the layer. What must be remembered until the end (times of directories, whiteouts)
//!   has a limit of its own.
//! - [`child_main`] runs all of this in a process that can do nothing else, see [`confine()`]; a
//!   layer that kills it costs one layer. [`Child`] is the other end.
//!
//! Absent on purpose: checking the compressed digest and comparing the diff id (the caller knows
//! both), fsync of single files (see [`sync`]), preallocation (a header may lie about its size, and
//! file systems delay allocation anyway).

use std::path::PathBuf;

use headstart_core::digest::Sha256;
use serde::{Deserialize, Serialize};

pub use crate::apply::apply;
pub use crate::confine::confine;
pub use crate::error::{Death, Limit, Os, UnpackError};
pub use crate::fingerprint::fingerprint;
pub use crate::lower::{copy_root, fix_implicit_parents, sync};
pub use crate::merge::merge;
pub use crate::process::{Child, Input, child_main};

mod apply;
mod archive;
mod confine;
mod error;
mod fingerprint;
mod inflate;
mod lower;
mod merge;
mod path_text;
mod process;
mod root;

/// Tar bytes that are allowed whatever the ratio: a small layer of zeros is no bomb.
const RATIO_SLACK: u64 = 64 << 20;

/// What a layer may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most bytes of the tar stream, and most bytes of all files together, holes included.
    pub bytes: u64,
    /// Most entries in the archive.
    pub entries: u64,
    /// Most bytes of a path, before and after resolving links.
    pub path_bytes: u64,
    /// Most bytes of names kept until the end: directories, whiteouts.
    pub name_bytes: u64,
    /// Most tar bytes for each compressed byte, beyond the first 64 MiB.
    pub ratio: u64,
    /// Largest zstd window, as a power of two.
    pub zstd_window_log: u32,
    /// Address space that the process may fill with data, bytes.
    pub memory: u64,
    /// Processor time of the process, seconds.
    pub cpu_seconds: u64,
}

impl Default for Limits {
    /// For single layers of images of up to 30 GB. Gzip cannot exceed 1032 : 1; layers of machine
    /// code, Python and weights stay under 10 : 1.
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 4_000_000,
            path_bytes: 4096,
            name_bytes: 32 << 20,
            ratio: 200,
            zstd_window_log: 27,
            memory: 320 << 20,
            cpu_seconds: 3600,
        }
    }
}

/// What becomes of owners, devices and whiteouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// An overlayfs layer, as containerd's snapshotter keeps them. Needs root.
    Overlay,
    /// The same for a layer with nothing below it: a whiteout removes what the layer itself brought
    /// before it, as containerd does there, and leaves no node that overlayfs might show.
    Base,
    /// Plain files owned by whoever runs this: no owners, devices, set-id bits or attributes other
    /// than `user.*`; directories stay writable. Whiteouts are listed instead of created, for
    /// [`merge()`].
    Plain,
}

/// What to do with one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// An empty directory that nobody else touches.
    #[serde(with = "path_text")]
    pub staging: PathBuf,
    /// The kind of directory wanted.
    pub style: Style,
    /// What the layer may cost.
    #[serde(default)]
    pub limits: Limits,
    /// Niceness of the process, 0 to 19.
    #[serde(default)]
    pub nice: u8,
}

/// A directory that the archive uses but did not describe before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Implicit {
    /// Its path inside the layer.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Whether an entry described it later: it then keeps its own owner, mode and times.
    pub described: bool,
}

/// A layer that became a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Sha256 of the tar stream with everything that trails it: the diff id.
    pub diff_id: Sha256,
    /// Bytes of the compressed stream.
    pub compressed_bytes: u64,
    /// Bytes of the tar stream.
    pub tar_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Directories made because something was in them.
    pub implicit: Vec<Implicit>,
    /// Paths that the layer hides. Only in [`Style::Plain`]; otherwise they are device nodes.
    #[serde(with = "path_text::list")]
    pub whiteouts: Vec<PathBuf>,
    /// Directories whose lower contents the layer hides. Only in [`Style::Plain`]; otherwise they
    /// carry an attribute. The empty path is the root.
    #[serde(with = "path_text::list")]
    pub opaques: Vec<PathBuf>,
    /// Device nodes left out. Only in [`Style::Plain`].
    pub skipped_devices: u64,
    /// Extended attributes left out, as containerd does or because of [`Style::Plain`].
    pub skipped_xattrs: u64,
}
