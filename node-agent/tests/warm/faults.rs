//! Bytes that are wrong, come late or stop, and agents that are ended.

use std::time::Instant;

use headstart_core::quantity::Rate;
use headstart_testbed::hub::Options;
use headstart_testbed::link::{Link, Shape};
use headstart_testbed::model::{Model, Recipe};
use headstart_testbed::serve::{Door, Fault, Site, When};
use http::Method;

use crate::bed::{Bed, assert_snapshot, end, files_below, until_has};
use crate::models::READ;

const MIB: u64 = 1 << 20;

/// A model of one large file.
fn large(seed: u64, bytes: u64) -> Recipe {
    Recipe {
        seed,
        bytes,
        shards: 1,
        pickles: false,
    }
}

/// A Hub whose large files come over a link of that rate.
async fn slow(rate: u64) -> (Bed, Link) {
    let link = Link::new(Shape {
        total: Some(Rate(rate)),
        ..Shape::default()
    });
    let cdn = Door {
        link: link.clone(),
        ..Door::default()
    };
    let options = Options {
        cdn,
        ..Options::default()
    };
    (Bed::with(options).await, link)
}

/// A link that brings nothing.
fn outage() -> Shape {
    Shape {
        total: Some(Rate(0)),
        ..Shape::default()
    }
}

/// A link that brings next to nothing.
fn trickle() -> Shape {
    Shape {
        total: Some(Rate(MIB / 16)),
        ..Shape::default()
    }
}

fn weights(model: &Model) -> u64 {
    model.safetensors_bytes()
}

#[tokio::test]
async fn a_tampered_file_is_named_and_never_seen_and_the_others_are_ready() {
    let bed = Bed::new().await;
    let (_, model) = bed.commit("org/tampered", Recipe::default());
    let (commit, fine) = bed.commit(
        "org/fine",
        Recipe {
            seed: 2,
            ..Recipe::default()
        },
    );
    let wrong = model.file("model-00001-of-00002.safetensors").unwrap();
    let fault = Fault::Tamper { at: 1000 };
    bed.hub
        .faults()
        .add(When::path(&wrong.etag()).site(Site::Cdn), fault);
    let ran = bed
        .warm(&["--model", "org/tampered", "org/fine"])
        .await
        .exits(1);
    let error = ran.failed("org/tampered");
    assert!(
        error.contains("org/tampered/model-00001-of-00002.safetensors"),
        "{error}"
    );
    assert!(
        error.contains(&wrong.etag()) && error.contains("nothing was kept: try again"),
        "{error}"
    );
    assert_snapshot(&ran.cache("org/fine"), "org/fine", &commit, &fine, &READ);
    let named = |path: &std::path::PathBuf| path.ends_with(wrong.etag());
    assert!(!bed.objects().iter().any(named));
    let trees = files_below(&bed.root().join("models"));
    let shown = |path: &std::path::PathBuf| path.to_str().unwrap().contains("tampered");
    assert!(!trees.iter().any(shown), "{trees:#?}");

    bed.hub.faults().clear();
    let ran = bed.warm(&["--model", "org/tampered"]).await.done();
    assert_eq!(ran.summary()["fetched_bytes"], wrong.content.len());
}

#[tokio::test]
async fn cut_bodies_and_expired_links_are_got_over() {
    let bed = Bed::new().await;
    let (commit, model) = bed.commit("org/large", large(3, 12 * MIB));
    let get = |times| {
        When::default()
            .site(Site::Cdn)
            .method(Method::GET)
            .times(times)
    };
    bed.hub.faults().add(get(2), Fault::Cut { after: 100_000 });
    bed.hub.faults().add(get(2), Fault::Expired);
    bed.hub.faults().add(get(1), Fault::Status(503));
    let ran = bed.warm(&["--model", "org/large"]).await.done();
    let cache = ran.cache("org/large");
    let mut read = READ.to_vec();
    read.retain(|name| !name.starts_with("model-") && !name.starts_with("pytorch"));
    read.push("model-00001-of-00001.safetensors");
    assert_snapshot(&cache, "org/large", &commit, &model, &read);
}

