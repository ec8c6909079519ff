//! The confined unpacker against hostile layers and other unpackers: as root, with Debian's
//! containerd as the judge of what a layer means.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of a test binary: what fails is the test"
)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use headstart_testbed::tree;
use headstart_unpack::{Child, Limit, Limits, Request, Style, UnpackError, Unpacked};

use archive::{Item, dir, file, item, layer, link};
use judge::{Containerd, Layer, sha256};

#[path = "unpack/archive.rs"]
mod archive;
#[path = "unpack/gzip.rs"]
mod gzip;
#[path = "unpack/judge.rs"]
mod judge;

const CHILD: &str = env!("CARGO_BIN_EXE_unpack-child");

fn request(staging: &Path, style: Style) -> Request {
    Request {
        staging: staging.to_owned(),
        style,
        limits: Limits::default(),
        nice: 0,
    }
}

/// Unpacks through the confined process.
fn unpack(request: &Request, blob: &[u8]) -> Result<Unpacked, UnpackError> {
    let mut child = Child::spawn(CHILD.as_ref(), &[], request).unwrap();
    let mut input = child.take_input().unwrap();
    // It may give up before the end.
    let _ = input.write_all(blob);
    drop(input);
    child.finish()
}

/// Unpacks all layers as the agent does, and holds each against containerd's.
fn agree(containerd: &mut Containerd, layers: &[Layer]) {
    let theirs = containerd.unpack(layers).unwrap();
    let world = tempfile::tempdir().unwrap();
    let mut lowers: Vec<PathBuf> = Vec::new();
    for (at, (layer, theirs)) in layers.iter().zip(&theirs).enumerate() {
        let staging = world.path().join(at.to_string());
        fs::create_dir(&staging).unwrap();
        let style = match at {
            0 => Style::Base,
            _ => Style::Overlay,
        };
        let unpacked = unpack(&request(&staging, style), &layer.blob).unwrap();
        assert_eq!(unpacked.diff_id.prefixed(), sha256(&layer.tar));
        headstart_unpack::fix_implicit_parents(&staging, &unpacked.implicit, &lowers).unwrap();
        let (ours, theirs) = (tree::walk(&staging).unwrap(), tree::walk(theirs).unwrap());
        assert!(!ours.is_empty());
        // Whoever unpacks last has touched these: their time is the time of unpacking.
        let timed = |path: &Path, node: &tree::Node| {
            let whiteout = node.mode & 0o170000 == 0o020000 && node.rdev == 0;
            let implicit = unpacked
                .implicit
                .iter()
                .any(|i| !i.described && i.path == path);
            !whiteout && !implicit
        };
        let differences = tree::differences(&ours, &theirs, timed);
        assert!(
            differences.is_empty(),
            "layer {at}:\n{}",
            differences.join("\n")
        );
        lowers.insert(0, staging);
    }
}

#[test]
fn every_kind_of_entry_gives_the_tree_that_containerd_gives() {
    let long = "n".repeat(180) + "/" + &"m".repeat(200);
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut sparse = b"2\n1000\n3\n700000\n2\n".to_vec();
    sparse.resize(512, 0);
    sparse.extend_from_slice(b"abcde");
    let bottom = layer(&[
        Item {
            mode: 0o700,
            owner: (1234, 5678),
            pax: vec![("SCHILY.xattr.user.note", b"n")],
            ..dir("secret/")
        },
        file("secret/a", "1"),
        Item {
            mode: 0o1777,
            ..dir("tmp/")
        },
        dir("usr/"),
        dir("usr/lib/"),
        link(b'2', "lib", "usr/lib"),
        file("lib/through", "2"),
        Item {
            mode: 0o4755,
            owner: (7, 8),
            ..file("usr/su", "3")
        },
        Item {
            pax: vec![("SCHILY.xattr.security.capability", capability)],
            ..file("usr/ping", "4")
        },
        Item {
            pax: vec![
                ("SCHILY.xattr.trusted.evil", b"1"),
                ("SCHILY.xattr.user.fine", b""),
            ],
            ..file("usr/x", "5")
        },
        Item {
            pax: vec![("SCHILY.xattr.user.ignored", b"1")],
            ..link(b'2', "usr/l", "x")
        },
        Item {
            owner: (3, 3),
            mode: 0o640,
            ..link(b'1', "hard", "usr/x")
        },
        link(b'1', "hard-to-link", "lib"),
        Item {
            device: (1, 3),
            mode: 0o666,
            ..item(b'3', "null")
        },
        Item {
            device: (7, 300),
            mode: 0o660,
            ..item(b'4', "loop")
        },
        Item {
            owner: (5, 5),
            ..item(b'6', "pipe")
        },
        Item {
            pax: vec![
                ("path", long.as_bytes()),
                ("mtime", b"1400000000.987654321"),
                ("atime", b"1300000000.5"),
            ],
            ..file("short", "6")
        },
        Item {
            pax: vec![("mtime", b"-5.5")],
            ..file("old", "7")
        },
        Item {
            pax: vec![("uid", b"3000000"), ("gid", b"4000000")],
            ..file("large-owner", "8")
        },
        Item {
            data: &sparse,
            pax: vec![
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"900000"),
                ("GNU.sparse.name", b"sparse"),
            ],
            ..item(b'0', "GNUSparseFile.0/sparse")
        },
        file("twice", "first"),
        Item {
            mode: 0o600,
            ..file("twice", "second")
        },
        file("dir-then-file/x", ""),
        file("dir-then-file", "9"),
        file("file-then-dir", ""),
        dir("file-then-dir/"),
        file("../../up", "10"),
        file("/abs/./x/../y", "11"),
    ]);
    let middle = layer(&[
        file("secret/b", "1"),
        file("usr/lib/added", "2"),
        Item {
            owner: (9, 10),
            ..file("usr/.wh.su", "")
        },
        file("tmp/sibling", "3"),
        file("tmp/.wh..wh..opq", ""),
        file("lib/shadow", "4"),
        file("never/described/deep", "5"),
        dir("never/"),
        file("odd/.wh..wh.plnk", ""),
    ]);
    let top = layer(&[
        file("secret/c/d", "1"),
        file("usr/lib/more/x", "2"),
        file("tmp/y", "3"),
        file("lib/z", "4"),
        file("never/described/q", "5"),
        file(".wh.hard", ""),
        file(".wh.abs", ""),
        file("abs", "again"),
    ]);
    let mut containerd = Containerd::start();
    agree(
        &mut containerd,
        &[Layer::gzip(bottom), Layer::zstd(middle), Layer::plain(top)],
    );
}

