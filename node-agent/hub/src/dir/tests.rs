//! Lookups that must not leave, and removals that must not follow.

use std::os::unix::fs::symlink;

use super::*;

const PLAIN: Perms = Perms {
    dir: 0o755,
    file: 0o644,
    owner: None,
};

#[test]
fn no_lookup_follows_a_link_or_climbs() {
    let temp = tempfile::tempdir().unwrap();
    let (inside, outside) = (temp.path().join("inside"), temp.path().join("outside"));
    std::fs::create_dir_all(outside.join("d")).unwrap();
    std::fs::write(outside.join("d/secret"), "x").unwrap();
    std::fs::create_dir(&inside).unwrap();
    symlink(&outside, inside.join("link")).unwrap();
    symlink(outside.join("d/secret"), inside.join("file")).unwrap();
    let dir = Dir::open(&inside).unwrap();
    for below in ["link", "link/d", "..", "../outside", "link/../../outside"] {
        assert!(dir.dir(below).is_err(), "{below}");
        assert!(open_stepwise(&dir.fd, below, DIRECTORY).is_err(), "{below}");
    }
    assert!(dir.file("file").is_err());
    assert!(dir.file("link/d/secret").is_err());
    assert!(dir.make("link/new", PLAIN).is_err());
    assert!(!outside.join("new").exists());
    assert!(Dir::open(&inside.join("link")).is_err());
}

#[test]
fn emptying_removes_deep_and_read_only_directories_and_leaves_what_links_lead_to() {
    let temp = tempfile::tempdir().unwrap();
    let kept = temp.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("file"), "x").unwrap();
    let top = temp.path().join("top");
    std::fs::create_dir(&top).unwrap();
    let dir = Dir::open(&top).unwrap();
    let mut at = Dir::open(&top).unwrap();
    for depth in 0..300 {
        let next = at.make(&format!("d{}", depth % 3), PLAIN).unwrap();
        next.link_new("link", &kept).unwrap();
        at = next;
    }
    dir.make(
        "dir-1/dir-2",
        Perms {
            dir: 0o555,
            ..PLAIN
        },
    )
    .unwrap();
    dir.empty().unwrap();
    assert_eq!(dir.list().unwrap(), []);
    assert!(kept.join("file").exists());
}

#[test]
fn a_file_put_replaces_what_was_there_whole_and_stays_when_it_is_the_same() {
    use std::os::unix::fs::MetadataExt as _;
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    let staging = dir.make("staging", PLAIN).unwrap();
    let inode = || std::fs::metadata(temp.path().join("name")).unwrap().ino();
    dir.put("name", b"one", &staging, PLAIN).unwrap();
    let first = inode();
    dir.put("name", b"one", &staging, PLAIN).unwrap();
    assert_eq!(inode(), first);
    dir.put("name", b"two", &staging, PLAIN).unwrap();
    assert_eq!(dir.read("name", 9).unwrap().unwrap(), b"two");
    assert_eq!(staging.list().unwrap(), []);
}
