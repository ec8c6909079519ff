//! The process and its other end, without root: results, errors and deaths.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use headstart_unpack::{Child, Death, Limit, Limits, Request, Style, UnpackError, merge};

/// The example of this crate that is nothing but `child_main`.
fn exe() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let profile = own
        .parent()
        .and_then(|deps| deps.parent())
        .expect("tests are built two levels down");
    profile.join("examples/unpack-layer")
}

fn request(staging: &std::path::Path) -> Request {
    Request {
        staging: staging.to_owned(),
        style: Style::Plain,
        limits: Limits::default(),
        nice: 5,
    }
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, *content)
            .expect("memory takes it");
    }
    builder.into_inner().expect("memory takes it")
}

#[test]
fn a_layer_written_into_the_process_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let tar = archive(&[("etc/hosts", b"1"), ("etc/.wh.gone", b"")]);
    let stream = zstd::encode_all(tar.as_slice(), 1).unwrap();
    let mut child = Child::spawn(&exe(), &[], &request(dir.path())).unwrap();
    let mut input = child.take_input().unwrap();
    input.write_all(&stream).unwrap();
    drop(input);
    let unpacked = child.finish().unwrap();
    let in_process = tempfile::tempdir().unwrap();
    let same = headstart_unpack::apply(stream.as_slice(), &request(in_process.path())).unwrap();
    assert_eq!(unpacked, same);
    assert_eq!(unpacked.whiteouts, [PathBuf::from("etc/gone")]);
    assert_eq!(std::fs::read(dir.path().join("etc/hosts")).unwrap(), b"1");
}

#[test]
fn a_layer_that_is_refused_is_a_typed_error_even_if_more_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut limited = request(dir.path());
    limited.limits.bytes = 1 << 20;
    let mut child = Child::spawn(&exe(), &[], &limited).unwrap();
    let mut input = child.take_input().unwrap();
    let tar = archive(&[("zeros", &vec![0; 8 << 20])]);
    let written = input.write_all(&tar);
    assert!(written.is_err(), "the process read on after it had failed");
    drop(input);
    let error = child.finish().unwrap_err();
    assert_eq!(
        error,
        UnpackError::Limit {
            limit: Limit::Bytes,
            allowed: 1 << 20
        }
    );
}

#[test]
fn a_process_that_is_killed_or_is_no_unpacker_is_a_typed_death() {
    let dir = tempfile::tempdir().unwrap();
    let child = Child::spawn(&exe(), &[], &request(dir.path())).unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let death = Death::Signal { signal: 9 };
    assert_eq!(child.finish().unwrap_err(), UnpackError::Died { death });

    let cat = Child::spawn("/bin/cat".as_ref(), &[], &request(dir.path())).unwrap();
    let death = Death::Gibberish;
    assert_eq!(cat.finish().unwrap_err(), UnpackError::Died { death });
}

#[test]
fn a_process_that_says_no_more_and_goes_on_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let script = "cat > /dev/null; exec sleep 600 > /dev/null";
    let silent = Child::spawn("/bin/sh".as_ref(), &["-c", script], &request(dir.path())).unwrap();
    let began = Instant::now();
    let death = Death::Signal { signal: 9 };
    assert_eq!(silent.finish().unwrap_err(), UnpackError::Died { death });
    assert!(began.elapsed() < Duration::from_secs(300));
}

#[test]
fn a_window_beyond_the_memory_limit_kills_the_process_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = request(dir.path());
    small.limits.memory = 48 << 20;
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.include_contentsize(false).unwrap();
    let mut noise = vec![0; 1 << 20];
    let mut state = 1_u64;
    for byte in &mut noise {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    encoder.write_all(&archive(&[("a", &noise)])).unwrap();
    let stream = encoder.finish().unwrap();
    let mut child = Child::spawn(&exe(), &[], &small).unwrap();
    let mut input = child.take_input().unwrap();
    let _ = input.write_all(&stream);
    drop(input);
    let error = child.finish().unwrap_err();
    let expected = matches!(
        error,
        UnpackError::Compression { .. } | UnpackError::Died { .. }
    );
    assert!(expected, "{error}");
}

