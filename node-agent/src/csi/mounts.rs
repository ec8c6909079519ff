//! Mounting, behind a small door: the kernel's answer, and what tests put in its place.
//!
//! - What is mounted is known from `/proc/self/mountinfo` alone, never from memory.
//! - Nothing mounted here carries set-user-id bits or devices.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Most mounts that lie over one another at one place before that is taken for a fault.
const MOST_STACKED: usize = 64;

/// Who may change what is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nobody.
    Read,
    /// Whoever its permissions let.
    Write,
}

/// This machine's mounts.
pub(crate) trait Mounts: Send + Sync {
    /// Shows the directory `from` at the directory `at`.
    fn bind(&self, from: &Path, at: &Path, access: Access) -> io::Result<()>;

    /// Takes away everything mounted at `at` or below it, whoever still uses it.
    fn detach(&self, at: &Path) -> io::Result<()>;

    /// Where something is mounted at or below `directory`.
    fn below(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The kernel's mounts, of the namespace this process is in.
pub(crate) struct Kernel;

impl Mounts for Kernel {
    fn bind(&self, from: &Path, at: &Path, access: Access) -> io::Result<()> {
        let none: Option<&str> = None;
        mount(Some(from), at, none, MsFlags::MS_BIND, none)?;
        let mut flags = MsFlags::MS_BIND
            | MsFlags::MS_REMOUNT
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV
            | MsFlags::MS_RELATIME;
        if access == Access::Read {
            flags |= MsFlags::MS_RDONLY;
        }
        // A bind mount takes its flags only when it is mounted anew.
        if let Err(error) = mount(none, at, none, flags, none) {
            let _ = umount2(at, MntFlags::MNT_DETACH);
            return Err(error.into());
        }
        Ok(())
    }

    fn detach(&self, at: &Path) -> io::Result<()> {
        for _ in 0..MOST_STACKED {
            if self.below(at)?.is_empty() {
                return Ok(());
            }
            // What is mounted below goes with it.
            match umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => {}
                Err(_) if !self.below(at)?.iter().any(|mounted| mounted == at) => {
                    for inner in self.below(at)?.iter().rev() {
                        umount2(inner, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::Error::other("more mounts lie there than were made"))
    }

    fn below(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let text = fs::read("/proc/self/mountinfo")?;
        Ok(mount_points(&text, directory))
    }
}

/// Mount points at or below `directory`, from the text of `mountinfo` (proc(5)).
fn mount_points(mountinfo: &[u8], directory: &Path) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points
        .map(unescaped)
        .filter(|point| point.starts_with(directory))
        .collect()
}

/// A path whose blanks and backslashes are written as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match (byte, octal) {
            (b'\\', Some(code)) => {
                plain.push(code);
                rest = &after[3..];
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_whole_names_and_with_their_blanks() {
        let text = br"25 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
91 88 254:0 /store/views/v/view/hub /var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/m/mount rw,nosuid,nodev shared:22 - ext4 /dev/vda rw
92 91 254:0 /store/models/T /var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/m/mount/a\040b ro - ext4 /dev/vda rw
93 88 254:0 / /var/lib/kubelet/pods/u2/x ro - ext4 /dev/vda rw
short line
";
        let volume = Path::new("/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/m/mount");
        assert_eq!(
            mount_points(text, volume),
            [volume.to_owned(), volume.join("a b")]
        );
        assert_eq!(
            mount_points(text, Path::new("/var/lib/kubelet/pods")).len(),
            3
        );
        assert!(mount_points(text, Path::new("/var/lib/kubelet/pods/u/vol")).is_empty());
    }

    #[test]
    fn a_backslash_that_starts_no_number_stands_for_itself() {
        assert_eq!(unescaped(br"/a\134b\9"), Path::new(r"/a\b\9"));
        assert_eq!(unescaped(br"/a\999"), Path::new(r"/a\999"));
        assert_eq!(unescaped(br"\"), Path::new("\\"));
    }
}
