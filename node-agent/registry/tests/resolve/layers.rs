//! Layers, fetched by the engine from where a resolution says.

use std::sync::Arc;

use headstart_core::digest::Expected;
use headstart_registry::{Registries, Resolved};
use headstart_transfer::BootId;
use headstart_transfer::engine::{Engine, Limits};
use headstart_transfer::net::{HostPolicy, Http};
use headstart_transfer::source::Blob;

use crate::server::Server;
use crate::{layer_bytes, login, put_image, registries, resolve, token_auth};

/// Fetches all layers of `resolved` and checks that every byte is right.
pub(crate) async fn fetch_layers(
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
