//! Stores: shared, small, damaged, cleaned.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use headstart_core::quantity::Rate;
use headstart_testbed::hub::Options;
use headstart_testbed::link::{Link, Shape};
use headstart_testbed::model::{Model, Recipe};
use headstart_testbed::serve::Door;

use crate::bed::{Bed, assert_snapshot, end, files_below, until};
use crate::models::READ;

const MIB: u64 = 1 << 20;

/// Bytes of what an engine reads of a model.
fn read_bytes(model: &Model) -> u64 {
    let files = READ.iter().map(|name| model.file(name).unwrap());
    files.map(|file| file.content.len()).sum()
}

fn recipe(seed: u64) -> Recipe {
    Recipe {
        seed,
        bytes: 3 * MIB,
        ..Recipe::default()
    }
}

/// The repositories in the inventory whose state is this, by name.
fn in_state(inventory: &serde_json::Value, state: &str) -> Vec<String> {
    let items = inventory["items"].as_array().unwrap().iter();
    let items = items.filter(|item| item["state"] == state);
    items
        .map(|item| item["repo"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_second_agent_on_a_store_is_told_who_has_it() {
    let link = Link::new(Shape {
        total: Some(Rate(MIB)),
        ..Shape::default()
    });
    let cdn = Door {
        link: link.clone(),
        ..Door::default()
    };
    let bed = Bed::with(Options {
        cdn,
        ..Options::default()
    });
    let bed = bed.await;
    bed.commit("org/tiny", recipe(1));
    let started = Instant::now();
    let first = bed.warming(&["--model", "org/tiny"]).spawn().unwrap();
    until("the first fetches", || link.bytes_sent() > 0).await;
    let holder = format!("process {}", first.id().unwrap());
    for (command, args) in [
        ("warm", &["--model", "org/tiny"][..]),
        ("verify", &[]),
        ("gc", &[]),
        ("evict", &["--bytes", "1"]),
    ] {
        let ran = bed.run(command, args).await.exits(3);
        assert!(ran.only_line().contains(&holder), "{ran:#?}");
    }
    // Looking needs no lock.
    assert_eq!(in_state(&bed.inventory().await, "verified"), [""; 0]);
    link.set(Shape::default());
    end(first, started).await.done();
    bed.run("verify", &[]).await.done();
}

#[tokio::test]
async fn a_model_that_does_not_fit_is_refused_before_its_first_byte() {
    let bed = Bed::new().await;
    let (_, model) = bed.commit("org/big", recipe(1));
    bed.commit("org/tiny", Recipe::default());
    let quota = (read_bytes(&model) - 1).to_string();
    let ran = bed
        .warm(&["--model", "org/big", "org/tiny", "--quota", &quota])
        .await;
    let ran = ran.exits(1);
    let line = ran.failed("org/big");
    assert!(
        line.contains("no room for") && line.contains(bed.root().to_str().unwrap()),
        "{line}"
    );
    assert!(line.contains("raise --quota"), "{line}");
    ran.ready("org/tiny");
    let big = bed.hub.log().count(|entry| {
        entry.path.contains("org/big") && entry.method == "GET" && !entry.path.contains("/api/")
    });
    assert_eq!(big, 0);
    assert!(files_below(&bed.root().join("partial")).is_empty());
}

#[tokio::test]
async fn two_models_that_fit_together_are_fetched_together() {
    let bed = Bed::new().await;
    let (_, a) = bed.commit("org/a", recipe(1));
    let (_, b) = bed.commit("org/b", recipe(2));
    let quota = (read_bytes(&a) + read_bytes(&b) + 65536).to_string();
    for _ in 0..3 {
        let ran = bed
            .warm(&["--model", "org/a", "org/b", "--quota", &quota])
            .await
            .done();
        assert_eq!(ran.summary()["ready"], 2);
        assert_eq!(in_state(&bed.inventory().await, "verified").len(), 2);
        bed.run("evict", &["--model", "org/a", "--model", "org/b"])
            .await
            .done();
    }
}

#[tokio::test]
async fn the_model_used_longest_ago_makes_room_and_a_pinned_one_stays() {
    let bed = Bed::new().await;
    let mut each = 0;
    for (seed, repo) in (1..).zip(["org/a", "org/b", "org/c", "org/d"]) {
        each = read_bytes(&bed.commit(repo, recipe(seed)).1);
    }
    let quota = (2 * each + MIB).to_string();
    let warm = async |repo: &str, more: &[&str]| {
        let args = [&["--model", repo, "--quota", &quota], more].concat();
        bed.warm(&args).await
    };
    warm("org/a", &["--pin", "3600"]).await.done();
    warm("org/b", &[]).await.done();
    warm("org/c", &[]).await.done();
    let inventory = bed.inventory().await;
    assert_eq!(
        in_state(&inventory, "verified"),
        ["org/a", "org/c"],
        "{inventory:#}"
    );
    assert_eq!(
        inventory["items"].as_array().unwrap().len(),
        2,
        "{inventory:#}"
    );
    warm("org/d", &["--pin", "3600"]).await.done();
    assert_eq!(
        in_state(&bed.inventory().await, "verified"),
        ["org/a", "org/d"]
    );
    let line = warm("org/b", &[]).await.exits(1).failed("org/b");
    assert!(
        line.contains("0 B could be evicted") || line.contains("and 0"),
        "{line}"
    );
    assert_eq!(
        in_state(&bed.inventory().await, "verified"),
        ["org/a", "org/d"]
    );
    // By name a pinned one goes, too.
    let ran = bed
        .run("evict", &["--model", "org/a", "--json"])
        .await
        .done();
    // What it shares with the other one stays.
    assert!(
        ran.json()["bytes"].as_u64().unwrap() > each - MIB / 8,
        "{ran:#?}"
    );
    assert_eq!(bed.objects().len(), READ.len());
    warm("org/b", &[]).await.done();
}

#[tokio::test]
async fn a_model_that_was_shown_was_used() {
    let bed = Bed::new().await;
    let mut each = 0;
    for (seed, repo) in (1..).zip(["org/a", "org/b", "org/c"]) {
        each = read_bytes(&bed.commit(repo, recipe(seed)).1);
    }
    let quota = (2 * each + MIB).to_string();
    let warm = async |repo: &str| {
        let args = ["--model", repo, "--quota", &quota];
        bed.warm(&args).await.done()
    };
    warm("org/a").await;
    warm("org/b").await;
    let at = bed.path("view");
    let view = ["--model", "org/a", "--at", at.to_str().unwrap()];
    bed.run("view", &view).await.done();
    warm("org/c").await;
    let inventory = bed.inventory().await;
    assert_eq!(
        in_state(&inventory, "verified"),
        ["org/a", "org/c"],
        "{inventory:#}"
    );
}

#[tokio::test]
async fn verify_removes_what_is_wrong_and_only_that_is_fetched_again() {
    let bed = Bed::new().await;
    let (commit, model) = bed.commit("org/tiny", Recipe::default());
    bed.warm(&["--model", "org/tiny"]).await.done();
    let ran = bed.run("verify", &["--json"]).await.done();
    assert_eq!(ran.json()["good"], READ.len());
    let name = "model-00002-of-00002.safetensors";
    let file = model.file(name).unwrap();
    let object = bed
        .objects()
        .into_iter()
        .find(|path| path.ends_with(file.etag()))
        .unwrap();
    std::fs::set_permissions(&object, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut open = std::fs::File::options().write(true).open(&object).unwrap();
    open.write_all(b"not safetensors").unwrap();
    drop(open);
    assert_eq!(in_state(&bed.inventory().await, "unknown"), ["org/tiny"]);

    let ran = bed.run("verify", &["--json"]).await.exits(1);
    let removed = &ran.json()["removed"];
    assert_eq!(
        (&removed[0]["path"], removed.as_array().unwrap().len()),
        (&name.into(), 1)
    );
    assert!(!object.exists());
    assert_eq!(in_state(&bed.inventory().await, "partial"), ["org/tiny"]);
    let ran = bed
        .warm(&["--model", &format!("org/tiny@{commit}")])
        .await
        .done();
    assert_eq!(ran.summary()["fetched_bytes"], file.content.len());
    let cache = ran.cache(&format!("org/tiny@{commit}"));
    assert_snapshot(&cache, "org/tiny", &commit, &model, &READ);
}

#[tokio::test]
async fn a_damaged_object_is_noticed_by_the_next_warm_too() {
    let bed = Bed::new().await;
    let (commit, model) = bed.commit("org/tiny", Recipe::default());
    bed.warm(&["--model", "org/tiny"]).await.done();
    let file = model.file("config.json").unwrap();
    let object = bed
        .objects()
        .into_iter()
        .find(|path| path.ends_with(file.etag()))
        .unwrap();
    std::fs::set_permissions(&object, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&object, "{}").unwrap();
    let ran = bed.warm(&["--model", "org/tiny"]).await.done();
    assert_eq!(ran.summary()["fetched_bytes"], file.content.len());
    assert_snapshot(&ran.cache("org/tiny"), "org/tiny", &commit, &model, &READ);
}

#[tokio::test]
async fn gc_removes_only_what_nobody_can_use() {
    let bed = Bed::new().await;
    let (commit, model) = bed.commit("org/tiny", Recipe::default());
    let ran = bed.warm(&["--model", "org/tiny"]).await.done();
    let root = bed.root();
    let orphan = root.join("objects/sha256/ab").join("ab".repeat(32));
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, vec![0; 5000]).unwrap();
    std::fs::write(root.join("partial/left.part"), "half").unwrap();
    std::fs::write(root.join("plans/broken.json"), "{").unwrap();
    std::fs::create_dir(root.join("models/unknown")).unwrap();
    let removed = bed.run("gc", &["--json"]).await.done().json();
    assert!(removed["bytes"].as_u64().unwrap() >= 5000, "{removed}");
    for gone in ["partial/left.part", "plans/broken.json", "models/unknown"] {
        assert!(!root.join(gone).exists(), "{gone}");
    }
    assert!(!orphan.exists());
    assert_snapshot(&ran.cache("org/tiny"), "org/tiny", &commit, &model, &READ);
    let again = bed.run("gc", &["--json"]).await.done().json();
    assert_eq!(again["bytes"], 0, "{again}");
}

#[tokio::test]
async fn what_a_person_reads_names_everything_too() {
    let bed = Bed::new().await;
    let (commit, _) = bed.commit("org/tiny", Recipe::default());
    let (endpoint, cdn) = (bed.hub.endpoint(), bed.cdn());
    let args = [
        "--endpoint",
        &endpoint,
        "--plain-http",
        &cdn,
        "--model",
        "org/tiny",
    ];
    let ran = bed.run("warm", &args).await.done();
    assert!(
        ran.out.contains("ready   org/tiny") && ran.out.contains("1 ready, 0 failed"),
        "{ran:#?}"
    );
    assert!(
        ran.out.contains("HF_HUB_CACHE=") && ran.err.is_empty(),
        "{ran:#?}"
    );
    let ran = bed.run("inspect", &[]).await.done();
    assert!(
        ran.out.contains(&format!("verified  org/tiny@{commit}")),
        "{ran:#?}"
    );
    let ran = bed.run("evict", &["--model", "org/other"]).await.exits(1);
    assert!(ran.only_line().contains("org/other"), "{ran:#?}");
    let ran = bed.run("evict", &["--bytes", "1"]).await.done();
    assert!(
        ran.out.contains(&format!("removed org/tiny@{commit}")),
        "{ran:#?}"
    );
    assert!(bed.objects().is_empty());
}
