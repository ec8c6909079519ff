//! Why something could not be made present. Each error is one line for a person.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why an image was not made present.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens, or may listen to us.
    #[error("container runtime at {}: cannot connect: {reason}; is it running, and may this process use its socket?", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the transport says.
        reason: String,
    },
    /// The runtime refused or failed a call.
    #[error("container runtime: {operation} {object}: {} ({code:?})", if message.is_empty() { "no reason given" } else { message })]
    Call {
        /// The call.
        operation: &'static str,
        /// On what.
        object: String,
        /// The gRPC status code.
        code: tonic::Code,
        /// The runtime's word, with digests shortened.
        message: String,
    },
    /// The fast path was asked for where it cannot be.
    #[error("this runtime needs PullImage: {why}")]
    NotFast {
        /// What stands against it.
        why: String,
    },
    /// The image's description contradicts itself.
    #[error("image {image}: {problem}; fetch its manifest and config again")]
    Spec {
        /// The image.
        image: String,
        /// What does not fit.
        problem: String,
    },
    /// The caller's steps do not fit the session.
    #[error("image {image}, layer {layer}: {problem}")]
    Order {
        /// The image.
        image: String,
        /// Which layer, counted from the lowest.
        layer: usize,
        /// What does not fit.
        problem: &'static str,
    },
    /// The unpacked layer is not what the config promises.
    #[error(
        "image {image}, layer {layer} ({}): its unpacked content is not what the image's config promises; nothing of it was committed",
        shortened(blob)
    )]
    Content {
        /// The image.
        image: String,
        /// Which layer, counted from the lowest.
        layer: usize,
        /// The layer's blob.
        blob: String,
    },
    /// The disk.
    #[error("cannot {operation} {}: {source}", path.display())]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// The snapshotter offered mounts that a layer cannot be put into.
    #[error("snapshotter {snapshotter} offered {found}, expected a bind or overlay mount")]
    Mounts {
        /// The snapshotter.
        snapshotter: String,
        /// What came.
        found: String,
    },
    /// Somebody else, most likely the runtime itself, is writing the blob.
    #[error(
        "blob {} is being written by another client of the runtime; leave it to that one",
        shortened(digest)
    )]
    Busy {
        /// The blob.
        digest: String,
    },
    /// The image's records are written, yet the runtime does not show it.
    #[error("image {image}: its records are written, but the runtime does not list it after {} s", waited.as_secs())]
    Invisible {
        /// The image.
        image: String,
        /// How long.
        waited: Duration,
    },
}

impl Error {
    pub(crate) fn call(operation: &'static str, object: &str, status: &tonic::Status) -> Self {
        Self::Call {
            operation,
            object: shortened(object),
            code: status.code(),
            message: shortened(status.message()),
        }
    }

    pub(crate) fn disk(operation: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        Self::Disk {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the runtime answered that the credentials do not open the image.
    pub fn is_unauthorized(&self) -> bool {
        match self {
            Self::Call { code, message, .. } => {
                matches!(
                    code,
                    tonic::Code::Unauthenticated | tonic::Code::PermissionDenied
                ) || message.contains("401 Unauthorized")
                    || message.contains("403 Forbidden")
                    || message.contains("authorization failed")
            }
            _ => false,
        }
    }

    /// Whether the same may succeed later without anybody changing anything: the runtime is away,
    /// or busy with the same blob.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Busy { .. } => true,
            Self::Call { code, .. } => *code == tonic::Code::Unavailable,
            _ => false,
        }
    }

    /// Whether the runtime has no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { code, .. } if *code == tonic::Code::NotFound)
    }
}

/// `text` on one line, with every digest in it cut to twelve digits: chain ids are secrets.
fn shortened(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut run = 0;
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        run = if c.is_ascii_hexdigit() { run + 1 } else { 0 };
        if run <= 12 || c.is_ascii_uppercase() {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_the_runtime_keeps_no_whole_digest_and_no_line_break() {
        let digest = "0123456789abcdef".repeat(4);
        let status = tonic::Status::not_found(format!("snapshot sha256:{digest}\nis not there"));
        let error = Error::call(
            "stat snapshot",
            &format!("extract sha256:{digest}"),
            &status,
        );
        expect_test::expect![[
            r"container runtime: stat snapshot extract sha256:0123456789ab: snapshot sha256:0123456789ab is not there (NotFound)"
        ]]
        .assert_eq(&error.to_string());
        assert!(error.is_not_found());
    }

    #[test]
    fn a_blob_is_named_by_the_start_of_its_digest() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let content = Error::Content {
            image: "docker.io/library/busybox:1".to_owned(),
            layer: 2,
            blob: digest.clone(),
        };
        for error in [content, Error::Busy { digest }] {
            let said = error.to_string();
            let short = said.contains("sha256:0123456789ab") && !said.contains("0123456789abc");
            assert!(short, "{said}");
        }
    }
}
