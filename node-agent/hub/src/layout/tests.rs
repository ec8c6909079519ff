//! Trees made from objects in temporary directories, and looked at byte by byte.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use expect_test::expect;
use headstart_core::digest::{GitSha1, Sha256};
use headstart_core::model::Format;
use sha2::Digest as _;

use super::*;
use crate::plan::XetHash;

/// A store in a temporary directory: objects by digest, one tree.
pub(crate) struct Store {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) plan: ModelPlan,
    pub(crate) tree: Tree,
    contents: Vec<(Expected, Vec<u8>)>,
}

pub(crate) fn git_sha1(content: &[u8]) -> GitSha1 {
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", content.len()));
    hash.update(content);
    GitSha1(hash.finalize().into())
}

const FILES: [(&str, &str); 7] = [
    ("config.json", "{\"a\":1}"),
    ("tokenizer.json", "{}"),
    ("copy/tokenizer.json", "{}"),
    ("model-00001-of-00002.safetensors", "first"),
    ("model-00002-of-00002.safetensors", "second"),
    ("deep/er/part.safetensors", "third"),
    ("empty.txt", ""),
];

impl Store {
    /// Every file an object, nothing published.
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("objects")).unwrap();
        let mut contents = Vec::new();
        let files = FILES.iter().map(|(path, content)| {
            let content = content.as_bytes().to_vec();
            let blob_id = git_sha1(&content);
            let large = path.ends_with(".safetensors");
            let expected = match large {
                true => Expected::Sha256(Sha256(sha2::Sha256::digest(&content).into())),
                false => Expected::GitSha1(blob_id),
            };
            let size = content.len() as u64;
            contents.push((expected, content));
            let xet_hash = path.starts_with("deep").then_some(XetHash(Sha256([7; 32])));
            PlannedFile {
                path: path.parse().unwrap(),
                size,
                expected,
                blob_id,
                xet_hash,
            }
        });
        let plan = ModelPlan::new(
            "org/name".parse().unwrap(),
            "main".parse().unwrap(),
            "0123456789abcdef0123456789abcdef01234567".parse().unwrap(),
            Format::Safetensors,
            files.collect(),
            vec![
                "tokenizer.model".parse().unwrap(),
                "sub/chat.jinja".parse().unwrap(),
            ],
        )
        .unwrap();
        let tree = Tree::at(temp.path().join("tree"));
        let store = Self {
            temp,
            plan,
            tree,
            contents,
        };
        for (expected, _) in store.contents.clone() {
            store.restore(&expected);
        }
        store
    }

    pub(crate) fn object(&self, expected: &Expected) -> PathBuf {
        self.temp.path().join("objects").join(expected.to_string())
    }

    pub(crate) fn restore(&self, expected: &Expected) {
        let (_, content) = self.contents.iter().find(|(e, _)| e == expected).unwrap();
        let path = self.object(expected);
        let _ = std::fs::remove_file(&path);
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn expected(&self, path: &str) -> Expected {
        self.plan
            .files
            .iter()
            .find(|file| file.path.as_str() == path)
            .unwrap()
            .expected
    }

    pub(crate) fn lose(&self, path: &str) {
        std::fs::remove_file(self.object(&self.expected(path))).unwrap();
    }

    pub(crate) fn publish(&self) -> Published {
        self.tree
            .publish(&self.plan, &|expected| self.object(expected))
            .unwrap()
    }

    pub(crate) fn state(&self) -> State {
        self.tree.inspect(&self.plan).unwrap().state()
    }

    fn repo(&self) -> PathBuf {
        self.tree.hub().join("models--org--name")
    }
}

