//! Pods as their owners' controllers make them: Deployments, Jobs, and KubeRay's clusters by its real
//! operator.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{REPO, WAIT, World};

const PODS: &str = "/api/v1/namespaces/kinds/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/kinds/deployments";
const JOBS: &str = "/apis/batch/v1/namespaces/kinds/jobs";
const RAY: &str = "/apis/ray.io/v1/namespaces/kinds";

/// What the clusters of a service are labelled with; their pods are not.
const MADE_FROM: &str = "ray.io%2Foriginated-from-cr-name";

/// What Ray's autoscaler waits for is twice of what is expected, in whole minutes.
const ALLOCATION: (&str, &str) = ("RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S", "840");

impl World {
    pub(crate) fn pods_of_every_kind_of_owner_are_given_their_model(&self) -> Result<()> {
        let api = self.api();
        api.create(DEPLOYMENTS, &deployment("plain", &json!([])))?;
        let own = json!([{"name": "HF_HUB_CACHE", "value": "/mine"}]);
        api.create(DEPLOYMENTS, &deployment("own", &own))?;
        api.create(JOBS, &job())?;
        api.create(&format!("{RAY}/rayservices"), &ray_service())?;
        let clusters = format!("{RAY}/rayclusters");
        api.create(
            &clusters,
            &json!({"apiVersion": "ray.io/v1", "kind": "RayCluster",
            "metadata": {"name": "named", "annotations": {"headstart.dev/models": "acme/named"}},
            "spec": ray_cluster()}),
        )?;

        let plain = self.made("app=plain")?;
        given(&plain, Some("recognised: hf://acme/small"))?;
        let path = format!(
            "{PODS}/{}",
            plain["metadata"]["name"].as_str().unwrap_or_default()
        );
        let bound = api.until(&path, WAIT, |pod| pod["spec"]["nodeName"].is_string())?;
        ensure!(bound["spec"]["nodeName"] == "warm", "{bound:#}");
        // Where a container says where its cache is, that stands.
        let own = self.made("app=own")?;
        given(&own, None)?;
        ensure!(
            own["spec"]["containers"][0]["env"]
                == json!([{"name": "HF_HUB_CACHE", "value": "/mine"}]),
            "{own:#}"
        );
        // An annotation wins over what is recognised.
        given(
            &self.made("app=batch")?,
            Some("annotation: hf://acme/chosen"),
        )?;
        let made = self.first(&format!("{clusters}?labelSelector={MADE_FROM}%3Dserved"))?;
        let served = made["metadata"]["name"].as_str().context("its name")?;
        let of =
            |kind: &str, cluster: &str| format!("ray.io/node-type={kind},ray.io/cluster={cluster}");
        let worker = self.made(&of("worker", served))?;
        given(&worker, Some("serve_config: hf://acme/small"))?;
        let head = self.made(&of("head", served))?;
        given(&head, None)?;
        let waits = env(&head).find(|(name, _)| *name == ALLOCATION.0);
        ensure!(waits == Some(ALLOCATION), "{head:#}");
        let worker = self.made(&of("worker", "named"))?;
        given(&worker, Some("owner: hf://acme/named"))?;
        self.nothing_else_was_touched()
    }

    fn nothing_else_was_touched(&self) -> Result<()> {
        let api = self.api();
        let pods = api.find(PODS)?.context("pods")?;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let engine =
                env(pod).find(|(name, _)| *name == "HF_HUB_OFFLINE" || name.starts_with("VLLM_"));
            ensure!(engine.is_none(), "{engine:?}: {pod:#}");
        }
        for kind in ["rayservices", "rayclusters"] {
            let list = api.find(&format!("{RAY}/{kind}"))?.context(kind)?;
            for object in list["items"].as_array().into_iter().flatten() {
                let managers = object["metadata"]["managedFields"].as_array();
                let mut managers = managers.into_iter().flatten();
                let ours = managers.find(|one| {
                    let name = one["manager"].as_str();
                    name.is_some_and(|name| name.contains("headstart"))
                });
                ensure!(ours.is_none(), "{kind}: {object:#}");
            }
        }
        let clusters = api.find(&format!(
            "{RAY}/rayclusters?labelSelector={MADE_FROM}%3Dserved"
        ))?;
        let count = clusters
            .as_ref()
            .and_then(|list| list["items"].as_array())
            .map_or(0, Vec::len);
        ensure!(count == 1, "the service has {count} clusters");
        Ok(())
    }

    /// The first pod with these labels.
    fn made(&self, labels: &str) -> Result<Value> {
        let labels = labels
            .replace('/', "%2F")
            .replace('=', "%3D")
            .replace(',', "%2C");
        self.first(&format!("{PODS}?labelSelector={labels}"))
    }

    fn first(&self, path: &str) -> Result<Value> {
        let list = self
            .api()
            .until(path, WAIT, |list| list["items"][0].is_object())?;
        Ok(list["items"][0].clone())
    }
}

