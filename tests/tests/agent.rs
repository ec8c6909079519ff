//! The agent as a program, with real containerd and a real registry.
//!
//! `HEADSTART_AGENT` names the binary; `cargo xtask e2e` builds it and sets it. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

#[path = "agent/demo.rs"]
mod demo;
#[path = "agent/program.rs"]
mod program;
#[allow(
    dead_code,
    reason = "shared with the tests of the containerd crate, which use all of it"
)]
#[path = "containerd/world.rs"]
mod world;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use headstart_containerd::{Auth, Runtime};
use headstart_testbed::containerd::{Settings, Version};
use headstart_testbed::docker_registry::{Access, PASSWORD, USER};
use headstart_testbed::image;
use headstart_testbed::tree::{differences, walk};
use program::{Agent, children, is_alive};
use world::{Image, Kind, World, rand, until};

fn login(password: &str) -> Option<Auth> {
    Some(Auth::Basic {
        username: USER.into(),
        password: password.into(),
    })
}

/// A pull by the runtime, as the kubelet asks for it; the layers that it fetched.
async fn layers_pulled(
    world: &World,
    runtime: &Runtime,
    image: &Image,
    name: &str,
    auth: Option<Auth>,
) -> Result<usize> {
    let before = world.layer_fetches(image)?;
    runtime.pull(name, auth).await?;
    Ok(world.layer_fetches(image)? - before)
}