/// Everything below `root`: kinds, modes, targets; one line each.
pub(crate) fn shown(root: &Path) -> String {
    fn walk(dir: &Path, base: &Path, lines: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(base).unwrap().display().to_string();
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_symlink() {
                let target = std::fs::read_link(&path).unwrap();
                lines.insert(format!("{name} -> {}", target.display()));
            } else if meta.is_dir() {
                lines.insert(format!("{name}/ {mode:o}"));
                walk(&path, base, lines);
            } else {
                lines.insert(format!("{name} {mode:o} {}", meta.len()));
            }
        }
    }
    let mut lines = BTreeSet::new();
    walk(root, root, &mut lines);
    lines.into_iter().map(|line| line + "\n").collect()
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_complete_plan_becomes_a_cache_in_the_exact_layout() {
    let store = Store::new();
    assert_eq!(store.publish(), Published::Complete);
    expect![[r#"
        CACHEDIR.TAG 444 202
        hub/ 555
        hub/.locks/ 555
        hub/.locks/models--org--name/ 555
        hub/models--org--name/ 555
        hub/models--org--name/.no_exist/ 555
        hub/models--org--name/.no_exist/0123456789abcdef0123456789abcdef01234567/ 555
        hub/models--org--name/.no_exist/0123456789abcdef0123456789abcdef01234567/sub/ 555
        hub/models--org--name/.no_exist/0123456789abcdef0123456789abcdef01234567/sub/chat.jinja 444 0
        hub/models--org--name/.no_exist/0123456789abcdef0123456789abcdef01234567/tokenizer.model 444 0
        hub/models--org--name/blobs/ 555
        hub/models--org--name/blobs/16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4 444 6
        hub/models--org--name/blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b 444 2
        hub/models--org--name/blobs/a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e 444 5
        hub/models--org--name/blobs/b1e99324505bd32da0e1f85dcf5e19a09db0481e8a15f62c41eb320304a8e927 444 5
        hub/models--org--name/blobs/daa5053ecf5f9a37b2de733d0751cc1ab53ac010 444 7
        hub/models--org--name/blobs/e69de29bb2d1d6434b8b29ae775ad8c2e48c5391 444 0
        hub/models--org--name/refs/ 555
        hub/models--org--name/refs/main 444 40
        hub/models--org--name/snapshots/ 555
        hub/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/ 555
        hub/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/config.json -> ../../blobs/daa5053ecf5f9a37b2de733d0751cc1ab53ac010
        hub/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/copy/ 555
        hub/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/copy/tokenizer.json -> ../../../blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b
        hub/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/deep/ 555
        hub/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/deep/er/ 555
        hub/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/deep/er/part.safetensors -> ../../../../blobs/b1e99324505bd32da0e1f85dcf5e19a09db0481e8a15f62c41eb320304a8e927
        hub/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/empty.txt -> ../../blobs/e69de29bb2d1d6434b8b29ae775ad8c2e48c5391
        hub/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/model-00001-of-00002.safetensors -> ../../blobs/a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e
        hub/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/model-00002-of-00002.safetensors -> ../../blobs/16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4
        hub/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/tokenizer.json -> ../../blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b
        hub/models--org--name/trees/ 555
        hub/models--org--name/trees/0123456789abcdef0123456789abcdef01234567.json 444 997
    "#]].assert_eq(&shown(store.tree.root()));
    let repo = store.repo();
    let commit = store.plan.commit;
    assert_eq!(read(repo.join("refs/main")), commit.to_string());
    expect![[r#"{"format_version":1,"files":{"config.json":{"size":7,"blob_id":"daa5053ecf5f9a37b2de733d0751cc1ab53ac010"},"copy/tokenizer.json":{"size":2,"blob_id":"9e26dfeeb6e641a33dae4961196235bdb965b21b"},"deep/er/part.safetensors":{"size":5,"blob_id":"6cbc8780e5977a9616d6fa643ecf2e4d01a3eeee","lfs_sha256":"b1e99324505bd32da0e1f85dcf5e19a09db0481e8a15f62c41eb320304a8e927","lfs_size":5,"xet_hash":"0707070707070707070707070707070707070707070707070707070707070707"},"empty.txt":{"size":0,"blob_id":"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"},"model-00001-of-00002.safetensors":{"size":5,"blob_id":"fe4f02ad058b43f6ed467fdf65b935107529564b","lfs_sha256":"a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e","lfs_size":5},"model-00002-of-00002.safetensors":{"size":6,"blob_id":"2147e418895119ab132ef3a44c8b16a4a6ce1b77","lfs_sha256":"16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4","lfs_size":6},"tokenizer.json":{"size":2,"blob_id":"9e26dfeeb6e641a33dae4961196235bdb965b21b"}}}"#]].assert_eq(&read(repo.join(format!("trees/{commit}.json"))));
    for (path, content) in FILES {
        assert_eq!(
            read(repo.join(format!("snapshots/{commit}")).join(path)),
            content
        );
    }
    let shard = store.expected("model-00001-of-00002.safetensors");
    let object = std::fs::metadata(store.object(&shard)).unwrap();
    assert_eq!(object.nlink(), 2, "the blob is the object, not a copy");
    assert_eq!(store.state(), State::Complete);
    let mut hashed = 0;
    let verified = store.tree.verify(&store.plan, &mut |n| {
        hashed += n;
        Go::On
    });
    assert_eq!(verified.unwrap().findings, []);
    assert_eq!(hashed, store.plan.bytes());
}

#[test]
fn publishing_again_changes_nothing() {
    let store = Store::new();
    let _ = store.publish();
    let before = shown(store.tree.root());
    assert_eq!(store.publish(), Published::Complete);
    assert_eq!(shown(store.tree.root()), before);
}

#[test]
fn a_partial_plan_lists_only_what_is_there_and_grows_when_more_comes() {
    let store = Store::new();
    let late = "model-00002-of-00002.safetensors";
    store.lose(late);
    let missing = vec![late.parse().unwrap()];
    assert_eq!(store.publish(), Published::Partial { missing });
    let inventory = store.tree.inspect(&store.plan).unwrap();
    let fault = Finding {
        path: Some(late.parse().unwrap()),
        fault: Fault::Missing,
    };
    assert_eq!(
        inventory.findings,
        [fault],
        "everything else is as it should be"
    );
    assert_eq!(inventory.bytes, store.plan.bytes() - "second".len() as u64);
    assert_eq!(inventory.state(), State::Partial);
    let listing = read(
        store
            .repo()
            .join(format!("trees/{}.json", store.plan.commit)),
    );
    assert!(!listing.contains(late), "{listing}");
    store.restore(&store.expected(late));
    assert_eq!(store.publish(), Published::Complete);
    assert_eq!(store.state(), State::Complete);
}

#[test]
fn without_a_single_object_no_client_is_told_of_a_model() {
    let store = Store::new();
    let paths: Vec<RepoPath> = store
        .plan
        .files
        .iter()
        .map(|file| file.path.clone())
        .collect();
    for expected in store.contents.iter().map(|(expected, _)| expected) {
        let _ = std::fs::remove_file(store.object(expected));
    }
    assert_eq!(store.publish(), Published::Partial { missing: paths });
    assert!(!store.repo().join("refs").exists());
    assert!(!store.repo().join("trees").exists());
    assert_eq!(store.state(), State::Absent);
}

#[test]
fn files_stay_when_their_objects_are_evicted_and_go_when_withdrawn() {
    let store = Store::new();
    let _ = store.publish();
    store.lose("config.json");
    store.lose("tokenizer.json");
    assert_eq!(store.publish(), Published::Complete);
    store
        .tree
        .withdraw(&store.plan, &["tokenizer.json".parse().unwrap()])
        .unwrap();
    let inventory = store.tree.inspect(&store.plan).unwrap();
    let missing = |path: &str| Finding {
        path: Some(path.parse().unwrap()),
        fault: Fault::Missing,
    };
    let both = [missing("copy/tokenizer.json"), missing("tokenizer.json")];
    assert_eq!(
        inventory.findings, both,
        "both paths of the same content, and nothing else"
    );
    let snapshot = store
        .repo()
        .join(format!("snapshots/{}", store.plan.commit));
    assert!(snapshot.join("tokenizer.json").symlink_metadata().is_err());
    let all: Vec<RepoPath> = store
        .plan
        .files
        .iter()
        .map(|file| file.path.clone())
        .collect();
    store.tree.withdraw(&store.plan, &all).unwrap();
    assert!(!store.tree.root().exists());
}

#[test]
fn unpublishing_leaves_the_objects_and_can_be_repeated() {
    let store = Store::new();
    let _ = store.publish();
    store.tree.unpublish(&store.plan).unwrap();
    assert!(!store.tree.root().exists());
    store.tree.unpublish(&store.plan).unwrap();
    assert!(store.object(&store.expected("config.json")).exists());
    assert_eq!(store.publish(), Published::Complete);
}

#[test]
fn objects_that_are_not_what_they_should_be_never_get_a_name() {
    let store = Store::new();
    let object = store.object(&store.expected("config.json"));
    let elsewhere = store.temp.path().join("elsewhere");
    std::fs::write(&elsewhere, "{\"a\":1}").unwrap();
    let spoil: [&dyn Fn(); 3] = [
        &|| std::fs::write(&object, "short").unwrap(),
        &|| std::os::unix::fs::symlink(&elsewhere, &object).unwrap(),
        &|| drop(std::os::unix::net::UnixListener::bind(&object).unwrap()),
    ];
    for spoil in spoil {
        std::fs::remove_file(&object).unwrap();
        spoil();
        let refused = store
            .tree
            .publish(&store.plan, &|expected| store.object(expected));
        let wrong = matches!(refused, Err(LayoutError::WrongObject { .. }));
        assert!(wrong, "{refused:?}");
        let blob = store
            .repo()
            .join("blobs")
            .join(git_sha1(b"{\"a\":1}").to_string());
        assert!(blob.symlink_metadata().is_err());
    }
}

#[test]
fn damage_in_a_tree_is_named_and_a_truncated_blob_is_replaced() {
    let store = Store::new();
    let _ = store.publish();
    let shard = "model-00001-of-00002.safetensors";
    let blob = store.repo().join("blobs");
    let etag = sha2::Sha256::digest(b"first")
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect::<String>();
    let damage = |content: &str| {
        std::fs::set_permissions(&blob, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::remove_file(blob.join(&etag)).unwrap();
        std::fs::write(blob.join(&etag), content).unwrap();
    };
    damage("fIrst");
    assert_eq!(store.state(), State::Complete, "a look does not read");
    let found = store.tree.verify(&store.plan, &mut |_| Go::On).unwrap();
    let wrong = Expected::Sha256(Sha256(sha2::Sha256::digest(b"fIrst").into()));
    let fault = Fault::Content { found: wrong };
    assert_eq!(
        found.findings,
        [Finding {
            path: Some(shard.parse().unwrap()),
            fault
        }]
    );
    assert!(!found.present.contains(&shard.parse().unwrap()));
    damage("fir");
    let look = store.tree.inspect(&store.plan).unwrap();
    assert_eq!(look.findings[0].fault, Fault::Size { found: 3 });
    assert_eq!(store.publish(), Published::Complete);
    assert_eq!(
        store
            .tree
            .verify(&store.plan, &mut |_| Go::On)
            .unwrap()
            .findings,
        []
    );
}

#[test]
fn a_blob_damaged_with_its_object_is_replaced_by_the_object_that_comes_next() {
    let store = Store::new();
    let _ = store.publish();
    let shard = "model-00001-of-00002.safetensors";
    let expected = store.expected(shard);
    let object = store.object(&expected);
    let snapshot = format!("snapshots/{}/{shard}", store.plan.commit);
    let shown = store.repo().join(snapshot);
    std::fs::set_permissions(&object, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&object, "fIrst").unwrap();
    assert_eq!(read(shown.clone()), "fIrst", "they are one file");
    std::fs::remove_file(&object).unwrap();
    assert_eq!(store.publish(), Published::Complete);
    assert_eq!(read(shown.clone()), "fIrst", "nothing better is there");
    std::fs::write(&object, "cut").unwrap();
    assert_eq!(store.publish(), Published::Complete);
    assert_eq!(read(shown.clone()), "fIrst", "that is no object");
    store.restore(&expected);
    assert_eq!(store.publish(), Published::Complete);
    assert_eq!(read(shown.clone()), "first");
    let inode = |path| std::fs::metadata(path).unwrap().ino();
    assert_eq!(inode(shown), inode(object), "no bytes are kept twice");
}

#[test]
fn a_revision_with_slashes_becomes_nested_refs_and_a_commit_none() {
    let mut store = Store::new();
    store.plan.revision = "refs/pr/1".parse().unwrap();
    let _ = store.publish();
    assert_eq!(
        read(store.repo().join("refs/refs/pr/1")),
        store.plan.commit.to_string()
    );
    store.tree.unpublish(&store.plan).unwrap();
    store.plan.revision = Revision::Commit(store.plan.commit);
    let _ = store.publish();
    assert!(!store.repo().join("refs").exists());
    assert_eq!(store.state(), State::Complete);
}

/// What a reader may see at any moment: no pointer without its blob, nothing listed that is not
/// there, no ref without a snapshot.
fn assert_sound(store: &Store) {
    let (repo, commit) = (store.repo(), store.plan.commit);
    let snapshot = repo.join(format!("snapshots/{commit}"));
    for (path, content) in FILES {
        if snapshot.join(path).symlink_metadata().is_ok() {
            assert_eq!(read(snapshot.join(path)), content);
        }
    }
    if let Ok(listing) = std::fs::read(repo.join(format!("trees/{commit}.json"))) {
        let listing: serde_json::Value = serde_json::from_slice(&listing).unwrap();
        for path in listing["files"].as_object().unwrap().keys() {
            assert!(
                snapshot.join(path).exists(),
                "{path} is listed and not there"
            );
        }
    }
    if let Ok(named) = std::fs::read_to_string(repo.join("refs/main")) {
        assert_eq!(named, commit.to_string());
        assert!(snapshot.exists());
    }
}

#[test]
fn from_every_half_done_state_publishing_completes() {
    // Each state: a complete tree less what a crash would have left undone, latest steps first.
    let whole = Store::new();
    let _ = whole.publish();
    let commit = whole.plan.commit;
    let steps: [Vec<String>; 6] = [
        vec!["refs".into()],
        vec!["refs".into(), "trees".into()],
        vec![
            "refs".into(),
            "trees".into(),
            format!(".no_exist/{commit}/sub"),
        ],
        vec![
            "refs".into(),
            "trees".into(),
            format!("snapshots/{commit}/deep"),
        ],
        vec![
            "refs".into(),
            "trees".into(),
            ".no_exist".into(),
            "snapshots".into(),
        ],
        vec![
            "refs".into(),
            "trees".into(),
            "snapshots".into(),
            "blobs".into(),
        ],
    ];
    for undone in steps {
        let store = Store::new();
        let _ = store.publish();
        thaw(&Dir::open(&store.tree.hub()).unwrap()).unwrap();
        for part in &undone {
            std::fs::remove_dir_all(store.repo().join(part)).unwrap();
        }
        let staging = store.tree.root().join("staging");
        std::fs::create_dir_all(staging.join("snapshot/half")).unwrap();
        std::fs::write(staging.join("file"), "half").unwrap();
        std::fs::write(staging.join("object"), "half").unwrap();
        assert_sound(&store);
        assert_eq!(store.publish(), Published::Complete, "{undone:?}");
        assert_eq!(
            shown(store.tree.root()),
            shown(whole.tree.root()),
            "{undone:?}"
        );
    }
}

#[test]
fn a_reader_beside_a_writer_never_sees_half_a_file_or_a_false_listing() {
    let store = Store::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) || looks < 10 {
                let (repo, commit) = (store.repo(), store.plan.commit);
                let snapshot = repo.join(format!("snapshots/{commit}"));
                for (path, content) in FILES {
                    if let Ok(found) = std::fs::read_to_string(snapshot.join(path)) {
                        assert_eq!(found, content);
                    }
                }
                if let Ok(named) = std::fs::read_to_string(repo.join("refs/main")) {
                    assert_eq!(named, commit.to_string());
                }
                looks += 1;
            }
        });
        for path in FILES.map(|(path, _)| path) {
            let _ = std::fs::remove_file(store.object(&store.expected(path)));
        }
        for (path, _) in FILES {
            store.restore(&store.expected(path));
            let _ = store.publish();
            assert_sound(&store);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap();
    });
}
