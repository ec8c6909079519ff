//! `boot`: an intent from a file, before anybody else is there.

use std::time::{Duration, Instant};

use headstart_core::quantity::Rate;
use headstart_testbed::link::Shape;
use headstart_testbed::model::Recipe;
use headstart_testbed::serve::{Fault, Site, When};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::bed::{Bed, assert_snapshot, text_of, until};
use crate::running::{
    MIB, boot, bytes, intent, is_verified, item, large, place, slow, until_status,
};

/// What an engine reads of a small model, and clients beside it.
const READ: [&str; 10] = [
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

fn pinned(repo: &str, commit: &str) -> String {
    format!("{repo}@{commit}")
}

#[tokio::test]
async fn what_the_file_asks_for_is_fetched_and_told_with_its_times_and_sources() {
    let bed = Bed::new().await;
    let (commit, model) = bed.commit("org/tiny", Recipe::default());
    let tiny = pinned("org/tiny", &commit);
    // The file may come later than the agent.
    let agent = boot(&bed, &[]);
    until_status(&bed, "it answers", |_| true).await;
    place(&bed, &intent(3, &[&tiny]));
    let status = until_status(&bed, "it is verified", |status| is_verified(status, &tiny)).await;
    assert_eq!(status["generation"], 3);
    assert!(
        status["firstRequest"].is_string() && status["agentStarted"].is_string(),
        "{status:#}"
    );
    let found = item(&status, &tiny).unwrap();
    assert!(
        found["started"].is_string() && found["verified"].is_string(),
        "{status:#}"
    );
    assert_eq!(found["sources"][0]["kind"], "hub");
    let fetched = found["sources"][0]["bytes"].as_u64().unwrap();
    assert_eq!(fetched, bytes(&status, &tiny));
    assert!(status["fetching"].is_null(), "{status:#}");

    let inventory = bed.inventory().await;
    let tree = inventory["items"][0]["tree"].as_str().unwrap().to_owned();
    assert_snapshot(tree.as_ref(), "org/tiny", &commit, &model, &READ);
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.end().await.0, Some(0));
}

#[tokio::test]
async fn an_intent_that_is_replaced_stops_what_it_no_longer_names_and_keeps_its_bytes() {
    let (bed, link) = slow(4 * MIB).await;
    let (first, _) = bed.commit("org/first", large(1, 64 * MIB));
    let (second, _) = bed.commit("org/second", large(2, 2 * MIB));
    let (first, second) = (pinned("org/first", &first), pinned("org/second", &second));
    place(&bed, &intent(1, &[&first]));
    let agent = boot(&bed, &[]);
    until_status(&bed, "half a megabyte is there", |status| {
        bytes(status, &first) > MIB / 2
    })
    .await;
    place(&bed, &intent(2, &[&second]));
    let status = until_status(&bed, "the second is there", |status| {
        is_verified(status, &second)
    })
    .await;
    assert_eq!(status["generation"], 2);
    assert!(status["fetching"].is_null(), "{status:#}");

    // An older one is refused in words.
    place(&bed, &intent(1, &[&first]));
    let status = until_status(&bed, "it refuses", |status| status["problem"].is_string()).await;
    assert!(
        status["problem"].as_str().unwrap().contains("older than 2"),
        "{status:#}"
    );
    assert_eq!(status["generation"], 2);

    link.set(Shape::default());
    place(&bed, &intent(3, &[&second, &first]));
    let status = until_status(&bed, "the first is there", |status| {
        is_verified(status, &first)
    })
    .await;
    let again = item(&status, &first).unwrap()["sources"][0]["bytes"]
        .as_u64()
        .unwrap();
    assert!(again < 66 * MIB, "{status:#}");
    drop(agent);
}

