//! Models mounted into pods of a real cluster by the agent's CSI plugin.
//!
//! `HEADSTART_AGENT` names the agent, `HEADSTART_KUBERNETES` Kubernetes' programs; `cargo xtask e2e`
//! sets both. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

#[path = "csi/world.rs"]
mod world;

use std::time::{Duration, Instant};

use headstart_core::quantity::Rate;
use headstart_testbed::hub::Access;
use headstart_testbed::link::Shape;
use serde_json::json;
use world::{GATED, LATER, OPEN, SLOW, WAIT, World, until};

/// One cluster for all cases, each of which is named by its promise.
#[test]
fn models_are_mounted_into_pods_of_a_real_cluster() {
    let mut world = World::up();
    pods_share_one_download_and_read_every_file_that_they_may_not_change(&world);
    root_in_a_pod_cannot_change_weights_either(&world);
    a_gated_model_needs_a_token_of_the_pods_own(&world);
    a_pod_that_waits_hears_how_long_and_starts_when_the_bytes_are_there(&world);
    an_agent_that_is_killed_takes_no_volume_along(&mut world);
    after_the_deadline_a_pod_starts_with_a_cache_to_fill(&mut world);
    nothing_is_left_of_pods_that_are_gone(&world);
}

fn pods_share_one_download_and_read_every_file_that_they_may_not_change(world: &World) {
    let before = world.bytes_of_weights();
    // Restricted Pod Security, an id that no image knows, a link that makes both wait.
    world.link.set(Shape {
        total: Some(Rate(8_000_000)),
        ..Shape::default()
    });
    for pod in ["one", "two"] {
        world.create("tenant-a", pod, OPEN, None, json!({}), &reader(OPEN));
    }
    for pod in ["one", "two"] {
        let log = world.until_logged("tenant-a", pod, "done");
        for (file, digest) in world.files(OPEN) {
            let line = format!("{digest}  {file}");
            assert!(log.contains(&line), "{pod} lacks {line}: {log}");
        }
        assert!(log.contains("wrote beside"), "{log}");
        for forbidden in ["wrote into", "changed mode", "removed", "moved", "linked"] {
            assert!(!log.contains(forbidden), "{forbidden}: {log}");
        }
    }
    world.link.set(Shape::default());
    let fetched = world.bytes_of_weights() - before;
    assert!(
        fetched <= world.size(OPEN) * 101 / 100,
        "{fetched} bytes fetched"
    );
}

fn root_in_a_pod_cannot_change_weights_either(world: &World) {
    let root = json!({"runAsNonRoot": false, "runAsUser": 0});
    world.create("default", "root", OPEN, None, root, &reader(OPEN));
    let log = world.until_logged("default", "root", "done");
    assert!(log.contains("wrote beside"), "{log}");
    for forbidden in ["wrote into", "changed mode", "removed", "moved", "linked"] {
        assert!(!log.contains(forbidden), "{forbidden}: {log}");
    }
    let (name, digest) = &world.files(OPEN)[0];
    let log = world.log("tenant-a", "one");
    assert!(log.contains(&format!("{digest}  {name}")));
    world.delete("default", "root");
}

fn a_gated_model_needs_a_token_of_the_pods_own(world: &World) {
    for (pod, secret) in [("no-token", None), ("wrong-token", Some("wrong"))] {
        world.create("tenant-b", pod, GATED, secret, json!({}), &reader(GATED));
        let said = world.until_event("tenant-b", pod, "gated");
        assert!(said.contains("PermissionDenied"), "{said}");
        assert!(said.contains("nodePublishSecretRef"), "{said}");
    }
    world.create(
        "tenant-b",
        "right-token",
        GATED,
        Some("right"),
        json!({}),
        &reader(GATED),
    );
    world.until_logged("tenant-b", "right-token", "done");
    // It is here now, and still nobody else's.
    let asked = world.hub.log().matching(|_| true).len();
    world.create("tenant-a", "other", GATED, None, json!({}), &reader(GATED));
    let said = world.until_event("tenant-a", "other", "gated");
    assert!(said.contains("PermissionDenied"), "{said}");
    assert!(world.hub.log().matching(|_| true).len() > asked);
    // Its owner gives it a token, and it starts by itself.
    world.hub.set_access(GATED, Access::Public).unwrap();
    world.until_logged("tenant-a", "other", "done");
    world.hub.set_access(GATED, Access::Gated).unwrap();
    for pod in ["no-token", "wrong-token", "right-token"] {
        world.delete("tenant-b", pod);
    }
    world.delete("tenant-a", "other");
}

