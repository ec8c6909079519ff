//! What is a model's name and what is not.

use expect_test::{Expect, expect};

use super::*;

fn read(text: &str) -> ModelRef {
    text.parse().unwrap()
}

#[test]
fn every_way_to_write_a_model_is_read_and_prints_in_one_form() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    for (text, form) in [
        ("org/name", "org/name@main".to_owned()),
        ("gpt2", "gpt2@main".to_owned()),
        ("  org/name@v1.0 ", "org/name@v1.0".to_owned()),
        ("hf://org/name", "org/name@main".to_owned()),
        (
            "hf://models/org/name@refs/pr/1",
            "org/name@refs/pr/1".to_owned(),
        ),
        (
            "hf://org/name@refs%2Fpr%2F1",
            "org/name@refs/pr/1".to_owned(),
        ),
        (&format!("org/name@{commit}"), format!("org/name@{commit}")),
        (
            "https://huggingface.co/org/name",
            "org/name@main".to_owned(),
        ),
        ("https://hf.co/gpt2/", "gpt2@main".to_owned()),
        (
            "https://huggingface.co/org/name/tree/refs%2Fpr%2F1?library=vllm",
            "org/name@refs/pr/1".to_owned(),
        ),
        (
            "hf://org/name?include=*.json&exclude=a%26b",
            "org/name@main?include=*.json&exclude=a%26b".to_owned(),
        ),
    ] {
        assert_eq!(read(text).to_string(), form, "{text}");
        assert_eq!(read(&form), read(text), "{text}");
    }
    assert_eq!(
        read(&format!("a/b@{commit}"))
            .revision
            .commit()
            .unwrap()
            .to_string(),
        commit
    );
    assert_eq!(read("a/b").revision.commit(), None);
    assert_eq!(read("org/name").repo.cache_dir(), "models--org--name");
    assert_eq!(read("gpt2").repo.cache_dir(), "models--gpt2");
}

fn refused(texts: &[&str], expected: Expect) {
    let lines = texts.iter().map(|text| {
        let error = text.parse::<ModelRef>().unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error + "\n"
    });
    expected.assert_eq(&lines.collect::<String>());
}

