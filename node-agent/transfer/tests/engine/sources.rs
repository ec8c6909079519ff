//! One blob from several sources, some of which are no good.

use super::*;

/// Two servers with the same file, each with its script; the blob names both.
async fn two(
    size: u64,
    first: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    second: impl Fn(&Asked) -> Act + Send + Sync + 'static,
) -> (Faulty, Faulty, Blob, Bytes) {
    let content = content(size, size as usize);
    let first = Faulty::start(&[("/file", content.clone())], first).await;
    // Another name, so that they are two hosts to the engine.
    let second = Faulty::start(&[("/file", content.clone())], second).await;
    let mut other = second.url("/file");
    other.set_host(Some("localhost")).unwrap();
    let blob = blob("b", &content, &[first.url("/file"), other]);
    (first, second, blob, content)
}

fn engine_for(first: &Faulty, second: &Faulty, limits: Limits) -> Engine {
    let mut other = second.url("/");
    other.set_host(Some("localhost")).unwrap();
    engine(policy(&[first.url("/"), other]), limits)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_good_sources_are_both_used_and_no_byte_comes_twice() {
    let (a, b, blob, content) =
        two(16 * MIB, |_| Act::Rate(5_000_000), |_| Act::Rate(5_000_000)).await;
    let engine = engine_for(&a, &b, limits());
    assert!(
        within(30, fetch(&engine, &blob, &Place::new()))
            .await
            .unwrap()
            == content
    );
    let (from_a, from_b) = (a.record().sent(), b.record().sent());
    assert!(from_a > MIB && from_b > MIB, "{from_a} {from_b}");
    assert_eq!(from_a + from_b, 16 * MIB, "{from_a} {from_b}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_dies_is_replaced_by_the_other() {
    // The second is the slower one until the first is gone.
    let second = |asked: &Asked| match asked.number {
        0..3 => Act::Rate(500_000),
        _ => Act::Serve,
    };
    let (a, b, blob, content) = two(24 * MIB, |_| Act::Rate(2_000_000), second).await;
    let engine = engine_for(&a, &b, limits());
    let place = Place::new();
    let progress = Arc::<Progress>::default();
    let death = async {
        until("something of the first has landed", || {
            progress.landed.load(Ordering::Relaxed) > b.record().sent()
        })
        .await;
        a.stop();
    };
    let fetch = async {
        let fetching = engine.file(&blob, &place.partial, progress.clone());
        fetching.await.unwrap().publish(place.to.clone()).await
    };
    let (fetched, ()) = within(60, async { tokio::join!(fetch, death) }).await;
    fetched.unwrap();
    assert!(std::fs::read(&place.to).unwrap() == content);
    assert!(
        progress.faults.load(Ordering::Relaxed) > 0,
        "it died in the middle"
    );
    assert!(
        b.record().sent() < 24 * MIB,
        "what the first had sent is kept"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_refuses_leaves_the_other_to_serve() {
    for act in [
        Act::status(404),
        Act::status(403),
        Act::ContentRange("no".into()),
    ] {
        let (a, b, blob, content) = two(4 * MIB, move |_| act.clone(), |_| Act::Serve).await;
        let engine = engine_for(&a, &b, limits());
        assert!(
            within(30, fetch(&engine, &blob, &Place::new()))
                .await
                .unwrap()
                == content
        );
        assert_eq!(b.record().sent(), 4 * MIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_tampers_is_found_out_and_done_without_wherever_it_stands() {
    let flip = |asked: &Asked| Act::Flip(asked.range.clone().map_or(0, |range| range.start));
    for tamperer_first in [true, false] {
        let (a, b, blob, content) = match tamperer_first {
            true => two(4 * MIB, flip, |_| Act::Rate(20_000_000)).await,
            false => two(4 * MIB, |_| Act::Rate(20_000_000), flip).await,
        };
        let engine = engine_for(&a, &b, limits());
        assert!(
            within(30, fetch(&engine, &blob, &Place::new()))
                .await
                .unwrap()
                == content
        );
        let sent = a.record().sent() + b.record().sent();
        assert!(sent <= 3 * 4 * MIB + MIB, "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tampering_source_beside_one_that_dies_ends_in_a_mismatch() {
    let (a, b, blob, _) = two(
        4 * MIB,
        |asked| Act::Flip(asked.range.clone().map_or(0, |range| range.start)),
        |asked| match asked.number {
            0 => Act::Serve,
            _ => Act::status(404),
        },
    )
    .await;
    let engine = engine_for(&a, &b, limits());
    let place = Place::new();
    let fetched = within(30, fetch(&engine, &blob, &place)).await;
    let Err(error) = fetched else {
        panic!("nobody has all of it");
    };
    assert!(matches!(error, FetchError::Mismatch { .. }), "{error}");
    assert!(place.names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_source_does_not_hold_up_a_quick_one() {
    let (a, b, blob, content) = two(16 * MIB, |_| Act::Rate(5_000), |_| Act::Rate(8_000_000)).await;
    let engine = engine_for(
        &a,
        &b,
        Limits {
            floor: 0,
            share_beyond: Duration::from_secs(1),
            ..limits()
        },
    );
    // The quick one alone takes seconds; the slow one needs minutes for the smallest part.
    assert!(
        within(60, fetch(&engine, &blob, &Place::new()))
            .await
            .unwrap()
            == content
    );
}
