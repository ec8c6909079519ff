//! Resolving and fetching images from registries over real sockets.
#![allow(clippy::unwrap_used, reason = "in a test, unwrapping is failing")]

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use headstart_core::digest::Expected;
use headstart_registry::{
    Compression, HostsDir, Keychain, Platform, Registries, ResolveError, Resolved, Secret,
};
use headstart_transfer::BootId;
use headstart_transfer::engine::{Engine, Limits};
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use headstart_transfer::source::Blob;
use serde_json::{Value, json};

use server::{Auth, Put, Server, answer, answer_with};

mod server;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Puts an image of two layers for `architecture` under `name`.
fn put_image(server: &Server, name: &str, architecture: &str) -> Put {
    put_kind(server, name, architecture, OCI, OCI_CONFIG, OCI_GZIP)
}

fn put_kind(
    server: &Server,
    name: &str,
    architecture: &str,
    manifest: &str,
    config: &str,
    layer: &str,
) -> Put {
    let low = server.put_blob(layer, layer_bytes(1));
    let high = server.put_blob(layer, layer_bytes(2));
    let config = server.put_blob(config, config_json(architecture, 2).to_string());
    let json = json!({
        "schemaVersion": 2,
        "mediaType": manifest,
        "config": config.json(),
        "layers": [low.json(), high.json()],
    });
    server.put_manifest(name, manifest, &json)
}

fn layer_bytes(seed: usize) -> Vec<u8> {
    (0..300_000)
        .map(|i| (i * 7 + seed * 131 + i / 256) as u8)
        .collect()
}

fn config_json(architecture: &str, layers: usize) -> Value {
    let diff_id = |index| format!("sha256:{index:064x}");
    let diff_ids: Vec<String> = (0..layers).map(diff_id).collect();
    json!({
        "architecture": architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn registries(policy: HostPolicy, keychain: Keychain) -> Registries {
    Registries::new(Http::new(policy).unwrap(), HostsDir::default(), keychain)
}

fn open(server: &Server) -> Registries {
    registries(Server::policy(&[server]), Keychain::default())
}

fn login(address: &str, user: &str, password: &str) -> Keychain {
    let json = json!({"auths": {address: {"username": user, "password": password}}});
    Keychain::read(json.to_string().as_bytes(), "test.json").unwrap()
}

async fn resolve(
    registries: &Registries,
    server: &Server,
    name: &str,
) -> Result<Resolved, ResolveError> {
    let image = format!("{}/team/app{name}", server.address);
    registries.resolve(&image.parse().unwrap(), &amd64()).await
}

fn token_auth(server: &Server) {
    server.with(|content| {
        content.auth = Auth::Token {
            realm: format!("http://{}/token", server.address),
        };
        content.user = "ann:secret-word".to_owned();
        content.refresh_token = "refresh-word".to_owned();
    });
}

#[tokio::test]
async fn an_oci_image_resolves_to_verified_documents_and_layers() {
    let server = Server::start().await;
    let put = put_image(&server, "v1", "amd64");
    let resolved = resolve(&open(&server), &server, ":v1").await.unwrap();
    assert_eq!(resolved.target.digest.prefixed(), put.digest);
    assert_eq!(resolved.manifest.descriptor, resolved.target);
    assert!(resolved.indexes.is_empty());
    assert_eq!(resolved.secret, Secret::Anonymous);
    assert_eq!(resolved.layers.len(), 2);
    assert_eq!(resolved.layer_bytes(), 600_000);
    assert_eq!(resolved.layers[1].compression, Compression::Gzip);
    assert_eq!(resolved.layers[0].diff_id, resolved.layers[0].chain_id);
    assert_ne!(resolved.layers[1].diff_id, resolved.layers[1].chain_id);
    assert_eq!(
        resolved.pinned().to_string(),
        format!("{}/team/app@{}", server.address, put.digest)
    );
    // By its digest it is the same.
    let name = format!("@{}", put.digest);
    let again = resolve(&open(&server), &server, &name).await.unwrap();
    assert_eq!(again.config, resolved.config);
}

#[tokio::test]
async fn a_docker_schema_2_list_resolves_like_an_index() {
    let server = Server::start().await;
    let image = put_kind(&server, "x", "amd64", DOCKER, DOCKER_CONFIG, DOCKER_GZIP);
    let arm = put_kind(&server, "y", "arm64", DOCKER, DOCKER_CONFIG, DOCKER_GZIP);
    let json = json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_LIST,
        "manifests": [arm.for_platform("linux", "arm64"), image.for_platform("linux", "amd64")],
    });
    let list = server.put_manifest("v1", DOCKER_LIST, &json);
    let resolved = resolve(&open(&server), &server, ":v1").await.unwrap();
    assert_eq!(resolved.target.digest.prefixed(), list.digest);
    assert_eq!(resolved.indexes.len(), 1);
    assert_eq!(resolved.manifest.descriptor.digest.prefixed(), image.digest);
}

#[tokio::test]
async fn an_index_gives_the_platforms_image_and_passes_over_attestations() {
    let server = Server::start().await;
    let amd = put_image(&server, "a", "amd64");
    let arm = put_image(&server, "b", "arm64");
    let mut attestation = amd.for_platform("unknown", "unknown");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let json = json!({
        "schemaVersion": 2,
        "manifests": [attestation, amd.for_platform("linux", "amd64"), arm.for_platform("linux", "arm64")],
    });
    let inner = server.put_manifest("inner", OCI_INDEX, &json);
    let nested = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [inner.json()]});
    let nested = server.put_manifest("nested", OCI_INDEX, &nested);
    let deeper = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [nested.json()]});
    server.put_manifest("deeper", OCI_INDEX, &deeper);

    let registries = open(&server);
    let at = |tag: &str| {
        format!("{}/team/app:{tag}", server.address)
            .parse()
            .unwrap()
    };
    let arm64: Platform = "linux/arm64/v8".parse().unwrap();
    let resolved = registries.resolve(&at("inner"), &arm64).await.unwrap();
    assert_eq!(resolved.manifest.descriptor.digest.prefixed(), arm.digest);
    let resolved = registries.resolve(&at("nested"), &amd64()).await.unwrap();
    assert_eq!(resolved.manifest.descriptor.digest.prefixed(), amd.digest);
    assert_eq!(resolved.indexes.len(), 2);
    let error = registries
        .resolve(&at("deeper"), &amd64())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("nested"), "{error}");
    let s390x: Platform = "linux/s390x".parse().unwrap();
    let error = registries.resolve(&at("inner"), &s390x).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("linux/s390x; it has linux/amd64, linux/arm64:"),
        "{error}"
    );
}

