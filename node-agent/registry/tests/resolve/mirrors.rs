//! Mirrors by `hosts.toml`: asked first, trusted with nothing.

use headstart_registry::{HostsDir, Keychain, Registries, Secret};
use headstart_transfer::net::Http;

use crate::layers::fetch_layers;
use crate::server::{Auth, Server};
use crate::{login, put_image, resolve, token_auth};

/// A certs.d in which `registry` has these mirrors, each with an extra line.
fn hosts(registry: &str, mirrors: &[(&Server, &str)]) -> (tempfile::TempDir, HostsDir) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(registry);
    std::fs::create_dir(&dir).unwrap();
    let mut text = String::new();
    for (server, extra) in mirrors {
        text += &format!("[host.\"http://{}\"]\n{extra}\n", server.address);
    }
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
    let hosts = HostsDir::open(root.path()).unwrap();
    (root, hosts)
}

fn mirrored(registry: &Server, hosts: HostsDir, keychain: Keychain) -> Registries {
    let mut policy = Server::policy(&[registry]);
    hosts.allow(&mut policy);
    Registries::new(Http::new(policy).unwrap(), hosts, keychain)
}

#[tokio::test]
async fn mirrors_are_asked_in_the_order_of_the_file_then_the_registry() {
    let registry = Server::start().await;
    let (first, second) = (Server::start().await, Server::start().await);
    put_image(&registry, "v1", "amd64");
    put_image(&second, "v1", "amd64");
    // Which of the two is named first must not depend on the alphabet.
    for (first, second) in [(&first, &second), (&second, &first)] {
        let (_root, hosts) = hosts(&registry.address, &[(first, ""), (second, "")]);
        let registries = mirrored(&registry, hosts, Keychain::default());
        let before = first.log().len();
        resolve(&registries, &registry, ":v1").await.unwrap();
        assert!(first.log().len() > before);
    }
    assert!(second.log()[0].query.contains("ns=127.0.0.1%3A"));
    // The registry is asked only whether it gives the image to anybody.
    assert!(registry.log().iter().all(|seen| seen.method == "HEAD"));
    second.with(|content| content.manifests.clear());
    let (_root, hosts) = hosts(&registry.address, &[(&first, ""), (&second, "")]);
    let registries = mirrored(&registry, hosts, Keychain::default());
    resolve(&registries, &registry, ":v1").await.unwrap();
    let error = resolve(&registries, &registry, ":v2").await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&first.address) && text.contains(&second.address),
        "{text}"
    );
}

#[tokio::test]
async fn a_mirror_sees_neither_the_registrys_login_nor_another_mirrors_headers() {
    let registry = Server::start().await;
    let (first, second) = (Server::start().await, Server::start().await);
    put_image(&registry, "v1", "amd64");
    token_auth(&registry);
    for mirror in [&first, &second] {
        mirror.with(|content| content.auth = Auth::Basic);
    }
    let headers = format!(
        "[host.\"http://{}\".header]\nX-Secret = \"mine\"",
        first.address
    );
    let (_root, hosts) = hosts(&registry.address, &[(&first, &headers), (&second, "")]);
    let keychain = login(&registry.address, "ann", "secret-word");
    let registries = mirrored(&registry, hosts, keychain);
    resolve(&registries, &registry, ":v1").await.unwrap();
    assert!(
        first
            .log()
            .iter()
            .all(|seen| seen.x_secret.as_deref() == Some("mine"))
    );
    for other in [&second, &registry] {
        assert!(other.log().iter().all(|seen| seen.x_secret.is_none()));
    }
    for mirror in [&first, &second] {
        assert!(!mirror.log().is_empty());
        assert!(mirror.log().iter().all(|seen| seen.authorization.is_none()));
    }
}

#[tokio::test]
async fn a_mirrors_word_does_not_make_an_image_public() {
    let registry = Server::start().await;
    let mirror = Server::start().await;
    put_image(&registry, "v1", "amd64");
    put_image(&mirror, "v1", "amd64");
    token_auth(&registry);
    let (_root, hosts) = hosts(&registry.address, &[(&mirror, "")]);
    let registries = mirrored(&registry, hosts, Keychain::default());
    let resolved = resolve(&registries, &registry, ":v1").await.unwrap();
    assert!(matches!(resolved.secret, Secret::NeededFor { .. }));
    registry.with(|content| content.public.push("team/app".to_owned()));
    let resolved = resolve(&registries, &registry, ":v1").await.unwrap();
    assert_eq!(resolved.secret, Secret::Anonymous);
}

#[tokio::test]
async fn a_mirror_that_may_not_resolve_is_asked_for_digests_only() {
    let registry = Server::start().await;
    let mirror = Server::start().await;
    put_image(&registry, "v1", "amd64");
    put_image(&mirror, "v1", "amd64");
    let (_root, hosts) = hosts(&registry.address, &[(&mirror, "capabilities = [\"pull\"]")]);
    let registries = mirrored(&registry, hosts, Keychain::default());
    resolve(&registries, &registry, ":v1").await.unwrap();
    assert_eq!(mirror.asked("/manifests/"), 0);
    assert_eq!(mirror.asked("/blobs/"), 1);
}

#[tokio::test]
async fn a_layer_missing_at_a_mirror_comes_from_the_registry() {
    let registry = Server::start().await;
    let mirror = Server::start().await;
    put_image(&registry, "v1", "amd64");
    put_image(&mirror, "v1", "amd64");
    let (_root, hosts) = hosts(&registry.address, &[(&mirror, "")]);
    let mut policy = Server::policy(&[&registry]);
    hosts.allow(&mut policy);
    let registries = mirrored(&registry, hosts, Keychain::default());
    let resolved = resolve(&registries, &registry, ":v1").await.unwrap();
    mirror.with(|content| content.blobs.clear());
    fetch_layers(&registries, policy.clone(), &resolved)
        .await
        .unwrap();
    registry.with(|content| content.blobs.clear());
    let error = fetch_layers(&registries, policy, &resolved)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("has no blob") && text.contains(&registry.address),
        "{text}"
    );
}
