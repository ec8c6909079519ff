use super::*;

fn json_of(model: &Model, path: &str) -> Value {
    let content = &model.file(path).unwrap().content;
    serde_json::from_slice(&content.to_bytes().unwrap()).unwrap()
}

#[test]
fn equal_recipes_give_equal_models_and_other_seeds_others() {
    let digests = |seed| -> Vec<String> {
        let model = Model::make(Recipe {
            seed,
            ..Recipe::default()
        })
        .unwrap();
        model.files.iter().map(RepoFile::etag).collect()
    };
    assert_eq!(digests(1), digests(1));
    assert_ne!(digests(1), digests(2));
}

#[test]
fn safetensors_and_their_index_agree_to_the_byte() {
    let model = Model::make(Recipe {
        shards: 3,
        ..Recipe::default()
    })
    .unwrap();
    let index = json_of(&model, "model.safetensors.index.json");
    let mut total = 0;
    let mut seen = 0;
    for file in model
        .files
        .iter()
        .filter(|file| file.path.ends_with(".safetensors"))
    {
        assert!(file.large.is_some());
        let bytes = file.content.to_bytes().unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut end = 0;
        for (name, tensor) in header.iter().filter(|(name, _)| *name != "__metadata__") {
            assert_eq!(index["weight_map"][name], file.path);
            end = end.max(tensor["data_offsets"][1].as_u64().unwrap());
            seen += 1;
        }
        assert_eq!(bytes.len() as u64, 8 + length as u64 + end);
        total += end;
    }
    assert_eq!(index["metadata"]["total_size"], total);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), seen);
}

#[test]
fn a_model_is_about_as_large_as_asked_for_and_no_shard_repeats_another() {
    for bytes in [100_000, 3_000_000, 200_000_000] {
        let shape = Shape::about(bytes);
        let ratio = shape.bytes() as f64 / bytes as f64;
        assert!((0.7..1.4).contains(&ratio), "{bytes}: {ratio}");
    }
    let model = Model::make(Recipe {
        bytes: 3_000_000,
        shards: 4,
        ..Recipe::default()
    })
    .unwrap();
    let mut etags: Vec<String> = model.files.iter().map(RepoFile::etag).collect();
    etags.sort();
    etags.dedup();
    assert_eq!(etags.len(), model.files.len());
}

#[test]
fn weights_are_finite_and_do_not_compress() {
    use std::io::Write as _;
    let weights = Weights::new(7, 1 << 20);
    for pair in weights.pool.chunks_exact(2) {
        let number = f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16);
        assert!(number.abs() < 2.0);
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&weights.pool).unwrap();
    assert!(gzip.finish().unwrap().len() > weights.pool.len() * 9 / 10);
}
