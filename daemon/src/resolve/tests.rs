use headstart_registry::{HostsDir, Keychain};
use headstart_testbed::hub;
use headstart_testbed::image::{Image, Recipe};
use headstart_testbed::model::{self, Model};
use headstart_testbed::registry::{self, Registry};
use headstart_transfer::net::{HostPolicy, HostPort};

use super::*;
use crate::manifest::item;

fn resolver(endpoint: &str) -> Resolver {
    let mut policy = HostPolicy::default();
    policy.trust_plain_http(HostPort::parse("127.0.0.1").unwrap());
    let http = Http::new(policy).unwrap();
    let registries = Registries::new(http.clone(), HostsDir::default(), Keychain::default());
    Resolver::new(Origins {
        http,
        hub: Hub::new(endpoint.parse().unwrap(), None),
        registries,
        platform: Platform::host(),
    })
}

/// What an item is known as once it was asked for.
async fn known(resolver: &Resolver, item: &Item) -> Resolved {
    loop {
        if let Some(known) = resolver.look_up(item) {
            return known;
        }
        resolver.changed().await;
        assert_eq!(resolver.refusal(item), None);
    }
}

#[tokio::test]
async fn a_branch_is_pinned_to_its_commit_with_the_bytes_an_engine_reads() {
    let hub = hub::Hub::start(hub::Options::default()).await.unwrap();
    let files = Model::make(model::Recipe::default()).unwrap().files;
    let commit = hub.commit("acme/small", "main", files);
    let resolver = resolver(&hub.endpoint());
    let branch = item::model("hf://acme/small").unwrap();
    assert_eq!(
        resolver.look_up(&branch),
        None,
        "nobody waits for an answer"
    );
    let found = known(&resolver, &branch).await;
    let pinned = item::model(&format!("hf://acme/small@{commit}")).unwrap();
    assert_eq!(found.item, pinned);
    assert!(found.size.transfer > 0 && found.size.basis == Basis::Known);
    assert_eq!(known(&resolver, &pinned).await, found);
}

#[tokio::test]
async fn a_tag_is_pinned_to_its_digest_with_the_bytes_of_its_layers() {
    let registry = Registry::start(registry::Options::default()).await.unwrap();
    let image = Image::make(&Recipe::trees(3, 2, 100_000)).unwrap();
    let (bytes, target) = (image.bytes(), image.manifests.last().unwrap());
    let digest = target.digest;
    registry.put("acme/engine", "v1", &image);
    let resolver = resolver("https://hub.invalid");
    let tag = item::image(&format!("{}/acme/engine:v1", registry.host())).unwrap();
    let found = known(&resolver, &tag).await;
    let Item::Image { pin, .. } = &found.item else {
        panic!("{found:?}");
    };
    assert_eq!(*pin, Pin::To(digest));
    assert!(found.size.transfer <= bytes && found.size.largest_layer > 0);
}

#[tokio::test]
async fn what_is_not_there_is_said_with_the_reason() {
    let hub = hub::Hub::start(hub::Options::default()).await.unwrap();
    let resolver = resolver(&hub.endpoint());
    let nothing = item::model("hf://acme/nothing").unwrap();
    assert_eq!(resolver.look_up(&nothing), None);
    resolver.changed().await;
    let said = resolver.refusal(&nothing).unwrap();
    assert!(said.contains("acme/nothing"), "{said}");
}