fn a_pod_that_waits_hears_how_long_and_starts_when_the_bytes_are_there(world: &World) {
    world.link.set(Shape {
        total: Some(Rate(50_000)),
        ..Shape::default()
    });
    world.create("tenant-a", "waits", SLOW, None, json!({}), &reader(SLOW));
    let said = world.until_event("tenant-a", "waits", "waiting for weights");
    assert!(said.contains("Aborted") && said.contains(SLOW), "{said}");
    assert!(said.contains("% of") && said.contains("left"), "{said}");
    world.link.set(Shape::default());
    let freed = Instant::now();
    world.until_logged("tenant-a", "waits", "done");
    assert!(
        freed.elapsed() < Duration::from_secs(20),
        "{:?}",
        freed.elapsed()
    );
    world.delete("tenant-a", "waits");
}

fn an_agent_that_is_killed_takes_no_volume_along(world: &mut World) {
    let reads = |world: &World| world.log("tenant-a", "one").matches("read again").count();
    world.agent.kill();
    world.agent.until_gone(WAIT).unwrap();
    let before = reads(world);
    until("a pod reads on", || reads(world) > before + 1);
    world.start_agent(&[]);
    let before = reads(world);
    until("a pod reads on", || reads(world) > before + 1);
    assert!(!world.log("tenant-a", "one").contains("cannot read"));
    // Found again, not made again.
    assert!(world.agent_log().contains("volume found mounted"));
    world.delete("tenant-a", "two");
    until("a volume is taken away", || {
        world.records("tenant-a", "two").is_empty()
    });
    world.create("tenant-a", "three", OPEN, None, json!({}), &reader(OPEN));
    world.until_logged("tenant-a", "three", "done");
}

fn after_the_deadline_a_pod_starts_with_a_cache_to_fill(world: &mut World) {
    world.agent.kill();
    world.agent.until_gone(WAIT).unwrap();
    world.start_agent(&["--csi-deadline=4"]);
    world.link.set(Shape {
        total: Some(Rate(0)),
        ..Shape::default()
    });
    let script = r#"
        cd "$HF_HUB_CACHE"
        echo fetched > by-the-pod && cat by-the-pod
        ls models--*/snapshots/*
        echo done
    "#;
    world.create("tenant-a", "late", LATER, None, json!({}), script);
    let log = world.until_logged("tenant-a", "late", "done");
    assert!(log.contains("fetched"), "{log}");
    assert!(!log.contains("model-00001"), "{log}");
    assert!(
        world
            .agent_log()
            .contains("volume mounted without all its weights")
    );
    world.link.set(Shape::default());
}

fn nothing_is_left_of_pods_that_are_gone(world: &World) {
    for pod in ["one", "three", "late"] {
        world.delete("tenant-a", pod);
    }
    until("everything is taken away", || world.left().is_empty());
}

/// Reads everything, tries to write everywhere, then reads on.
fn reader(repo: &str) -> String {
    let directory = format!("models--{}", repo.replace('/', "--"));
    format!(
        r#"
        cd "$HF_HUB_CACHE/{directory}"
        cd snapshots/*
        for file in *; do sha256sum "$file"; done
        file=model-00001-of-00002.safetensors
        echo x > own && echo "wrote beside"
        (echo x >> $file) 2>/dev/null && echo "wrote into"
        /bin/busybox chmod 666 $file 2>/dev/null && echo "changed mode"
        cd ../..
        tree=$(echo .headstart-*)
        /bin/busybox chmod 777 $tree 2>/dev/null && echo "changed mode"
        /bin/busybox rm -rf $tree/hub 2>/dev/null && echo "removed"
        /bin/busybox mv $tree moved 2>/dev/null && echo "moved"
        /bin/busybox umount $tree 2>/dev/null && echo "removed"
        /bin/busybox mount -o remount,rw $tree 2>/dev/null && echo "wrote into"
        for blob in $tree/hub/{directory}/blobs/*; do
            /bin/busybox ln $blob own-link 2>/dev/null && echo "linked"
            (echo x >> $blob) 2>/dev/null && echo "wrote into"
        done
        echo done
        while sleep 0.3; do
            cat snapshots/*/$file > /dev/null && echo "read again" || echo "cannot read"
        done
        "#
    )
}
