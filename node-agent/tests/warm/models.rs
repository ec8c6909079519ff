//! Models: pinned, chosen, verified, shown.

use std::time::Duration;

use headstart_testbed::hub::Access;
use headstart_testbed::model::Recipe;
use headstart_testbed::serve::{Fault, Site, When};

use crate::bed::{Bed, assert_snapshot, text_of};

/// What an engine reads of the small model.
pub(crate) const READ: [&str; 10] = [
    ".gitattributes",
    "README.md",
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

#[tokio::test]
async fn a_commit_costs_no_request_the_second_time() {
    let bed = Bed::new().await;
    let (commit, model) = bed.commit("org/tiny", Recipe::default());
    let item = format!("org/tiny@{commit}");
    let first = bed.warm(&["--model", &item]).await.done();
    assert_eq!(first.ready(&item)["pinned"], item.as_str());
    assert_snapshot(&first.cache(&item), "org/tiny", &commit, &model, &READ);
    let (resolved, summary) = (first.of("resolved", &item), first.summary());
    assert_eq!(resolved["missing_bytes"], resolved["total_bytes"]);
    assert_eq!(summary["fetched_bytes"], resolved["total_bytes"]);
    assert_eq!(
        (&summary["ready"], &summary["failed"]),
        (&1.into(), &0.into())
    );

    let before = bed.requests();
    let second = bed.warm(&["--model", &item]).await.done();
    assert_eq!(bed.requests(), before);
    assert_eq!(second.ready(&item)["bound"], "nothing");
    assert_eq!(second.summary()["fetched_bytes"], 0);
}

#[tokio::test]
async fn main_follows_the_branch_and_fetches_only_what_changed() {
    let bed = Bed::new().await;
    let (_, model) = bed.commit("org/tiny", Recipe::default());
    bed.warm(&["--model", "org/tiny"]).await.done();
    let mut files = model.files.clone();
    files.retain(|file| file.path != "config.json");
    files.push(headstart_testbed::hub::RepoFile::new("config.json", "{}").unwrap());
    let newer = bed.hub.commit("org/tiny", "main", files);
    let ran = bed.warm(&["--model", "org/tiny"]).await.done();
    assert_eq!(ran.ready("org/tiny")["pinned"], format!("org/tiny@{newer}"));
    assert_eq!(ran.summary()["fetched_bytes"], 2);
    let refs = ran.cache("org/tiny").join("models--org--tiny/refs/main");
    assert_eq!(std::fs::read_to_string(refs).unwrap(), newer);
}

#[tokio::test]
async fn a_silent_hub_delays_a_known_branch_for_a_bounded_time() {
    let bed = Bed::new().await;
    let (commit, model) = bed.commit("org/tiny", Recipe::default());
    bed.warm(&["--model", "org/tiny"]).await.done();
    bed.hub.faults().add(When::default(), Fault::BlackHole);
    let ran = bed
        .warm(&["--model", "org/tiny", "--patience", "1"])
        .await
        .done();
    assert!(ran.is_fast(Duration::from_secs(30)), "{ran:#?}");
    assert_eq!(
        ran.ready("org/tiny")["pinned"],
        format!("org/tiny@{commit}")
    );
    assert_snapshot(&ran.cache("org/tiny"), "org/tiny", &commit, &model, &READ);
    assert!(ran.err.contains("last known commit used"), "{ran:#?}");
}

#[tokio::test]
async fn a_dead_hub_does_not_stop_a_known_branch_and_makes_an_unknown_one_transient() {
    let bed = Bed::new().await;
    let (commit, _) = bed.commit("org/tiny", Recipe::default());
    bed.warm(&["--model", "org/tiny"]).await.done();
    // A port that nobody listens on any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let endpoint = format!("http://{closed}");
    let args = ["--json", "--endpoint", &endpoint, "--patience", "1"];
    let known = [&args[..], &["--model", "org/tiny"]].concat();
    let ran = bed.run("warm", &known).await.done();
    assert_eq!(
        ran.ready("org/tiny")["pinned"],
        format!("org/tiny@{commit}")
    );
    let both = [&args[..], &["--model", "org/tiny", "org/other"]].concat();
    let ran = bed.run("warm", &both).await.exits(4);
    assert!(
        ran.failed("org/other").contains(&closed.to_string()),
        "{ran:#?}"
    );
    assert_eq!(ran.of("failed", "org/other")["transient"], true);
    ran.ready("org/tiny");
}

#[tokio::test]
async fn patterns_choose_files_and_pickles_come_only_when_asked_for() {
    let bed = Bed::new().await;
    let (commit, model) = bed.commit("org/tiny", Recipe::default());
    let few = format!("hf://org/tiny@{commit}?include=*.json&exclude=tokenizer*");
    let bins = format!("org/tiny@{commit}?include=*.bin");
    let ran = bed.warm(&["--model", &few, &bins]).await.done();
    let expected = [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "original/params.json",
        "pytorch_model.bin.index.json",
    ];
    assert_snapshot(&ran.cache(&few), "org/tiny", &commit, &model, &expected);
    let expected = [
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
    ];
    assert_snapshot(&ran.cache(&bins), "org/tiny", &commit, &model, &expected);
}

#[tokio::test]
async fn gated_and_private_models_need_a_token_that_was_granted_them() {
    let bed = Bed::new().await;
    for (repo, access) in [
        ("org/gated", Access::Gated),
        ("org/private", Access::Private),
    ] {
        bed.commit(repo, Recipe::default());
        bed.hub.set_access(repo, access).unwrap();
    }
    bed.commit("org/open", Recipe::default());
    let all = ["--model", "org/gated", "org/private", "org/open"];
    let ran = bed.warm(&all).await.exits(1);
    ran.ready("org/open");
    let gated = ran.failed("org/gated");
    assert!(
        gated.contains("gated") && gated.contains("--token-file"),
        "{gated}"
    );
    let private = ran.failed("org/private");
    assert!(
        private.contains("org/private") && private.contains("spelling"),
        "{private}"
    );

    bed.hub.add_token("hf_secretOfSomebody", "somebody");
    let token = bed.write("token", "hf_secretOfSomebody\n");
    let with_token = [&all[..], &["--token-file", &token]].concat();
    let ran = bed.warm(&with_token).await.exits(1);
    assert!(ran.failed("org/gated").contains("gated"), "{ran:#?}");
    for repo in ["org/gated", "org/private"] {
        bed.hub.grant("hf_secretOfSomebody", repo).unwrap();
    }
    let ran = bed.warm(&with_token).await.done();
    assert_eq!(ran.summary()["ready"], 3);
    assert!(
        bed.hub.violations().is_empty(),
        "a token went to the origin of large files"
    );
    assert!(!ran.out.contains("hf_secret") && !ran.err.contains("hf_secret"));
}

#[tokio::test]
async fn a_view_is_a_cache_of_links_that_resolve() {
    let bed = Bed::new().await;
    let (commit, model) = bed.commit("org/tiny", Recipe::default());
    let at = text_of(&bed.path("view"));
    let ran = bed
        .run("view", &["--model", "org/tiny", "--at", &at])
        .await
        .exits(3);
    assert!(ran.only_line().contains("holds no store"), "{ran:#?}");
    bed.warm(&["--model", "org/tiny"]).await.done();
    let ran = bed
        .run("view", &["--model", "org/other", "--at", &at])
        .await
        .exits(1);
    assert!(ran.only_line().contains("warm it first"), "{ran:#?}");
    for _ in 0..2 {
        let ran = bed
            .run("view", &["--model", "org/tiny", "--at", &at])
            .await
            .done();
        let cache = ran.out.trim_end().strip_prefix("HF_HUB_CACHE=").unwrap();
        let cache = std::path::Path::new(cache);
        assert_snapshot(cache, "org/tiny", &commit, &model, &READ);
        let folder = cache.join("models--org--tiny");
        let name = std::fs::read_to_string(folder.join("refs/main")).unwrap();
        assert_eq!(name, commit);
        let blobs = std::fs::read_dir(folder.join("blobs")).unwrap();
        for blob in blobs {
            let blob = blob.unwrap();
            assert!(blob.file_type().unwrap().is_symlink(), "{blob:?}");
            assert!(blob.path().metadata().unwrap().is_file(), "{blob:?}");
        }
    }
}

#[tokio::test]
async fn files_of_another_cache_are_adopted_unless_their_bytes_are_wrong() {
    let bed = Bed::new().await;
    let (commit, model) = bed.commit("org/tiny", Recipe::default());
    let folder = bed.path("python/models--org--tiny");
    let (blobs, snapshot) = (folder.join("blobs"), folder.join("snapshots").join(&commit));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    let damaged = "model-00002-of-00002.safetensors";
    for name in READ {
        let file = model.file(name).unwrap();
        let mut bytes = file.content.to_bytes().unwrap().to_vec();
        if name == damaged {
            bytes[1000] ^= 1;
        }
        std::fs::write(blobs.join(file.etag()), bytes).unwrap();
        let to = std::path::Path::new("../../blobs").join(file.etag());
        std::os::unix::fs::symlink(to, snapshot.join(name)).unwrap();
    }
    let cache = text_of(&bed.path("python"));
    let ran = bed
        .warm(&["--model", "org/tiny", "--adopt", &cache])
        .await
        .done();
    let size = model.file(damaged).unwrap().content.len();
    assert_eq!(ran.summary()["fetched_bytes"], size, "{ran:#?}");
    assert!(
        ran.err.contains("not adopted") && ran.err.contains(damaged),
        "{ran:#?}"
    );
    assert_snapshot(&ran.cache("org/tiny"), "org/tiny", &commit, &model, &READ);
    let fetched = bed
        .hub
        .log()
        .matching(|entry| entry.site == Site::Cdn && entry.method == "GET");
    assert!(!fetched.is_empty());
    let etag = model.file(damaged).unwrap().etag();
    assert!(
        fetched.iter().all(|entry| entry.path.contains(&etag)),
        "{fetched:#?}"
    );
}