#[tokio::test]
async fn an_image_of_another_platform_is_refused_without_an_index_too() {
    let server = Server::start().await;
    put_image(&server, "v1", "s390x");
    let error = resolve(&open(&server), &server, ":v1").await.unwrap_err();
    assert!(matches!(error, ResolveError::Platform { .. }), "{error}");
}

#[tokio::test]
async fn a_token_is_fetched_once_with_the_login_and_the_login_goes_nowhere_else() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    let keychain = login(&server.address, "ann", "secret-word");
    let registries = registries(Server::policy(&[&server]), keychain);
    let (a, b) = tokio::join!(
        resolve(&registries, &server, ":v1"),
        resolve(&registries, &server, ":v1")
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    let repository = format!("{}/team/app", server.address);
    assert_eq!(a.secret, Secret::NeededFor { repository });
    assert_eq!(a.secret, b.secret);
    let log = server.log();
    let with_login = |path: &str| {
        let basic = |seen: &&server::Seen| {
            seen.path.starts_with(path)
                && seen
                    .authorization
                    .as_ref()
                    .is_some_and(|a| a.starts_with("Basic"))
        };
        log.iter().filter(basic).count()
    };
    assert_eq!(with_login("/token"), 1);
    assert_eq!(with_login("/v2"), 0);
}

