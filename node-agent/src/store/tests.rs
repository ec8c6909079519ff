//! The store from every state it may be found in.

use std::time::Duration;

use headstart_core::digest::Sha256;

use super::inventory::{Plan, PlanFile};
use super::*;

fn made() -> (tempfile::TempDir, PathBuf, Store, Lock) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let (store, lock) = Store::open_or_make(&root, &RootRule::Directory, quota()).unwrap();
    (dir, root, store, lock)
}

fn quota() -> Quota {
    Quota {
        max_bytes: Some(Bytes(1000)),
        keep_free_percent: 0,
    }
}

fn bytes(bytes: u64) -> Need {
    Need {
        bytes,
        ..Need::default()
    }
}

fn expected(seed: u8) -> Expected {
    Expected::Sha256(Sha256([seed; 32]))
}

/// Puts a sealed object of `size` bytes into the store.
fn object(store: &Store, seed: u8, size: usize) -> PlanFile {
    let expected = expected(seed);
    store.make_object_dir(&expected).unwrap();
    fs::write(store.object(&expected), vec![seed; size]).unwrap();
    store.seal(&expected).unwrap();
    PlanFile {
        path: format!("file-{seed}"),
        size: size as u64,
        expected,
    }
}

fn plan(store: &Store, name: &str, files: Vec<PlanFile>) -> Plan {
    let plan = Plan {
        id: name.repeat(64),
        repo: format!("org/{name}"),
        commit: "0".repeat(40),
        files,
        detail: serde_json::Value::Null,
    };
    store.note_plan(&plan).unwrap();
    store.note_use(&plan.id, None).unwrap();
    plan
}

fn states(store: &Store) -> Vec<(String, State)> {
    let items = store.inventory().unwrap().items;
    items
        .into_iter()
        .map(|item| (item.repo, item.state))
        .collect()
}

#[test]
fn a_store_is_private_and_opens_again() {
    let (_dir, root, store, lock) = made();
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700);
    drop((store, lock));
    Store::open(&root, &RootRule::Directory, quota()).unwrap();
    Store::open_or_make(&root, &RootRule::Directory, quota()).unwrap();
}

