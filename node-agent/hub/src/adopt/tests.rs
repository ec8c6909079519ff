//! What is offered of a cache, and what is not.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;

use headstart_core::digest::{Expected, GitSha1, Sha256};
use headstart_core::model::{Format, Revision};
use sha1::Digest as _;

use super::*;

fn large(path: &str, content: &[u8]) -> PlannedFile {
    PlannedFile {
        path: path.parse().unwrap(),
        size: content.len() as u64,
        expected: Expected::Sha256(Sha256(sha2::Sha256::digest(content).into())),
        blob_id: GitSha1([7; 20]),
        xet_hash: None,
    }
}

fn plan(files: Vec<PlannedFile>) -> ModelPlan {
    let repo = "org/name"
        .parse::<headstart_core::model::ModelRef>()
        .unwrap()
        .repo;
    let commit = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
    ModelPlan::new(
        repo,
        Revision::main(),
        commit,
        Format::Safetensors,
        files,
        vec![],
    )
    .unwrap()
}

struct Fixture {
    dir: tempfile::TempDir,
    plan: ModelPlan,
}

const CONTENT: &[u8] = b"weights of the model";

impl Fixture {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            plan: plan(vec![large("sub/model.safetensors", CONTENT)]),
        }
    }

    fn at(&self, below: &str) -> PathBuf {
        let path = self.dir.path().join("hub").join(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn repo(&self, below: &str) -> PathBuf {
        self.at(&format!("models--org--name/{below}"))
    }

    fn blob(&self) -> String {
        format!("blobs/{}", self.plan.files[0].etag())
    }

    fn offered(&self) -> Vec<(String, Vec<u8>)> {
        let hub = self.dir.path().join("hub");
        let Some(cache) = Cache::open(&hub, &self.plan).unwrap() else {
            return Vec::new();
        };
        let real = hub.canonicalize().unwrap();
        let offers = cache.offers(&self.plan.files[0]).unwrap();
        let read = |mut offer: Offer| {
            let mut content = Vec::new();
            offer.file.read_to_end(&mut content).unwrap();
            let at = offer.at.strip_prefix(&real).unwrap().display().to_string();
            (at, content)
        };
        offers.into_iter().map(read).collect()
    }
}

#[test]
fn a_blob_that_python_downloaded_is_offered_once_though_a_snapshot_points_to_it() {
    let cache = Fixture::new();
    fs::write(cache.repo(&cache.blob()), CONTENT).unwrap();
    let pointer = cache.repo(&format!(
        "snapshots/{}/sub/model.safetensors",
        cache.plan.commit
    ));
    symlink(format!("../../../{}", cache.blob()), pointer).unwrap();
    let at = format!("models--org--name/{}", cache.blob());
    assert_eq!(cache.offered(), [(at, CONTENT.to_vec())]);
}

#[test]
fn a_blob_shared_between_repositories_is_found_two_links_on() {
    let cache = Fixture::new();
    fs::write(cache.at("blobs/ab/abcd"), CONTENT).unwrap();
    symlink("../../blobs/ab/abcd", cache.repo(&cache.blob())).unwrap();
    assert_eq!(
        cache.offered(),
        [("blobs/ab/abcd".to_owned(), CONTENT.to_vec())]
    );
}

#[test]
fn plain_files_of_every_snapshot_are_offered_the_plans_own_first() {
    let cache = Fixture::new();
    let other = vec![b'x'; CONTENT.len()];
    fs::write(cache.repo("snapshots/00/sub/model.safetensors"), &other).unwrap();
    let own = format!("snapshots/{}/sub/model.safetensors", cache.plan.commit);
    fs::write(cache.repo(&own), CONTENT).unwrap();
    let contents: Vec<Vec<u8>> = cache
        .offered()
        .into_iter()
        .map(|(_, content)| content)
        .collect();
    assert_eq!(contents, [CONTENT.to_vec(), other]);
}

#[test]
fn links_out_of_the_cache_loops_and_files_of_another_size_are_not_offered() {
    let outside = |cache: &Fixture| {
        let path = cache.dir.path().join("secret");
        fs::write(&path, CONTENT).unwrap();
        path
    };
    type Case = fn(&Fixture, &dyn Fn(&Fixture) -> PathBuf);
    let cases: [Case; 7] = [
        |cache, outside| symlink(outside(cache), cache.repo(&cache.blob())).unwrap(),
        |cache, outside| {
            outside(cache);
            symlink("../../../secret", cache.repo(&cache.blob())).unwrap();
        },
        |cache, _| {
            let itself = cache.plan.files[0].etag();
            symlink(itself, cache.repo(&cache.blob())).unwrap();
        },
        |cache, _| fs::write(cache.repo(&cache.blob()), b"short").unwrap(),
        |cache, _| fs::create_dir_all(cache.repo(&cache.blob())).unwrap(),
        // The repository, or its blobs, behind a link to elsewhere.
        |cache, _| {
            let elsewhere = cache.dir.path().join("elsewhere/blobs");
            fs::create_dir_all(&elsewhere).unwrap();
            fs::write(elsewhere.join(cache.plan.files[0].etag()), CONTENT).unwrap();
            symlink(
                cache.dir.path().join("elsewhere"),
                cache.at("models--org--name"),
            )
            .unwrap();
        },
        |cache, _| {
            let elsewhere = cache.dir.path().join("elsewhere");
            fs::create_dir_all(&elsewhere).unwrap();
            fs::write(elsewhere.join(cache.plan.files[0].etag()), CONTENT).unwrap();
            symlink("../../elsewhere", cache.repo("blobs")).unwrap();
        },
    ];
    for (number, case) in cases.iter().enumerate() {
        let cache = Fixture::new();
        case(&cache, &outside);
        assert_eq!(cache.offered(), [], "case {number}");
    }
}

#[test]
fn no_cache_and_a_cache_of_other_models_offer_nothing() {
    let cache = Fixture::new();
    assert_eq!(cache.offered(), []);
    fs::write(cache.at("models--org--other/blobs/x"), CONTENT).unwrap();
    assert_eq!(cache.offered(), []);
}

#[test]
fn the_cache_itself_may_be_behind_a_link_and_is_left_as_it_was() {
    let cache = Fixture::new();
    fs::write(cache.repo(&cache.blob()), CONTENT).unwrap();
    let link = cache.dir.path().join("link");
    symlink(cache.dir.path().join("hub"), &link).unwrap();
    let before = fs::metadata(cache.repo(&cache.blob())).unwrap();
    let opened = Cache::open(&link, &cache.plan).unwrap().unwrap();
    assert_eq!(opened.offers(&cache.plan.files[0]).unwrap().len(), 1);
    let after = fs::metadata(cache.repo(&cache.blob())).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    assert_eq!(before.mode(), after.mode());
    assert_eq!(before.nlink(), after.nlink());
}
