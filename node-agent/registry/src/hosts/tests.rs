use std::fs;

use super::*;

/// The endpoints of `registry` where its `hosts.toml` is `text`, each in one line.
fn endpoints(registry: &str, dir: &str, text: &str) -> Result<Vec<String>, InvalidHosts> {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join(dir)).unwrap();
    fs::write(root.path().join(dir).join("hosts.toml"), text).unwrap();
    let hosts = HostsDir::open(root.path()).unwrap();
    let found = hosts.endpoints(registry, &HostPolicy::default())?;
    let show = |endpoint: &Endpoint| {
        let mut line = endpoint.url(registry, "a/b", "manifests/t").to_string();
        line += if endpoint.resolve { "" } else { " no-resolve" };
        line += if endpoint.pull { "" } else { " no-pull" };
        line + if endpoint.is_registry {
            " registry"
        } else {
            ""
        }
    };
    Ok(found.iter().map(show).collect())
}

#[test]
fn host_tables_come_in_the_order_of_the_file_then_the_server() {
    let text = r#"
        server = "https://registry-1.docker.io"
        [host."https://z.example"]
          capabilities = ["pull", "resolve"]
        [host."http://10.0.0.5:5000"]
          capabilities = ["pull"]
        [host."https://harbor.example/v2/hub-proxy"]
          override_path = true
        [host."https://a.example/some/path"]
    "#;
    assert_eq!(
        endpoints("docker.io", "docker.io", text).unwrap(),
        [
            "https://z.example/v2/a/b/manifests/t?ns=docker.io",
            "http://10.0.0.5:5000/v2/a/b/manifests/t?ns=docker.io no-resolve",
            "https://harbor.example/v2/hub-proxy/a/b/manifests/t?ns=docker.io",
            "https://a.example/some/path/v2/a/b/manifests/t?ns=docker.io",
            "https://registry-1.docker.io/v2/a/b/manifests/t registry",
        ]
    );
}

#[test]
fn a_registry_without_file_is_itself_and_default_stands_for_all_others() {
    let mirror = "[host.\"https://m.example\"]";
    assert_eq!(
        endpoints("ghcr.io", "docker.io", mirror).unwrap(),
        ["https://ghcr.io/v2/a/b/manifests/t registry"]
    );
    assert_eq!(
        endpoints("ghcr.io", "_default", mirror).unwrap(),
        [
            "https://m.example/v2/a/b/manifests/t?ns=ghcr.io",
            "https://ghcr.io/v2/a/b/manifests/t registry",
        ]
    );
    assert_eq!(
        endpoints("reg.local:5000", "reg.local_5000_", mirror).unwrap()[0],
        "https://m.example/v2/a/b/manifests/t?ns=reg.local%3A5000"
    );
    let missing = HostsDir::open(Path::new("/nonexistent/certs.d")).unwrap();
    let policy = HostPolicy::default();
    assert_eq!(missing.endpoints("ghcr.io", &policy).unwrap().len(), 1);
}

#[test]
fn a_broken_file_is_an_error_of_its_registry_alone_and_says_where() {
    for (text, word) in [
        ("server = 7", "server must be a URL"),
        ("[host", "is not TOML"),
        ("[host.\"ftp://m\"]", "not an http or https URL"),
        ("[host.\"https://u:p@m\"]", "not an http or https URL"),
        ("[host.\"https://m\"]\ncapabilities = 7", "capabilities"),
        (
            "[host.\"https://m\"]\nskip_verify = \"yes\"",
            "skip_verify must be true or false",
        ),
        ("[host.\"https://m\"]\nca = \"gone.pem\"", "gone.pem"),
        ("[host.\"https://m\".header]\n\"a b\" = \"x\"", "header"),
    ] {
        let error = endpoints("r.io", "r.io", text).unwrap_err().to_string();
        assert!(
            error.contains(word) && error.contains("r.io/hosts.toml"),
            "{error}"
        );
        assert!(endpoints("other.io", "r.io", text).is_ok());
    }
}

#[test]
fn what_is_named_may_be_private_and_only_what_is_written_http_speaks_it() {
    let root = tempfile::tempdir().unwrap();
    for dir in ["docker.io", "10.0.0.9:5000", "bundle.example"] {
        fs::create_dir(root.path().join(dir)).unwrap();
    }
    let text = r#"
        [host."http://10.0.0.5:5000"]
        [host."https://mirror.local"]
          ca = "own.pem"
          skip_verify = true
    "#;
    fs::write(root.path().join("docker.io/hosts.toml"), text).unwrap();
    fs::write(root.path().join("docker.io/own.pem"), "pem").unwrap();
    fs::write(root.path().join("bundle.example/ca.crt"), "crt").unwrap();
    let mut policy = HostPolicy::default();
    HostsDir::open(root.path()).unwrap().allow(&mut policy);
    let plain: Vec<_> = policy
        .plain_http
        .iter()
        .map(|h| (h.host.as_str(), h.port))
        .collect();
    assert_eq!(plain, [("10.0.0.5", Some(5000))]);
    let private = |host: &str| policy.private_hosts.iter().any(|known| known.host == host);
    assert!(private("10.0.0.5") && private("mirror.local") && private("10.0.0.9"));
    assert!(!private("10.0.0.6"));
    let mut roots = policy.extra_roots_pem.clone();
    roots.sort();
    assert_eq!(roots, [b"crt".to_vec(), b"pem".to_vec()]);
}

#[test]
fn a_registry_that_may_speak_plain_http_does() {
    let mut policy = HostPolicy::default();
    policy.trust_plain_http(HostPort::parse("reg.local:5000").unwrap());
    let base = |registry: &str| {
        let endpoints = HostsDir::default().endpoints(registry, &policy).unwrap();
        endpoints[0].base.to_string()
    };
    assert_eq!(base("reg.local:5000"), "http://reg.local:5000/v2");
    assert_eq!(base("reg.local:5001"), "https://reg.local:5001/v2");
    assert_eq!(base("docker.io"), "https://registry-1.docker.io/v2");
}