#[tokio::test]
async fn items_come_in_the_order_of_the_intent() {
    let (bed, link) = slow(0).await;
    let mut models = Vec::new();
    let mut etags = Vec::new();
    for seed in 1..=3 {
        let repo = format!("org/m{seed}");
        let (commit, model) = bed.commit(&repo, large(seed, 4 * MIB));
        models.push(pinned(&repo, &commit));
        let weights = model.file("model-00001-of-00001.safetensors").unwrap();
        etags.push(weights.etag());
    }
    models.swap(0, 2);
    etags.swap(0, 2);
    let models: Vec<&str> = models.iter().map(|model| &**model).collect();
    place(&bed, &intent(1, &models));
    let _agent = boot(&bed, &["--max-connections", "1"]);
    let partial = bed.root().join("partial");
    let begun = |etag: &String| partial.join(etag).with_extension("journal").exists();
    until("all wait for the only connection", || {
        etags.iter().all(begun)
    })
    .await;
    link.set(Shape::default());
    until_status(&bed, "all are there", |status| {
        models.iter().all(|model| is_verified(status, model))
    })
    .await;
    // Whoever was known first has the connection until it is done or all are known; of the others the
    // order decides.
    let asked = bed.hub.log().matching(|entry| entry.site == Site::Cdn);
    let asked: Vec<&str> = asked.iter().map(|entry| entry.path.as_str()).collect();
    let others = etags.iter().filter(|etag| !asked[0].contains(*etag));
    let last = others.map(|etag| asked.iter().rposition(|path| path.contains(etag)));
    let last: Vec<Option<usize>> = last.collect();
    assert!(last.is_sorted() && last[0].is_some(), "{last:?}: {asked:?}");
}

#[tokio::test]
async fn what_had_arrived_before_a_kill_is_gone_on_with_although_the_file_is_gone() {
    let (bed, link) = slow(20 * MIB).await;
    let (commit, _) = bed.commit("org/large", large(4, 48 * MIB));
    let large = pinned("org/large", &commit);
    let file = place(&bed, &intent(1, &[&large]));
    let agent = boot(&bed, &[]);
    until_status(&bed, "half of it is there", |status| {
        bytes(status, &large) > 24 * MIB
    })
    .await;
    link.set(Shape {
        total: Some(Rate(0)),
        ..Shape::default()
    });
    let sent = link.bytes_sent();
    // Heads of answers count as sent.
    until_status(&bed, "all that was sent is there", |status| {
        bytes(status, &large) >= sent - MIB / 8
    })
    .await;
    agent.signal(Signal::SIGKILL);
    agent.end().await;
    std::fs::remove_file(file).unwrap();

    link.set(Shape::default());
    let _agent = boot(&bed, &[]);
    let status = until_status(&bed, "it is verified", |status| is_verified(status, &large)).await;
    let again = link.bytes_sent() - sent;
    // What lies in a socket when its range goes to another connection counts as sent too.
    assert!(again < 24 * MIB + 16 * MIB, "{again} bytes sent again");
    let fetched = item(&status, &large).unwrap()["sources"][0]["bytes"].as_u64();
    assert!(fetched.unwrap() < 50 * MIB, "{status:#}");
    assert_eq!(status["generation"], 1);
    let verified = bed.run("verify", &["--json"]).await;
    assert_eq!(
        verified.code,
        Some(3),
        "the agent holds the store: {verified:#?}"
    );
}

#[tokio::test]
async fn an_agent_asked_to_stop_does_so_at_once_and_keeps_what_it_has() {
    let (bed, link) = slow(8 * MIB).await;
    let (commit, _) = bed.commit("org/large", large(6, 64 * MIB));
    let large = pinned("org/large", &commit);
    place(&bed, &intent(1, &[&large]));
    let agent = boot(&bed, &[]);
    until_status(&bed, "some of it is there", |status| {
        bytes(status, &large) > 6 * MIB
    })
    .await;
    // The rest would take many minutes.
    link.set(Shape {
        total: Some(Rate(MIB / 16)),
        ..Shape::default()
    });
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.end().await.0, Some(0));
    assert!(bed.inventory().await["partial_bytes"].as_u64().unwrap() > 6 * MIB);
}

