//! File lists as published, and what an engine takes of them.

use expect_test::{Expect, expect};

use super::*;

fn paths(list: &str) -> Vec<RepoPath> {
    list.split_whitespace()
        .map(|path| path.parse().unwrap())
        .collect()
}

fn shown(list: &str, selection: &Selection) -> String {
    let choice = match choose(&paths(list), selection) {
        Ok(choice) => choice,
        Err(error) => return format!("error: {error}\n"),
    };
    let mut text = format!("{:?}\n", choice.format);
    for file in choice.files {
        text += &format!("+ {file}\n");
    }
    for (file, reason) in choice.left_out {
        text += &format!("- {file} ({reason:?})\n");
    }
    text
}

fn check(list: &str, expected: Expect) {
    expected.assert_eq(&shown(list, &Selection::default()));
}

#[test]
fn of_llama_the_publishers_layout_is_left_out() {
    check(
        ".gitattributes LICENSE README.md USE_POLICY.md config.json generation_config.json \
         model-00001-of-00002.safetensors model-00002-of-00002.safetensors \
         model.safetensors.index.json original/consolidated.00.pth original/params.json \
         original/tokenizer.model special_tokens_map.json tokenizer.json tokenizer_config.json",
        expect![[r#"
            Safetensors
            + .gitattributes
            + LICENSE
            + README.md
            + USE_POLICY.md
            + config.json
            + generation_config.json
            + model-00001-of-00002.safetensors
            + model-00002-of-00002.safetensors
            + model.safetensors.index.json
            + special_tokens_map.json
            + tokenizer.json
            + tokenizer_config.json
            - original/consolidated.00.pth (Unread)
            - original/params.json (Unread)
            - original/tokenizer.model (Unread)
        "#]],
    );
}

#[test]
fn of_gpt2_only_the_safetensors_are_taken() {
    check(
        "64-8bits.tflite config.json flax_model.msgpack generation_config.json merges.txt \
         model.safetensors onnx/config.json onnx/decoder_model.onnx onnx/decoder_model.onnx_data \
         pytorch_model.bin rust_model.ot tf_model.h5 tokenizer.json vocab.json",
        expect![[r#"
            Safetensors
            + config.json
            + generation_config.json
            + merges.txt
            + model.safetensors
            + onnx/config.json
            + tokenizer.json
            + vocab.json
            - 64-8bits.tflite (Unread)
            - flax_model.msgpack (Unread)
            - onnx/decoder_model.onnx (Unread)
            - onnx/decoder_model.onnx_data (Unread)
            - pytorch_model.bin (Duplicate)
            - rust_model.ot (Unread)
            - tf_model.h5 (Unread)
        "#]],
    );
}

#[test]
fn of_mistral_the_consolidated_files_are_taken_and_excluding_them_gives_the_others() {
    let list = "consolidated.safetensors config.json model-00001-of-00001.safetensors \
                model.safetensors.index.json params.json tekken.json tokenizer.json";
    check(
        list,
        expect![[r#"
        Mistral
        + config.json
        + consolidated.safetensors
        + model.safetensors.index.json
        + params.json
        + tekken.json
        + tokenizer.json
        - model-00001-of-00001.safetensors (Duplicate)
    "#]],
    );
    let hf = Selection {
        exclude: vec!["consolidated*".into()],
        ..Selection::default()
    };
    expect![[r#"
        Safetensors
        + config.json
        + model-00001-of-00001.safetensors
        + model.safetensors.index.json
        + params.json
        + tekken.json
        + tokenizer.json
        - consolidated.safetensors (Excluded)
    "#]]
    .assert_eq(&shown(list, &hf));
}

#[test]
fn a_repository_of_pickles_gives_its_pickles_but_never_training_state() {
    check(
        "config.json pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin \
         pytorch_model.bin.index.json training_args.bin optimizer.pt rng_state.pth \
         checkpoint-500/pytorch_model.bin checkpoint-500/trainer_state.json model.pt",
        expect![[r#"
            Bin
            + config.json
            + pytorch_model-00001-of-00002.bin
            + pytorch_model-00002-of-00002.bin
            + pytorch_model.bin.index.json
            - checkpoint-500/pytorch_model.bin (Training)
            - checkpoint-500/trainer_state.json (Training)
            - model.pt (Duplicate)
            - optimizer.pt (Training)
            - rng_state.pth (Training)
            - training_args.bin (Training)
        "#]],
    );
}

#[test]
fn of_gpt_oss_neither_the_original_nor_the_metal_weights_are_taken() {
    check(
        "chat_template.jinja config.json metal/model.bin model-00000-of-00002.safetensors \
         original/config.json original/dtypes.json original/model.safetensors tokenizer.json",
        expect![[r#"
            Safetensors
            + chat_template.jinja
            + config.json
            + model-00000-of-00002.safetensors
            + tokenizer.json
            - metal/model.bin (Unread)
            - original/config.json (Unread)
            - original/dtypes.json (Unread)
            - original/model.safetensors (Unread)
        "#]],
    );
}

#[test]
fn parts_in_directories_of_their_own_and_remote_code_are_taken() {
    check(
        "1_Pooling/config.json 2_Dense/model.safetensors 2_Dense/pytorch_model.bin config.json \
         modeling_custom.py model.safetensors modules.json openvino/openvino_model.bin \
         openvino/openvino_model.xml onnx/model.onnx.data",
        expect![[r#"
            Safetensors
            + 1_Pooling/config.json
            + 2_Dense/model.safetensors
            + config.json
            + model.safetensors
            + modeling_custom.py
            + modules.json
            + openvino/openvino_model.xml
            - 2_Dense/pytorch_model.bin (Duplicate)
            - onnx/model.onnx.data (Unread)
            - openvino/openvino_model.bin (Unread)
        "#]],
    );
}

#[test]
fn several_gguf_models_are_the_callers_choice_and_one_is_taken() {
    check(
        "README.md qwen2.5-7b-q4_k_m-00001-of-00002.gguf qwen2.5-7b-q4_k_m-00002-of-00002.gguf \
         qwen2.5-7b-q8_0.gguf",
        expect![[r#"
            error: the repository holds 2 GGUF models, among them "qwen2.5-7b-q4_k_m.gguf": say which with ?include=*.json&include=*q4_k_m*
        "#]],
    );
    check(
        "README.md a-q4-00001-of-00002.gguf a-q4-00002-of-00002.gguf mmproj-a.gguf",
        expect![[r#"
            Gguf
            + README.md
            + a-q4-00001-of-00002.gguf
            + a-q4-00002-of-00002.gguf
            + mmproj-a.gguf
        "#]],
    );
}

#[test]
fn a_repository_without_weights_gives_all_its_files() {
    check(
        "README.md tokenizer.json",
        expect![[r#"
        None
        + README.md
        + tokenizer.json
    "#]],
    );
    check(
        "",
        expect![[r#"
        None
    "#]],
    );
}

#[test]
fn include_replaces_the_default_and_exclude_wins_over_it() {
    let list = "a.safetensors b.bin c/d.json e.json";
    let with = |include: &[&str], exclude: &[&str]| {
        let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect();
        shown(
            list,
            &Selection {
                include: owned(include),
                exclude: owned(exclude),
            },
        )
    };
    expect![[r#"
        Patterns
        + b.bin
        + c/d.json
        - a.safetensors (NotIncluded)
        - e.json (NotIncluded)
    "#]]
    .assert_eq(&with(&["*.bin", "c/"], &[]));
    expect![[r#"
        Patterns
        + a.safetensors
        + b.bin
        + e.json
        - c/d.json (Excluded)
    "#]]
    .assert_eq(&with(&["*"], &["c/*"]));
    expect![[r#"
        Bin
        + b.bin
        + c/d.json
        + e.json
        - a.safetensors (Excluded)
    "#]]
    .assert_eq(&with(&[], &["*.safetensors"]));
    expect![[r#"
        error: none of the repository's 4 files is selected by include ["*.nothing"] exclude []: check the patterns
    "#]].assert_eq(&with(&["*.nothing"], &[]));
}

#[test]
fn patterns_mean_what_they_mean_to_python() {
    for (pattern, text, expected) in [
        ("*", "a/b/c", true),
        ("*.json", "a/b.json", true),
        ("*.json", "a.jsonl", false),
        ("a/*", "a/b/c", true),
        ("a/", "a/b", true),
        ("a/", "a", false),
        ("a?c", "a/c", true),
        ("[ab]*", "banana", true),
        ("[!ab]*", "banana", false),
        ("[a-c]1", "b1", true),
        ("[]]x", "]x", true),
        ("[!]]x", "ax", true),
        ("[x", "[x", true),
        ("*a*b", "xaxxab", true),
        ("*a*b", "xaxxa", false),
        ("A", "a", false),
        ("", "", true),
        ("", "a", false),
        ("**", "", true),
    ] {
        assert_eq!(pattern_matches(pattern, text), expected, "{pattern} {text}");
    }
}

proptest::proptest! {
    #[test]
    fn every_file_is_either_chosen_or_left_out_with_a_reason(
        names in proptest::collection::btree_set("[a-c]{1,2}(/[a-c]{1,2})?\\.(json|bin|pt|safetensors|gguf|py)", 0..12)
    ) {
        let files: Vec<RepoPath> = names.iter().map(|name| name.parse().unwrap()).collect();
        let mut reversed = files.clone();
        reversed.reverse();
        let choice = choose(&files, &Selection::default());
        proptest::prop_assert_eq!(&choice, &choose(&reversed, &Selection::default()));
        if let Ok(choice) = choice {
            proptest::prop_assert_eq!(choice.files.len() + choice.left_out.len(), files.len());
        }
    }
}
