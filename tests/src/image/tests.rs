use std::collections::BTreeSet;
use std::io::Read as _;

use super::*;

fn recipe(compression: Compression, format: Format) -> Recipe {
    let recipe = Recipe::trees(3, 2, 3_000_000);
    Recipe {
        compression,
        format,
        ..recipe
    }
}

fn opened(blob: &Blob, compression: Compression) -> Vec<u8> {
    let bytes = blob.content.to_bytes().unwrap();
    let mut tar = Vec::new();
    match compression {
        Compression::Plain => tar = bytes.to_vec(),
        Compression::Gzip(_) => {
            flate2::read::GzDecoder::new(&bytes[..])
                .read_to_end(&mut tar)
                .map(drop)
                .unwrap();
        }
        Compression::Zstd(_) => tar = zstd::decode_all(&bytes[..]).unwrap(),
    }
    tar
}

#[test]
fn every_layer_opens_to_a_tree_with_the_digest_that_the_configuration_names() {
    for (compression, format) in [
        (Compression::Plain, Format::Oci),
        (Compression::Gzip(6), Format::Docker),
        (Compression::Zstd(3), Format::Oci),
    ] {
        let image = Image::make(&recipe(compression, format)).unwrap();
        let config: Value =
            serde_json::from_slice(&image.blobs[0].content.to_bytes().unwrap()).unwrap();
        let (mut bytes, mut files) = (0, 0);
        for (blob, diff_id) in image.blobs[1..].iter().zip(&image.diff_ids) {
            let tar = opened(blob, compression);
            assert_eq!(Content::from(tar.clone()).sha256().unwrap(), *diff_id);
            assert_eq!(blob.content.sha256().unwrap(), blob.digest);
            for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
                let entry = entry.unwrap();
                bytes += entry.size();
                files += u64::from(entry.header().entry_type().is_file());
            }
        }
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
        assert_eq!(
            config["rootfs"]["diff_ids"][1],
            image.diff_ids[1].prefixed()
        );
        assert_eq!((bytes, files), (3_000_000, 183 + 11));
    }
}

#[test]
fn gzip_leaves_about_half() {
    let image = Image::make(&recipe(Compression::Gzip(6), Format::Oci)).unwrap();
    let ratio = 3_000_000.0 / image.bytes() as f64;
    assert!((1.7..2.4).contains(&ratio), "{ratio}");
}

#[test]
fn equal_recipes_give_equal_digests_and_other_seeds_others() {
    let digest = |seed| {
        Image::make(&Recipe::trees(seed, 3, 100_000))
            .unwrap()
            .digest()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
    assert_eq!(
        Image::make(&Recipe::edges()).unwrap().digest(),
        Image::make(&Recipe::edges()).unwrap().digest()
    );
}

#[test]
fn an_index_names_one_manifest_per_platform() {
    let platform = |architecture: &str, seed| {
        let architecture = architecture.to_owned();
        Image::make(&Recipe {
            architecture,
            ..Recipe::trees(seed, 1, 10_000)
        })
        .unwrap()
    };
    let index = Image::index(vec![platform("amd64", 1), platform("arm64", 2)]);
    let top = index.manifests.last().unwrap();
    let value: Value = serde_json::from_slice(&top.content.to_bytes().unwrap()).unwrap();
    assert_eq!(top.media_type, "application/vnd.oci.image.index.v1+json");
    assert_eq!(value["manifests"][1]["platform"]["architecture"], "arm64");
    assert_eq!(
        value["manifests"][1]["digest"],
        index.manifests[1].digest.prefixed()
    );
    assert_eq!(index.blobs.len(), 4);
}

#[test]
fn the_edge_layers_are_archives_with_each_of_the_edges() {
    let mut kinds = BTreeSet::new();
    let mut names = BTreeSet::new();
    for layer in Layer::edges() {
        let mut tar = Vec::new();
        layer.write(&mut tar).unwrap();
        for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            names.insert(entry.path().unwrap().to_string_lossy().into_owned());
            kinds.insert(format!("{:?}", entry.header().entry_type()));
            if entry.path().unwrap().ends_with("bind") {
                let extensions = entry.pax_extensions().unwrap().unwrap();
                assert_eq!(extensions.count(), 2);
            }
            if entry.path().unwrap().ends_with("sparse") {
                // Go's reader and GNU tar open it to 10 MiB; this crate shows it as stored.
                let mut stored = Vec::new();
                entry.read_to_end(&mut stored).unwrap();
                assert!(stored.starts_with(b"1\n10485750\n10\n\0"));
                assert_eq!(&stored[512..], b"at the end");
            }
        }
    }
    for kind in [
        "Block",
        "Char",
        "Directory",
        "Fifo",
        "Link",
        "Regular",
        "Symlink",
    ] {
        assert!(kinds.contains(kind), "{kind} of {kinds:?}");
    }
    for name in [
        ".wh.gone",
        "covered/.wh..wh..opq",
        "secret/b",
        "lib/libmore.so",
    ] {
        assert!(names.contains(name), "{name} of {names:?}");
    }
}