#[tokio::test]
async fn a_hub_that_is_down_is_asked_again_and_said_so_until_it_answers() {
    let bed = Bed::new().await;
    let (commit, _) = bed.commit("org/tiny", Recipe::default());
    let tiny = pinned("org/tiny", &commit);
    bed.hub.faults().add(When::default(), Fault::Status(503));
    place(&bed, &intent(1, &[&tiny]));
    let _agent = boot(&bed, &["--patience", "1"]);
    let status = until_status(&bed, "it says why", |status| {
        item(status, &tiny).is_some_and(|item| item["problem"].is_string())
    });
    let status = status.await;
    let problem = item(&status, &tiny).unwrap()["problem"].as_str().unwrap();
    assert!(problem.contains("503"), "{problem}");
    bed.hub.faults().clear();
    let status = until_status(&bed, "it is verified", |status| is_verified(status, &tiny)).await;
    assert!(
        item(&status, &tiny).unwrap()["problem"].is_null(),
        "{status:#}"
    );
}

#[tokio::test]
async fn a_full_disk_is_said_and_not_asked_about_over_and_over_and_the_next_item_still_comes() {
    let bed = Bed::new().await;
    let (huge, _) = bed.commit("org/huge", large(1, 64 * MIB));
    let (small, _) = bed.commit("org/small", large(2, MIB));
    let (huge, small) = (pinned("org/huge", &huge), pinned("org/small", &small));
    place(&bed, &intent(1, &[&huge, &small]));
    let _agent = boot(&bed, &["--quota", "32MiB"]);
    let status = until_status(&bed, "the small one is there", |status| {
        is_verified(status, &small) && item(status, &huge).is_some_and(|i| i["problem"].is_string())
    });
    let status = status.await;
    let problem = item(&status, &huge).unwrap()["problem"].as_str().unwrap();
    assert!(problem.contains("no room for"), "{problem}");
    let requests = bed.requests();
    let later = Instant::now() + Duration::from_secs(3);
    until("three seconds are over", || Instant::now() > later).await;
    assert_eq!(bed.requests(), requests);
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_the_rest_goes_on() {
    let bed = Bed::new().await;
    let (commit, _) = bed.commit("org/tiny", Recipe::default());
    let tiny = pinned("org/tiny", &commit);
    std::fs::write(bed.path("intent.json"), "{\"half").unwrap();
    let _agent = boot(&bed, &[]);
    until_status(&bed, "it answers", |_| true).await;
    place(&bed, &intent(1, &["org/moves@main", &tiny]));
    let status = until_status(&bed, "it is verified", |status| is_verified(status, &tiny)).await;
    let problem = status["problem"].as_str().unwrap();
    assert!(
        problem.contains("spec.items[0]") && problem.contains("has no commit"),
        "{problem}"
    );
}

#[tokio::test]
async fn images_wait_for_containerd_and_weights_do_not() {
    let bed = Bed::new().await;
    let (commit, _) = bed.commit("org/tiny", Recipe::default());
    let tiny = pinned("org/tiny", &commit);
    let digest = "a".repeat(64);
    let mut wanted = intent(1, &[&tiny]);
    let image = json!({"image": format!("127.0.0.1:1/app@sha256:{digest}")});
    wanted["spec"]["items"]
        .as_array_mut()
        .unwrap()
        .insert(0, image);
    place(&bed, &wanted);
    let socket = bed.path("run/containerd.sock");
    let args = [
        "--containerd",
        &text_of(&socket),
        "--plain-http",
        "127.0.0.1:1",
        "--patience",
        "1",
    ];
    let _agent = boot(&bed, &args);
    let status = until_status(&bed, "it is verified", |status| is_verified(status, &tiny)).await;
    assert_eq!(status["items"].as_array().unwrap().len(), 1, "{status:#}");
    std::fs::create_dir(bed.path("run")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    until_status(&bed, "the image is begun", |status| {
        let items = status["items"].as_array().unwrap();
        items
            .iter()
            .any(|item| item["image"].is_string() && item["problem"].is_string())
    })
    .await;
}
