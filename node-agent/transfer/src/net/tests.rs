//! The policy on its own; over real sockets it is proven in `tests/faults.rs`.

use super::*;

fn policy() -> HostPolicy {
    HostPolicy::default()
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

#[test]
fn private_addresses_are_refused_in_every_notation() {
    for host in [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "[::1]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "2852039166",
        "0x7f.1",
    ] {
        let refused = policy().check_url(&url(&format!("https://{host}/x")));
        assert!(
            matches!(refused, Err(NetError::PrivateAddress { .. })),
            "{host}: {refused:?}"
        );
    }
    assert!(policy().check_url(&url("https://93.184.216.34/")).is_ok());
    assert!(
        policy()
            .check_url(&url("https://[2606:4700::1111]/"))
            .is_ok()
    );
}

#[test]
fn plain_http_and_private_hosts_are_allowed_by_name_and_port() {
    let mut policy = policy();
    policy.trust_plain_http(HostPort::parse("127.0.0.1:5000").unwrap());
    assert!(policy.check_url(&url("http://127.0.0.1:5000/v2/")).is_ok());
    assert!(policy.check_url(&url("http://127.0.0.1:5001/v2/")).is_err());
    assert!(policy.check_url(&url("http://example.com/")).is_err());
    assert!(policy.check_url(&url("ftp://127.0.0.1:5000/")).is_err());
}

#[test]
fn hosts_are_read_with_and_without_port_and_brackets() {
    let parsed = |text| HostPort::parse(text).map(|h| (h.host, h.port));
    assert_eq!(parsed("ghcr.io"), Some(("ghcr.io".into(), None)));
    assert_eq!(parsed("ghcr.io:80"), Some(("ghcr.io".into(), Some(80))));
    assert_eq!(parsed("[::1]:5000"), Some(("::1".into(), Some(5000))));
    assert_eq!(parsed("a/b"), None);
    assert_eq!(parsed("u@h"), None);
}

#[test]
fn a_url_is_shown_without_what_signs_it() {
    let shown = NetError::shown(&url("https://user:pw@cdn.example/a?Signature=secret#frag"));
    assert_eq!(shown, "https://cdn.example/a");
}
