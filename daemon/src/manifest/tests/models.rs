//! Which model a container starts with.

use k8s_openapi::api::core::v1::{Container, EnvVar};

use crate::manifest::recognise::{of_container, of_serve_config};
use crate::manifest::shell;

fn words(line: &str) -> Option<Vec<String>> {
    let words: Vec<String> = line.split('|').map(str::to_owned).collect();
    (!line.is_empty()).then_some(words)
}

/// What a container with this image, command and arguments (words divided by `|`) loads.
fn loads(image: &str, command: &str, args: &str) -> String {
    loads_with(image, command, args, &[])
}

fn loads_with(image: &str, command: &str, args: &str, env: &[(&str, &str)]) -> String {
    let container = Container {
        image: Some(image.to_owned()),
        command: words(command),
        args: words(args),
        env: Some(
            env.iter()
                .map(|(name, value)| EnvVar {
                    name: (*name).to_owned(),
                    value: Some((*value).to_owned()),
                    value_from: None,
                })
                .collect(),
        ),
        ..Container::default()
    };
    let models: Vec<String> = of_container(&container)
        .iter()
        .map(ToString::to_string)
        .collect();
    models.join(" ")
}

const VLLM: &str = "vllm/vllm-openai:v0.10.1";

#[test]
fn a_model_on_the_command_line_is_found_in_every_form_it_is_written() {
    let commit = "0e9e39f249a16976918f6564b8830bc894c89659";
    for (image, command, args, model) in [
        ("x", "vllm|serve|org/m", "", "org/m@main"),
        ("x", "vllm", "serve|org/m|--port|80", "org/m@main"),
        ("x", "/usr/bin/vllm|serve", "--model|org/m", "org/m@main"),
        ("x", "vllm|serve|gpt2", "", "gpt2@main"),
        ("x", "vllm|serve|--model=org/m", "--revision=v1", "org/m@v1"),
        (
            "x",
            "python3|-m|vllm.entrypoints.openai.api_server",
            "--model|org/m",
            "org/m@main",
        ),
        (
            "x",
            "python|-u|-m|vllm.entrypoints.api_server|--port=1|--model=org/m",
            "",
            "org/m@main",
        ),
        (
            "x",
            "python3|-m|sglang.launch_server|--model-path|org/m",
            "",
            "org/m@main",
        ),
        (
            "x",
            "text-generation-launcher|--model-id|org/m",
            "",
            "org/m@main",
        ),
        (
            "ghcr.io/huggingface/text-generation-inference:3",
            "",
            "--model-id=org/m",
            "org/m@main",
        ),
        (VLLM, "", "--model|org/m", "org/m@main"),
        (VLLM, "", "org/m", "org/m@main"),
        (VLLM, "", "serve|org/m", "org/m@main"),
        (
            "localhost:5000/vllm/vllm-openai@sha256:00",
            "",
            "--model|org/m",
            "org/m@main",
        ),
        (
            "x",
            "sh|-c|vllm serve org/m --revision main",
            "",
            "org/m@main",
        ),
        (
            "x",
            "/bin/bash|-lc",
            "set -e; cd /; HF_HOME=/x exec vllm serve 'org/m'",
            "org/m@main",
        ),
        ("x", "bash|-c|sh -c \"vllm serve org/m\"", "", "org/m@main"),
        ("x", "tini|--|vllm|serve|hf://org/m@v2", "", "org/m@v2"),
    ] {
        assert_eq!(
            loads(image, command, args),
            model,
            "{image} {command} {args}"
        );
    }
    let pinned = format!("vllm|serve|org/m|--revision|{commit}");
    assert_eq!(loads("x", &pinned, ""), format!("org/m@{commit}"));
}

#[test]
fn draft_models_and_adapters_are_loaded_beside_the_model() {
    let line = "vllm|serve|org/m|--speculative-config|{\"model\": \"org/draft\"}|--lora-modules|sql=org/lora";
    assert_eq!(
        loads("x", line, ""),
        "org/m@main org/draft@main org/lora@main"
    );
    let by_method = "vllm|serve|org/m|--speculative-config={\"method\":\"ngram\"}";
    assert_eq!(loads("x", by_method, ""), "org/m@main");
}

