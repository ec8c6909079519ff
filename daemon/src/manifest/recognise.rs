//! Which model a container starts with, read from what it runs: `vllm serve X`, `--model X`, an
//! environment variable, a Serve configuration.
//!
//! Nothing is executed and nothing is guessed: a text counts only where it is the name of a
//! repository on the Hub. Paths, addresses and what a shell would have to compute do not. Used where
//! no annotation names the models.

use std::collections::BTreeMap;

use headstart_core::model::{ModelRef, RepoId, Revision, Selection};
use k8s_openapi::api::core::v1::Container;
use serde_json::Value;

use super::shell;
use super::source;

/// Environment variables that name a model, where nothing on the command line does.
const VARIABLES: [&str; 3] = ["MODEL_ID", "MODEL_NAME", "HF_MODEL_ID"];

/// How deep a shell may be called from a shell.
const MOST_SHELLS: usize = 3;

/// Models that a container starts with.
pub(crate) fn of_container(container: &Container) -> Vec<ModelRef> {
    let environment = environment(container);
    let expand = |words: &Option<Vec<String>>| {
        let words = words.as_deref().unwrap_or_default();
        let words = words
            .iter()
            .map(|word| shell::references(word, &environment));
        words.collect::<Vec<_>>()
    };
    let command = expand(&container.command);
    let args = expand(&container.args);
    let mut found = Vec::new();
    if command.is_empty() {
        let image = container.image.as_deref().unwrap_or_default();
        match engine_of_image(image) {
            Some(engine) => engine.models(&args, &mut found),
            None => of_command(&args, &environment, MOST_SHELLS, &mut found),
        }
    } else {
        let line = [command, args].concat();
        of_command(&line, &environment, MOST_SHELLS, &mut found);
    }
    if found.is_empty() {
        of_variables(&environment, &mut found);
    }
    found
}

fn of_variables(environment: &BTreeMap<String, String>, found: &mut Vec<ModelRef>) {
    let value = VARIABLES.iter().find_map(|name| environment.get(*name));
    let value = value.filter(|value| value.contains('/'));
    found.extend(value.and_then(|value| hub_model(value, None)));
}

/// Variables whose values are written in the manifest.
fn environment(container: &Container) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        if let Some(value) = &variable.value {
            let value = shell::references(value, &environment);
            environment.insert(variable.name.clone(), value);
        }
    }
    environment
}

/// A program that loads a model.
#[derive(Clone, Copy)]
enum Engine {
    /// `vllm serve X`, `python -m vllm.entrypoints.openai.api_server --model X`.
    Vllm,
    /// `python -m sglang.launch_server --model-path X`.
    Sglang,
    /// `text-generation-launcher --model-id X`.
    TextGeneration,
}

/// The engine that an image runs when it is given arguments only.
fn engine_of_image(image: &str) -> Option<Engine> {
    let repository = image.split('@').next().unwrap_or_default();
    let name = repository.rsplit('/').next().unwrap_or_default();
    let name = name.split(':').next().unwrap_or_default();
    match name {
        name if name.starts_with("vllm") => Some(Engine::Vllm),
        name if name.starts_with("text-generation-inference") => Some(Engine::TextGeneration),
        _ => None,
    }
}

impl Engine {
    fn models(self, args: &[String], found: &mut Vec<ModelRef>) {
        let args = match args {
            [first, rest @ ..] if first == "serve" => rest,
            args => args,
        };
        let (flags, positional): (&[&str], bool) = match self {
            Self::Vllm => (&["--model"], true),
            Self::Sglang => (&["--model-path", "--model"], false),
            Self::TextGeneration => (&["--model-id"], false),
        };
        let revision = flag(args, "--revision");
        let first = args.first().map(String::as_str);
        let first = first.filter(|word| positional && !word.starts_with('-'));
        let named = first.or_else(|| flags.iter().find_map(|name| flag(args, name)));
        let mut add = |text: &str, revision| {
            let model = hub_model(text, revision);
            found.extend(model.filter(|model| !found.contains(model)));
        };
        if let Some(named) = named {
            add(named, revision);
        }
        for name in [
            "--speculative-config",
            "--speculative-model",
            "--lora-modules",
        ] {
            let Some(value) = flag(args, name) else {
                continue;
            };
            let inner = serde_json::from_str::<Value>(value).ok();
            let inner = inner
                .as_ref()
                .and_then(|json| json.get("model").or_else(|| json.get("path"))?.as_str());
            let value = value.split_once('=').map_or(value, |(_, path)| path);
            // Without a slash it is a method, not a model.
            if let Some(value) = inner.or(Some(value)).filter(|value| value.contains('/')) {
                add(value, None);
            }
        }
    }
}