#[test]
fn dropping_the_handle_ends_and_reaps_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let child = Child::spawn(&exe(), &[], &request(dir.path())).unwrap();
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    assert!(proc.exists());
    drop(child);
    assert!(!proc.exists());
}

#[test]
fn the_process_ends_when_its_input_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Child::spawn(&exe(), &[], &request(dir.path())).unwrap();
    drop(child.take_input());
    let deadline = Instant::now() + Duration::from_secs(60);
    let stat = format!("/proc/{}/stat", child.id());
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
        assert!(Instant::now() < deadline, "still running");
        std::thread::yield_now();
    }
    assert_eq!(child.finish().unwrap().entries, 0);
}

#[test]
fn merged_layers_show_what_an_overlay_would() {
    let world = tempfile::tempdir().unwrap();
    let layers: [&[(&str, &[u8])]; 3] = [
        &[
            ("etc/keep", b"1"),
            ("etc/gone", b"1"),
            ("var/old", b"1"),
            ("lib/x", b"1"),
            ("bin", b"f"),
        ],
        &[
            ("etc/.wh.gone", b""),
            ("var/.wh..wh..opq", b""),
            ("var/new", b"2"),
            ("etc/keep", b"2"),
        ],
        &[
            ("lib/y", b"3"),
            ("bin/tool", b"3"),
            ("etc/gone/again", b"3"),
            ("no/.wh.such", b""),
        ],
    ];
    let mut unpacked = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let staging = world.path().join(at.to_string());
        std::fs::create_dir(&staging).unwrap();
        let done = headstart_unpack::apply(archive(layer).as_slice(), &request(&staging)).unwrap();
        unpacked.push((staging, done));
    }
    let into = world.path().join("root");
    std::fs::create_dir(&into).unwrap();
    let layers: Vec<_> = unpacked
        .iter()
        .map(|(path, done)| (path.as_path(), done))
        .collect();
    merge(&layers, &into).unwrap();
    let mut found = Vec::new();
    let mut todo = vec![into.clone()];
    while let Some(path) = todo.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => todo.push(path),
                false => found.push(format!(
                    "{}={}",
                    path.strip_prefix(&into).unwrap().display(),
                    std::fs::read_to_string(&path).unwrap()
                )),
            }
        }
    }
    found.sort();
    assert_eq!(
        found,
        [
            "bin/tool=3",
            "etc/gone/again=3",
            "etc/keep=2",
            "lib/x=1",
            "lib/y=3",
            "var/new=2"
        ]
    );
}

#[test]
fn merging_follows_no_link_out_of_the_target() {
    use std::os::unix::fs::symlink;
    let world = tempfile::tempdir().unwrap();
    let outside = world.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "1").unwrap();
    let (low, high, into) = (
        world.path().join("low"),
        world.path().join("high"),
        world.path().join("into"),
    );
    for dir in [&low, &high, &into] {
        std::fs::create_dir(dir).unwrap();
    }
    let empty = archive(&[]);
    let below = headstart_unpack::apply(empty.as_slice(), &request(&low)).unwrap();
    symlink(&outside, low.join("way")).unwrap();
    let tar = archive(&[
        ("way/.wh.secret", b""),
        ("way/.wh..wh..opq", b""),
        ("way/planted", b"2"),
    ]);
    let above = headstart_unpack::apply(tar.as_slice(), &request(&high)).unwrap();
    merge(&[(&low, &below), (&high, &above)], &into).unwrap();
    assert_eq!(
        std::fs::read_to_string(outside.join("secret")).unwrap(),
        "1"
    );
    assert!(!outside.join("planted").exists());
    assert_eq!(
        std::fs::read_to_string(into.join("way/planted")).unwrap(),
        "2"
    );
    assert!(!into.join("way").is_symlink());
}
