//! What a pod is given at admission: a mount of the models that it starts with, and a preference for
//! nodes that have them.
//!
//! - A pure function of the pod and of what is known; the same pod twice is changed once.
//! - It only adds. Nothing that changes what an engine does or its compile cache's key is set:
//!   `HF_HUB_CACHE` is, and only where the pod says nothing of the kind.
//! - What is not understood is left alone. A pod that could land where no agent is gets no volume that
//!   only an agent can mount.
//! - What a mount cannot give, the pod downloads as it would have: every volume says `empty` on
//!   refusal.
//!
//! Source of KubeRay's names: v1.7 `controllers/ray/utils/constant.go`, `common/pod.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use headstart_api::names;
use headstart_core::model::{ModelRef, Revision};
use json_patch::Patch;
use k8s_openapi::api::core::v1::{Container, NodeSelectorTerm, Pod, PodSpec};
use serde_json::{Value, json};

use self::cache::{Asked, HUB_CACHE, obstacle, variable};
use self::edit::Edit;
pub(crate) use self::reason::{Left, Reason, Source};
use crate::manifest::recognise;

mod cache;
mod edit;
mod reason;
mod steer;
#[cfg(test)]
mod tests;

/// Name of the volume that is added.
pub(crate) const VOLUME: &str = "headstart-models";

/// Most models that one pod is given.
const MOST_MODELS: usize = 16;

/// What Ray's autoscaler waits for a worker that has a node, in seconds, and the variable that says so.
/// Source: Ray `autoscaler/v2/instance_manager/config.py`.
const RAY_WAITS: Duration = Duration::from_secs(300);
const RAY_ALLOCATION: &str = "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S";

/// The container that KubeRay adds to a head whose cluster scales by itself.
const RAY_AUTOSCALER: &str = "autoscaler";

/// Variables that hold a Hub token.
const TOKENS: [&str; 2] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];

/// Keys of a Secret under which the mount looks for a token by itself.
const TOKEN_KEYS: [&str; 3] = ["token", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];

/// Which nodes have an agent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AgentNodes {
    /// All of them.
    Every,
    /// Those that one of these selects; nodes whose accelerators can be asked for are among them.
    Selected(Vec<NodeSelectorTerm>),
}

/// How pods are led to a node that has their models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Steering {
    /// Not at all.
    None,
    /// By a preference that the scheduler weighs.
    Prefer,
    /// By a scheduling gate, until a node is chosen.
    Gate,
}

/// Whether a preference names pods beside nodes. A topology spread or a taint outweighs a label alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Markers {
    /// Nodes only.
    #[allow(
        dead_code,
        reason = "a choice of the injector that no command line offers yet"
    )]
    None,
    /// The agent's pods in this namespace, which carry the labels of their node.
    AgentPods(String),
}

/// What injection goes by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InjectConfig {
    /// Which nodes have an agent.
    pub(crate) agents: AgentNodes,
    /// How pods are steered whose annotation does not say.
    pub(crate) steering: Steering,
    /// What the preference names.
    pub(crate) markers: Markers,
}

/// What is known of a pod beside itself. Nothing of it is needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Annotations of its namespace.
    pub(crate) namespace: BTreeMap<String, String>,
    /// `headstart.dev/models` of the nearest owner that has it.
    pub(crate) owner_models: Option<String>,
    /// Models in the `serveConfigV2` of the RayService it is part of.
    pub(crate) served: Vec<ModelRef>,
    /// How long a worker of its Ray cluster is expected to take from its node to Ray.
    pub(crate) expected_start: Option<Duration>,
}

/// What is done to a pod.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    /// The changes; none when it is left as it is.
    pub(crate) patch: Patch,
    /// What became of it.
    pub(crate) reason: Reason,
    /// What to tell whoever made it.
    pub(crate) warnings: Vec<String>,
}

impl Injection {
    fn left(left: Left) -> Self {
        Self {
            patch: Patch(Vec::new()),
            reason: Reason::Left(left),
            warnings: Vec::new(),
        }
    }
}

/// Models, and the containers that load them.
struct Found {
    models: Vec<ModelRef>,
    containers: Vec<usize>,
    source: Source,
}

