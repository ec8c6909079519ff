//! `kill -9` at any point: what had arrived is kept.
//!
//! The process that is killed is this test binary, run once more for one test, which tells by its
//! environment what to fetch.

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

const SIZE: u64 = 24 * MIB;

/// Bytes that a killed process may have received and not written: two batches for each of four
/// connections.
const IN_MEMORY: u64 = 4 * 2 * (512 << 10);

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_points_again_and_again_it_refetches_next_to_nothing() {
    let content = content(21, SIZE as usize);
    let server = Faulty::start(&[("/file", content.clone())], |_| Act::Rate(4_000_000)).await;
    let place = Place::new();
    let mut kills = 0u64;
    for round in 1..=12u64 {
        let before = server.record().sent();
        let mut child = child(&server.url("/file"), &place, &content);
        // Points that no part or batch boundary explains.
        let point = before + 400_000 + (round * 1_234_577) % 3_000_000;
        let done = || server.record().sent() >= point.min(SIZE - MIB);
        until("bytes flow", done).await;
        kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(!place.to.exists());
        let sent = server.record().sent();
        let kept = right_bytes(&place.partial, &content);
        let on_the_wire = 4 * (4_000_000 / 50) + wire_buffers();
        assert!(
            kept + (IN_MEMORY + on_the_wire) * kills >= sent.min(SIZE),
            "{kept} of {sent}"
        );
        if sent > SIZE - 4 * MIB {
            break;
        }
    }
    assert!(kills >= 3, "{kills}");
    let before = server.record().sent();
    let kept = right_bytes(&place.partial, &content);
    let engine = engine(policy(&[server.url("/")]), limits());
    let progress = Arc::<Progress>::default();
    let blob = blob("b", &content, &[server.url("/file")]);
    let landed = within(60, engine.file(&blob, &place.partial, progress.clone()))
        .await
        .unwrap();
    landed.publish(place.to.clone()).await.unwrap();
    assert!(std::fs::read(&place.to).unwrap() == content);
    assert_eq!(place.names(), ["published"]);
    // All that is in the file is believed but for the writes that were not noted any more: one per
    // connection and kill.
    let resumed = progress.resumed.load(Ordering::Relaxed);
    assert!(
        resumed + kills * 4 * (512 << 10) >= kept,
        "{resumed} of {kept}"
    );
    let refetched = server.record().sent() - before - (SIZE - resumed);
    assert!(refetched <= wire_buffers(), "{refetched}");
}

/// What the kernel may hold of four connections: sent by the server, read by nobody.
fn wire_buffers() -> u64 {
    4 * 512 * 1024
}

fn child(url: &Url, place: &Place, content: &[u8]) -> std::process::Child {
    let order = format!(
        "{url} {} {} {}",
        place.partial.display(),
        content.len(),
        sha256(content)
    );
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kill::fetches_what_its_environment_orders",
            "--nocapture",
        ])
        .env("HEADSTART_TEST_FETCH", order)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The process that is killed. Run by itself it orders a fetch for itself.
#[tokio::test(flavor = "multi_thread")]
async fn fetches_what_its_environment_orders() {
    let Ok(order) = std::env::var("HEADSTART_TEST_FETCH") else {
        let content = content(22, MIB as usize);
        let server = Faulty::start(&[("/file", content.clone())], |_| Act::Serve).await;
        let place = Place::new();
        let mut child = child(&server.url("/file"), &place, &content);
        let status = tokio::task::spawn_blocking(move || child.wait())
            .await
            .unwrap()
            .unwrap();
        assert!(status.success());
        assert!(std::fs::read(&place.partial).unwrap() == content);
        return;
    };
    let [url, partial, size, sha256] = order.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let url = Url::parse(url).unwrap();
    let engine = engine(policy(std::slice::from_ref(&url)), limits());
    let blob = Blob {
        name: "b".into(),
        size: size.parse().unwrap(),
        expected: Expected::Sha256(sha256.parse().unwrap()),
        priority: 0.into(),
        sources: vec![Arc::new(FixedUrl::new(url))],
    };
    engine
        .file(&blob, Path::new(partial), Arc::default())
        .await
        .unwrap();
}
