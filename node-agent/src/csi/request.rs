//! What the kubelet asks for, read and checked: nothing after this looks at a request again.
//!
//! The kubelet's own attributes of a pod win over those of the same name that a pod's author
//! writes, because it merges them over his; nothing here trusts them for access to anything.

use std::collections::HashMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use headstart_api::names::{CSI_MODEL, CSI_ON_REFUSAL};
use headstart_core::model::{InvalidModelRef, ModelRef};
use headstart_hub::endpoint::{InvalidToken, Token};
use serde::{Deserialize, Serialize};

use super::wire::csi;
use super::wire::csi::volume_capability::AccessType;

/// Keys of a Secret under which a token is looked for, in order.
const TOKEN_KEYS: [&str; 3] = ["token", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];

/// Most models in one volume.
const MOST_MODELS: usize = 32;

/// Longest name of a volume: the kubelet's are 68 characters.
const LONGEST_ID: usize = 128;

/// A volume's name, fit to be a directory's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct VolumeId(String);

/// The pod a volume is for, as the kubelet names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) service_account: String,
}

/// What a pod gets whose model it may not read, or whose model does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnRefusal {
    /// It does not start, and its Events say why.
    #[default]
    Fail,
    /// An empty cache, and so what it would have without us.
    Empty,
}

/// A volume to be mounted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) id: VolumeId,
    pub(crate) target: PathBuf,
    pub(crate) pod: Pod,
    pub(crate) models: Vec<ModelRef>,
    pub(crate) token: Option<Token>,
    pub(crate) on_refusal: OnRefusal,
    pub(crate) is_read_only: bool,
}

/// A request that cannot be answered, however often it is made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidRequest {
    #[error("volume_id {found:?} is no name for a directory: expected letters, digits and -_.")]
    Id { found: String },
    #[error("target_path {} is not below {}: is this the kubelet of another root?", found.display(), kubelet.display())]
    Target { found: PathBuf, kubelet: PathBuf },
    #[error(
        "a volume of headstart is a directory: use it under volumeMounts, not under volumeDevices"
    )]
    Block,
    #[error("the volume is not inline: write it under a pod's `volumes`, with `csi`")]
    NotInline,
    #[error(
        "volumeAttributes lack {CSI_MODEL}: give hf://org/name, or several separated by commas"
    )]
    NoModel,
    #[error("volumeAttributes {CSI_MODEL} names {found} models: give at most {MOST_MODELS}")]
    Models { found: usize },
    #[error("volumeAttributes {CSI_MODEL}")]
    Model { source: InvalidModelRef },
    #[error("volumeAttributes {CSI_ON_REFUSAL} is {found:?}: give `fail` or `empty`")]
    OnRefusal { found: String },
    #[error("key {key} of the Secret that nodePublishSecretRef names")]
    Token {
        key: &'static str,
        source: InvalidToken,
    },
}

impl Wanted {
    /// Reads a request of the kubelet whose root is `kubelet`.
    pub(crate) fn read(
        request: csi::NodePublishVolumeRequest,
        kubelet: &Path,
    ) -> Result<Self, InvalidRequest> {
        let id = request.volume_id.parse()?;
        let target = target(&request.target_path, kubelet)?;
        let capability = request.volume_capability.and_then(|all| all.access_type);
        if let Some(AccessType::Block(_)) = capability {
            return Err(InvalidRequest::Block);
        }
        let context = request.volume_context;
        if of(&context, "csi.storage.k8s.io/ephemeral") == "false" {
            return Err(InvalidRequest::NotInline);
        }
        let pod = |what: &str| of(&context, &format!("csi.storage.k8s.io/{what}")).to_owned();
        Ok(Self {
            id,
            target,
            pod: Pod {
                namespace: pod("pod.namespace"),
                name: pod("pod.name"),
                uid: pod("pod.uid"),
                service_account: pod("serviceAccount.name"),
            },
            models: models(of(&context, CSI_MODEL))?,
            token: token(&request.secrets)?,
            on_refusal: match of(&context, CSI_ON_REFUSAL) {
                "" | "fail" => OnRefusal::Fail,
                "empty" => OnRefusal::Empty,
                other => {
                    let found = other.chars().take(80).collect();
                    return Err(InvalidRequest::OnRefusal { found });
                }
            },
            is_read_only: request.readonly,
        })
    }
}

/// A target path of the kubelet whose root is `kubelet`.
pub(crate) fn target(found: &str, kubelet: &Path) -> Result<PathBuf, InvalidRequest> {
    let target = PathBuf::from(found);
    let plain = target
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // More than the root and a name: whatever is asked, the kubelet's own directories stay.
    let deep = target
        .strip_prefix(kubelet)
        .is_ok_and(|below| below.components().count() > 1);
    match plain && deep {
        true => Ok(target),
        false => Err(InvalidRequest::Target {
            found: target,
            kubelet: kubelet.to_owned(),
        }),
    }
}

fn of<'a>(context: &'a HashMap<String, String>, key: &str) -> &'a str {
    context.get(key).map_or("", |value| value.trim())
}

