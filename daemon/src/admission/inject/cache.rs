//! Whether a container looks for models where nothing is yet, so that a mount of ours can take the
//! place of what it would download.
//!
//! What a container says about its cache stands. A cache of its own that lasts may hold the weights
//! already: it is left alone unless an annotation asks for ours.
//!
//! Source: huggingface_hub 2.4 `constants.py`, vLLM 0.33 `--download-dir`.

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Volume};

use super::reason::Left;

/// Where models are mounted.
pub(crate) const HUB_CACHE: &str = "/headstart/hub";

/// The directory above it, which nobody else has.
const OURS: &str = "/headstart";

/// Variables that say where the cache is, most telling first.
const CACHES: [&str; 2] = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"];

/// Flags that say where models are downloaded to. A policy looks for the same texts.
const DOWNLOAD_FLAGS: [&str; 4] = [
    "--download-dir",
    "--download_dir",
    "--huggingface-hub-cache",
    "--cache-dir",
];

/// Variables of a client that asks nobody, or somebody else.
const ELSEWHERE: [&str; 3] = [
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "VLLM_USE_MODELSCOPE",
];

/// Who says that the container loads a model.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Somebody wrote it down for us.
    Outright,
    /// It was recognised.
    Recognised,
}

/// Why no mount of ours would help this container, if none would.
pub(super) fn obstacle(container: &Container, spec: &PodSpec, asked: Asked) -> Option<Left> {
    let variables = container.env.as_deref().unwrap_or_default();
    if CACHES
        .iter()
        .any(|name| variable(variables, name).is_some())
    {
        return Some(Left::CacheIsSet);
    }
    let words = container.command.iter().chain(&container.args).flatten();
    if words.into_iter().any(|word| names_download_dir(word)) {
        return Some(Left::CacheIsSet);
    }
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    if mounts.iter().any(|mount| covers(OURS, &mount.mount_path)) {
        return Some(Left::NameIsTaken);
    }
    if asked == Asked::Outright {
        return None;
    }
    let is_on = |name: &&str| {
        variable(variables, name).is_some_and(|found| {
            let value = found.value.as_deref().unwrap_or("1").trim();
            !matches!(
                value.to_ascii_lowercase().as_str(),
                "" | "0" | "false" | "no" | "off"
            )
        })
    };
    if ELSEWHERE.iter().any(is_on) {
        return Some(Left::NotFromHub);
    }
    let sources = container.env_from.as_deref().unwrap_or_default();
    if sources.iter().any(|source| source.config_map_ref.is_some()) {
        return Some(Left::EnvironmentUnknown);
    }
    let homes = match home(variables) {
        Ok(home) => home,
        Err(left) => return Some(left),
    };
    let own = mounts.iter().any(|mount| {
        let holds = match &homes {
            Some(home) => covers(&mount.mount_path, &format!("{home}/hub")),
            // The home directory is the image's to say.
            None => ["/.cache", "/.cache/huggingface", "/.cache/huggingface/hub"]
                .iter()
                .any(|end| mount.mount_path.trim_end_matches('/').ends_with(end)),
        };
        let volumes = spec.volumes.as_deref().unwrap_or_default();
        let volume = volumes.iter().find(|volume| volume.name == mount.name);
        holds && volume.is_none_or(lasts)
    });
    own.then_some(Left::OwnCache)
}

pub(super) fn variable<'v>(variables: &'v [EnvVar], name: &str) -> Option<&'v EnvVar> {
    variables.iter().find(|variable| variable.name == name)
}

fn names_download_dir(word: &str) -> bool {
    DOWNLOAD_FLAGS.iter().any(|flag| word.contains(flag))
}

/// The directory of Hugging Face clients, if the container says which.
fn home(variables: &[EnvVar]) -> Result<Option<String>, Left> {
    for (name, below) in [("HF_HOME", ""), ("XDG_CACHE_HOME", "/huggingface")] {
        let Some(found) = variable(variables, name) else {
            continue;
        };
        return match &found.value {
            Some(value) if value.contains("$(") => Err(Left::EnvironmentUnknown),
            Some(value) => Ok(Some(format!("{}{below}", value.trim_end_matches('/')))),
            None => Err(Left::EnvironmentUnknown),
        };
    }
    Ok(None)
}

/// Whether `path` is `directory` or below it.
fn covers(directory: &str, path: &str) -> bool {
    let directory = directory.trim_end_matches('/');
    let rest = path.strip_prefix(directory);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a volume may hold something when the pod starts.
fn lasts(volume: &Volume) -> bool {
    volume.empty_dir.is_none() && volume.ephemeral.is_none()
}