#[tokio::test]
async fn a_token_is_used_until_it_runs_out_and_renewed_before_it_is_refused() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    let logins = login(&server.address, "ann", "secret-word");
    let with_login = |server: &Server| {
        let tokens = server
            .log()
            .into_iter()
            .filter(|seen| seen.path == "/token");
        tokens.filter(|seen| seen.authorization.is_some()).count()
    };
    let long = registries(Server::policy(&[&server]), logins.clone());
    for _ in 0..3 {
        resolve(&long, &server, ":v1").await.unwrap();
    }
    assert_eq!(with_login(&server), 1);
    // The server takes these tokens for ever: only their announced life makes for new ones.
    server.with(|content| content.token_life = Some(1));
    let short = registries(Server::policy(&[&server]), logins);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while with_login(&server) < 3 {
        assert!(std::time::Instant::now() < deadline);
        resolve(&short, &server, ":v1").await.unwrap();
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_in_a_form_and_never_in_a_url() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    let json = json!({"auths": {&server.address: {"identitytoken": "refresh-word"}}});
    let keychain = Keychain::read(json.to_string().as_bytes(), "test.json").unwrap();
    let registries = registries(Server::policy(&[&server]), keychain);
    resolve(&registries, &server, ":v1").await.unwrap();
    assert!(
        server
            .log()
            .iter()
            .all(|seen| !seen.query.contains("refresh-word"))
    );
}

#[tokio::test]
async fn a_public_image_behind_tokens_is_known_to_be_public_whatever_login_is_used() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    server.with(|content| content.public.push("team/app".to_owned()));
    let right = login(&server.address, "ann", "secret-word");
    let stale = login(&server.address, "ann", "yesterday's");
    for keychain in [Keychain::default(), right, stale] {
        let registries = registries(Server::policy(&[&server]), keychain);
        let resolved = resolve(&registries, &server, ":v1").await.unwrap();
        assert_eq!(resolved.secret, Secret::Anonymous);
    }
}

#[tokio::test]
async fn basic_authentication_works_and_a_wrong_password_says_which_login_was_refused() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    server.with(|content| {
        content.auth = Auth::Basic;
        content.user = "ann:secret-word".to_owned();
    });
    let right = registries(
        Server::policy(&[&server]),
        login(&server.address, "ann", "secret-word"),
    );
    let resolved = resolve(&right, &server, ":v1").await.unwrap();
    assert!(matches!(resolved.secret, Secret::NeededFor { .. }));
    let wrong = right.with_keychain(login(&server.address, "ann", "guess"));
    let error = resolve(&wrong, &server, ":v1").await.unwrap_err();
    assert!(matches!(error, ResolveError::Unauthorized { .. }));
    let text = error.to_string();
    assert!(text.contains("refused the login from test.json"), "{text}");
    assert!(!text.contains("guess"), "{text}");
    let none = right.with_keychain(Keychain::default());
    let error = resolve(&none, &server, ":v1").await.unwrap_err();
    assert!(matches!(error, ResolveError::Unauthorized { .. }));
}

#[tokio::test]
async fn of_two_logins_for_one_registry_the_one_that_is_accepted_is_used() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    let mut keychain = login(&server.address, "bob", "wrong");
    keychain.extend(login(&server.address, "ann", "secret-word"));
    let registries = registries(Server::policy(&[&server]), keychain);
    resolve(&registries, &server, ":v1").await.unwrap();
}

#[tokio::test]
async fn a_realm_on_another_site_gets_no_login_and_the_error_says_how_to_allow_it() {
    let server = Server::start().await;
    let trap = Server::start().await;
    put_image(&server, "v1", "amd64");
    server.with(|content| {
        content.auth = Auth::Token {
            // Another name for the same machine is another host.
            realm: format!(
                "http://{}/token",
                trap.address.replace("127.0.0.1", "localhost")
            ),
        };
    });
    let mut policy = Server::policy(&[&server]);
    policy.trust_plain_http(HostPort::parse("localhost").unwrap());
    let keychain = login(&server.address, "ann", "secret-word");
    let registries = registries(policy, keychain);
    let error = resolve(&registries, &server, ":v1").await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("--trust-realm localhost:"), "{text}");
    // It was asked, without login, as anybody may.
    assert!(trap.asked("/token") > 0);
    let told: String = trap.secrets_seen().concat();
    assert!(
        !told.contains("Basic") && !told.contains("secret-word"),
        "{told}"
    );

    let host = HostPort::parse("localhost").unwrap();
    trap.with(|content| content.user = "ann:secret-word".to_owned());
    let trusting = registries.trust_realms(vec![host]);
    let _ = resolve(&trusting, &server, ":v1").await;
    assert!(trap.secrets_seen().concat().contains("Basic"));
}