/// Each model once, in the order given.
fn models(text: &str) -> Result<Vec<ModelRef>, InvalidRequest> {
    let mut models: Vec<ModelRef> = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let model = part
            .parse()
            .map_err(|source| InvalidRequest::Model { source })?;
        if !models.contains(&model) {
            models.push(model);
        }
    }
    match models.len() {
        0 => Err(InvalidRequest::NoModel),
        found if found > MOST_MODELS => Err(InvalidRequest::Models { found }),
        _ => Ok(models),
    }
}

fn token(secrets: &HashMap<String, String>) -> Result<Option<Token>, InvalidRequest> {
    let given = TOKEN_KEYS
        .iter()
        .find_map(|key| Some((key, secrets.get(*key)?)));
    let Some((key, text)) = given else {
        return Ok(None);
    };
    let read = text.parse();
    read.map(Some)
        .map_err(|source| InvalidRequest::Token { key, source })
}

impl std::str::FromStr for VolumeId {
    type Err = InvalidRequest;

    fn from_str(text: &str) -> Result<Self, InvalidRequest> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let fits = (1..=LONGEST_ID).contains(&text.len());
        match fits && text.bytes().all(plain) && !text.starts_with('.') {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidRequest::Id {
                found: text.chars().take(LONGEST_ID).collect(),
            }),
        }
    }
}

impl TryFrom<String> for VolumeId {
    type Error = InvalidRequest;

    fn try_from(text: String) -> Result<Self, InvalidRequest> {
        text.parse()
    }
}

impl From<VolumeId> for String {
    fn from(id: VolumeId) -> Self {
        id.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<Path> for VolumeId {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::chain;

    const KUBELET: &str = "/var/lib/kubelet";

    fn request(context: &[(&str, &str)]) -> csi::NodePublishVolumeRequest {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        csi::NodePublishVolumeRequest {
            volume_id: "csi-0a1b".to_owned(),
            target_path: format!("{KUBELET}/pods/u/volumes/kubernetes.io~csi/m/mount"),
            volume_context: context.iter().map(pair).collect(),
            ..csi::NodePublishVolumeRequest::default()
        }
    }

    fn refused(request: csi::NodePublishVolumeRequest) -> String {
        chain(&Wanted::read(request, Path::new(KUBELET)).unwrap_err())
    }

    #[test]
    fn several_models_are_one_volume_and_a_token_is_found_under_its_usual_names() {
        let mut asked = request(&[
            (CSI_MODEL, "hf://a/b, hf://c/d@v1 ,a/b,"),
            ("csi.storage.k8s.io/pod.name", "p"),
            ("csi.storage.k8s.io/pod.namespace", "n"),
            ("csi.storage.k8s.io/ephemeral", "true"),
            (CSI_ON_REFUSAL, "empty"),
        ]);
        let secret = ("HF_TOKEN".to_owned(), "hf_abc\n".to_owned());
        asked.secrets = HashMap::from([secret]);
        let wanted = Wanted::read(asked, Path::new(KUBELET)).unwrap();
        let models: Vec<String> = wanted.models.iter().map(ToString::to_string).collect();
        assert_eq!(models, ["a/b@main", "c/d@v1"]);
        assert_eq!(wanted.token, "hf_abc".parse().ok());
        assert_eq!(wanted.on_refusal, OnRefusal::Empty);
        assert_eq!((&*wanted.pod.name, &*wanted.pod.namespace), ("p", "n"));
        assert!(!format!("{wanted:?}").contains("hf_abc"));
    }

    #[test]
    fn what_cannot_be_answered_is_refused_with_its_field() {
        let of = |context: &[(&str, &str)]| refused(request(context));
        assert!(of(&[]).contains(CSI_MODEL));
        assert!(of(&[(CSI_MODEL, "s3://bucket")]).contains("scheme"));
        assert!(of(&[(CSI_MODEL, "a/b"), (CSI_ON_REFUSAL, "maybe")]).contains("maybe"));
        let inline = ("csi.storage.k8s.io/ephemeral", "false");
        assert!(of(&[(CSI_MODEL, "a/b"), inline]).contains("inline"));
        for id in ["", "..", "a/b", ".x", &"x".repeat(200)] {
            let mut asked = request(&[(CSI_MODEL, "a/b")]);
            asked.volume_id = id.to_owned();
            assert!(refused(asked).contains("volume_id"), "{id}");
        }
        for target in [
            "/etc/x/y",
            "/var/lib/kubelet",
            "/var/lib/kubelet/pods",
            "/var/lib/kubelet/pods/../../x",
            "pods/u",
        ] {
            let mut asked = request(&[(CSI_MODEL, "a/b")]);
            asked.target_path = target.to_owned();
            assert!(refused(asked).contains("target_path"), "{target}");
        }
        let mut asked = request(&[(CSI_MODEL, "a/b")]);
        asked.secrets = HashMap::from([("token".to_owned(), "two words".to_owned())]);
        let said = refused(asked);
        assert!(
            said.contains("key token") && !said.contains("two words"),
            "{said}"
        );
    }
}
