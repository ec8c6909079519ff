use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// One entry in short: type, name, link target or content.
fn entry(archive: &mut Vec<u8>, kind: u8, name: &[u8], rest: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o644);
    header.set_mtime(1_600_000_000);
    header.set_uid(0);
    header.set_gid(0);
    let content = match kind {
        b'1' | b'2' => {
            let target = &rest[..rest.len().min(100)];
            header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target);
            &[][..]
        }
        _ => rest,
    };
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn archive(entries: &[(u8, &str, &str)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (kind, name, rest) in entries {
        entry(&mut archive, *kind, name.as_bytes(), rest.as_bytes());
    }
    archive.extend_from_slice(&[0; 1024]);
    archive
}

fn pax(archive: &mut Vec<u8>, records: &[(&str, &[u8])]) {
    let mut text = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        text.extend_from_slice(format!("{length} {key}=").as_bytes());
        text.extend_from_slice(value);
        text.push(b'\n');
    }
    entry(archive, b'x', b"pax", &text);
}

fn request(staging: &Path) -> Request {
    Request {
        staging: staging.to_owned(),
        style: Style::Plain,
        limits: Limits::default(),
        nice: 0,
    }
}

fn unpack(archive: &[u8]) -> (TempDir, Result<Unpacked, UnpackError>) {
    let dir = tempfile::tempdir().unwrap();
    let unpacked = apply(archive, &request(dir.path()));
    (dir, unpacked)
}

fn unpacked(entries: &[(u8, &str, &str)]) -> (TempDir, Unpacked) {
    let (dir, unpacked) = unpack(&archive(entries));
    (dir, unpacked.unwrap())
}