#[tokio::test]
async fn what_had_arrived_before_a_kill_is_not_fetched_again() {
    let (bed, link) = slow(20 << 20).await;
    let (_, model) = bed.commit("org/large", large(4, 48 * MIB));
    let started = Instant::now();
    let mut child = bed.warming(&["--model", "org/large"]).spawn().unwrap();
    until_has(&mut child, 24 * MIB).await;
    link.set(outage());
    let sent = link.bytes_sent();
    // Heads of answers count as sent.
    until_has(&mut child, sent - MIB / 8).await;
    child.kill().await.unwrap();
    let ran = end(child, started).await;
    assert_eq!(ran.code, None, "killed, not ended: {ran:#?}");
    assert!(files_below(&bed.root().join("models")).is_empty());

    link.set(Shape::default());
    let ran = bed.warm(&["--model", "org/large"]).await.done();
    let ready = ran.ready("org/large");
    let resumed = ready["resumed_bytes"].as_u64().unwrap();
    assert!(resumed >= sent - MIB, "{sent} had been sent: {ready}");
    // No byte lands twice. What lies in a socket when its range goes to another connection counts as
    // sent too, a few MiB.
    let fetched = ready["fetched_bytes"].as_u64().unwrap();
    assert!(
        fetched + resumed <= ready["total_bytes"].as_u64().unwrap(),
        "{ready}"
    );
    let (again, left) = (link.bytes_sent() - sent, weights(&model) - resumed);
    assert!(
        again < left + 16 * MIB,
        "{again} bytes sent again, {left} were left: {ran:#?}"
    );
    let verified = bed.run("verify", &["--json"]).await.done().json();
    assert_eq!(verified["removed"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_killed_job_resumes_within_a_quota_that_it_fits_into() {
    let (bed, link) = slow(20 << 20).await;
    let (_, model) = bed.commit("org/large", large(5, 24 * MIB));
    let quota = (weights(&model) + 2 * MIB).to_string();
    let args = ["--model", "org/large", "--quota", &quota];
    let mut child = bed.warming(&args).spawn().unwrap();
    until_has(&mut child, 8 * MIB).await;
    child.kill().await.unwrap();
    link.set(Shape::default());
    let ran = bed.warm(&args).await.done();
    assert!(ran.ready("org/large")["resumed_bytes"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn an_agent_asked_to_stop_does_so_at_once_and_keeps_what_it_has() {
    let (bed, link) = slow(8 << 20).await;
    bed.commit("org/large", large(6, 24 * MIB));
    let started = Instant::now();
    let mut child = bed.warming(&["--model", "org/large"]).spawn().unwrap();
    until_has(&mut child, 6 * MIB).await;
    // The rest would take minutes.
    link.set(trickle());
    let id = child.id().unwrap().cast_signed();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::SIGTERM).unwrap();
    let ran = end(child, started).await.exits(4);
    assert!(ran.err.contains("stopped"), "{ran:#?}");
    link.set(Shape::default());
    let ran = bed.warm(&["--model", "org/large"]).await.done();
    let resumed = ran.ready("org/large")["resumed_bytes"].as_u64().unwrap();
    assert!(resumed > 5 * MIB, "{resumed}");
}

#[tokio::test]
async fn a_bandwidth_limit_is_kept() {
    let bed = Bed::new().await;
    bed.commit("org/large", large(7, 12 * MIB));
    let args = ["--model", "org/large", "--max-bandwidth", "4MiB/s"];
    let ran = bed.warm(&args).await.done();
    let ready = ran.ready("org/large");
    let took = ready["took"].as_f64().unwrap();
    assert!(took > 2.4, "12 MiB at 4 MiB/s in {took} s");
}
