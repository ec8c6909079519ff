//! A model small enough to be loaded by every client in a moment: a Llama in three shards with an
//! index, and a tokenizer that knows six words. The weights are made, the formats are real.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A text that the tokenizer knows.
pub(crate) const TEXT: &str = "warm a node before it boots";

/// A name and a shape.
type Tensor = (&'static str, [usize; 2]);

/// The shards and the tensors in them, with their shapes.
const SHARDS: [(&str, &[Tensor]); 3] = [
    (
        "model-00001-of-00003.safetensors",
        &[("model.embed_tokens.weight", [7, 64])],
    ),
    (
        "model-00002-of-00003.safetensors",
        &[
            ("model.layers.0.mlp.up_proj.weight", [128, 64]),
            ("model.layers.0.self_attn.q_proj.weight", [64, 64]),
        ],
    ),
    (
        "model-00003-of-00003.safetensors",
        &[("lm_head.weight", [7, 64]), ("model.norm.weight", [1, 64])],
    ),
];

/// The shape of every tensor.
pub(crate) fn tensors() -> BTreeMap<&'static str, [usize; 2]> {
    SHARDS
        .iter()
        .flat_map(|(_, tensors)| *tensors)
        .copied()
        .collect()
}

/// Every file by its path.
pub(crate) fn files() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut weight_map = BTreeMap::new();
    let mut total = 0;
    for (shard, tensors) in SHARDS {
        for (name, [rows, columns]) in tensors {
            weight_map.insert(*name, shard);
            total += rows * columns * 4;
        }
        files.insert(shard.to_owned(), safetensors(tensors));
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    let words: Vec<&str> = TEXT.split(' ').collect();
    let mut vocabulary: BTreeMap<&str, usize> = BTreeMap::from([("<unk>", 0)]);
    vocabulary.extend(words.iter().enumerate().map(|(at, word)| (*word, at + 1)));
    let special = json!({"id": 0, "content": "<unk>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 7});
    let texts: [(&str, Value); 6] = [
        ("config.json", config),
        ("generation_config.json", json!({"max_new_tokens": 17})),
        ("model.safetensors.index.json", index),
        ("original/params.json", json!({"dim": 64})),
        ("tokenizer.json", tokenizer),
        (
            "tokenizer_config.json",
            json!({"tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>", "model_max_length": 512}),
        ),
    ];
    files.extend(texts.map(|(path, text)| (path.to_owned(), text.to_string().into_bytes())));
    files.insert(
        "README.md".to_owned(),
        b"# A model made for tests\n".to_vec(),
    );
    files
}

/// The safetensors format: length of the header, header, numbers.
fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut data) = (BTreeMap::new(), Vec::new());
    for (name, shape) in tensors {
        let from = data.len();
        for at in 0..shape[0] * shape[1] {
            data.extend((at as f32 / 64.0).to_le_bytes());
        }
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]});
        header.insert(name, entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    file
}
