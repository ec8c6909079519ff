//! Views of trees in temporary directories, quiet and hostile consumers.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use expect_test::expect;

use super::*;
use crate::layout::tests::{Store, shown};

fn spec(store: &Store) -> ViewSpec {
    ViewSpec {
        tree_inside: store.tree.root().to_owned(),
        at: store.temp.path().join("view"),
        owner: Owner::Anyone,
        listing: Listing::Planned,
    }
}

fn view(store: &Store) -> View {
    View::of(spec(store))
}

fn snapshot(store: &Store) -> PathBuf {
    let commit = store.plan.commit;
    store
        .temp
        .path()
        .join(format!("view/hub/models--org--name/snapshots/{commit}"))
}

#[test]
fn a_view_is_directories_and_links_and_reads_through_to_the_tree() {
    let store = Store::new();
    let _ = store.publish();
    let view = view(&store);
    view.refresh(&store.plan, &store.tree).unwrap();
    let text = shown(Path::new(&view.hub()));
    let text = text.replace(&store.tree.root().display().to_string(), "TREE");
    expect![[r#"
        .locks/ 777
        .locks/models--org--name/ 777
        models--org--name/ 777
        models--org--name/.no_exist/ 777
        models--org--name/.no_exist/0123456789abcdef0123456789abcdef01234567/ 777
        models--org--name/.no_exist/0123456789abcdef0123456789abcdef01234567/sub/ 777
        models--org--name/.no_exist/0123456789abcdef0123456789abcdef01234567/sub/chat.jinja 666 0
        models--org--name/.no_exist/0123456789abcdef0123456789abcdef01234567/tokenizer.model 666 0
        models--org--name/blobs/ 777
        models--org--name/blobs/16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4 -> TREE/hub/models--org--name/blobs/16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4
        models--org--name/blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b -> TREE/hub/models--org--name/blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b
        models--org--name/blobs/a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e -> TREE/hub/models--org--name/blobs/a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e
        models--org--name/blobs/b1e99324505bd32da0e1f85dcf5e19a09db0481e8a15f62c41eb320304a8e927 -> TREE/hub/models--org--name/blobs/b1e99324505bd32da0e1f85dcf5e19a09db0481e8a15f62c41eb320304a8e927
        models--org--name/blobs/daa5053ecf5f9a37b2de733d0751cc1ab53ac010 -> TREE/hub/models--org--name/blobs/daa5053ecf5f9a37b2de733d0751cc1ab53ac010
        models--org--name/blobs/e69de29bb2d1d6434b8b29ae775ad8c2e48c5391 -> TREE/hub/models--org--name/blobs/e69de29bb2d1d6434b8b29ae775ad8c2e48c5391
        models--org--name/refs/ 777
        models--org--name/refs/main 666 40
        models--org--name/snapshots/ 777
        models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/ 777
        models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/config.json -> ../../blobs/daa5053ecf5f9a37b2de733d0751cc1ab53ac010
        models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/copy/ 777
        models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/copy/tokenizer.json -> ../../../blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b
        models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/deep/ 777
        models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/deep/er/ 777
        models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/deep/er/part.safetensors -> ../../../../blobs/b1e99324505bd32da0e1f85dcf5e19a09db0481e8a15f62c41eb320304a8e927
        models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/empty.txt -> ../../blobs/e69de29bb2d1d6434b8b29ae775ad8c2e48c5391
        models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/model-00001-of-00002.safetensors -> ../../blobs/a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e
        models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/model-00002-of-00002.safetensors -> ../../blobs/16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4
        models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567/tokenizer.json -> ../../blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b
        models--org--name/trees/ 777
        models--org--name/trees/0123456789abcdef0123456789abcdef01234567.json 666 997
    "#]].assert_eq(&text);
    let read = std::fs::read_to_string(snapshot(&store).join("deep/er/part.safetensors"));
    assert_eq!(read.unwrap(), "third");
    view.refresh(&store.plan, &store.tree).unwrap();
    view.remove().unwrap();
    assert!(!store.temp.path().join("view").exists());
    view.remove().unwrap();
    assert!(store.tree.hub().exists());
}

#[test]
fn a_view_can_be_empty_and_its_links_can_be_relative() {
    let store = Store::new();
    let _ = store.publish();
    let inside = "../.tree";
    let view = View::of(ViewSpec {
        tree_inside: inside.into(),
        ..spec(&store)
    });
    view.open().unwrap();
    view.open().unwrap();
    assert_eq!(shown(&view.hub()), "");
    view.refresh(&store.plan, &store.tree).unwrap();
    let repo = view.hub().join("models--org--name");
    symlink(store.tree.root(), repo.join(".tree")).unwrap();
    let read = std::fs::read_to_string(snapshot(&store).join("deep/er/part.safetensors"));
    assert_eq!(read.unwrap(), "third");
    view.open().unwrap();
    assert!(repo.exists());
    view.remove().unwrap();
}

#[test]
fn a_view_shows_what_is_there_and_more_after_a_refresh() {
    let store = Store::new();
    let late = "model-00002-of-00002.safetensors";
    store.lose(late);
    let _ = store.publish();
    let planned = view(&store);
    planned.refresh(&store.plan, &store.tree).unwrap();
    assert!(snapshot(&store).join(late).symlink_metadata().is_err());
    let trees = planned.hub().join(format!(
        "models--org--name/trees/{}.json",
        store.plan.commit
    ));
    assert!(std::fs::read_to_string(&trees).unwrap().contains(late));
    let cached = View::of(ViewSpec {
        listing: Listing::Cached,
        ..spec(&store)
    });
    cached.refresh(&store.plan, &store.tree).unwrap();
    assert!(!std::fs::read_to_string(&trees).unwrap().contains(late));
    store.restore(&store.expected(late));
    let _ = store.publish();
    cached.refresh(&store.plan, &store.tree).unwrap();
    assert_eq!(
        std::fs::read_to_string(snapshot(&store).join(late)).unwrap(),
        "second"
    );
    assert!(std::fs::read_to_string(&trees).unwrap().contains(late));
}

#[test]
fn what_the_consumer_downloaded_or_moved_on_stays() {
    let store = Store::new();
    let late = "model-00002-of-00002.safetensors";
    store.lose(late);
    let _ = store.publish();
    let view = view(&store);
    view.refresh(&store.plan, &store.tree).unwrap();
    let repo = view.hub().join("models--org--name");
    let file = store
        .plan
        .files
        .iter()
        .find(|file| file.path.as_str() == late)
        .unwrap();
    std::fs::write(repo.join("blobs").join(file.etag()), "second").unwrap();
    symlink(pointer(file), snapshot(&store).join(late)).unwrap();
    std::fs::write(repo.join("refs/main"), "f".repeat(40)).unwrap();
    store.restore(&file.expected);
    let _ = store.publish();
    view.refresh(&store.plan, &store.tree).unwrap();
    assert!(
        repo.join("blobs")
            .join(file.etag())
            .symlink_metadata()
            .unwrap()
            .is_file()
    );
    assert_eq!(
        std::fs::read_to_string(repo.join("refs/main")).unwrap(),
        "f".repeat(40)
    );
}

#[test]
fn a_view_of_nothing_names_no_model_and_is_still_writable() {
    let store = Store::new();
    let view = view(&store);
    view.refresh(&store.plan, &store.tree).unwrap();
    let repo = view.hub().join("models--org--name");
    assert!(repo.join("blobs").is_dir());
    assert!(!repo.join("refs").exists());
    assert!(!repo.join("trees").exists());
}

#[test]
fn a_consumer_that_swaps_directories_for_links_changes_nothing_outside() {
    for part in ["blobs", "snapshots", ".no_exist", "trees", "refs"] {
        let store = Store::new();
        let _ = store.publish();
        let view = view(&store);
        view.refresh(&store.plan, &store.tree).unwrap();
        let victim = store.temp.path().join("victim");
        std::fs::create_dir(&victim).unwrap();
        let at = view.hub().join("models--org--name").join(part);
        std::fs::remove_dir_all(&at).unwrap();
        symlink(&victim, &at).unwrap();
        assert!(view.refresh(&store.plan, &store.tree).is_err(), "{part}");
        std::fs::write(victim.join("precious"), "x").unwrap();
        view.remove().unwrap();
        assert_eq!(shown(&victim).lines().count(), 1, "{part}");
    }
}

#[test]
fn swapping_under_a_running_refresh_changes_nothing_outside() {
    let store = Store::new();
    let _ = store.publish();
    let view = view(&store);
    view.refresh(&store.plan, &store.tree).unwrap();
    let victim = store.temp.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    let repo = view.hub().join("models--org--name");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for part in ["blobs", "snapshots", "refs", "trees"] {
                    let (at, away) = (repo.join(part), repo.join("away"));
                    if std::fs::rename(&at, &away).is_ok() {
                        let _ = symlink(&victim, &at);
                        let _ = std::fs::remove_file(&at);
                        let _ = std::fs::remove_dir_all(&at);
                        let _ = std::fs::rename(&away, &at);
                        let _ = std::fs::remove_dir_all(&away);
                    }
                }
            }
        });
        for _ in 0..300 {
            let _ = view.refresh(&store.plan, &store.tree);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        swapper.join().unwrap();
    });
    assert_eq!(shown(&victim), "");
}

#[test]
fn a_view_belongs_to_the_user_and_group_asked_for() {
    let store = Store::new();
    let _ = store.publish();
    let me = store.temp.path().metadata().unwrap();
    // Giving files away takes root; keeping them does not.
    let (uid, gid) = match me.uid() {
        0 => (65534, 65534),
        uid => (uid, me.gid()),
    };
    let view = View::of(ViewSpec {
        owner: Owner::User { uid, gid },
        ..spec(&store)
    });
    view.refresh(&store.plan, &store.tree).unwrap();
    fn walk(at: &Path, seen: &mut dyn FnMut(&Path)) {
        seen(at);
        if at.symlink_metadata().unwrap().is_dir() {
            for entry in std::fs::read_dir(at).unwrap() {
                walk(&entry.unwrap().path(), seen);
            }
        }
    }
    walk(&view.hub(), &mut |path| {
        let meta = path.symlink_metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (uid, gid), "{}", path.display());
        if meta.is_dir() {
            assert_eq!(meta.mode() & 0o7777, 0o2775, "{}", path.display());
        }
    });
    assert_eq!(
        store.temp.path().join("view").metadata().unwrap().uid(),
        me.uid()
    );
}