#[test]
fn what_is_no_repository_on_the_hub_is_no_model() {
    for line in [
        "vllm|serve|/models/m",
        "vllm|serve|./m",
        "vllm|serve|~/m",
        "vllm|serve|s3://bucket/m",
        "vllm|serve|https://example.com/m",
        "vllm|serve|$MODEL",
        "vllm|serve|org/m|--revision|a..b",
        "vllm|serve",
        "vllm|serve|--port|80",
        "python|-m|http.server|--model|org/m",
        "echo|org/m",
        "sh|-c|echo $(vllm) serve org/m",
        "sh|-c",
        "sh|-c|vllm serve $MODEL",
        "sh|-c|vllm serve `cat /model`",
        "sh|-c|# vllm serve org/m",
    ] {
        assert_eq!(loads("x", line, ""), "", "{line}");
    }
    assert_eq!(loads("python:3", "", "--model|org/m"), "");
}

#[test]
fn values_that_the_manifest_gives_stand_for_their_variables() {
    let env = [("ORG", "org"), ("NAME", "$(ORG)/m"), ("REV", "v3")];
    for line in [
        "vllm|serve|$(NAME)|--revision|$(REV)",
        "sh|-c|vllm serve $NAME --revision ${REV}",
        "sh|-c|vllm serve \"${NAME}\" --revision \"$REV\"",
        "sh|-c|vllm serve ${ORG}/m --revision=${OTHER:-v3}",
    ] {
        assert_eq!(loads_with("x", line, "", &env), "org/m@v3", "{line}");
    }
    assert_eq!(loads_with("x", "sh|-c|vllm serve '$NAME'", "", &env), "");
    assert_eq!(loads_with("x", "vllm|serve|$$(NAME)", "", &env), "");
}

#[test]
fn a_variable_names_a_model_only_with_its_owner_and_where_no_command_line_does() {
    assert_eq!(
        loads_with("x", "run", "", &[("MODEL_ID", "org/m")]),
        "org/m@main"
    );
    assert_eq!(
        loads_with("x", "run", "", &[("HF_MODEL_ID", "org/m")]),
        "org/m@main"
    );
    assert_eq!(loads_with("x", "run", "", &[("MODEL_NAME", "llama")]), "");
    assert_eq!(loads_with("x", "run", "", &[("MODEL_ID", "/data/m")]), "");
    assert_eq!(
        loads_with("x", "vllm|serve|org/a", "", &[("MODEL_ID", "org/b")]),
        "org/a@main"
    );
}

fn serves(config: &str) -> Result<String, String> {
    let models = of_serve_config(config)?;
    let models: Vec<String> = models.iter().map(ToString::to_string).collect();
    Ok(models.join(" "))
}

#[test]
fn a_serve_configuration_names_its_models_by_source_id_engine_or_variable() {
    for (config, models) in [
        (
            "applications: [{args: {llm_configs: [{model_loading_config: {model_id: a, model_source: org/m}}]}}]",
            "org/m@main",
        ),
        (
            "applications: [{args: {llm_configs: [{model_loading_config: {model_id: org/m}}]}}]",
            "org/m@main",
        ),
        (
            "applications: [{args: {llm_configs: [{model_loading_config: {model_id: a}}]}}]",
            "",
        ),
        (
            "applications: [{args: {llm_configs: [{model_loading_config: {model_id: org/m, model_source: {bucket_uri: s3://b}}}]}}]",
            "",
        ),
        (
            "applications: [{args: {llm_configs: [{model_loading_config: {model_id: a}, engine_kwargs: {model: org/m, revision: v2}}]}}]",
            "org/m@v2",
        ),
        (
            "applications: [{args: {llm_config: {model_loading_config: {model_source: org/m}}}}]",
            "org/m@main",
        ),
        (
            "applications: [{runtime_env: {env_vars: {MODEL_ID: org/m}}}, {args: {model: org/n}}, {args: {model: org/n}}]",
            "org/m@main org/n@main",
        ),
        (
            "applications: [{args: {llm_configs: [config.yaml, 7, null]}}]",
            "",
        ),
        ("applications: 7", ""),
        ("", ""),
    ] {
        assert_eq!(serves(config), Ok(models.to_owned()), "{config}");
    }
    assert!(serves("applications: [").unwrap_err().contains("not YAML"));
}

#[test]
fn a_shell_splits_words_as_shells_do() {
    let split = |script: &str| shell::commands(script, &std::collections::BTreeMap::new());
    assert_eq!(
        split("a 'b c' \"d\\\"e\" f\\ g"),
        [["a", "b c", "d\"e", "f g"]]
    );
    assert_eq!(
        split("a;b&&c||d|e&\nf"),
        [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]
    );
    assert_eq!(split("a \\\n b # c\n''"), [vec!["a", "b"], vec![""]]);
    assert_eq!(split("'open"), [["open"]]);
    assert_eq!(split("a$(b)"), [["a$"], ["b"]]);
}
