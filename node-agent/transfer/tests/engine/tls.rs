//! TLS that cannot be trusted, and HTTP/2 that can.

use headstart_testbed::faults::Certificate;
use headstart_testbed::faults::h2::Http2;

use super::*;

/// Trusts the authority of `certificate` and `localhost` to be private.
fn trusting(certificate: &Certificate) -> HostPolicy {
    let mut policy = HostPolicy::default();
    policy
        .private_hosts
        .insert(HostPort::parse("localhost").unwrap());
    policy.extra_roots_pem.push(certificate.authority_pem());
    policy
}

async fn run(
    certificate: &Certificate,
    policy: HostPolicy,
    act: Act,
) -> Result<Faulty, FetchError> {
    let content = content(9, 4 * MIB as usize);
    let script = move |asked: &Asked| match asked.number {
        0..3 => act.clone(),
        _ => Act::Serve,
    };
    let server =
        Faulty::start_tls(certificate.clone(), &[("/file", content.clone())], script).await;
    let engine = engine(policy, limits());
    let blob = blob("b", &content, &[server.url("/file")]);
    let fetched = within(30, fetch(&engine, &blob, &Place::new())).await?;
    assert!(fetched == content);
    Ok(server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_trusted_authority_for_the_right_name_is_accepted() {
    let certificate = Certificate::for_name("localhost");
    run(&certificate, trusting(&certificate), Act::Serve)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_name_an_unknown_authority_and_an_expired_certificate_fail_at_once() {
    let other = Certificate::for_name("localhost");
    for (certificate, policy) in [
        (Certificate::for_name("example.org"), None),
        (Certificate::for_name("localhost"), Some(trusting(&other))),
        (Certificate::expired("localhost"), None),
    ] {
        let policy = policy.unwrap_or_else(|| trusting(&certificate));
        let error = run(&certificate, policy, Act::Serve)
            .await
            .err()
            .expect("it is not to be trusted");
        // Not when patience ends: that would be a stall.
        assert!(matches!(error, FetchError::Sources { .. }), "{error}");
        assert!(
            error.to_string().contains("TLS with https://localhost"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_where_tls_was_expected_is_never_spoken() {
    let content = content(9, 4096);
    let server = Faulty::start(&[("/file", content.clone())], |_| Act::Serve).await;
    let url = format!("https://localhost:{}/file", server.address().port());
    let blob = blob("b", &content, &[Url::parse(&url).unwrap()]);
    let engine = engine(trusting(&Certificate::for_name("localhost")), impatient());
    let error = within(30, fetch(&engine, &blob, &Place::new()))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("localhost"), "{error}");
    assert!(
        server
            .record()
            .requests
            .iter()
            .all(|served| served.status != 200)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_from_https_to_http_is_refused() {
    let certificate = Certificate::for_name("localhost");
    let plain = Faulty::start(&[], |_| Act::Serve).await;
    let mut policy = trusting(&certificate);
    policy.trust_plain_http(HostPort::parse("127.0.0.1").unwrap());
    let to = plain.url("/file").to_string();
    let error = run(&certificate, policy, Act::redirect(302, &to))
        .await
        .err()
        .expect("a downgrade");
    assert!(
        error
            .to_string()
            .contains("refused a redirect from https to http://127.0.0.1"),
        "{error}"
    );
    assert!(plain.record().requests.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_stream_cut_without_notice_is_a_short_body() {
    let certificate = Certificate::for_name("localhost");
    let server = run(&certificate, trusting(&certificate), Act::Close(300_000))
        .await
        .unwrap();
    assert_eq!(server.record().sent(), 4 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_fetched_in_ranges_over_several_connections_by_the_same_engine() {
    let content = content(11, 16 * MIB as usize);
    let certificate = Certificate::for_name("localhost");
    let server = Http2::start(&certificate, content.clone()).await;
    let engine = engine(trusting(&certificate), limits());
    let blob = blob("b", &content, &[server.url()]);
    assert!(
        within(30, fetch(&engine, &blob, &Place::new()))
            .await
            .unwrap()
            == content
    );
    let (requests, connections) = server.seen();
    assert!(requests >= 8, "{requests}");
    assert!((2..=4).contains(&connections), "{connections}");
}