/// The value of `--name value` or `--name=value`; underscores count as dashes.
fn flag<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    args.iter().enumerate().find_map(|(index, word)| {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word.as_str(), None),
        };
        if !key.starts_with("--") || key.replace('_', "-") != name {
            return None;
        }
        value.or_else(|| args.get(index + 1).map(String::as_str))
    })
}

/// Models that one command line starts with; scripts of a shell are read, too.
fn of_command(
    words: &[String],
    environment: &BTreeMap<String, String>,
    shells: usize,
    found: &mut Vec<ModelRef>,
) {
    let base = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    for (index, word) in words.iter().enumerate() {
        let rest = &words[index + 1..];
        let engine = match (base(word).as_str(), rest.first().map(String::as_str)) {
            ("vllm", Some("serve")) => Some(Engine::Vllm),
            ("-m", Some(module)) if module.starts_with("vllm.entrypoints.") => Some(Engine::Vllm),
            ("-m", Some("sglang.launch_server")) => Some(Engine::Sglang),
            ("text-generation-launcher", _) => Some(Engine::TextGeneration),
            _ => None,
        };
        if let Some(engine) = engine {
            let args = match engine {
                Engine::TextGeneration => rest,
                _ => &rest[1..],
            };
            return engine.models(args, found);
        }
        let is_shell = ["sh", "bash", "ash", "dash", "zsh"].contains(&base(word).as_str());
        if is_shell && shells > 0 {
            let runs = |word: &String| {
                word.starts_with('-') && !word.starts_with("--") && word.ends_with('c')
            };
            let Some(script) = rest.iter().position(runs).and_then(|at| rest.get(at + 1)) else {
                continue;
            };
            for command in shell::commands(script, environment) {
                of_command(&command, environment, shells - 1, found);
            }
            return;
        }
    }
}

/// A repository on the Hub, if `text` names one.
fn hub_model(text: &str, revision: Option<&str>) -> Option<ModelRef> {
    let text = text.trim();
    let text = text.strip_prefix("hf://").unwrap_or(text);
    let (name, inline) = match text.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (text, None),
    };
    let repo: RepoId = name.parse().ok()?;
    let revision = match inline.or(revision) {
        Some(revision) => revision.parse().ok()?,
        None => Revision::main(),
    };
    Some(ModelRef {
        repo,
        revision,
        selection: Selection::default(),
    })
}

/// Models of a RayService's `serveConfigV2`.
///
/// # Errors
/// When it is no YAML.
pub(crate) fn of_serve_config(text: &str) -> Result<Vec<ModelRef>, String> {
    let config = source::yaml(text).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    let applications = config.get("applications").and_then(Value::as_array);
    for application in applications.into_iter().flatten() {
        let before = found.len();
        let args = application.get("args");
        let llm = args.and_then(|args| args.get("llm_configs"));
        for config in llm.and_then(Value::as_array).into_iter().flatten() {
            found.extend(of_llm_config(config));
        }
        if found.len() > before {
            continue;
        }
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let single = args
            .and_then(|args| args.get("llm_config"))
            .and_then(of_llm_config);
        let named = ["model", "model_id", "model_name"].iter().find_map(|key| {
            text(args.and_then(|args| args.get(key))).filter(|name| name.contains('/'))
        });
        let variables = application.pointer("/runtime_env/env_vars");
        let variable = VARIABLES.iter().find_map(|name| {
            text(variables.and_then(|all| all.get(name))).filter(|name| name.contains('/'))
        });
        let named = named.or(variable);
        found.extend(single.or_else(|| hub_model(&named?, None)));
    }
    let mut unique: Vec<ModelRef> = Vec::new();
    for model in found {
        if !unique.contains(&model) {
            unique.push(model);
        }
    }
    Ok(unique)
}

/// One `llm_configs` entry: what the engine is told to load, else the source, else the id.
fn of_llm_config(config: &Value) -> Option<ModelRef> {
    let text = |path: &str| config.pointer(path).and_then(Value::as_str);
    let revision = text("/engine_kwargs/revision");
    // A source that is an object is a mirror in a bucket; then nothing comes from the Hub.
    let mirrored = config
        .pointer("/model_loading_config/model_source")
        .is_some_and(Value::is_object);
    if mirrored {
        return None;
    }
    let named = text("/engine_kwargs/model")
        .or_else(|| text("/model_loading_config/model_source"))
        .or_else(|| text("/model_loading_config/model_id").filter(|id| id.contains('/')))?;
    hub_model(named, revision)
}
