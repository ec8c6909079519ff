use oci_client::manifest::{
    IMAGE_LAYER_NONDISTRIBUTABLE_GZIP_MEDIA_TYPE, IMAGE_LAYER_NONDISTRIBUTABLE_MEDIA_TYPE,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn manifest_with(layer: &str, digest: &str, size: i64) -> Value {
    json!({
        "schemaVersion": 2,
        "config": {"mediaType": IMAGE_CONFIG_MEDIA_TYPE, "digest": DIGEST, "size": 2},
        "layers": [{"mediaType": layer, "digest": digest, "size": size, "urls": ["http://169.254.169.254/"]}],
    })
}

fn read(json: &Value) -> Result<Document, Problem> {
    let bytes = json.to_string().into_bytes();
    let media_type = media_type(&bytes, None)?;
    document(&bytes, &media_type)
}

#[test]
fn layers_of_every_supported_type_are_read() {
    for (media_type, expected) in [
        (IMAGE_LAYER_MEDIA_TYPE, Compression::None),
        (IMAGE_LAYER_GZIP_MEDIA_TYPE, Compression::Gzip),
        (IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE, Compression::Gzip),
        (LAYER_ZSTD, Compression::Zstd),
    ] {
        let Ok(Document::Image(image)) = read(&manifest_with(media_type, DIGEST, 9)) else {
            panic!("{media_type}")
        };
        assert_eq!(image.layers[0].1, expected);
        assert_eq!(image.layers[0].0.size, 9);
    }
}

#[test]
fn other_layers_are_refused_with_a_word() {
    for (media_type, word) in [
        (IMAGE_LAYER_NONDISTRIBUTABLE_MEDIA_TYPE, "foreign"),
        (IMAGE_LAYER_NONDISTRIBUTABLE_GZIP_MEDIA_TYPE, "foreign"),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "encrypted",
        ),
        (
            "application/vnd.wasm.content.layer.v1+wasm",
            "no file system layer",
        ),
    ] {
        let problem = read(&manifest_with(media_type, DIGEST, 9)).unwrap_err();
        assert!(
            matches!(&problem, Problem::Unsupported(text) if text.contains(word)),
            "{problem:?}"
        );
    }
}

#[test]
fn sizes_and_digests_that_cannot_be_are_refused() {
    let gzip = IMAGE_LAYER_GZIP_MEDIA_TYPE;
    assert!(matches!(
        read(&manifest_with(gzip, DIGEST, -1)),
        Err(Problem::Invalid(_))
    ));
    for digest in ["", "sha256:", "sha512:00", &DIGEST[7..], "../../etc/passwd"] {
        assert!(
            matches!(
                read(&manifest_with(gzip, digest, 1)),
                Err(Problem::Invalid(_))
            ),
            "{digest}"
        );
    }
}

#[test]
fn too_many_layers_are_refused() {
    let mut json = manifest_with(IMAGE_LAYER_GZIP_MEDIA_TYPE, DIGEST, 1);
    let layer = json["layers"][0].clone();
    json["layers"] = Value::Array(vec![layer; MAX_LAYERS + 1]);
    assert!(matches!(read(&json), Err(Problem::Unsupported(_))));
}

#[test]
fn what_a_document_says_it_is_must_agree_with_how_it_was_served() {
    let bytes = |json: Value| json.to_string().into_bytes();
    let own = bytes(json!({"mediaType": OCI_IMAGE_MEDIA_TYPE}));
    assert_eq!(
        media_type(&own, Some("application/json")),
        Ok(OCI_IMAGE_MEDIA_TYPE.into())
    );
    let charset = format!("{OCI_IMAGE_MEDIA_TYPE}; charset=utf-8");
    assert_eq!(
        media_type(&own, Some(&charset)),
        Ok(OCI_IMAGE_MEDIA_TYPE.into())
    );
    assert!(media_type(&own, Some(OCI_IMAGE_INDEX_MEDIA_TYPE)).is_err());
    let bare = bytes(json!({"manifests": []}));
    assert_eq!(
        media_type(&bare, None),
        Ok(OCI_IMAGE_INDEX_MEDIA_TYPE.into())
    );
    assert_eq!(
        media_type(&bare, Some(IMAGE_MANIFEST_LIST_MEDIA_TYPE)),
        Ok(IMAGE_MANIFEST_LIST_MEDIA_TYPE.into())
    );
    assert!(media_type(&bytes(json!({"manifests": [], "config": {}})), None).is_err());
    assert!(media_type(b"<html>", None).is_err());
    assert!(document(b"{}", "text/html").is_err());
}

#[test]
fn what_a_config_says_is_not_repeated_when_it_cannot_be_read() {
    let platform = r#""architecture": "amd64", "os": "linux""#;
    let hex = "hunter2".repeat(9);
    for (text, says) in [
        (
            format!(r#"{{{platform}, "rootfs": {{"diff_ids": "hunter2"}}}}"#),
            "line 1 column",
        ),
        (
            format!(r#"{{{platform}, "rootfs": {{"diff_ids": ["sha256:{hex}"]}}}}"#),
            "a digest of 70 characters",
        ),
    ] {
        let problem = config(text.as_bytes()).unwrap_err();
        let Problem::Invalid(said) = problem else {
            panic!("{problem:?}")
        };
        assert!(said.contains(says) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn deep_json_is_an_error_and_no_stack_overflow() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    let _ = media_type(deep.as_bytes(), None);
    assert!(document(deep.as_bytes(), OCI_IMAGE_MEDIA_TYPE).is_err());
    assert!(document(deep.as_bytes(), OCI_IMAGE_INDEX_MEDIA_TYPE).is_err());
    assert!(config(deep.as_bytes()).is_err());
}

#[test]
fn an_entry_without_platform_is_taken_only_where_none_fits() {
    let entry = |platform: Option<&str>, size| Entry {
        descriptor: Descriptor {
            media_type: OCI_IMAGE_MEDIA_TYPE.into(),
            digest: Sha256([0; 32]),
            size,
        },
        platform: platform.map(|text| text.parse().unwrap()),
        is_index: false,
    };
    let amd64: Platform = "linux/amd64".parse().unwrap();
    let entries = [
        entry(None, 1),
        entry(Some("linux/amd64"), 2),
        entry(Some("linux/amd64"), 3),
    ];
    assert_eq!(choose(&entries, &amd64).unwrap().descriptor.size, 2);
    assert_eq!(choose(&entries[..1], &amd64).unwrap().descriptor.size, 1);
    assert!(choose(&[], &amd64).unwrap_err().is_empty());
    let arm = [entry(Some("linux/arm64"), 1), entry(Some("linux/arm64"), 2)];
    assert_eq!(choose(&arm, &amd64).unwrap_err().len(), 1);
}

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for media_type in ACCEPT {
            let _ = document(&bytes, media_type);
        }
        let _ = (media_type(&bytes, None), config(&bytes));
    }

    #[test]
    fn no_field_values_make_reading_panic(digest in "\\PC{0,80}", size in any::<i64>(), kind in "\\PC{0,40}") {
        let _ = read(&manifest_with(&kind, &digest, size));
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{"mediaType": OCI_IMAGE_MEDIA_TYPE, "digest": digest, "size": size,
                "platform": {"os": kind, "architecture": kind, "variant": kind}}],
        });
        let _ = read(&index);
    }
}
