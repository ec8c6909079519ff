//! Why a layer did not become a directory. Crosses the process boundary, so every variant is plain
//! data; what the system answered travels as an error number.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Why a layer was not unpacked. What it left in the staging directory is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "failed", rename_all = "snake_case")]
pub enum UnpackError {
    /// The layer's bytes stopped arriving.
    #[error("reading the layer")]
    Read {
        /// What the system said.
        #[source]
        cause: Os,
    },
    /// The compressed stream is damaged, cut short, or needs more memory than it may have.
    #[error("{format} stream is damaged or cut short: {found}")]
    Compression {
        /// `gzip`, `zstd` or `tar`.
        format: String,
        /// What the decoder found.
        found: String,
    },
    /// The archive is not one that containerd would accept.
    #[error("tar archive is invalid at entry {entry}: {found}")]
    Archive {
        /// Number of the entry, from 1.
        entry: u64,
        /// What is wrong with it.
        found: String,
    },
    /// The layer is larger, in one of many ways, than a layer may be.
    #[error(
        "layer exceeds the fixed limit of {allowed} {limit}; if the image is trusted, pull it with the container runtime itself"
    )]
    Limit {
        /// Which one.
        limit: Limit,
        /// Its value.
        allowed: u64,
    },
    /// An operation on an entry failed.
    #[error("cannot {operation} {path:?}")]
    Entry {
        /// What was tried.
        operation: String,
        /// On which path, inside the layer.
        #[serde(with = "crate::path_text")]
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: Os,
    },
    /// The staging directory, or a lower layer, could not be used.
    #[error("cannot {operation} {path:?}")]
    Directory {
        /// What was tried.
        operation: String,
        /// The directory on the host.
        #[serde(with = "crate::path_text")]
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: Os,
    },
    /// The process could not be confined, so it did not start.
    #[error("unpacker could not be confined: {found}; run on Linux 5.19 or later with seccomp")]
    Confinement {
        /// Which wall is missing.
        found: String,
    },
    /// The process could not be started or spoken to.
    #[error("cannot {operation} the unpacker")]
    Process {
        /// What was tried.
        operation: String,
        /// What the system said.
        #[source]
        cause: Os,
    },
    /// The process ended without a result.
    #[error(
        "unpacker died: {death}; nothing of the layer is kept: try again, or pull the image with the container runtime itself"
    )]
    Died {
        /// How.
        death: Death,
    },
}

/// A limit of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Bytes of the tar stream, and of the files it describes.
    Bytes,
    /// Entries of the archive.
    Entries,
    /// Bytes of one path.
    PathBytes,
    /// Bytes of names that must be remembered until the end.
    NameBytes,
    /// Tar bytes for each compressed byte.
    Ratio,
    /// Fragments of one sparse file.
    Fragments,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Entries => "entries",
            Self::PathBytes => "bytes in a path",
            Self::NameBytes => "bytes of names",
            Self::Ratio => "tar bytes for each compressed byte",
            Self::Fragments => "fragments in a sparse file",
        })
    }
}

/// How a process ended that gave no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Death {
    /// By a signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// With an exit status.
    Status {
        /// The status.
        status: i32,
    },
    /// It said something that is no result.
    Gibberish,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signal = match self {
            Self::Signal { signal } => *signal,
            Self::Status { status } => return write!(f, "exit status {status}"),
            Self::Gibberish => return f.write_str("no readable result"),
        };
        let meaning = match signal {
            6 => " (aborted, for instance over its memory limit)",
            9 => " (killed, for instance by the out-of-memory killer)",
            24 => " (over its limit of processor time)",
            25 => " (over its limit of file size)",
            31 => " (forbidden system call)",
            _ => "",
        };
        write!(f, "signal {signal}{meaning}")
    }
}

/// What the system answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Os {
    /// The error number, when there is one.
    pub errno: Option<i32>,
    /// The text, when there is no number.
    pub text: String,
}

impl fmt::Display for Os {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Some(errno) => io::Error::from_raw_os_error(errno).fmt(f),
            None => f.write_str(&self.text),
        }
    }
}

impl std::error::Error for Os {}

impl Os {
    pub(crate) fn of(error: &io::Error) -> Self {
        Self {
            errno: error.raw_os_error(),
            text: match error.raw_os_error() {
                Some(_) => String::new(),
                None => error.to_string(),
            },
        }
    }

    pub(crate) fn errno(errno: rustix::io::Errno) -> Self {
        Self {
            errno: Some(errno.raw_os_error()),
            text: String::new(),
        }
    }
}

impl UnpackError {
    pub(crate) fn directory(
        operation: &'static str,
        path: &std::path::Path,
        errno: rustix::io::Errno,
    ) -> Self {
        Self::Directory {
            operation: operation.to_owned(),
            path: path.to_owned(),
            cause: Os::errno(errno),
        }
    }

    pub(crate) fn entry(operation: &'static str, path: &[u8], errno: rustix::io::Errno) -> Self {
        use std::os::unix::ffi::OsStrExt;
        Self::Entry {
            operation: operation.to_owned(),
            path: std::ffi::OsStr::from_bytes(path).into(),
            cause: Os::errno(errno),
        }
    }

    pub(crate) fn process(operation: &'static str, error: &io::Error) -> Self {
        Self::Process {
            operation: operation.to_owned(),
            cause: Os::of(error),
        }
    }
}