fn refused(entries: &[(u8, &str, &str)]) -> UnpackError {
    unpack(&archive(entries)).1.unwrap_err()
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn files_directories_and_links_become_what_the_archive_says() {
    let (dir, unpacked) = unpacked(&[
        (b'5', "bin/", ""),
        (b'0', "bin/sh", "#!"),
        (b'2', "bin/link", "sh"),
        (b'1', "bin/same", "bin/sh"),
        (b'6', "pipe", ""),
        (b'3', "null", ""),
    ]);
    let root = dir.path();
    assert_eq!(fs::read(root.join("bin/link")).unwrap(), b"#!");
    let (sh, same) = (root.join("bin/sh"), root.join("bin/same"));
    assert_eq!(
        fs::metadata(&sh).unwrap().ino(),
        fs::metadata(&same).unwrap().ino()
    );
    assert_eq!(
        fs::metadata(root.join("bin")).unwrap().mtime(),
        1_600_000_000
    );
    assert_eq!(fs::metadata(&sh).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(unpacked.entries, 6);
    assert_eq!(unpacked.skipped_devices, 1);
    assert_eq!(unpacked.implicit, []);
}

#[test]
fn every_compression_gives_the_same_digest_and_trailing_bytes_count() {
    let mut tar = archive(&[(b'0', "a", "x")]);
    tar.extend_from_slice(&[0; 10_240]);
    tar.extend_from_slice(b"trailing");
    let (front, back) = tar.split_at(700);
    let members = [gzip(front), gzip(back)].concat();
    let skippable = [
        &b"\x50\x2a\x4d\x18\x03\0\0\0abc"[..],
        &zstd::encode_all(front, 1).unwrap(),
        &zstd::encode_all(back, 1).unwrap(),
    ]
    .concat();
    for stream in [tar.clone(), gzip(&tar), members, skippable] {
        let (dir, unpacked) = unpack(&stream);
        let unpacked = unpacked.unwrap();
        assert_eq!(unpacked.diff_id, sha256(&tar));
        assert_eq!(unpacked.tar_bytes, tar.len() as u64);
        assert_eq!(unpacked.compressed_bytes, stream.len() as u64);
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"x");
    }
}

#[test]
fn an_empty_layer_is_an_empty_directory() {
    for stream in [vec![], gzip(&[]), archive(&[])] {
        let (dir, unpacked) = unpack(&stream);
        assert_eq!(unpacked.unwrap().entries, 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_stream_that_is_cut_short_or_damaged_is_refused() {
    let tar = archive(&[(b'0', "a", &"x".repeat(3000))]);
    let gz = gzip(&tar);
    let mut flipped = gz.clone();
    let last = flipped.len() - 6;
    flipped[last] ^= 1;
    for stream in [&gz[..gz.len() - 1], &flipped] {
        let error = unpack(stream).1.unwrap_err();
        assert!(matches!(error, UnpackError::Compression { .. }), "{error}");
    }
    let error = unpack(&tar[..1500]).1.unwrap_err();
    assert!(matches!(error, UnpackError::Archive { .. }), "{error}");
}

#[test]
fn a_reader_that_fails_is_told_from_a_damaged_stream() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from_raw_os_error(5))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let start = gzip(&archive(&[]));
    let error = apply(start[..8].chain(Broken), &request(dir.path())).unwrap_err();
    assert!(matches!(error, UnpackError::Read { .. }), "{error:?}");
}

#[test]
fn parents_without_an_entry_are_made_and_reported_until_they_are_described() {
    let (dir, unpacked) = unpacked(&[
        (b'0', "a/b/c", "1"),
        (b'5', "a", ""),
        (b'0', "x/y", "2"),
        (b'0', "x", "no directory any more"),
    ]);
    let implicit: Vec<_> = unpacked
        .implicit
        .iter()
        .map(|i| (i.path.to_str().unwrap(), i.described))
        .collect();
    assert_eq!(implicit, [("a", true), ("a/b", false)]);
    let mode = fs::metadata(dir.path().join("a/b"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn links_in_the_way_lead_inside_the_layer_only() {
    let (dir, _) = unpacked(&[
        (b'5', "usr", ""),
        (b'2', "lib", "/usr"),
        (b'0', "lib/x", "1"),
        (b'2', "up", "../../.."),
        (b'0', "up/etc/passwd", "2"),
        (b'2', "dangling", "not/there"),
        (b'0', "dangling/z", "3"),
        (b'0', "/../../abs", "4"),
        (b'1', "hard", "lib/x"),
    ]);
    let root = dir.path();
    for (path, content) in [
        ("usr/x", "1"),
        ("etc/passwd", "2"),
        ("not/there/z", "3"),
        ("abs", "4"),
        ("hard", "1"),
    ] {
        assert_eq!(fs::read_to_string(root.join(path)).unwrap(), content);
    }
}

#[test]
fn a_link_target_is_followed_name_by_name() {
    let (dir, _) = unpacked(&[
        (b'5', "deep/er", ""),
        (b'2', "b", "deep/er"),
        (b'2', "l", "b/../c"),
        (b'0', "l/f", "1"),
    ]);
    let file = dir.path().join("deep/c/f");
    assert_eq!(fs::read_to_string(file).unwrap(), "1");
}

#[test]
fn in_a_lowest_layer_whiteouts_remove_what_came_before_and_leave_nothing() {
    let entries = [
        (b'0', "f", ""),
        (b'0', ".wh.f", ""),
        (b'0', ".wh.nothing", ""),
        (b'5', "d", ""),
        (b'0', "d/kept", ""),
        (b'0', "d/undescribed/lost", ""),
        (b'0', "d/.wh..wh..opq", ""),
    ];
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(dir.path());
    request.style = Style::Base;
    let unpacked = apply(archive(&entries).as_slice(), &request).unwrap();
    let names = |path: &Path| -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(dir.path()), ["d"]);
    assert_eq!(names(&dir.path().join("d")), ["kept"]);
    assert_eq!((unpacked.implicit, unpacked.whiteouts), (vec![], vec![]));
}

#[test]
fn later_entries_replace_earlier_ones_of_any_kind() {
    let (dir, _) = unpacked(&[
        (b'0', "file-then-dir", "1"),
        (b'5', "file-then-dir", ""),
        (b'0', "dir-then-file/x", "1"),
        (b'0', "dir-then-file", "2"),
        (b'2', "link-then-file", "victim"),
        (b'0', "victim", "untouched"),
        (b'0', "link-then-file", "3"),
        (b'5', "dir", ""),
        (b'2', "way", "dir"),
        (b'0', "way/1", ""),
        (b'5', "way", ""),
        (b'0', "way/2", ""),
    ]);
    let root = dir.path();
    assert!(root.join("file-then-dir").is_dir());
    assert_eq!(fs::read_to_string(root.join("dir-then-file")).unwrap(), "2");
    assert_eq!(
        fs::read_to_string(root.join("victim")).unwrap(),
        "untouched"
    );
    assert_eq!(
        fs::read_to_string(root.join("link-then-file")).unwrap(),
        "3"
    );
    assert!(root.join("dir/1").exists() && !root.join("dir/2").exists());
    assert!(root.join("way/2").exists());
}

#[test]
fn whiteouts_and_opaques_are_listed_unless_replaced() {
    let (dir, unpacked) = unpacked(&[
        (b'0', "etc/.wh.gone", ""),
        (b'0', "etc/.wh.back", ""),
        (b'0', "etc/back", "again"),
        (b'0', "var/sibling", ""),
        (b'0', "var/.wh..wh..opq", ""),
        (b'0', ".wh..wh..opq", ""),
        (b'0', "odd/.wh..wh.plnk", ""),
    ]);
    let names: Vec<_> = unpacked
        .whiteouts
        .iter()
        .map(|p| p.to_str().unwrap())
        .collect();
    assert_eq!(names, ["etc/gone", "odd/.wh.plnk"]);
    let names: Vec<_> = unpacked
        .opaques
        .iter()
        .map(|p| p.to_str().unwrap())
        .collect();
    assert_eq!(names, ["", "var"]);
    assert!(!dir.path().join("etc/gone").exists());
    assert!(dir.path().join("etc/back").exists());
}

#[test]
fn what_containerd_refuses_is_refused() {
    for entries in [
        &[(b'0', "a/.wh.", "")][..],
        &[(b'0', "a/.wh...", "")],
        &[(b'0', "a", ""), (b'0', ".wh.a", "")],
        &[(b'0', ".wh.a", ""), (b'0', "a/b", "")],
        &[(b'0', "file", ""), (b'0', "file/below", "")],
        &[(b'1', "hard", "missing")],
        &[(b'1', "hard", "../../../etc/passwd")],
        &[(b'0', "self", ""), (b'1', "self", "self")],
        &[(b'5', "d", ""), (b'2', "d", "nowhere")],
        &[(b'2', "loop", "loop"), (b'0', "loop/x", "")],
    ] {
        let error = refused(entries);
        assert!(
            matches!(error, UnpackError::Entry { .. }),
            "{entries:?}: {error}"
        );
    }
    for kind in [b'7', b'S', b'V', b'D'] {
        let error = refused(&[(kind, "a", "")]);
        assert!(
            matches!(error, UnpackError::Archive { entry: 1, .. }),
            "{error}"
        );
    }
}

#[test]
fn every_limit_is_a_typed_error() {
    let check = |limit: Limit, set: fn(&mut Limits), archive: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        let mut request = request(dir.path());
        set(&mut request.limits);
        match apply(archive, &request).unwrap_err() {
            UnpackError::Limit { limit: found, .. } => assert_eq!(found, limit),
            other => panic!("{limit:?}: {other}"),
        }
    };
    let two = archive(&[(b'5', "long-name", ""), (b'0', "other/name", "x")]);
    check(Limit::Bytes, |l| l.bytes = 1500, &two);
    check(Limit::Entries, |l| l.entries = 1, &two);
    check(Limit::PathBytes, |l| l.path_bytes = 8, &two);
    check(Limit::NameBytes, |l| l.name_bytes = 10, &two);
    let bomb = gzip(&vec![0; 80 << 20]);
    check(Limit::Ratio, |l| l.ratio = 10, &bomb);
    let mut sparse = Vec::new();
    pax(
        &mut sparse,
        &[
            ("GNU.sparse.map", b"0,1"),
            ("GNU.sparse.numblocks", b"1"),
            ("GNU.sparse.size", b"1000000000000"),
        ],
    );
    entry(&mut sparse, b'0', b"huge", b"x");
    check(Limit::Bytes, |_| (), &sparse);
}

#[test]
fn extended_headers_carry_long_names_times_sizes_and_attributes() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    let mut tar = Vec::new();
    pax(
        &mut tar,
        &[
            ("path", long.as_bytes()),
            ("mtime", b"1500000000.123456789"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ],
    );
    entry(&mut tar, b'0', b"short", b"content");
    entry(&mut tar, b'L', b"././@LongLink", b"gnu/long/name\0");
    entry(&mut tar, b'0', b"gnu", b"2");
    let (dir, unpacked) = unpack(&tar);
    let file = fs::metadata(dir.path().join(&long)).unwrap();
    assert_eq!(
        (file.mtime(), file.mtime_nsec()),
        (1_500_000_000, 123_456_789)
    );
    assert_eq!(unpacked.unwrap().skipped_xattrs, 1);
    assert_eq!(fs::read(dir.path().join("gnu/long/name")).unwrap(), b"2");
}

#[test]
fn all_forms_of_sparse_files_have_holes_where_the_map_says() {
    type Form<'a> = (&'a [(&'a str, &'a [u8])], &'a [u8]);
    let forms: [Form<'_>; 3] = [
        (
            &[
                ("GNU.sparse.size", b"9000"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"1000"),
                ("GNU.sparse.numbytes", b"3"),
                ("GNU.sparse.offset", b"5000"),
                ("GNU.sparse.numbytes", b"2"),
            ],
            b"abcde",
        ),
        (
            &[
                ("GNU.sparse.size", b"9000"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.map", b"1000,3,5000,2"),
            ],
            b"abcde",
        ),
        (
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"9000"),
            ],
            &{
                let mut data = b"2\n1000\n3\n5000\n2\n".to_vec();
                data.resize(512, 0);
                data.extend_from_slice(b"abcde");
                data
            },
        ),
    ];
    for (records, data) in forms {
        let mut tar = Vec::new();
        let name: (&str, &[u8]) = ("GNU.sparse.name", b"real/name");
        pax(&mut tar, &[records, &[name]].concat());
        entry(&mut tar, b'0', b"GNUSparseFile.0/name", data);
        entry(&mut tar, b'0', b"after", b"1");
        let (dir, unpacked) = unpack(&tar);
        unpacked.unwrap();
        let mut expected = vec![0; 9000];
        expected[1000..1003].copy_from_slice(b"abc");
        expected[5000..5002].copy_from_slice(b"de");
        assert_eq!(fs::read(dir.path().join("real/name")).unwrap(), expected);
        assert_eq!(fs::read(dir.path().join("after")).unwrap(), b"1");
    }
}

/// Names that lead astray, again and again through the same few parts.
fn evil_name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "..",
        ".",
        "",
        "a",
        "b",
        "c",
        "outside",
        "secret",
        ".wh.a",
        ".wh.b",
        ".wh..wh..opq",
    ]);
    (any::<bool>(), prop::collection::vec(part, 1..6)).prop_map(
        |(absolute, parts)| match absolute {
            true => format!("/{}", parts.join("/")),
            false => parts.join("/"),
        },
    )
}

