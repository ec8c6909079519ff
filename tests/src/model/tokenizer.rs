//! A byte-level BPE tokenizer with a handful of merges: small, complete, able to encode any text.

use serde_json::{Map, Value, json};

/// Pairs that became one token, in order of rank.
const MERGES: [(&str, &str); 12] = [
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "the"),
    ("i", "n"),
    ("in", "g"),
    ("a", "n"),
    ("an", "d"),
    ("Ġ", "and"),
    ("o", "n"),
    ("e", "r"),
    ("Ġ", "a"),
    ("Ġ", "t"),
];

/// The token that begins a text.
pub(super) const BEGIN: u64 = 256 + MERGES.len() as u64;

/// The token that ends one.
pub(super) const END: u64 = BEGIN + 1;

/// Rows of the embedding: the tokens and some unused ones, to a round number.
pub(super) const SIZE: u64 = (END + 1).next_multiple_of(32);

const BEGIN_TEXT: &str = "<|begin_of_text|>";
const END_TEXT: &str = "<|end_of_text|>";

/// `tokenizer.json`.
pub(super) fn tokenizer() -> Value {
    let mut vocabulary = Map::new();
    for byte in 0..=255 {
        vocabulary.insert(shown(byte).to_string(), json!(byte));
    }
    for (index, (left, right)) in MERGES.iter().enumerate() {
        vocabulary.insert(format!("{left}{right}"), json!(256 + index));
    }
    let merges: Vec<String> = MERGES
        .iter()
        .map(|(left, right)| format!("{left} {right}"))
        .collect();
    let special = |id: u64, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(BEGIN, BEGIN_TEXT), special(END, END_TEXT)],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": merges,
        },
    })
}

/// `tokenizer_config.json`.
pub(super) fn config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN_TEXT,
        "eos_token": END_TEXT,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": false,
        "chat_template": "{% for message in messages %}{{ message['role'] }}: \
                          {{ message['content'] }}\n{% endfor %}",
    })
}

/// The visible character that stands for a byte in byte-level BPE: itself where Latin-1 prints it,
/// else the next one from U+0100 on.
fn shown(byte: u8) -> char {
    let is_printed = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_printed(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&earlier| !is_printed(earlier)).count() as u32;
    char::from_u32(0x100 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
}