#[test]
fn a_layer_made_by_gnu_tar_gives_the_tree_that_containerd_gives() {
    let pack = |format: &str| {
        let format = format!("--format={format}");
        let arguments = [
            "-c",
            &format,
            "--sparse",
            "-C",
            "/usr",
            "share/perl5",
            "share/doc",
            "share/zoneinfo",
        ];
        let tar = Command::new("tar")
            .args(arguments)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert!(tar.stdout.len() > 1 << 20);
        Layer::gzip(tar.stdout)
    };
    let mut containerd = Containerd::start();
    agree(&mut containerd, &[pack("gnu"), pack("pax")]);
}

#[test]
fn what_containerd_refuses_is_refused_and_what_it_accepts_is_accepted() {
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("old sparse", layer(&[item(b'S', "s")])),
        ("contiguous", layer(&[item(b'7', "c")])),
        ("volume", layer(&[item(b'V', "v")])),
        ("old regular", layer(&[item(0, "r"), item(0, "d/")])),
        (
            "global header",
            layer(&[
                Item {
                    data: b"20 comment=a comment\n",
                    ..item(b'g', "made/g")
                },
                file("f", ""),
            ]),
        ),
        ("hard link to nothing", layer(&[link(b'1', "h", "nothing")])),
        (
            "hard link outside",
            layer(&[link(b'1', "h", "../../../etc/hostname")]),
        ),
        (
            "hard link to a directory",
            layer(&[dir("d"), link(b'1', "h", "d")]),
        ),
        (
            "hard link to itself",
            layer(&[file("h", ""), link(b'1', "h", "h")]),
        ),
        (
            "hard link through a link",
            layer(&[
                file("d/f", "1"),
                link(b'2', "w", "d"),
                link(b'1', "h", "w/f"),
            ]),
        ),
        ("file as parent", layer(&[file("f", ""), file("f/x", "")])),
        (
            "whiteout of what is there",
            layer(&[file("f", ""), file(".wh.f", "")]),
        ),
        (
            "whiteout then file",
            layer(&[file(".wh.f", ""), file("f", "")]),
        ),
        (
            "whiteout as parent",
            layer(&[file(".wh.f", ""), file("f/x", "")]),
        ),
        ("whiteout of itself", layer(&[file("d/.wh..", "")])),
        ("whiteout of the parent", layer(&[file("d/.wh...", "")])),
        ("whiteout of nothing", layer(&[file("d/.wh.", "")])),
        ("link loop", layer(&[link(b'2', "l", "l"), file("l/x", "")])),
        (
            "dangling parent",
            layer(&[link(b'2', "l", "a/b"), file("l/x", "")]),
        ),
        (
            "directory over a dangling link",
            layer(&[link(b'2', "l", "a"), dir("l"), file("l/x", "")]),
        ),
        (
            "directory replaced by a dangling link",
            layer(&[dir("d"), link(b'2', "d", "nowhere")]),
        ),
        (
            "link cleaned as text",
            layer(&[
                dir("e/f"),
                link(b'2', "b", "e/f"),
                link(b'2', "l", "b/../c"),
                file("l/x", ""),
            ]),
        ),
        (
            "opaque root",
            layer(&[file(".wh..wh..opq", ""), file("x", "")]),
        ),
        (
            "root entry",
            layer(&[
                Item {
                    mode: 0o700,
                    ..dir("./")
                },
                file("./x", ""),
            ]),
        ),
        ("no end", {
            let mut cut = layer(&[file("x", "")]);
            cut.truncate(512);
            cut
        }),
        ("cut in a file", {
            let mut cut = layer(&[file("x", "data")]);
            cut.truncate(514);
            cut
        }),
        ("bad checksum", {
            let mut bad = layer(&[file("x", "")]);
            bad[0] ^= 1;
            bad
        }),
        ("trailing bytes", {
            let mut more = layer(&[file("x", "")]);
            more.extend_from_slice(&[7; 1000]);
            more
        }),
    ];
    let mut containerd = Containerd::start();
    let mut disagreements = Vec::new();
    for (name, tar) in cases {
        for style in [Style::Base, Style::Overlay] {
            let mut layers = vec![Layer::gzip(tar.clone())];
            if style == Style::Overlay {
                layers.insert(0, Layer::gzip(layer(&[file("below", "")])));
            }
            let theirs = containerd.unpack(&layers);
            let staging = tempfile::tempdir().unwrap();
            let last = layers.last().unwrap();
            let ours = unpack(&request(staging.path(), style), &last.blob);
            match (ours, theirs) {
                (Err(_), Err(_)) => {}
                (Ok(_), Ok(theirs)) => {
                    let ours = tree::walk(staging.path()).unwrap();
                    let theirs = tree::walk(theirs.last().unwrap()).unwrap();
                    // Undescribed directories, and whiteouts, have the time of unpacking.
                    let timed = |_: &Path, node: &tree::Node| node.mtime.0 < 1_600_000_000;
                    for line in tree::differences(&ours, &theirs, timed) {
                        disagreements.push(format!("{name}, {style:?}: {line}"));
                    }
                }
                (ours, theirs) => disagreements.push(format!(
                    "{name}, {style:?}: {ours:?}, containerd {theirs:?}"
                )),
            }
        }
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

#[test]
fn the_confined_process_reaches_nothing_but_its_directory() {
    let world = tempfile::tempdir().unwrap();
    let outside = world.path().join("outside");
    fs::write(&outside, "secret").unwrap();
    let outside = outside.display();
    let made = world.path().join("made");
    let probe = |style: &str, act: &str| {
        let staging = world.path().join("staging");
        let _ = fs::remove_dir_all(&staging);
        fs::create_dir(&staging).unwrap();
        fs::write(staging.join("inside"), "").unwrap();
        let status = Command::new(CHILD)
            .args(["probe", style, staging.to_str().unwrap(), act])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap())
    };
    let forbidden = 128 + 31;
    for style in ["overlay", "plain"] {
        assert_eq!(
            probe(style, "create:STAGING/new"),
            0,
            "{style}: it can work at all"
        );
        assert_eq!(
            probe(style, "list:STAGING"),
            0,
            "{style}: it can list what it makes"
        );
        for act in [
            format!("read:{outside}"),
            "read:/etc/passwd".to_owned(),
            "read:STAGING/inside".to_owned(),
            "list:/etc".to_owned(),
            format!("create:{}", made.display()),
            format!("mkdir:{}", made.display()),
            format!("remove:{outside}"),
        ] {
            assert_eq!(probe(style, &act), 7, "{style}: {act}");
        }
        for act in ["socket", "kill"] {
            assert_eq!(probe(style, act), forbidden, "{style}: {act}");
        }
        assert_eq!(probe(style, "exec"), 7, "{style}");
    }
    // What Landlock does not cover, the root directory does.
    assert_eq!(probe("overlay", &format!("chmod:{outside}")), 7);
    assert!(!made.exists());
    assert_eq!(
        fs::read_to_string(world.path().join("outside")).unwrap(),
        "secret"
    );
}

#[test]
fn bombs_cost_one_process_and_little_disk() {
    let zeros = vec![0; 300 << 20];
    for layer in [Layer::gzip(zeros.clone()), Layer::zstd(zeros.clone())] {
        let staging = tempfile::tempdir().unwrap();
        let error = unpack(&request(staging.path(), Style::Overlay), &layer.blob).unwrap_err();
        let expected = matches!(
            error,
            UnpackError::Limit {
                limit: Limit::Ratio,
                ..
            }
        );
        assert!(expected, "{error}");
    }
}