#[test]
fn what_names_no_model_is_refused_with_the_field_and_the_fix() {
    refused(
        &[
            "s3://bucket/model",
            "huggingface:org/name",
            "org/name:main",
            "https://example.com/org/name",
            "https://huggingface.co/datasets/org/name",
            "https://huggingface.co/org/name/blob/main/config.json",
            "",
            "org//name",
            "org/name/extra",
            "org/na me",
            "../../etc/passwd",
            "-org/name",
            "org/name.git",
            "org/na--me",
            "org/name@",
            "org/name@../../x",
            "org/name@a b",
            "org/name@refs/heads/x.lock",
            "org/name@0123456789ABCDEF0123456789abcdef01234567",
            "org/name?inclde=*.json",
            "org/name?include=",
        ],
        expect![[r#"
            model "s3://bucket/model": scheme "s3" is not understood; write hf://org/name[@revision][?include=glob&exclude=glob]
            model "huggingface:org/name": scheme "huggingface" is not understood; write hf://org/name[@revision][?include=glob&exclude=glob]
            model "org/name:main": revision "main" follows ':' instead of '@'; write org/name@main
            model "https://example.com/org/name": host "example.com" is not the Hugging Face Hub; write org/name, and name another Hub by its endpoint option
            model "https://huggingface.co/datasets/org/name": repository "datasets/org/name" is one of datasets; only models can be fetched: give the address of a model
            model "https://huggingface.co/org/name/blob/main/config.json": path "org/name/blob/main/config.json" names one file, not a model; write org/name@main?include=config.json if that file is meant
            model "": repository "" is missing; write org/name as on the Hub, for example meta-llama/Llama-3.1-8B-Instruct
            model "org//name": repository "org//name" has more than two parts; write org/name as on the Hub, for example meta-llama/Llama-3.1-8B-Instruct
            model "org/name/extra": repository "org/name/extra" has more than two parts; write org/name as on the Hub, for example meta-llama/Llama-3.1-8B-Instruct
            model "org/na me": repository "org/na me" contains ' '; use letters, digits, '-', '_' and '.' only
            model "../../etc/passwd": repository "../../etc/passwd" has more than two parts; write org/name as on the Hub, for example meta-llama/Llama-3.1-8B-Instruct
            model "-org/name": repository "-org/name" has a part that starts or ends with '-' or '.'; write org/name as on the Hub, for example meta-llama/Llama-3.1-8B-Instruct
            model "org/name.git": repository "org/name.git" ends with '.git'; leave the '.git' away
            model "org/na--me": repository "org/na--me" contains '--' or '..', which no repository name has; write org/name as on the Hub, for example meta-llama/Llama-3.1-8B-Instruct
            model "org/name@": revision "" is empty; leave the '@' away for main
            model "org/name@../../x": revision "../../x" is no git ref; write a branch, a tag, refs/pr/N or a commit of 40 hex digits
            model "org/name@a b": revision "a b" contains ' ', which no git ref has; write a branch, a tag, refs/pr/N or a commit of 40 hex digits
            model "org/name@refs/heads/x.lock": revision "refs/heads/x.lock" is no git ref; write a branch, a tag, refs/pr/N or a commit of 40 hex digits
            model "org/name@0123456789ABCDEF0123456789abcdef01234567": revision "0123456789ABCDEF0123456789abcdef01234567" has upper-case digits; write the commit in lower case
            model "org/name?inclde=*.json": option "inclde" is not known; write include=glob or exclude=glob
            model "org/name?include=": option "include" has no value; write a glob after the '=', for example *.safetensors
        "#]],
    );
}

#[test]
fn a_commit_is_forty_lower_case_hex_digits_and_nothing_else() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    assert_eq!(commit.parse::<Commit>().unwrap().to_string(), commit);
    for text in [
        "",
        "main",
        &commit[1..],
        &commit.to_uppercase(),
        "sha1:0123456789abcdef0123456789abcdef012",
    ] {
        assert!(text.parse::<Commit>().is_err(), "{text}");
    }
}

fn path(text: &str) -> RepoPath {
    text.parse().unwrap()
}

#[test]
fn file_names_that_could_leave_their_directory_are_refused() {
    let long = "x".repeat(256);
    let deep = vec!["d"; 33].join("/");
    let wide = vec!["x".repeat(250); 5].join("/");
    for name in [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../b",
        "a/..",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "//host/share",
        "a\\b",
        "..\\x",
        "\\\\host\\share",
        "C:x",
        "c:/x",
        "a/D:",
        "a\0b",
        "a\nb",
        "a\u{7f}",
        "a\u{85}b",
        "a.",
        "a ",
        "dir./x",
        "dir /x",
        ".git/config",
        "a/.GIT/config",
        "x.incomplete",
        ".huggingface-shared-blobs",
        &long,
        &deep,
        &wide,
    ] {
        assert!(name.parse::<RepoPath>().is_err(), "{name:?}");
    }
    for name in [
        "config.json",
        ".gitattributes",
        "1_Pooling/config.json",
        "a b/c",
        "..a/b..c",
        "模型.safetensors",
        "model-00001-of-00002.safetensors",
        "ab:c",
        "...a",
    ] {
        assert_eq!(path(name).as_str(), name);
    }
    let error = "a/../b".parse::<RepoPath>().unwrap_err().to_string();
    assert_eq!(
        error,
        "file name \"a/../b\" has a component \"..\": refused"
    );
}

#[test]
fn names_that_some_file_system_takes_for_the_same_are_refused_together() {
    for (a, b) in [
        ("README.md", "readme.md"),
        ("é.json", "e\u{301}.json"),
        ("a", "a/b"),
        ("Dir/a", "dir/b"),
        ("x", "x"),
        ("STRASSE/İ", "strasse/i\u{307}"),
    ] {
        for (a, b) in [(a, b), (b, a)] {
            assert!(check_tree(&[path(a), path(b)]).is_err(), "{a} {b}");
        }
    }
    assert_eq!(
        check_tree(&[path("d/a"), path("d/b"), path("d/e/f"), path("c")]),
        Ok(())
    );
}

proptest::proptest! {
    #[test]
    fn an_accepted_name_joined_to_a_directory_stays_below_it(text in "[a-zA-Z.:/\\\\ \u{0}-\u{ff}]{0,24}") {
        if let Ok(path) = text.parse::<RepoPath>() {
            let joined = std::path::Path::new("/base").join(path.as_str());
            let normal = joined.components().skip(2).all(|c| matches!(c, std::path::Component::Normal(_)));
            proptest::prop_assert!(joined.starts_with("/base") && normal);
        }
    }

    #[test]
    fn no_text_makes_reading_a_model_panic(text in "(hf://|https://|)[ -~]{0,40}") {
        if let Ok(model) = text.parse::<ModelRef>() {
            proptest::prop_assert_eq!(model.to_string().parse::<ModelRef>(), Ok(model));
        }
    }
}
