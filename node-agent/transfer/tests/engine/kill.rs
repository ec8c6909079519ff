//! `kill -9` at any point: what had arrived is kept.
//!
//! The process that is killed is this test binary, run once more for one test, which tells by its
//! environment what to fetch.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

const SIZE: u64 = 24 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_points_again_and_again_it_refetches_only_what_had_not_arrived() {
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
        if server.record().sent() > SIZE - 4 * MIB {
            break;
        }
    }
    assert!(kills >= 3, "{kills}");
    let (resumed, sent) = finish(&server, &place, &content).await;
    assert!(resumed > 0);
    assert_eq!(sent, SIZE - resumed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_arrived_when_it_was_killed_is_kept_but_for_a_hundredth() {
    const STOP: u64 = 700_000;
    let size = 48 * MIB;
    let content = content(23, size as usize);
    // Some parts come whole, then every connection stands still in the middle of its own.
    let goes_on = Arc::new(AtomicBool::new(false));
    let script = {
        let goes_on = goes_on.clone();
        move |asked: &Asked| match asked.number < 8 || goes_on.load(Ordering::Relaxed) {
            true => Act::Serve,
            false => Act::Stall(STOP),
        }
    };
    let server = Faulty::start(&[("/file", content.clone())], script).await;
    let place = Place::new();
    let mut child = child(&server.url("/file"), &place, &content);
    let arrived = AtomicU64::new(0);
    // Nothing more comes, so nothing but time makes it write.
    until("all that was sent has arrived and is noted", || {
        let record = server.record();
        let still = record.requests.iter().skip(8);
        let still = still.filter(|served| served.sent == STOP).count();
        arrived.store(record.sent(), Ordering::Relaxed);
        still > 0 && record.at_once == still && noted(&place) >= record.sent() / 100 * 99
    })
    .await;
    let sent = arrived.into_inner();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    goes_on.store(true, Ordering::Relaxed);
    let (resumed, again) = finish(&server, &place, &content).await;
    assert!(resumed >= sent / 100 * 99, "{resumed} of {sent}");
    assert_eq!(again, size - resumed);
}

/// Bytes that the journal says have landed.
fn noted(place: &Place) -> u64 {
    let journal = std::fs::read_to_string(place.journal()).unwrap_or_default();
    let lengths = journal.lines().skip(1).filter_map(|line| {
        let (_, length) = line.split_once(' ').filter(|(offset, _)| *offset != "=")?;
        length.parse::<u64>().ok()
    });
    lengths.sum()
}

/// Fetches the rest and checks the whole; the bytes that were there, and those sent.
async fn finish(server: &Faulty, place: &Place, content: &[u8]) -> (u64, u64) {
    until("nobody is answered who is gone", || {
        server.record().at_once == 0
    })
    .await;
    let before = server.record().sent();
    let engine = engine(policy(&[server.url("/")]), limits());
    let progress = Arc::<Progress>::default();
    let blob = blob("b", content, &[server.url("/file")]);
    let landed = within(60, engine.file(&blob, &place.partial, progress.clone()))
        .await
        .unwrap();
    landed.publish(place.to.clone()).await.unwrap();
    assert!(std::fs::read(&place.to).unwrap() == content);
    assert_eq!(place.names(), ["published"]);
    let resumed = progress.resumed.load(Ordering::Relaxed);
    (resumed, server.record().sent() - before)
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
    let patient = Limits {
        stall: Duration::from_secs(60),
        ..limits()
    };
    let engine = engine(policy(std::slice::from_ref(&url)), patient);
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
