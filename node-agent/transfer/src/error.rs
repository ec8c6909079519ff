//! Why a blob did not arrive. Each error is one line for a person: what was asked, what was
//! found, what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use headstart_core::digest::Expected;

/// Why a blob was not fetched. Nothing of it is visible; what had arrived is kept for the next
/// try unless it was wrong.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Every source gave up for good.
    #[error("{name}: no source has it: {}", reasons.join("; "))]
    Sources {
        /// The blob.
        name: String,
        /// What each said.
        reasons: Vec<String>,
    },
    /// Whoever has it asks to wait for longer than is waited here.
    #[error(
        "{name}: no source gives it now: {}; run the same command again in {} s",
        reasons.join("; "), wait.as_secs()
    )]
    Busy {
        /// The blob.
        name: String,
        /// The shortest time that one of them asks for.
        wait: Duration,
        /// What each said.
        reasons: Vec<String>,
    },
    /// Nothing worth the name arrived for too long.
    #[error(
        "{name}: nothing arrived for {} s; last: {last}; run the same command again once it answers",
        waited.as_secs()
    )]
    Stalled {
        /// The blob.
        name: String,
        /// How long.
        waited: Duration,
        /// What went wrong last.
        last: String,
    },
    /// The bytes are not what was asked for.
    #[error(
        "{name}: content mismatch: expected {expected}, {from} sent {found}; nothing was kept: try again, and if it stays so have it replaced there or use another source"
    )]
    Mismatch {
        /// The blob.
        name: String,
        /// What it must be.
        expected: Expected,
        /// What it is.
        found: Expected,
        /// Who sent it.
        from: String,
    },
    /// The disk.
    #[error("{name}: cannot {operation} {}: {}", path.display(), disk_advice(source))]
    Disk {
        /// The blob.
        name: String,
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// Whoever reads the stream stopped.
    #[error("{name}: its reader stopped")]
    Reader {
        /// The blob.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The engine is shutting down.
    #[error("{name}: cancelled")]
    Cancelled {
        /// The blob.
        name: String,
    },
}

impl FetchError {
    /// Whether the same fetch may succeed later without anybody changing anything here.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. } | Self::Stalled { .. } | Self::Cancelled { .. }
        )
    }
}

impl FetchError {
    /// How long whoever has it asks to wait.
    pub fn asked_wait(&self) -> Option<Duration> {
        match self {
            Self::Busy { wait, .. } => Some(*wait),
            _ => None,
        }
    }
}

/// An error and everything under it, each text once, in one line: what is told where an error is
/// not returned any further.
pub fn chain(error: &dyn std::error::Error) -> String {
    // What a parser says may be drawn over several lines.
    let line = |error: &dyn std::error::Error| {
        let text = error.to_string();
        match text.contains('\n') {
            true => text.split_whitespace().collect::<Vec<_>>().join(" "),
            false => text,
        }
    };
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(line(error), |mut text, cause| {
        let said = line(cause);
        if !text.ends_with(&said) {
            text += &format!(": {said}");
        }
        text
    })
}

fn disk_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full: free space or choose another --root",
        io::ErrorKind::QuotaExceeded => {
            "the disk quota is used up: raise it or choose another --root"
        }
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only",
        io::ErrorKind::PermissionDenied => "permission denied",
        io::ErrorKind::WouldBlock => "another process is fetching it",
        io::ErrorKind::NotFound => "a directory on the way is gone",
        _ => "input/output error: check the device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Said {
        said: &'static str,
        source: Option<Box<Said>>,
    }

    #[test]
    fn a_chain_is_one_line_that_says_nothing_twice() {
        let said = |said, source: Option<Said>| {
            let source = source.map(Box::new);
            Said { said, source }
        };
        let parser = said("expected a\n  |\n1 | b", None);
        let file = said("cannot read f", Some(parser));
        let all = said("no plan: cannot read f", Some(file));
        assert_eq!(chain(&all), "no plan: cannot read f: expected a | 1 | b");
    }
}
