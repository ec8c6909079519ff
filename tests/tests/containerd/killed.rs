//! `kill -9` in the middle of a session, wherever that is.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use headstart_containerd::{Config, Depth, Runtime};
use headstart_testbed::containerd::{Settings, Version};
use headstart_testbed::docker_registry::Access;

use crate::HOUR;
use crate::world::{Image, Kind, World, rand, until, warm};

const KILLS: u32 = 50;

/// How long a victim lives at most: some rounds of warming and removing.
const LIFE_MILLIS: u64 = 1200;

/// Names the directory of the parent's world to the process that is to be killed.
const VICTIM: &str = "HEADSTART_TEST_VICTIM";

#[tokio::test]
async fn a_killed_session_corrupts_nothing_and_the_next_leaks_nothing() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    for kill in 0..KILLS {
        let mut victim = start_victim(&world, &image).await?;
        let life = Duration::from_millis(rand() % LIFE_MILLIS);
        tokio::time::sleep(life).await;
        let early = victim.try_wait()?;
        victim.kill()?;
        victim.wait()?;
        ensure!(early.is_none(), "victim {kill} ended by itself: {early:?}");

        let context = || format!("kill {kill}, after {life:?}");
        runtime.sweep().await.with_context(context)?;
        warm(&runtime, &image, Depth::Present, HOUR)
            .await
            .with_context(context)?;
        runtime
            .pull(&image.reference, None)
            .await
            .with_context(context)?;
        world.run(&image).with_context(context)?;
        runtime
            .remove(&image.reference)
            .await
            .with_context(context)?;
        world.until_reclaimed(&before).await.with_context(context)?;
    }
    assert_eq!(world.layer_fetches(&image)?, 0);
    Ok(())
}

/// Alone, this warms and removes an image once. Started by the test above, it does so until it is
/// killed.
#[tokio::test]
async fn an_image_is_warmed_by_a_process_of_its_own() -> Result<()> {
    let Some(directory) = std::env::var_os(VICTIM) else {
        let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
        let before = world.inventory().await?;
        let image = world.push("team/app", "1", Kind::Manifest)?;
        round(&world.runtime().await?, &image).await?;
        return world.until_reclaimed(&before).await;
    };
    let directory = Path::new(&directory);
    let host = fs::read_to_string(directory.join("host"))?;
    let image = Image::standard(&host, "team/app", "1", Kind::Manifest)?;
    let runtime =
        Runtime::connect(Config::new(directory.join("containerd/containerd.sock"))).await?;
    fs::write(directory.join("ready"), "")?;
    loop {
        round(&runtime, &image).await?;
    }
}

async fn round(runtime: &Runtime, image: &Image) -> Result<()> {
    runtime.sweep().await?;
    warm(runtime, image, Depth::Present, HOUR).await?;
    Ok(runtime.remove(&image.reference).await?)
}

async fn start_victim(world: &World, image: &Image) -> Result<Child> {
    let directory = world.directory();
    let host = image.spec.source.host.as_str();
    fs::write(directory.join("host"), host)?;
    let ready = directory.join("ready");
    let _ = fs::remove_file(&ready);
    let this = "killed::an_image_is_warmed_by_a_process_of_its_own";
    let mut victim = Command::new(std::env::current_exe()?)
        .args(["--exact", this])
        .env(VICTIM, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let started = until("the victim works", || async { Ok(ready.exists()) }).await;
    if started.is_err() {
        victim.kill()?;
        victim.wait()?;
    }
    started.map(|()| victim)
}