/// What `pod`, as it is about to be created, is given. `raw` is the same pod as it was received.
pub(crate) fn inject(pod: &Pod, raw: &Value, known: &Known, config: &InjectConfig) -> Injection {
    let Some(spec) = &pod.spec else {
        return Injection::left(Left::NoModel);
    };
    if let Some(left) = untouchable(pod, spec, known) {
        return Injection::left(left);
    }
    let mut changed = raw.clone();
    let mut edit = Edit::of(&mut changed);
    let waits = ray_waits(pod, spec, known, &mut edit);
    let mut warnings = Vec::new();
    let (models, mut reason) = match mounted(spec) {
        Some(models) => (models, Reason::Already),
        None => match find(pod, spec, known, config, &mut warnings) {
            Ok(found) => match mount(pod, spec, &found, config, &mut edit) {
                Ok(()) => (found.models, Reason::Injected(found.source)),
                Err(left) => (Vec::new(), Reason::Left(left)),
            },
            Err(left) => (Vec::new(), Reason::Left(left)),
        },
    };
    if !models.is_empty() {
        steer::steer(pod, spec, &models, known, config, &mut edit);
    } else if waits {
        reason = Reason::RayWaits;
    }
    Injection {
        patch: edit.into_patch(),
        reason,
        warnings,
    }
}

/// Why a pod is none of our business, if it is none.
fn untouchable(pod: &Pod, spec: &PodSpec, known: &Known) -> Option<Left> {
    let is_true = |value: Option<&String>| value.is_some_and(|value| value.trim() == "true");
    let label = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|all| all.get(names::IGNORE));
    if is_true(annotation(pod, names::IGNORE))
        || is_true(label)
        || is_true(known.namespace.get(names::IGNORE))
    {
        return Some(Left::Ignored);
    }
    if annotation(pod, "kubernetes.io/config.mirror").is_some() {
        return Some(Left::Mirror);
    }
    let os = spec.os.as_ref().map(|os| os.name.as_str());
    let selected = spec
        .node_selector
        .as_ref()
        .and_then(|all| all.get("kubernetes.io/os"));
    (os.or(selected.map(String::as_str)) == Some("windows")).then_some(Left::Windows)
}

pub(super) fn annotation<'p>(pod: &'p Pod, name: &str) -> Option<&'p String> {
    pod.metadata.annotations.as_ref()?.get(name)
}

/// Models that volumes of ours name already.
pub(crate) fn mounted(spec: &PodSpec) -> Option<Vec<ModelRef>> {
    let mut ours = spec.volumes.iter().flatten().filter_map(|volume| {
        let csi = volume.csi.as_ref()?;
        (csi.driver == names::CSI_DRIVER).then_some(csi)
    });
    let csi = ours.next()?;
    let named = csi
        .volume_attributes
        .as_ref()
        .and_then(|all| all.get(names::CSI_MODEL));
    Some(
        named
            .and_then(|named| models(named).ok())
            .unwrap_or_default(),
    )
}

/// Entries of an annotation that names models.
fn models(text: &str) -> Result<Vec<ModelRef>, String> {
    let words = text.split([',', '\n']).map(str::trim);
    let mut models: Vec<ModelRef> = Vec::new();
    for word in words.filter(|word| !word.is_empty()) {
        let model: ModelRef = word
            .parse()
            .map_err(|error: headstart_core::model::InvalidModelRef| error.to_string())?;
        if !models.contains(&model) {
            models.push(model);
        }
    }
    if models.len() > MOST_MODELS {
        return Err(format!(
            "names {} models; at most {MOST_MODELS} are mounted",
            models.len()
        ));
    }
    Ok(models)
}

/// The models of a pod and who loads them, by the first of: its annotation, its owner's, what its
/// containers run, its RayService's configuration.
fn find(
    pod: &Pod,
    spec: &PodSpec,
    known: &Known,
    config: &InjectConfig,
    warnings: &mut Vec<String>,
) -> Result<Found, Left> {
    let computing = computing(spec);
    let mut read = |text: &String| {
        models(text).map_err(|error| {
            warnings.push(format!(
                "{}: {error}; the pod is left as it is",
                names::MODELS
            ));
            Left::Unreadable
        })
    };
    if let Some(text) = annotation(pod, names::MODELS) {
        let containers = if computing.is_empty() {
            vec![0]
        } else {
            computing
        };
        return found(read(text)?, containers, Source::Annotation);
    }
    let is_ray = is_ray(pod);
    // Of a cluster, those that compute load what is named for all of it: KubeRay's first container.
    let loads_for_ray = is_ray && !computing.is_empty();
    if let Some(text) = &known.owner_models
        && (loads_for_ray || !is_ray)
    {
        let containers = if is_ray { vec![0] } else { computing.clone() };
        return found(read(text)?, containers, Source::Owner);
    }
    let (mut named, mut containers) = (Vec::new(), Vec::new());
    for (index, container) in spec.containers.iter().enumerate() {
        let models = recognise::of_container(container);
        if !models.is_empty() {
            containers.push(index);
        }
        for model in models {
            if !named.contains(&model) {
                named.push(model);
            }
        }
    }
    let source = if named.is_empty() && loads_for_ray {
        named.clone_from(&known.served);
        containers = vec![0];
        Source::ServeConfig
    } else {
        Source::Recognised
    };
    if named.is_empty() {
        return Err(Left::NoModel);
    }
    if computing.is_empty() && !selects_agent(spec, config) {
        return Err(Left::NoAgent);
    }
    named.truncate(MOST_MODELS);
    found(named, containers, source)
}

