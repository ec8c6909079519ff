//! Hosts that cannot be reached.

use super::*;

async fn fails(url: &str) -> FetchError {
    let url = Url::parse(url).unwrap();
    let host = HostPort::parse(url.host_str().unwrap()).unwrap();
    let mut policy = HostPolicy::default();
    policy.trust_plain_http(host);
    let engine = engine(
        policy,
        Limits {
            patience: Duration::from_secs(1),
            ..impatient()
        },
    );
    let place = Place::new();
    let blob = blob("b", b"content", &[url]);
    let error = within(30, fetch(&engine, &blob, &place))
        .await
        .expect_err("nobody is there");
    assert!(!place.to.exists());
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_until_patience_ends() {
    let server = Faulty::start(&[], |_| Act::Serve).await;
    let url = server.url("/file");
    drop(server);
    let error = fails(url.as_str()).await;
    assert!(matches!(error, FetchError::Stalled { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    let advice = "run the same command again";
    assert!(error.to_string().contains(advice), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_resolve_is_tried_until_patience_ends() {
    let error = fails("http://no-such-host.invalid/file").await;
    assert!(matches!(error, FetchError::Stalled { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("no-such-host.invalid does not resolve (check its spelling"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_is_waited_for() {
    let content = content(3, 4 * MIB as usize);
    let first = Faulty::start(&[("/file", content.clone())], |_| Act::Stall(MIB / 2)).await;
    let address = first.address();
    let place = Place::new();
    let blob = blob("b", &content, &[first.url("/file")]);
    let engine = engine(policy(&[first.url("/")]), limits());
    let progress = Arc::<Progress>::default();
    let restart = async {
        until("something has landed", || {
            progress.landed.load(Ordering::Relaxed) > 0
        })
        .await;
        first.stop();
        until("nobody is there", || {
            let is_refused = std::net::TcpStream::connect(address).is_err();
            is_refused && progress.faults.load(Ordering::Relaxed) > 0
        })
        .await;
        Faulty::start_at(address, &[("/file", content.clone())], |_| Act::Serve).await
    };
    let fetch = async {
        let fetching = engine.file(&blob, &place.partial, progress.clone());
        fetching.await.unwrap().publish(place.to.clone()).await
    };
    let (fetched, second) = tokio::join!(within(60, fetch), restart);
    fetched.unwrap();
    assert!(std::fs::read(&place.to).unwrap() == content);
    assert!(second.record().sent() < 4 * MIB, "what had landed was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_nobody_has_says_so() {
    let engine = engine(HostPolicy::default(), limits());
    let error = fetch(&engine, &blob("b", b"x", &[]), &Place::new())
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "b: no source has it: none was given");
}
