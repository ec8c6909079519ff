//! Many blobs under one set of limits.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::*;

/// Files of these sizes on one server, as blobs.
async fn many(
    sizes: &[u64],
    script: impl Fn(&Asked) -> Act + Send + Sync + 'static,
) -> (Faulty, Vec<(Blob, Bytes)>) {
    let contents: Vec<Bytes> = sizes
        .iter()
        .enumerate()
        .map(|(seed, size)| content(100 + seed as u64, *size as usize))
        .collect();
    let paths: Vec<String> = (0..sizes.len()).map(|index| format!("/{index}")).collect();
    let files: Vec<(&str, Bytes)> = paths
        .iter()
        .map(String::as_str)
        .zip(contents.iter().cloned())
        .collect();
    let server = Faulty::start(&files, script).await;
    let blobs = files
        .iter()
        .map(|(path, content)| (blob(path, content, &[server.url(path)]), content.clone()))
        .collect();
    (server, blobs)
}

async fn fetch_all(engine: &Engine, blobs: &[(Blob, Bytes)]) {
    let all = blobs.iter().map(|(blob, content)| async move {
        assert!(fetch(engine, blob, &Place::new()).await.unwrap() == *content);
    });
    within(60, futures_util::future::join_all(all)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_limit_holds_over_many_blobs() {
    let (server, blobs) = many(&[300_000; 40], |_| Act::Rate(10_000_000)).await;
    let engine = engine(
        policy(&[server.url("/")]),
        Limits {
            connections: 3,
            ..limits()
        },
    );
    fetch_all(&engine, &blobs).await;
    let record = server.record();
    assert!(record.most_at_once <= 3, "{}", record.most_at_once);
    assert!(
        record.connections <= 20,
        "connections are used again: {}",
        record.connections
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_priority_goes_first_and_among_equals_the_largest() {
    let sizes = [300_000, MIB, 3 * MIB, 2 * MIB, MIB / 2];
    let all_wait = CancellationToken::new();
    let held = all_wait.clone();
    let (server, mut blobs) = many(&sizes, move |asked| match asked.path.as_str() {
        "/0" => Act::Held(held.clone()),
        _ => Act::Serve,
    })
    .await;
    for (blob, priority) in blobs.iter_mut().zip([0_u32, 9, 5, 5, 1]) {
        blob.0.priority = priority.into();
    }
    let limits = Limits {
        connections: 1,
        ..limits()
    };
    let engine = engine(policy(&[server.url("/")]), limits);
    // The only lane is busy with the first until all others wait.
    let places: Vec<Place> = blobs.iter().map(|_| Place::new()).collect();
    let first = async {
        fetch(&engine, &blobs[0].0, &places[0]).await.unwrap();
    };
    let others = async {
        until("the lane is busy", || !server.record().requests.is_empty()).await;
        let pairs = blobs.iter().zip(&places).skip(1);
        let all = pairs.map(|((blob, _), place)| fetch(&engine, blob, place));
        futures_util::future::join_all(all).await
    };
    let waiting = async {
        // The journal is the last that is made before a blob waits for a lane.
        until("all others wait", || {
            places[1..].iter().all(|place| place.journal().exists())
        })
        .await;
        all_wait.cancel();
    };
    within(30, async { tokio::join!(first, others, waiting) }).await;
    let requests = server.record().requests;
    let mut order: Vec<&str> = requests
        .iter()
        .map(|served| served.asked.path.as_str())
        .collect();
    order.dedup();
    let begun = |path: &str| order.iter().position(|p| *p == path).unwrap();
    let ended = |path: &str| order.iter().rposition(|p| *p == path).unwrap();
    assert_eq!(order[..2], ["/0", "/4"]);
    assert!(
        begun("/2") < begun("/3"),
        "the largest begins first: {order:?}"
    );
    assert!(ended("/2").max(ended("/3")) < begun("/1"), "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bandwidth_limit_holds_over_all_blobs() {
    let (server, blobs) = many(&[600_000; 10], |_| Act::Serve).await;
    let rate = headstart_core::quantity::Rate(3_000_000);
    let engine = engine(
        policy(&[server.url("/")]),
        Limits {
            bandwidth: Some(rate),
            ..limits()
        },
    );
    let start = Instant::now();
    fetch_all(&engine, &blobs).await;
    let rate = 6_000_000.0 / start.elapsed().as_secs_f64();
    // The first tenth of a second is free.
    assert!(rate < 3_600_000.0, "{rate}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_blob_that_fails_leaves_the_others_alone() {
    let (server, blobs) = many(&[MIB, MIB, 2 * MIB, MIB], |asked| {
        match asked.path.as_str() {
            "/1" => Act::status(404),
            "/2" => Act::Flip(1000),
            _ => Act::Serve,
        }
    })
    .await;
    let engine = engine(policy(&[server.url("/")]), limits());
    let all = blobs.iter().map(|(blob, _)| {
        let engine = &engine;
        async move { fetch(engine, blob, &Place::new()).await }
    });
    let ended = within(30, futures_util::future::join_all(all)).await;
    assert!(ended[0].as_ref().unwrap() == &blobs[0].1);
    assert!(matches!(ended[1], Err(FetchError::Sources { .. })));
    assert!(matches!(ended[2], Err(FetchError::Mismatch { .. })));
    assert!(ended[3].as_ref().unwrap() == &blobs[3].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_waits_for_its_turn_is_not_stalled() {
    // One failure, then longer than patience no turn, because another is more important.
    let (server, mut blobs) = many(&[MIB, 2 * MIB], |asked| {
        match (asked.path.as_str(), asked.number) {
            ("/0", 0) => Act::status(500),
            ("/1", _) => Act::Rate(600_000),
            _ => Act::Serve,
        }
    })
    .await;
    blobs[0].0.priority = 9.into();
    let engine = engine(
        policy(&[server.url("/")]),
        Limits {
            connections: 1,
            patience: Duration::from_secs(1),
            ..impatient()
        },
    );
    let (first, second) = (Place::new(), Place::new());
    let important = async {
        until("the first has failed once", || {
            server.record().requests.len() == 1
        })
        .await;
        fetch(&engine, &blobs[1].0, &second).await
    };
    let (one, other) = within(30, async {
        tokio::join!(fetch(&engine, &blobs[0].0, &first), important)
    })
    .await;
    assert!(one.unwrap() == blobs[0].1);
    assert!(other.unwrap() == blobs[1].1);
}
