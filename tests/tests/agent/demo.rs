//! The demo with real containerd in place of plain directories.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use headstart_testbed::containerd::{Settings, Version};
use headstart_testbed::docker_registry::Access;
use serde_json::Value;
use tokio::process::Command;

use crate::world::World;

const DEADLINE: Duration = Duration::from_secs(240);

#[tokio::test]
async fn the_demo_brings_its_image_into_containerd_twice_and_leaves_nothing_there() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let runtime = world.runtime().await?;
    let work = world.directory().join("demo");
    std::fs::create_dir(&work)?;
    let program = std::env::var_os("HEADSTART_DAEMON");
    let mut demo = Command::new(program.expect("`cargo xtask e2e` sets HEADSTART_DAEMON"));
    // As in the demo's own tests: a hundred times faster, with a thousandth of the bytes.
    demo.args(["demo", "--time-scale", "100", "--byte-scale", "1000"]);
    demo.arg("--json").arg("--work-dir").arg(&work);
    demo.arg("--containerd").arg(world.containerd.socket());
    demo.current_dir(&work).stdin(Stdio::null());
    demo.stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = demo.kill_on_drop(true).spawn()?;
    let ended = tokio::spawn(running.wait_with_output());
    let brought = async {
        while runtime.list().await?.is_empty() && !ended.is_finished() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    let brought = tokio::time::timeout(DEADLINE, brought).await;
    brought.context("the demo's image never comes")??;
    let was_there = !ended.is_finished();
    let ended = tokio::time::timeout(DEADLINE, ended).await;
    let output = ended.context("the demo does not end")???;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    ensure!(was_there, "no image was ever in containerd: {said}");
    let result: Value = serde_json::from_slice(&output.stdout)?;
    for run in ["today", "headstart", "headstart_without_bytes"] {
        let serving = result[run]["serving_seconds"].as_f64();
        ensure!(
            serving.is_some_and(|seconds| seconds >= 147.0),
            "{result:#}"
        );
        assert_eq!(result[run]["opened"]["shards"], 4, "{result:#}");
    }
    world.until_reclaimed(&before).await
}
