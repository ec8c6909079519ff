//! Redirects: followed within reason, and never with a credential to another host.

use headstart_transfer::net::{Credential, Origin};
use headstart_transfer::source::Location;
use http::HeaderMap;

use super::*;

fn with_token(url: Url) -> Arc<dyn Source> {
    let origin = Origin::of(&url).unwrap();
    Arc::new(FixedUrl(Location {
        url,
        headers: HeaderMap::new(),
        credential: Credential::bearer(origin, "hf_secret"),
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_reaches_its_own_host_and_never_the_one_a_redirect_leads_to() {
    for status in [301, 302, 303, 307, 308] {
        let content = content(5, 4 * MIB as usize);
        let cdn = Faulty::start(&[("/cdn", content.clone())], |_| Act::Serve).await;
        let to = cdn.url("/cdn?Signature=s");
        let hub = Faulty::start(&[], move |_| Act::redirect(status, to.as_str())).await;
        let engine = engine(policy(&[hub.url("/"), cdn.url("/")]), limits());
        let mut blob = blob("b", &content, &[]);
        blob.sources = vec![with_token(hub.url("/file"))];
        assert!(fetch(&engine, &blob, &Place::new()).await.unwrap() == content);
        assert!(hub.record().saw_credential());
        assert!(
            !cdn.record().saw_credential(),
            "the trap: a token at the CDN"
        );
        assert!(
            cdn.record()
                .requests
                .iter()
                .all(|served| !served.asked.headers.contains_key("referer"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_within_the_host_keeps_the_token() {
    let mut case = Case::new(MIB, |asked| match asked.path.as_str() {
        "/old" => Act::redirect(307, "/file"),
        _ if asked.headers.contains_key("authorization") => Act::Serve,
        _ => Act::status(401),
    })
    .await;
    case.blob.sources = vec![with_token(case.server.url("/old"))];
    case.run().await.unwrap();
}

/// What a server answers.
type Script = Box<dyn Fn(&Asked) -> Act + Send + Sync>;

#[tokio::test(flavor = "multi_thread")]
async fn loops_long_chains_and_targets_nobody_may_follow_are_refused_by_name() {
    let hops = |asked: &Asked| {
        let hop: usize = asked.path.trim_start_matches("/hop").parse().unwrap_or(0);
        Act::redirect(302, format!("/hop{}", hop + 1))
    };
    let cases: Vec<(&str, Script)> = vec![
        ("loop through", Box::new(|_| Act::redirect(302, "/file"))),
        (
            "loop through",
            Box::new(|asked| match asked.path.as_str() {
                "/file" => Act::redirect(302, "/other"),
                _ => Act::redirect(302, "/file"),
            }),
        ),
        ("more than 5 redirects", Box::new(hops)),
        (
            "nowhere that can be followed",
            Box::new(|_| Act::status(302)),
        ),
        (
            "nowhere that can be followed",
            Box::new(|_| Act::redirect(302, "file:///etc/passwd")),
        ),
        (
            "nowhere that can be followed",
            Box::new(|_| Act::redirect(302, "http://u:p@127.0.0.1/")),
        ),
        (
            "private address 169.254.169.254",
            Box::new(|_| Act::redirect(302, "https://169.254.169.254/latest")),
        ),
        (
            "private address ::1",
            Box::new(|_| Act::redirect(302, "https://[::1]/")),
        ),
        (
            "plain HTTP",
            Box::new(|_| Act::redirect(302, "http://93.184.216.34/")),
        ),
        (
            "plain HTTP",
            Box::new(|_| Act::redirect(302, "http://169.254.169.254/latest/meta-data")),
        ),
    ];
    for (word, script) in cases {
        let case = Case::new(4 * MIB, script).await;
        let error = case.fails().await;
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert!(!error.is_transient());
        assert!(case.server.record().requests.len() < 40);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_resolves_to_a_private_address_is_refused_in_the_dialer() {
    let case = Case::new(4 * MIB, |asked| {
        let port = asked.headers["host"].rsplit_once(':').unwrap().1.to_owned();
        Act::redirect(302, format!("https://localhost:{port}/file"))
    })
    .await;
    let error = case.fails().await;
    assert!(
        error
            .to_string()
            .contains("localhost is at the private address"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_never_shows_what_signs_a_url() {
    let case = Case::new(MIB, |_| {
        Act::redirect(302, "http://cdn.example/x?Signature=secret")
    })
    .await;
    assert!(!case.fails().await.to_string().contains("secret"));
}