/// Whether a pod's first container was given the model, for the reason that is said.
fn given(pod: &Value, note: Option<&str>) -> Result<()> {
    let said = pod["metadata"]["annotations"]["headstart.dev/injected"].as_str();
    ensure!(said == note, "{said:?} instead of {note:?}: {pod:#}");
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let ours: Vec<_> = volumes
        .filter(|volume| volume["csi"]["driver"] == "csi.headstart.dev")
        .collect();
    let cache = env(pod).find(|(name, _)| *name == "HF_HUB_CACHE");
    match note {
        Some(note) => {
            let model = note.split(": ").nth(1).unwrap_or_default();
            let attributes = &ours.first().context("the volume")?["csi"]["volumeAttributes"];
            ensure!(attributes["headstart.dev/model"] == model, "{pod:#}");
            ensure!(cache == Some(("HF_HUB_CACHE", "/headstart/hub")), "{pod:#}");
        }
        None => ensure!(
            ours.is_empty() && cache != Some(("HF_HUB_CACHE", "/headstart/hub")),
            "{pod:#}"
        ),
    }
    Ok(())
}

/// Variables of all containers.
fn env(pod: &Value) -> impl Iterator<Item = (&str, &str)> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let env = containers.flat_map(|container| container["env"].as_array().into_iter().flatten());
    env.map(|one| {
        let text = |field: &str| one[field].as_str().unwrap_or_default();
        (text("name"), text("value"))
    })
}

/// What vLLM's own examples look like.
fn engine(env: &Value) -> Value {
    json!({
        "name": "engine", "image": "vllm/vllm-openai:v0", "args": ["serve", REPO], "env": env,
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    })
}

fn deployment(name: &str, env: &Value) -> Value {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [engine(env)]}}},
    })
}

fn job() -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "batch"},
        "spec": {"template": {
            "metadata": {"labels": {"app": "batch"}, "annotations": {"headstart.dev/models": "acme/chosen"}},
            "spec": {"restartPolicy": "Never", "containers": [engine(&json!([]))]}}},
    })
}

fn ray_service() -> Value {
    let serve = format!(
        "applications:\n- name: llm\n  import_path: ray.serve.llm:build_openai_app\n  args:\n    \
         llm_configs:\n    - model_loading_config:\n        model_id: small\n        model_source: {REPO}\n"
    );
    json!({
        "apiVersion": "ray.io/v1", "kind": "RayService", "metadata": {"name": "served"},
        "spec": {"serveConfigV2": serve, "rayClusterConfig": ray_cluster()},
    })
}

fn ray_cluster() -> Value {
    let template = |name: &str, gpus: &str| {
        let limits = json!({"cpu": "200m", "memory": "128Mi", "nvidia.com/gpu": gpus});
        json!({"spec": {"containers": [
            {"name": name, "image": "rayproject/ray:2.60.0", "resources": {"limits": limits}}]}})
    };
    json!({
        "rayVersion": "2.60.0", "enableInTreeAutoscaling": true,
        "headGroupSpec": {"rayStartParams": {}, "template": template("ray-head", "0")},
        "workerGroupSpecs": [{
            "groupName": "gpu", "replicas": 1, "minReplicas": 1, "maxReplicas": 4,
            "rayStartParams": {}, "template": template("ray-worker", "1"),
        }],
    })
}