fn found(models: Vec<ModelRef>, containers: Vec<usize>, source: Source) -> Result<Found, Left> {
    if models.is_empty() || containers.is_empty() {
        return Err(Left::NoModel);
    }
    Ok(Found {
        models,
        containers,
        source,
    })
}

/// Adds volume, mounts and variables.
fn mount(
    pod: &Pod,
    spec: &PodSpec,
    found: &Found,
    config: &InjectConfig,
    edit: &mut Edit<'_>,
) -> Result<(), Left> {
    let asked = match found.source {
        Source::Annotation | Source::Owner => Asked::Outright,
        Source::Recognised | Source::ServeConfig => Asked::Recognised,
    };
    if spec
        .volumes
        .iter()
        .flatten()
        .any(|volume| volume.name == VOLUME)
    {
        return Err(Left::NameIsTaken);
    }
    let mut loading = Vec::new();
    let mut first = None;
    for &index in &found.containers {
        let Some(container) = spec.containers.get(index) else {
            continue;
        };
        match obstacle(container, spec, asked) {
            None => loading.push((index, container)),
            Some(left) => first = first.or(Some(left)),
        }
    }
    if loading.is_empty() {
        return Err(first.unwrap_or(Left::NoModel));
    }
    place(spec, config, edit)?;
    edit.append(&["spec", "volumes"], volume(pod, found, loading[0].1));
    for (index, _) in &loading {
        let index = index.to_string();
        let container = ["spec", "containers", &index];
        let at = |field| [container[0], container[1], container[2], field];
        let mount = json!({"name": VOLUME, "mountPath": HUB_CACHE});
        edit.append(&at("volumeMounts"), mount);
        edit.append(
            &at("env"),
            json!({"name": "HF_HUB_CACHE", "value": HUB_CACHE}),
        );
    }
    let record = format!("{}: {}", found.source.word(), written(&found.models));
    edit.insert(&["metadata", "annotations"], names::INJECTED, json!(record));
    Ok(())
}

/// Keeps a pod without accelerators on nodes that have an agent: elsewhere its volume would not be
/// mounted, ever.
fn place(spec: &PodSpec, config: &InjectConfig, edit: &mut Edit<'_>) -> Result<(), Left> {
    let AgentNodes::Selected(terms) = &config.agents else {
        return Ok(());
    };
    if !computing(spec).is_empty() || selects_agent(spec, config) {
        return Ok(());
    }
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    // Its own terms and ours cannot both be met by adding to them.
    if required.is_some() {
        return Err(Left::NoAgent);
    }
    edit.insert(
        &["spec", "affinity", "nodeAffinity"],
        "requiredDuringSchedulingIgnoredDuringExecution",
        json!({"nodeSelectorTerms": terms}),
    );
    Ok(())
}

/// The volume, with the Secret that opens the model where the pod names one.
fn volume(pod: &Pod, found: &Found, container: &Container) -> Value {
    let mut attributes = json!({
        names::CSI_MODEL: written(&found.models),
        names::CSI_ON_REFUSAL: "empty",
    });
    let mut csi = json!({"driver": names::CSI_DRIVER});
    let named = annotation(pod, names::TOKEN_SECRET).map(|name| name.trim());
    if let Some(name) = named.filter(|name| !name.is_empty()) {
        csi["nodePublishSecretRef"] = json!({"name": name});
    } else if let Some((name, key)) = token_secret(container) {
        csi["nodePublishSecretRef"] = json!({"name": name});
        if !TOKEN_KEYS.contains(&key) {
            attributes[names::CSI_TOKEN_KEY] = json!(key);
        }
    }
    csi["volumeAttributes"] = attributes;
    json!({"name": VOLUME, "csi": csi})
}

