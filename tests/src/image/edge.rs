//! Layers with everything that is hard about unpacking.

use std::io;

use tar::{Builder, EntryType};

use super::tree::head;

/// Size of the sparse file, nearly all of it a hole.
const SPARSE: u64 = 10 << 20;

/// The archives, lowest first.
pub(super) fn layers() -> Vec<Vec<u8>> {
    let layers = [lower, middle, upper].map(|fill| {
        let mut archive = Archive(Builder::new(Vec::new()));
        fill(&mut archive)?;
        archive.0.into_inner()
    });
    let whole: io::Result<Vec<Vec<u8>>> = layers.into_iter().collect();
    whole.expect("writing to memory succeeds")
}

fn lower(archive: &mut Archive) -> io::Result<()> {
    archive.directory("usr", 0o755)?;
    archive.directory("usr/lib", 0o755)?;
    archive.file("usr/lib/libbase.so", 0o644, b"base library\n")?;
    archive.link("lib", EntryType::Symlink, "usr/lib")?;
    archive.file("gone", 0o644, b"removed above\n")?;
    archive.file("replaced", 0o600, b"replaced above\n")?;
    archive.directory("covered", 0o755)?;
    archive.file("covered/old", 0o644, b"hidden by an opaque directory\n")?;
    archive.directory("covered/deep", 0o755)?;
    archive.file("covered/deep/old", 0o644, b"hidden too\n")?;
    archive.owned_directory("secret", 0o700, (1234, 5678))?;
    archive.file("secret/a", 0o600, b"of a private directory\n")?;
    archive.directory("becomes-file", 0o755)?;
    archive.file("becomes-directory", 0o644, b"")
}

fn middle(archive: &mut Archive) -> io::Result<()> {
    archive.file(".wh.gone", 0o644, b"")?;
    archive.directory("covered", 0o750)?;
    archive.file("covered/new", 0o644, b"beside the marker\n")?;
    archive.file("covered/.wh..wh..opq", 0o644, b"")?;
    // Its parent has an entry only in the layer below.
    archive.file("secret/b", 0o600, b"added without its parent\n")?;
    // Below, `lib` is a symlink.
    archive.file(
        "lib/libmore.so",
        0o644,
        b"in a directory that shadows a symlink\n",
    )?;
    archive.file("replaced", 0o644, b"the new one\n")?;
    archive.file("becomes-file", 0o644, b"was a directory\n")?;
    archive.directory("becomes-directory", 0o755)?;
    archive.file("becomes-directory/inside", 0o644, b"was a file\n")
}

fn upper(archive: &mut Archive) -> io::Result<()> {
    archive.directory("bin", 0o755)?;
    archive.file("bin/su", 0o4755, b"setuid\n")?;
    archive.file("bin/wall", 0o2755, b"setgid\n")?;
    archive.directory("tmp", 0o1777)?;
    archive.file("bin/tool", 0o755, b"one file, three names\n")?;
    archive.link("bin/alias", EntryType::Link, "bin/tool")?;
    archive.link("bin/another", EntryType::Link, "bin/tool")?;
    archive.link("bin/absolute", EntryType::Symlink, "/bin/tool")?;
    archive.link("bin/dangling", EntryType::Symlink, "../../../nowhere")?;
    // cap_net_bind_service=ep, as the kernel stores it.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let extended: [(&str, &[u8]); 2] = [
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.user.note", b"hello"),
    ];
    archive.0.append_pax_extensions(extended)?;
    archive.file("bin/bind", 0o755, b"with a capability\n")?;
    archive.directory("dev", 0o755)?;
    archive.device("dev/null", EntryType::Char, (1, 3))?;
    archive.device("dev/loop0", EntryType::Block, (7, 0))?;
    archive.device("run/pipe", EntryType::Fifo, (0, 0))?;
    archive.sparse("var/sparse", b"at the end")?;
    archive.file("name with spaces and ünïcode", 0o644, b"")?;
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    archive.file(&long, 0o644, b"longer than a header has room for\n")?;
    archive.file("./dotted", 0o644, b"named with a dot\n")?;
    archive.file("twice", 0o600, b"first\n")?;
    archive.file("twice", 0o644, b"second\n")
}

struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.owned_directory(path, mode, (0, 0))
    }

    fn owned_directory(&mut self, path: &str, mode: u32, owner: (u64, u64)) -> io::Result<()> {
        let mut header = head(EntryType::Directory, mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        self.0
            .append_data(&mut header, format!("{path}/"), io::empty())
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let mut header = head(EntryType::Regular, mode);
        header.set_size(bytes.len() as u64);
        self.0.append_data(&mut header, path, bytes)
    }

    fn link(&mut self, path: &str, kind: EntryType, target: &str) -> io::Result<()> {
        self.0.append_link(&mut head(kind, 0o777), path, target)
    }

    fn device(&mut self, path: &str, kind: EntryType, number: (u32, u32)) -> io::Result<()> {
        let mut header = head(kind, 0o666);
        header.set_device_major(number.0)?;
        header.set_device_minor(number.1)?;
        self.0.append_data(&mut header, path, io::empty())
    }

    /// A sparse file in the PAX form 1.0: the map of its data stands before the data. (Most tools
    /// refuse GNU's older form in a layer.)
    fn sparse(&mut self, path: &str, tail: &[u8]) -> io::Result<()> {
        let size = SPARSE.to_string();
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", path.as_bytes()),
            ("GNU.sparse.realsize", size.as_bytes()),
        ];
        self.0.append_pax_extensions(records)?;
        let start = SPARSE - tail.len() as u64;
        let mut data = format!("1\n{start}\n{}\n", tail.len()).into_bytes();
        data.resize(512, 0);
        data.extend_from_slice(tail);
        self.file(&format!("GNUSparseFile.0/{path}"), 0o644, &data)
    }
}
