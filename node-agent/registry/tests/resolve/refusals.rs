//! Registries that lie, are busy or refuse, and images that are of no use.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use headstart_registry::{Keychain, ResolveError};
use headstart_transfer::net::HostPolicy;
use serde_json::json;

use crate::server::{Server, answer, answer_with};
use crate::{
    DOCKER, DOCKER_CONFIG, OCI, OCI_CONFIG, OCI_GZIP, OCI_INDEX, amd64, config_json, open,
    put_image, put_kind, registries, resolve,
};

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
