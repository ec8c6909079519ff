//! An image that unpacks to more than anybody could know, on a disk that must not fill up.

use std::process::Stdio;

use headstart_testbed::image::{Image, Layer, Recipe};
use headstart_testbed::registry::{Options, Registry};
use tokio::process::Command;

use crate::{Disk, MIB};

/// A file that is five times as large as it is when compressed: more than is reasonable to expect.
fn hollow(bytes: usize) -> Layer {
    let mut content = vec![0; bytes];
    let mut seed = 1_u32;
    for block in content.chunks_mut(64 << 10) {
        for byte in &mut block[..13_000] {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (seed >> 24) as u8;
        }
    }
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes as u64);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "hollow", content.as_slice())
        .unwrap();
    Layer::Tar(builder.into_inner().unwrap().into())
}

/// Percent of the disk that is free.
fn free(disk: &Disk) -> u64 {
    let found = rustix::fs::statvfs(disk.path()).unwrap();
    found.f_bavail * 100 / found.f_blocks
}

#[tokio::test]
async fn an_image_larger_than_its_estimate_ends_before_the_disk_is_full() {
    let disk = Disk::of(512 * MIB);
    let registry = Registry::start(Options::default()).await.unwrap();
    let layers = vec![hollow(600 * MIB)];
    let image = Image::make(&Recipe {
        layers,
        ..Recipe::trees(0, 0, 0)
    });
    registry.put("hollow", "1", &image.unwrap());
    let host = registry.host();
    let program = std::env::var_os("HEADSTART_AGENT");
    let program = program.expect("`cargo xtask e2e` sets HEADSTART_AGENT");
    let mut agent = Command::new(program);
    agent.args(["warm", "--json", "--plain-http", &host, "--image"]);
    agent.arg(format!("{host}/hollow:1"));
    agent.arg("--root").arg(disk.path().join("store"));
    agent.stdin(Stdio::null()).stdout(Stdio::piped());
    let running = agent.kill_on_drop(true).spawn().unwrap();
    let ended = tokio::spawn(running.wait_with_output());
    let mut least = 100;
    while !ended.is_finished() {
        least = least.min(free(&disk));
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let output = ended.await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("unpacks to more than was reserved") && said.contains("choose a larger disk"),
        "{said}"
    );
    // 16 % are to stay free. What is in a pipe is still unpacked: much of a disk as small as this one.
    assert!((12..30).contains(&least), "{least} % were free");
    assert!(free(&disk) > 95, "what was unpacked is removed again");
}
