use super::*;
use crate::image::Recipe;
use crate::serve::{Fault, When};
use crate::testing::{Answer, get};

async fn registry(options: Options) -> (Registry, Image) {
    let registry = Registry::start(options).await.unwrap();
    let image = Image::make(&Recipe::trees(1, 2, 200_000)).unwrap();
    registry.put("org/app", "v1", &image);
    (registry, image)
}

async fn ask(registry: &Registry, path: &str, authorization: &str) -> Answer {
    let url = format!("{}{path}", registry.endpoint());
    match authorization {
        "" => get(&url, &[]).await,
        value => get(&url, &[("authorization", value)]).await,
    }
}

fn account() -> Account {
    let (user, password) = ("ada".to_owned(), "secret".to_owned());
    Account { user, password }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn an_image_is_found_by_tag_and_digest_with_all_its_blobs() {
    let (registry, image) = registry(Options::default()).await;
    assert_eq!(ask(&registry, "/v2/", "").await.status, 200);
    let digest = image.digest().prefixed();
    for reference in ["v1", &digest] {
        let answer = ask(&registry, &format!("/v2/org/app/manifests/{reference}"), "").await;
        assert_eq!(answer.header("docker-content-digest"), digest);
        assert_eq!(
            answer.header("content-type"),
            "application/vnd.oci.image.manifest.v1+json"
        );
        let manifest = answer.json();
        let layers = manifest["layers"].as_array().unwrap();
        for part in layers.iter().chain([&manifest["config"]]) {
            let named = part["digest"].as_str().unwrap();
            let blob = ask(&registry, &format!("/v2/org/app/blobs/{named}"), "").await;
            assert_eq!(
                Content::from(blob.body.to_vec())
                    .sha256()
                    .unwrap()
                    .prefixed(),
                named
            );
            assert_eq!(part["size"], blob.body.len());
        }
    }
    let tags = ask(&registry, "/v2/org/app/tags/list", "").await.json();
    assert_eq!(tags["tags"], json!(["v1"]));
    for (path, code) in [
        ("/v2/org/app/manifests/v2", "MANIFEST_UNKNOWN"),
        ("/v2/org/other/manifests/v1", "NAME_UNKNOWN"),
        ("/v2/org/app/blobs/sha256:00", "BLOB_UNKNOWN"),
    ] {
        let answer = ask(&registry, path, "").await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.json()["errors"][0]["code"], code);
    }
}

#[tokio::test]
async fn a_blob_comes_in_ranges_directly_or_from_the_other_origin() {
    for cdn in [None, Some(Door::default())] {
        let has_cdn = cdn.is_some();
        let (registry, image) = registry(Options {
            cdn,
            ..Options::default()
        })
        .await;
        let layer = image.blobs.last().unwrap();
        let mut url = format!(
            "{}/v2/org/app/blobs/{}",
            registry.endpoint(),
            layer.digest.prefixed()
        );
        if has_cdn {
            let redirect = get(&url, &[]).await;
            assert_eq!(redirect.status, 307);
            url = redirect.header("location").to_owned();
            assert!(url.starts_with(&registry.cdn_endpoint().unwrap()));
        }
        let part = get(&url, &[("range", "bytes=10-19")]).await;
        assert_eq!(
            (part.status, part.body),
            (206, layer.content.read_at(10, 10).unwrap())
        );
        if has_cdn {
            assert_eq!(
                get(&url, &[("authorization", "Bearer x")]).await.status,
                400
            );
            assert_eq!(registry.violations().len(), 1);
            registry.expire_links();
            assert_eq!(get(&url, &[]).await.status, 403);
        }
    }
}

#[tokio::test]
async fn a_password_opens_a_registry_that_wants_one() {
    let auth = Auth::Basic(account());
    let (registry, _) = registry(Options {
        auth,
        ..Options::default()
    })
    .await;
    let path = "/v2/org/app/manifests/v1";
    let refused = ask(&registry, path, "").await;
    assert_eq!(
        (refused.status, refused.header("www-authenticate")),
        (401, "Basic realm=\"testbed\"")
    );
    assert_eq!(
        ask(&registry, path, &basic("ada", "wrong")).await.status,
        401
    );
    assert_eq!(
        ask(&registry, path, &basic("ada", "secret")).await.status,
        200
    );
}

#[tokio::test]
async fn a_token_of_the_realm_opens_the_repository_it_is_for_until_it_expires() {
    for realm in [None, Some(Door::default())] {
        let lifetime = Duration::from_secs(60);
        let auth = Auth::Bearer {
            account: Some(account()),
            realm,
            lifetime,
        };
        let (registry, _) = registry(Options {
            auth,
            ..Options::default()
        })
        .await;
        let path = "/v2/org/app/manifests/v1";
        let refused = ask(&registry, path, "").await;
        assert_eq!(refused.status, 401);
        let challenge = refused.header("www-authenticate").to_owned();
        let part = |name: &str| {
            let after = challenge.split(&format!("{name}=\"")).nth(1).unwrap();
            after.split('"').next().unwrap().to_owned()
        };
        assert_eq!(part("scope"), "repository:org/app:pull");
        let origin = registry
            .realm_endpoint()
            .unwrap_or_else(|| registry.endpoint());
        assert_eq!(part("realm"), format!("{origin}/token"));
        let ask_token = format!("{}?service=testbed&scope={}", part("realm"), part("scope"));
        assert_eq!(get(&ask_token, &[]).await.status, 401);
        let granted = get(&ask_token, &[("authorization", &basic("ada", "secret"))])
            .await
            .json();
        let bearer = format!("Bearer {}", granted["token"].as_str().unwrap());
        assert_eq!(ask(&registry, path, &bearer).await.status, 200);
        assert_eq!(
            ask(&registry, "/v2/org/other/manifests/v1", &bearer)
                .await
                .status,
            401
        );
        assert_eq!(
            ask(&registry, path, &format!("{bearer}0")).await.status,
            401
        );
    }
    let auth = Auth::Bearer {
        account: None,
        realm: None,
        lifetime: Duration::ZERO,
    };
    let (registry, _) = registry(Options {
        auth,
        ..Options::default()
    })
    .await;
    let url = format!(
        "{}/token?scope=repository:org/app:pull",
        registry.endpoint()
    );
    let bearer = format!(
        "Bearer {}",
        get(&url, &[]).await.json()["token"].as_str().unwrap()
    );
    assert_eq!(
        ask(&registry, "/v2/org/app/manifests/v1", &bearer)
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn a_fault_hits_the_blob_it_is_for() {
    let (registry, image) = registry(Options::default()).await;
    let named = image.blobs.last().unwrap().digest.prefixed();
    registry
        .faults()
        .add(When::path(&named).times(1), Fault::Status(500));
    let path = format!("/v2/org/app/blobs/{named}");
    assert_eq!(
        ask(&registry, "/v2/org/app/manifests/v1", "").await.status,
        200
    );
    assert_eq!(ask(&registry, &path, "").await.status, 500);
    assert_eq!(ask(&registry, &path, "").await.status, 200);
}
