//! The seal of a verified object: nanoseconds of its modification time that follow from its
//! digest.
//!
//! An object is hashed when it is fetched, not each time it is used: 16 GB take ten seconds. The
//! seal says that the bytes have not been written to since. Every write moves the modification
//! time, so a write by accident breaks it; one by root with intent does not, and `verify` is there
//! for that. No separate record can be lost or lie.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headstart_core::digest::Expected;

/// Whether an object's seal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// No such object.
    Absent,
    /// It is there, and nobody has written to it since it was verified.
    Yes,
    /// It is there, and its bytes may be anything.
    Broken,
}

/// Looks at the object at `path`, which should be `expected` and have `size` bytes.
pub fn is_sealed(path: &Path, expected: &Expected, size: u64) -> io::Result<Sealed> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sealed::Absent),
        Err(error) => return Err(error),
    };
    let holds = found.is_file() && found.len() == size && found.mtime_nsec() == nanos(expected);
    Ok(if holds { Sealed::Yes } else { Sealed::Broken })
}

/// Seals the object at `path`, whose bytes have just been verified, and makes it read-only.
/// Durable.
pub(super) fn seal(path: &Path, expected: &Expected) -> io::Result<()> {
    let file = File::open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o444))?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let stamp = Duration::new(now.as_secs(), nanos(expected) as u32);
    file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + stamp))?;
    file.sync_all()
}

/// Between 1 and 999,999,999; never the zero that a restored backup or a coarse clock leaves.
fn nanos(expected: &Expected) -> i64 {
    let bytes = match expected {
        Expected::Sha256(digest) => &digest.0[..],
        Expected::GitSha1(digest) => &digest.0[..],
    };
    let word = bytes
        .iter()
        .take(8)
        .fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    (word % 999_999_999) as i64 + 1
}
