use http::header::HeaderValue;
use proptest::prelude::*;

use super::*;

fn challenge(values: &[&str]) -> Result<Option<Challenge>, String> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
    }
    Challenge::of(&headers)
}

fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
    Challenge::Bearer(Bearer {
        realm: Url::parse(realm).unwrap(),
        service: service.map(str::to_owned),
        scope: scope.map(str::to_owned),
    })
}

#[test]
fn a_bearer_challenge_is_preferred_wherever_it_stands() {
    let realm = "https://auth.docker.io/token";
    let text = format!(
        r#"Bearer realm="{realm}",service="registry.docker.io",scope="repository:a/b:pull""#
    );
    let expected = bearer(
        realm,
        Some("registry.docker.io"),
        Some("repository:a/b:pull"),
    );
    assert_eq!(challenge(&[&text]), Ok(Some(expected.clone())));
    assert_eq!(
        challenge(&["Basic realm=\"x\"", &text]),
        Ok(Some(expected.clone()))
    );
    assert_eq!(
        challenge(&[&format!("Basic realm=\"x\", {text}")]),
        Ok(Some(expected))
    );
    assert_eq!(
        challenge(&["basic realm=\"x\""]),
        Ok(Some(Challenge::Basic))
    );
    assert_eq!(challenge(&["Negotiate"]), Ok(None));
    assert_eq!(challenge(&[]), Ok(None));
}

#[test]
fn realms_that_are_no_plain_urls_are_refused() {
    for realm in [
        "",
        "/token",
        "file:///etc/passwd",
        "https://u:p@h/",
        "https:///",
    ] {
        let answer = challenge(&[&format!("Bearer realm=\"{realm}\"")]);
        assert!(
            matches!(&answer, Err(why) if why.contains("realm")) || realm == "https:///",
            "{realm}: {answer:?}"
        );
    }
    let long = format!("Bearer realm=\"https://h/{}\"", "x".repeat(64 << 10));
    assert!(challenge(&[&long]).is_err());
}

#[test]
fn only_scopes_to_pull_are_taken_from_the_registry() {
    let scope = |scope: Option<&str>| {
        let Challenge::Bearer(bearer) = bearer("https://h/", None, scope) else {
            unreachable!()
        };
        bearer.scope("a/b")
    };
    assert_eq!(scope(None), "repository:a/b:pull");
    assert_eq!(
        scope(Some("repository:proxy/a/b:pull")),
        "repository:proxy/a/b:pull"
    );
    for other in [
        "",
        "repository:a/b:pull,push",
        "registry:catalog:*",
        "repository:a/b:pull repository:c:push",
    ] {
        assert_eq!(scope(Some(other)), "repository:a/b:pull", "{other}");
    }
}

#[test]
fn a_login_is_shown_to_realms_of_the_registrys_own_site_only() {
    let same = |registry: &str, realm: &str| {
        same_site(&Url::parse(registry).unwrap(), &Url::parse(realm).unwrap())
    };
    for (registry, realm) in [
        (
            "https://registry-1.docker.io/v2",
            "https://auth.docker.io/token",
        ),
        (
            "https://registry.gitlab.com/v2",
            "https://gitlab.com/jwt/auth",
        ),
        ("https://ghcr.io/v2", "https://ghcr.io/token"),
        (
            "https://mine.azurecr.io/v2",
            "https://mine.azurecr.io/oauth2/token",
        ),
        (
            "https://reg.example.co.uk/v2",
            "https://auth.example.co.uk/",
        ),
        ("http://10.0.0.5:5000/v2", "http://10.0.0.5:5001/token"),
        ("http://registry:5000/v2", "http://registry:5001/token"),
    ] {
        assert!(same(registry, realm), "{registry} {realm}");
    }
    for (registry, realm) in [
        (
            "https://registry-1.docker.io/v2",
            "https://auth.docker.io.evil.com/token",
        ),
        (
            "https://registry-1.docker.io/v2",
            "https://evildocker.io/token",
        ),
        (
            "https://registry-1.docker.io/v2",
            "http://auth.docker.io/token",
        ),
        (
            "https://mine.azurecr.io/v2",
            "https://evil.azurecr.io/oauth2/token",
        ),
        (
            "https://1.dkr.ecr.us-east-1.amazonaws.com/v2",
            "https://evil.s3.amazonaws.com/",
        ),
        ("https://reg.example.co.uk/v2", "https://evil.co.uk/"),
        ("https://reg.co.uk/v2", "https://evil.co.uk/"),
        ("http://10.0.0.5:5000/v2", "http://10.0.0.6:5000/token"),
        ("http://registry:5000/v2", "http://other:5000/token"),
        ("https://ghcr.io/v2", "https://quay.io/token"),
    ] {
        assert!(!same(registry, realm), "{registry} {realm}");
    }
}

proptest! {
    #[test]
    fn no_header_makes_reading_panic(text in "[ -~]{0,200}") {
        let _ = challenge(&[&text]);
        let _ = challenge(&[&format!("Bearer realm=\"{text}\"")]);
    }

    #[test]
    fn no_two_hosts_make_comparing_panic(a in "[a-z.]{1,30}", b in "[a-z.]{1,30}") {
        if let (Ok(a), Ok(b)) = (Url::parse(&format!("https://{a}/")), Url::parse(&format!("https://{b}/"))) {
            prop_assert_eq!(same_site(&a, &b), same_site(&b, &a));
            prop_assert!(same_site(&a, &a));
        }
    }
}