/// The Secret and key that a container's token comes from. One that may be missing is none: a pod
/// starts without it, a mount would not.
fn token_secret(container: &Container) -> Option<(&str, &str)> {
    let variables = container.env.as_deref().unwrap_or_default();
    let token = TOKENS.iter().find_map(|name| variable(variables, name))?;
    let secret = token.value_from.as_ref()?.secret_key_ref.as_ref()?;
    let needed = secret.optional != Some(true) && !secret.name.is_empty();
    needed.then_some((secret.name.as_str(), secret.key.as_str()))
}

/// Models as an attribute of a volume names them; `main` is not written.
fn written(models: &[ModelRef]) -> String {
    let one = |model: &ModelRef| {
        let text = model.to_string();
        if model.revision == Revision::main() {
            let rest = text.replacen("@main", "", 1);
            return format!("hf://{rest}");
        }
        format!("hf://{text}")
    };
    models.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Containers that ask for what computes.
pub(super) fn computing(spec: &PodSpec) -> Vec<usize> {
    let asks = |container: &Container| {
        let Some(resources) = &container.resources else {
            return false;
        };
        let named = resources.limits.iter().chain(&resources.requests).flatten();
        let claims = resources
            .claims
            .as_ref()
            .is_some_and(|claims| !claims.is_empty());
        claims
            || named
                .into_iter()
                .any(|(name, amount)| is_accelerator(name) && amount.0 != "0")
    };
    let containers = spec.containers.iter().enumerate();
    let asking = containers.filter(|(_, container)| asks(container));
    asking.map(|(index, _)| index).collect()
}

/// Whether a resource is a device that computes. The policy and the webhook's conditions say the same.
fn is_accelerator(resource: &str) -> bool {
    const STARTS: [&str; 9] = [
        "nvidia.com/gpu",
        "nvidia.com/mig-",
        "amd.com/gpu",
        "gpu.intel.com/",
        "habana.ai/gaudi",
        "google.com/tpu",
        "aws.amazon.com/neuron",
        "cloud-tpus.google.com/",
        "huawei.com/Ascend",
    ];
    STARTS.iter().any(|start| resource.starts_with(start))
}

/// Whether a pod runs only where an agent is.
fn selects_agent(spec: &PodSpec, config: &InjectConfig) -> bool {
    let AgentNodes::Selected(terms) = &config.agents else {
        return true;
    };
    let none = BTreeMap::new();
    let selected = spec.node_selector.as_ref().unwrap_or(&none);
    let suits = |term: &NodeSelectorTerm| {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let mut met = expressions.iter().map(|expression| {
            let value = selected.get(&expression.key);
            let values = expression.values.as_deref().unwrap_or_default();
            match expression.operator.as_str() {
                "Exists" => value.is_some(),
                "In" => value.is_some_and(|value| values.contains(value)),
                _ => false,
            }
        });
        !expressions.is_empty() && met.all(|met| met)
    };
    terms.is_empty() || terms.iter().any(suits)
}

fn is_ray(pod: &Pod) -> bool {
    label(pod, "ray.io/cluster").is_some()
}

fn label<'p>(pod: &'p Pod, name: &str) -> Option<&'p String> {
    pod.metadata.labels.as_ref()?.get(name)
}

/// Makes Ray's autoscaler wait longer for workers than they are expected to take; says whether it does.
fn ray_waits(pod: &Pod, spec: &PodSpec, known: &Known, edit: &mut Edit<'_>) -> bool {
    let Some(expected) = known
        .expected_start
        .filter(|expected| *expected > RAY_WAITS)
    else {
        return false;
    };
    if label(pod, "ray.io/node-type").map(String::as_str) != Some("head") {
        return false;
    }
    let mut containers = spec.containers.iter();
    let Some(index) = containers.position(|container| container.name == RAY_AUTOSCALER) else {
        return false;
    };
    let variables = spec.containers[index].env.as_deref().unwrap_or_default();
    if variable(variables, RAY_ALLOCATION).is_some() {
        return false;
    }
    // Twice as long, in whole minutes: one that is a little slower than expected is no failure.
    let seconds = expected
        .as_secs()
        .saturating_mul(2)
        .div_ceil(60)
        .saturating_mul(60);
    let value = json!({"name": RAY_ALLOCATION, "value": seconds.to_string()});
    edit.append(&["spec", "containers", &index.to_string(), "env"], value);
    true
}