fn evil_entry() -> impl Strategy<Value = (u8, String, String)> {
    let kind = prop::sample::select(b"0001122255636".to_vec());
    (kind, evil_name(), evil_name())
}

/// Everything about a directory that could have been changed.
fn picture(dir: &Path) -> Vec<String> {
    let mut picture = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        picture.push(format!(
            "{path:?} {:o} {} {} {} {:?}",
            found.mode(),
            found.nlink(),
            found.ctime(),
            found.ctime_nsec(),
            fs::read(&path).ok()
        ));
        if found.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    picture.sort();
    picture
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_archive_touches_anything_outside_the_staging_directory(
        entries in prop::collection::vec(evil_entry(), 1..40),
    ) {
        let world = tempfile::tempdir().unwrap();
        let outside = world.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        let staging = world.path().join("staging");
        fs::create_dir(&staging).unwrap();
        let before = picture(&outside);
        let mut tar = Vec::new();
        for (kind, name, rest) in &entries {
            // Links by the absolute path of what is to be hit, too.
            let rest = rest.replace("outside", outside.to_str().unwrap());
            entry(&mut tar, *kind, name.as_bytes(), rest.as_bytes());
        }
        let _ = apply(tar.as_slice(), &request(&staging));
        prop_assert_eq!(picture(&outside), before);
        let mut names: Vec<_> = fs::read_dir(world.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        prop_assert_eq!(names, ["outside", "staging"]);
    }

    #[test]
    fn no_bytes_make_it_panic(mut noise in prop::collection::vec(any::<u8>(), 0..3000), at in 0_usize..2048) {
        let mut tar = archive(&[(b'0', "a", "some content"), (b'2', "b", "a"), (b'5', "c", "")]);
        for (byte, noise) in tar.iter_mut().skip(at).zip(&noise).take(8) {
            *byte ^= noise;
        }
        let _ = unpack(&tar);
        noise.splice(0..0, [0x1f, 0x8b, 0x08]);
        let _ = unpack(&noise);
    }
}