#[test]
fn a_second_agent_is_told_who_holds_the_store() {
    let (_dir, root, _store, _lock) = made();
    let error = Store::open_or_make(&root, &RootRule::Directory, quota()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
}

#[test]
fn a_directory_that_is_not_a_store_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let private = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), private).unwrap();
    let error = Store::open_or_make(dir.path(), &RootRule::Directory, quota()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_root_that_others_may_write_to_is_refused() {
    let (_dir, root, store, lock) = made();
    drop((store, lock));
    fs::set_permissions(&root, fs::Permissions::from_mode(0o770)).unwrap();
    let error = Store::open_or_make(&root, &RootRule::Directory, quota()).unwrap_err();
    assert!(error.to_string().contains("chmod 700"), "{error}");
}

#[test]
fn a_missing_mount_is_never_written_under() {
    let dir = tempfile::tempdir().unwrap();
    let error = Store::open_or_make(
        dir.path(),
        &RootRule::Mounted(dir.path().to_owned()),
        quota(),
    )
    .unwrap_err();
    assert!(matches!(error, StoreError::NotMounted { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_newer_format_is_refused_in_words_and_left_as_it_is() {
    let (_dir, root, store, lock) = made();
    drop((store, lock));
    fs::write(root.join("store.json"), r#"{"headstart_store": 2}"#).unwrap();
    let error = Store::open_or_make(&root, &RootRule::Directory, quota()).unwrap_err();
    assert!(error.to_string().contains("store format 2"), "{error}");
}

#[test]
fn an_item_is_verified_only_while_every_seal_holds() {
    let (_dir, _root, store, _lock) = made();
    let files = vec![object(&store, 1, 10), object(&store, 2, 20)];
    let second = store.object(&files[1].expected);
    plan(&store, "a", files);
    assert_eq!(states(&store), [("org/a".to_owned(), State::Verified)]);

    fs::set_permissions(&second, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&second, vec![9; 20]).unwrap();
    assert_eq!(states(&store), [("org/a".to_owned(), State::Unknown)]);

    fs::remove_file(&second).unwrap();
    assert_eq!(states(&store), [("org/a".to_owned(), State::Partial)]);
}

#[test]
fn eviction_frees_the_least_recently_used_and_keeps_pins_and_shared_objects() {
    let (_dir, _root, store, _lock) = made();
    let shared = object(&store, 1, 100);
    let a = plan(&store, "a", vec![shared.clone(), object(&store, 2, 200)]);
    plan(&store, "b", vec![shared.clone(), object(&store, 3, 300)]);
    plan(&store, "c", vec![object(&store, 4, 50)]);
    store.note_use(&a.id, None).unwrap();
    store
        .note_use(&"c".repeat(64), Some(Duration::from_secs(60)))
        .unwrap();

    let removed = store.evict(250).unwrap();
    assert_eq!(removed.names, [format!("org/b@{}", "0".repeat(40))]);
    assert_eq!(removed.bytes, 300);
    assert!(store.object(&shared.expected).exists());

    let error = store.evict(400).unwrap_err();
    assert!(
        matches!(error, StoreError::Full { evictable: 300, .. }),
        "{error}"
    );
    assert_eq!(states(&store).len(), 2);
}

#[test]
fn a_promise_is_kept_until_it_is_dropped_and_never_exceeds_the_quota() {
    let (_dir, _root, store, _lock) = made();
    let first = store.reserve(bytes(600)).unwrap();
    let error = store.reserve(bytes(600)).unwrap_err();
    assert!(
        error.to_string().starts_with("no room for 600 B"),
        "{error}"
    );
    drop(first);
    store.reserve(bytes(600)).unwrap();
}

#[test]
fn what_a_killed_agent_left_half_done_is_swept_or_kept_as_it_deserves() {
    let (_dir, root, store, lock) = made();
    let kept = plan(&store, "a", vec![object(&store, 1, 10)]);
    object(&store, 2, 20);
    fs::write(root.join("partial/x.part"), "").unwrap();
    fs::write(root.join("partial/y.part"), "").unwrap();
    fs::write(root.join("partial/y.journal"), "").unwrap();
    fs::write(root.join("plans/z.tmp"), "half").unwrap();
    fs::write(root.join("plans/broken.json"), "{").unwrap();
    fs::create_dir(root.join("models/without-plan")).unwrap();
    drop((store, lock));
    let (store, _lock) = Store::open_or_make(&root, &RootRule::Directory, quota()).unwrap();
    let partial = fs::read_dir(root.join("partial")).unwrap().count();
    assert_eq!(partial, 2, "the resumable pair stays");
    assert!(!root.join("plans/z.tmp").exists());

    let removed = store.gc().unwrap();
    assert_eq!(removed.bytes, 20 + fs_dir_size() + 1);
    assert!(!root.join("models/without-plan").exists());
    assert!(!root.join("plans/broken.json").exists());
    assert_eq!(states(&store), [(kept.repo, State::Verified)]);
}

/// What an empty directory counts on this file system.
fn fs_dir_size() -> u64 {
    let dir = tempfile::tempdir().unwrap();
    fs::metadata(dir.path()).unwrap().len()
}

/// Publishes an image that claims `bytes`.
fn image(store: &Store, seed: u8, bytes: u64) -> ImageNote {
    let note = ImageNote {
        name: format!("registry.example/image-{seed}"),
        digest: Sha256([seed; 32]),
        bytes,
        fingerprint: None,
    };
    let staging = store.stage_image(&note.digest).unwrap();
    fs::create_dir(staging.join("rootfs")).unwrap();
    store.publish_image(&staging, &note).unwrap();
    store.note_use(&note.digest.to_string(), None).unwrap();
    note
}

#[test]
fn an_image_is_seen_once_it_is_whole_and_goes_when_room_is_needed() {
    let (_dir, root, store, lock) = made();
    let staging = store.stage_image(&Sha256([8; 32])).unwrap();
    fs::create_dir(staging.join("rootfs")).unwrap();
    assert!(store.images().unwrap().is_empty());
    let note = image(&store, 9, 400);
    assert_eq!(store.images().unwrap()[0].note, note);
    drop((store, lock));
    let (store, _lock) = Store::open_or_make(&root, &RootRule::Directory, quota()).unwrap();
    assert!(!staging.exists(), "half an image is swept");
    let removed = store.evict(300).unwrap();
    assert_eq!((removed.names, removed.bytes), (vec![note.name], 400));
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn what_is_worked_on_is_not_evicted_even_if_it_was_used_least_recently() {
    let (_dir, _root, store, _lock) = made();
    let old = plan(&store, "a", vec![object(&store, 1, 100)]);
    let recent = image(&store, 2, 100);
    let holding = store.hold(&old.id);
    assert_eq!(store.evict(100).unwrap().names, [recent.name]);
    assert!(matches!(store.evict(100), Err(StoreError::Full { .. })));
    drop(holding);
    assert_eq!(store.evict(100).unwrap().names.len(), 1);
}

#[test]
fn gc_removes_images_nobody_can_use_and_keeps_the_others() {
    let (_dir, root, store, _lock) = made();
    let note = image(&store, 2, 100);
    fs::create_dir(root.join("images/half")).unwrap();
    fs::write(root.join("uses/gone.json"), "{}").unwrap();
    let removed = store.gc().unwrap();
    assert_eq!(removed.names.len(), 2, "{:?}", removed.names);
    assert_eq!(store.images().unwrap()[0].note, note);
    assert_eq!(store.images().unwrap()[0].uses.last_use, 1);
}

#[test]
fn somebody_elses_directories_that_are_named_like_ours_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("models/mine")).unwrap();
    fs::write(dir.path().join("models/mine/weights.bin"), "mine").unwrap();
    let error = Store::open_or_make(dir.path(), &RootRule::Directory, quota()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert_eq!(
        fs::read_to_string(dir.path().join("models/mine/weights.bin")).unwrap(),
        "mine"
    );
}

#[test]
fn a_store_whose_marker_was_half_written_is_started_from() {
    let (_dir, root, store, lock) = made();
    drop((store, lock));
    fs::rename(root.join("store.json"), root.join("store.tmp")).unwrap();
    fs::remove_file(root.join("lock")).unwrap();
    fs::write(root.join("store.tmp"), "{").unwrap();
    Store::open_or_make(&root, &RootRule::Directory, quota()).unwrap();
    assert!(!root.join("store.tmp").exists());
}

#[test]
fn a_root_that_is_not_on_the_mount_asked_for_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let rule = RootRule::Mounted(PathBuf::from("/proc"));
    let error = Store::open_or_make(&dir.path().join("store"), &rule, quota()).unwrap_err();
    assert!(
        matches!(error, StoreError::ElsewhereMounted { .. }),
        "{error}"
    );
    assert!(!dir.path().join("store").exists());
}

#[test]
fn half_a_removed_image_is_swept() {
    let (_dir, root, store, lock) = made();
    let note = image(&store, 3, 100);
    fs::remove_file(store.image(&note.digest).join("image.json")).unwrap();
    drop((store, lock));
    let (store, _lock) = Store::open_or_make(&root, &RootRule::Directory, quota()).unwrap();
    assert!(!store.image(&note.digest).exists());
}

#[test]
fn one_file_may_be_written_by_many_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record.json");
    std::thread::scope(|scope| {
        for number in 0..8_u64 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..50 {
                    write_json(path, &vec![number; 2000]).unwrap();
                    let read: Vec<u64> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
                    assert!(read.iter().all(|one| *one == read[0]) && read.len() == 2000);
                }
            });
        }
    });
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
