//! One agent takes over from another, without an API server.

use headstart_core::quantity::Rate;
use headstart_testbed::link::Shape;
use headstart_testbed::model::Recipe;
use nix::sys::signal::Signal;

use crate::bed::{Bed, until};
use crate::running::{
    MIB, boot, bytes, intent, is_verified, item, large, page, place, serve, slow, status,
    until_status,
};

/// Most memory of an idle agent, in kilobytes.
const IDLE: u64 = 64 << 10;

#[tokio::test]
async fn what_boot_has_under_way_is_finished_once_and_the_rest_is_the_next_agents() {
    let (bed, link) = slow(16 * MIB).await;
    let (first, _) = bed.commit("org/first", large(1, 48 * MIB));
    let (second, _) = bed.commit("org/second", large(2, 4 * MIB));
    let first = format!("org/first@{first}");
    let second = format!("org/second@{second}");
    place(&bed, &intent(1, &[&first]));
    let mut before = boot(&bed, &[]);
    let early = until_status(&bed, "some is there", |status| {
        bytes(status, &first) > 4 * MIB
    })
    .await;

    // What is under way lasts until everything below is seen, however busy the machine.
    link.set(Shape {
        total: Some(Rate(MIB)),
        ..Shape::default()
    });
    let address = free_address();
    let mut after = serve(&bed, &["--metrics-address", &address]);
    until("boot is asked to leave", || {
        before.log().contains("another agent takes over")
    })
    .await;
    // Heard too late to be begun, but not lost.
    place(&bed, &intent(2, &[&first, &second]));
    until("boot has heard it", || {
        before.log().contains("generation=2")
    })
    .await;
    assert!(before.is_alive() && after.is_alive());
    assert_eq!(page(&address, "/healthz").0, 200);
    assert_eq!(page(&address, "/readyz").0, 503);
    assert!(
        !item(&status(&bed.root()).unwrap(), &second).is_some_and(|i| i["started"].is_string())
    );
    link.set(Shape::default());
    let (code, _) = before.end().await;
    assert_eq!(code, Some(0));

    let late = until_status(&bed, "both are there", |status| {
        is_verified(status, &first) && is_verified(status, &second)
    });
    let late = late.await;
    assert_eq!(late["generation"], 2);
    assert_eq!(page(&address, "/readyz").0, 200);
    for time in ["agentStarted", "firstRequest"] {
        assert_eq!(early[time], late[time], "{late:#}");
    }
    let (begun, done) = (item(&early, &first).unwrap(), item(&late, &first).unwrap());
    assert_eq!(begun["started"], done["started"]);
    // 52 MiB are needed. What lies in a socket when its range goes to another connection counts as
    // sent too, a few MiB; the first fetched again would be 48 more.
    let sent = link.bytes_sent();
    assert!(
        sent < 76 * MIB,
        "{sent} bytes sent: the first was fetched again"
    );
    let (_, text) = page(&address, "/metrics");
    let line = "headstart_agent_fetched_bytes_total{kind=\"model\",source=\"hub\"} ";
    let fetched: u64 = text
        .lines()
        .find_map(|l| l.strip_prefix(line)?.parse().ok())
        .unwrap();
    assert!((4 * MIB..8 * MIB).contains(&fetched), "{text}");
    for name in [
        "cache_bytes",
        "room_bytes",
        "evictions_total",
        "verify_failures_total",
        "build_info",
        "item_seconds_count",
        "upstream_requests_total",
    ] {
        assert!(
            text.contains(&format!("headstart_agent_{name}")),
            "{name}: {text}"
        );
    }
    let resident = after.resident();
    assert!(resident < IDLE, "{resident} kB in use");
    after.signal(Signal::SIGTERM);
    assert_eq!(after.end().await.0, Some(0));
}

#[tokio::test]
async fn an_agent_that_restarts_without_an_api_server_knows_what_it_had_and_goes_on() {
    let (bed, link) = slow(16 * MIB).await;
    let (first, _) = bed.commit("org/first", Recipe::default());
    let (second, _) = bed.commit("org/second", large(2, 32 * MIB));
    let first = format!("org/first@{first}");
    let second = format!("org/second@{second}");
    place(&bed, &intent(1, &[&first, &second]));
    let agent = boot(&bed, &[]);
    let early = until_status(&bed, "one is there and half the other", |status| {
        is_verified(status, &first) && bytes(status, &second) > 4 * MIB
    });
    let early = early.await;
    agent.signal(Signal::SIGKILL);
    agent.end().await;
    link.set(Shape::default());
    let agent = serve(&bed, &[]);
    let late = until_status(&bed, "both are there", |status| {
        is_verified(status, &first) && is_verified(status, &second)
    });
    let late = late.await;
    for time in ["started", "verified", "took"] {
        assert_eq!(
            item(&early, &first).unwrap()[time],
            item(&late, &first).unwrap()[time]
        );
    }
    assert!(
        agent.log().contains("node is not watched"),
        "{}",
        agent.log()
    );
}

#[tokio::test]
async fn an_agent_waits_for_a_run_by_hand_that_answers_nobody() {
    let (bed, link) = slow(4 * MIB).await;
    let (commit, _) = bed.commit("org/large", large(1, 16 * MIB));
    let mut by_hand = bed.warming(&["--model", "org/large"]).spawn().unwrap();
    until("it fetches", || link.bytes_sent() > MIB).await;
    // It goes on until everything below is seen, however busy the machine.
    link.set(Shape {
        total: Some(Rate(MIB / 16)),
        ..Shape::default()
    });
    let mut agent = serve(&bed, &[]);
    until("it waits", || {
        agent.log().contains("waiting for another agent")
    })
    .await;
    assert!(agent.is_alive() && status(&bed.root()).is_none());
    link.set(Shape::default());
    assert!(by_hand.wait().await.unwrap().success());
    let found = until_status(&bed, "it has the store", |_| true).await;
    assert!(
        is_verified(&found, &format!("org/large@{commit}")),
        "{found:#}"
    );
}

#[tokio::test]
async fn half_a_question_is_no_reason_to_leave() {
    use std::io::Write as _;
    let bed = Bed::new().await;
    let mut agent = boot(&bed, &[]);
    until_status(&bed, "it answers", |_| true).await;
    for question in ["\"lea", "{}\n", "\n", "\"go\"\n", &"x".repeat(100_000)] {
        let socket = bed.root().join("agent/agent.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        // It may hang up before all of it is written.
        let _ = stream.write_all(question.as_bytes());
    }
    until_status(&bed, "it still answers", |_| true).await;
    assert!(agent.is_alive());
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.end().await.0, Some(0));
}

/// An address that was free a moment ago.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
