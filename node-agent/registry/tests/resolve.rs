//! Resolving and fetching images from registries over real sockets.
#![allow(clippy::unwrap_used, reason = "in a test, unwrapping is failing")]

use headstart_registry::{
    Compression, HostsDir, Keychain, Platform, Registries, ResolveError, Resolved, Secret,
};
use headstart_transfer::net::{HostPolicy, Http};
use serde_json::{Value, json};

use server::{Auth, Put, Server};

#[path = "resolve/layers.rs"]
mod layers;
#[path = "resolve/logins.rs"]
mod logins;
#[path = "resolve/mirrors.rs"]
mod mirrors;
#[path = "resolve/refusals.rs"]
mod refusals;
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
