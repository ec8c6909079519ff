//! Dropping a fetch ends it: soon, with every connection closed and every byte kept.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_fetch_closes_its_connections_soon_and_keeps_its_bytes() {
    together(
        [
            Act::Rate(300_000),
            Act::Stall(400_000),
            Act::Silence,
            Act::TrickleHead(Duration::from_millis(50)),
        ]
        .map(|act| async move {
            let slow = act.clone();
            let case = Case::new(8 * MIB, move |asked| match asked.number {
                0 => Act::Serve,
                1..5 => slow.clone(),
                _ => Act::Serve,
            })
            .await;
            let patient = Limits {
                stall: Duration::from_secs(60),
                floor: 0,
                ..limits()
            };
            let engine = engine(policy(&[case.server.url("/")]), patient);
            let fetch = engine.file(&case.blob, &case.place.partial, case.progress.clone());
            let busy = async {
                until("every lane is busy", || {
                    case.server.record().requests.len() >= 5
                })
                .await;
                until("bytes land", || {
                    case.progress.landed.load(Ordering::Relaxed) >= MIB
                })
                .await;
            };
            tokio::select! {
                _ = fetch => panic!("it cannot end"),
                () = busy => {}
            }
            // Not when a stall is noticed, after 60 s: so long nobody waits here.
            let closed = format!("every connection that was in use is closed: {act:?}");
            until(&closed, || case.server.record().at_once == 0).await;
            assert!(!case.place.to.exists());
            let landed = case.progress.landed.load(Ordering::Relaxed);
            // The same engine goes on at once.
            let fetched = within(30, fetch_again(&engine, &case)).await;
            assert!(fetched == case.content);
            assert!(case.progress.resumed.load(Ordering::Relaxed) >= landed);
        }),
    )
    .await;
}

async fn fetch_again(engine: &Engine, case: &Case) -> Vec<u8> {
    let landed = engine
        .file(&case.blob, &case.place.partial, case.progress.clone())
        .await
        .unwrap();
    landed.publish(case.place.to.clone()).await.unwrap();
    std::fs::read(&case.place.to).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_engine_closes_every_connection() {
    let case = Case::new(8 * MIB, |_| Act::Serve).await;
    let engine = engine(policy(&[case.server.url("/")]), limits());
    fetch(&engine, &case.blob, &case.place).await.unwrap();
    assert!(case.server.record().open > 0, "idle ones are kept");
    drop(engine);
    until("all connections are closed", || {
        case.server.record().open == 0
    })
    .await;
}