#[tokio::test]
async fn hostile_realms_are_never_asked() {
    for realm in [
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "https://10.0.0.1/token".to_owned(),
        "ftp://127.0.0.1/token".to_owned(),
        "http://user:pw@127.0.0.1/token".to_owned(),
        format!("http://127.0.0.1/{}", "x".repeat(64 << 10)),
        "nonsense".to_owned(),
        String::new(),
    ] {
        let server = Server::start().await;
        put_image(&server, "v1", "amd64");
        server.with(|content| {
            content.auth = Auth::Token {
                realm: realm.clone(),
            }
        });
        let keychain = login(&server.address, "ann", "secret-word");
        let registries = registries(Server::policy(&[&server]), keychain);
        let error = resolve(&registries, &server, ":v1").await.unwrap_err();
        assert!(!error.is_transient(), "{realm:.60}: {error}");
    }
}

#[tokio::test]
async fn a_manifest_that_is_not_what_was_asked_for_is_refused() {
    let server = Server::start().await;
    let good = put_image(&server, "v1", "amd64");
    let other = Bytes::from(json!({"schemaVersion": 2}).to_string());
    server.with(|content| {
        let served = (OCI.to_owned(), other);
        content.manifests.insert(good.digest.clone(), served);
    });
    let name = format!("@{}", good.digest);
    let error = resolve(&open(&server), &server, &name).await.unwrap_err();
    assert!(
        matches!(
            error,
            ResolveError::Mismatch {
                what: "manifest",
                ..
            }
        ),
        "{error}"
    );
    // By tag the registry's own word is what it is held to.
    let lie = Response::builder()
        .header("content-type", OCI)
        .header("docker-content-digest", &good.digest)
        .body(Body::from("{}"))
        .unwrap();
    server.with(|content| content.faults.push_back(lie));
    let error = resolve(&open(&server), &server, ":v1").await.unwrap_err();
    assert!(
        matches!(
            error,
            ResolveError::Mismatch {
                what: "manifest",
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_config_that_is_not_what_the_manifest_names_is_refused() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    server.with(|content| {
        let configs = content.blobs.values_mut().filter(|b| b.starts_with(b"{"));
        configs.for_each(|bytes| *bytes = Bytes::from("{}"));
    });
    let error = resolve(&open(&server), &server, ":v1").await.unwrap_err();
    assert!(
        matches!(error, ResolveError::Mismatch { what: "config", .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_manifest_of_10_gb_is_refused_announced_or_endless() {
    let server = Server::start().await;
    let endless = || {
        let chunk = || Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 64 << 10]));
        Body::from_stream(futures_util::stream::repeat_with(chunk))
    };
    let announced = Response::builder()
        .header("content-length", "10737418240")
        .body(endless())
        .unwrap();
    server.with(|content| content.faults.push_back(announced));
    let error = resolve(&open(&server), &server, ":v1").await.unwrap_err();
    assert!(error.to_string().contains("10737418240 bytes"), "{error}");
    let unannounced = Response::new(endless());
    server.with(|content| content.faults.push_back(unannounced));
    let error = resolve(&open(&server), &server, ":v1").await.unwrap_err();
    assert!(
        matches!(error, ResolveError::TooLarge { length: None, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_as_late_as_it_asks_and_not_for_ever() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    server.with(|content| {
        content
            .faults
            .push_back(answer_with(429, "retry-after", "1"));
        content.faults.push_back(answer(503));
    });
    let start = std::time::Instant::now();
    resolve(&open(&server), &server, ":v1").await.unwrap();
    assert!(start.elapsed() >= std::time::Duration::from_secs(1));
    server.with(|content| {
        let fault = answer_with(429, "retry-after", "3600");
        content.faults.push_back(fault);
    });
    let error = resolve(&open(&server), &server, ":v1").await.unwrap_err();
    assert!(matches!(error, ResolveError::RateLimited { .. }), "{error}");
    assert!(error.to_string().contains("wait 3600 s"), "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let server = Server::start().await;
    let error = resolve(&open(&server), &server, ":nope").await.unwrap_err();
    assert!(matches!(error, ResolveError::NotFound { .. }), "{error}");
    server.with(|content| content.faults.push_back(answer(403)));
    let error = resolve(&open(&server), &server, ":nope").await.unwrap_err();
    assert!(matches!(error, ResolveError::Forbidden { .. }), "{error}");
    server.with(|content| content.faults.push_back(answer(401)));
    let error = resolve(&open(&server), &server, ":nope").await.unwrap_err();
    assert!(
        matches!(error, ResolveError::Unauthorized { .. }),
        "{error}"
    );
}

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

/// Fetches all layers of `resolved` and checks that every byte is right.
async fn fetch_layers(
    registries: &Registries,
    policy: HostPolicy,
    resolved: &Resolved,
) -> Result<(), headstart_transfer::FetchError> {
    let http = Http::new(policy).unwrap();
    let limits = Limits {
        connections: 2,
        patience: std::time::Duration::from_secs(20),
        ..Limits::default()
    };
    let engine = Engine::new(&http, limits, BootId::named("test")).unwrap();
    for layer in &resolved.layers {
        let blob = Blob {
            name: format!("layer {}", layer.index),
            size: layer.descriptor.size,
            expected: Expected::Sha256(layer.descriptor.digest),
            priority: 0.into(),
            sources: registries.sources(resolved, layer),
        };
        let bytes = engine.stream(&blob, Vec::new(), Arc::default()).await?;
        assert_eq!(bytes, layer_bytes(layer.index + 1));
    }
    Ok(())
}

#[tokio::test]
async fn the_engine_fetches_layers_and_renews_tokens_that_stop_working() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    let policy = Server::policy(&[&server]);
    let keychain = login(&server.address, "ann", "secret-word");
    let registries = registries(policy.clone(), keychain);
    let resolved = resolve(&registries, &server, ":v1").await.unwrap();
    server.with(|content| content.tokens.clear());
    fetch_layers(&registries, policy, &resolved).await.unwrap();
}

#[tokio::test]
async fn a_cdn_gets_no_credential_and_may_forget_a_signature() {
    let server = Server::start().await;
    let cdn = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    let policy = Server::policy(&[&server, &cdn]);
    let keychain = login(&server.address, "ann", "secret-word");
    let registries = registries(policy.clone(), keychain);
    let resolved = resolve(&registries, &server, ":v1").await.unwrap();
    let blobs = server.with(|content| content.blobs.clone());
    cdn.with(|content| content.blobs = blobs);
    server.with(|content| content.cdn = Some(format!("http://{}", cdn.address)));
    fetch_layers(&registries, policy, &resolved).await.unwrap();
    assert!(cdn.asked("/cdn/") >= 2);
    assert!(cdn.log().iter().all(|seen| seen.authorization.is_none()));
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

#[tokio::test]
async fn images_that_cannot_be_used_are_refused_with_a_word() {
    let server = Server::start().await;
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    put_kind(&server, "foreign", "amd64", DOCKER, DOCKER_CONFIG, foreign);
    put_kind(
        &server,
        "helm",
        "amd64",
        OCI,
        "application/vnd.cncf.helm.config.v1+json",
        OCI_GZIP,
    );
    let schema_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    server.put_manifest(
        "old",
        schema_1,
        &json!({"schemaVersion": 1, "fsLayers": []}),
    );
    let both = json!({"schemaVersion": 2, "manifests": [], "layers": []});
    server.put_manifest("both", OCI_INDEX, &both);
    let config = server.put_blob(OCI_CONFIG, config_json("amd64", 3).to_string());
    let layers = json!({"schemaVersion": 2, "config": config.json(), "layers": []});
    server.put_manifest("uneven", OCI, &layers);
    for (tag, word) in [
        ("foreign", "foreign layer"),
        ("helm", "not a container image"),
        ("old", "schema 1"),
        ("both", "at once"),
        ("uneven", "0 layers and its config names 3"),
    ] {
        let error = resolve(&open(&server), &server, &format!(":{tag}"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(word), "{tag}: {error}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn a_registry_at_a_private_address_is_refused_unless_it_is_allowed() {
    let registries = registries(HostPolicy::default(), Keychain::default());
    let image = "169.254.169.254/latest/meta-data".parse().unwrap();
    let error = registries.resolve(&image, &amd64()).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("private address"), "{source}");
}