#[tokio::test]
async fn an_image_warmed_by_tag_or_digest_is_as_if_pulled() -> Result<()> {
    for (kind, version) in [
        (Kind::Manifest, Version::V1_6),
        (Kind::Index, Version::V1_6),
        (Kind::Docker, Version::V1_7),
        (Kind::Manifest, Version::V2),
    ] {
        let mut world = World::start(version, Access::Open, Settings::default()).await?;
        let before = world.inventory().await?;
        let image = world.push("team/app", "1", kind)?;
        let runtime = world.runtime().await?;
        for name in [image.reference.clone(), image.by_digest()] {
            let ran = Agent::of(&world, &image).warm(&[&name]).await?;
            ran.expect(0)?;
            ensure!(ran.out.contains("present in containerd"), "{ran:?}");
            let [listed] = &runtime.list().await?[..] else {
                panic!("expected one image: {:?}", runtime.list().await);
            };
            let names = [&listed.tags[..], &listed.digests[..]].concat();
            ensure!(names.contains(&name), "{names:?}");
            let pulled = layers_pulled(&world, &runtime, &image, &name, None).await?;
            assert_eq!(pulled, 0);
            // Containers are run by tag, which a digest alone does not make.
            runtime.pull(&image.reference, None).await?;
            world.run(&image)?;
            world.containerd.restart()?;
            world.run(&image)?;
            let ran = Agent::of(&world, &image).warm(&[&name]).await?;
            ran.expect(0)?;
            ensure!(ran.out.contains("\"fetched_bytes\":0"), "{ran:?}");
            let id = image.spec.config.descriptor.digest.prefixed();
            runtime.remove(&id).await?;
            world.until_reclaimed(&before).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_private_image_is_held_without_a_record_and_still_needs_its_secret() -> Result<()> {
    for depth in [None, Some("content")] {
        let world = World::start(Version::V1_6, Access::Password, Settings::default()).await?;
        let before = world.inventory().await?;
        let image = world.push("team/secret", "1", Kind::Manifest)?;
        let runtime = world.runtime().await?;
        let agent = Agent::of(&world, &image);
        let ran = agent.warm(&[&image.reference]).await?;
        ran.expect(1)?;
        ensure!(ran.out.contains("401"), "{ran:?}");
        let config = agent.login(USER, PASSWORD)?;
        let mut args = vec![image.reference.as_str(), "--registry-config", &config];
        args.extend(depth.iter().flat_map(|depth| ["--depth", depth]));
        agent.warm(&args).await?.expect(0)?;
        let held = world.inventory().await?;
        assert_eq!(held.images, before.images);
        world.collect()?;
        let layers = image.spec.layers.len();
        match depth {
            None => assert_eq!(world.inventory().await?.snapshots.len(), layers),
            Some(_) => assert_eq!(world.inventory().await?.content.len(), layers),
        }
        for auth in [None, login("guessed")] {
            let error = runtime.pull(&image.reference, auth).await.unwrap_err();
            ensure!(error.is_unauthorized(), "{error}");
        }
        let right = login(PASSWORD);
        let pulled = layers_pulled(&world, &runtime, &image, &image.reference, right).await?;
        assert_eq!(pulled, 0);
        world.run(&image)?;
        runtime.release(&image.spec.target.digest).await?;
        runtime.remove(&image.reference).await?;
        world.until_reclaimed(&before).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_pin_ends_when_it_was_said_to() -> Result<()> {
    let world = World::start(Version::V1_7, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let agent = Agent::of(&world, &image);
    let pinned = async || -> Result<bool> {
        Ok(runtime
            .status(&image.reference)
            .await?
            .context("listed")?
            .pinned)
    };
    let args = [image.reference.as_str(), "--pin", "3600"];
    let ran = agent.warm(&args).await?;
    ran.expect(0)?;
    ensure!(ran.out.contains("pinned until"), "{ran:?}");
    ensure!(pinned().await?);
    runtime.release(&image.spec.target.digest).await?;
    until("the pin is gone", || async { Ok(!pinned().await?) }).await?;
    runtime.remove(&image.reference).await?;
    world.until_reclaimed(&before).await
}

#[tokio::test]
async fn every_layer_that_is_hard_to_unpack_becomes_what_containerd_makes_of_it() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let host = &image.spec.source.host;
    let runtime = world.runtime().await?;
    let edges = image::Image::make(&image::Recipe::edges())?;
    edges.push(host, "team/edges", "1").await?;
    let name = format!("{host}/team/edges:1");
    let mut trees = Vec::new();
    for ours in [true, false] {
        match ours {
            true => Agent::of(&world, &image).warm(&[&name]).await?.expect(0)?,
            false => drop(runtime.pull(&name, None).await?),
        }
        let at = world.directory().join(format!("mounted-{ours}"));
        std::fs::create_dir(&at)?;
        let text = at
            .to_str()
            .context("a temporary directory has a plain name")?;
        let mount = ["images", "mount", "--snapshotter", "overlayfs", &name, text];
        world.containerd.ctr(&mount)?;
        let tree = walk(&at);
        let unmount = [
            "images",
            "unmount",
            "--rm",
            "--snapshotter",
            "overlayfs",
            text,
        ];
        world.containerd.ctr(&unmount)?;
        trees.push(tree?);
        runtime.remove(&name).await?;
        world.until_reclaimed(&before).await?;
    }
    ensure!(trees[0].len() > 30, "only {} names", trees[0].len());
    // A directory that no entry describes is as old as its unpacking.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let an_hour_ago = i64::try_from(now.as_secs())? - 3600;
    let is_described = |path: &Path| trees[1].get(path).is_none_or(|n| n.mtime.0 < an_hour_ago);
    let found = differences(&trees[0], &trees[1], |path, _| is_described(path));
    let undescribed = trees[1].keys().filter(|path| !is_described(path)).count();
    ensure!(
        undescribed < 8,
        "{undescribed} names without a time of their own"
    );
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[tokio::test]
async fn a_pull_by_containerd_beside_the_agent_is_safe() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    for round in 0..5_u64 {
        let pulling = tokio::spawn({
            let (runtime, name) = (runtime.clone(), image.reference.clone());
            async move {
                tokio::time::sleep(Duration::from_millis(round * 60)).await;
                runtime.pull(&name, None).await
            }
        });
        let ran = Agent::of(&world, &image).warm(&[&image.reference]).await?;
        ran.expect(0)?;
        pulling.await??;
        world.run(&image)?;
        runtime.remove(&image.reference).await?;
        world.until_reclaimed(&before).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_agent_takes_its_unpackers_along_and_the_next_one_leaks_nothing() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let agent = Agent::of(&world, &image);
    let slowly = [image.reference.as_str(), "--max-bandwidth", "3MB/s"];
    let mut with_unpackers = 0;
    for kill in 0..10 {
        let mut victim = agent.start(&slowly)?;
        let id = victim.id().context("it has just been started")?;
        if kill == 0 {
            // At least one of them is killed with layers on their way.
            until("it unpacks", || async { Ok(!children(id).is_empty()) }).await?;
        } else {
            tokio::time::sleep(Duration::from_millis(rand() % 1800)).await;
        }
        let unpackers = children(id);
        with_unpackers += usize::from(!unpackers.is_empty());
        victim.kill().await?;
        let gone = || async { Ok(!unpackers.iter().any(is_alive)) };
        until("its unpackers have ended", gone).await?;

        let context = || format!("kill {kill}");
        let ran = agent.warm(&[&image.reference]).await?;
        ran.expect(0).with_context(context)?;
        let pulled = layers_pulled(&world, &runtime, &image, &image.reference, None).await?;
        assert_eq!(pulled, 0, "kill {kill}");
        world.run(&image).with_context(context)?;
        runtime.remove(&image.reference).await?;
        world.until_reclaimed(&before).await.with_context(context)?;
        agent.assert_clean().with_context(context)?;
    }
    ensure!(with_unpackers > 0);
    Ok(())
}

#[tokio::test]
async fn a_socket_where_nobody_listens_fails_that_image_alone() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let agent = Agent::at("/nowhere/containerd.sock".into(), &world, &image);
    let ran = agent.warm(&[&image.reference]).await?;
    ran.expect(4)?;
    ensure!(ran.out.contains("/nowhere/containerd.sock"), "{ran:?}");
    Ok(())
}
