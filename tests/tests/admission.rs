//! Admission on a real API server and scheduler: what pods are given, and where they go.
//!
//! Nodes are objects whose heartbeats the test keeps up: nothing runs on them, and scheduling is real.
//! Replicas have the rights that the chart gives them, and no more.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use headstart_testbed::cluster::{Api, Cluster, Options, Process};
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(30);
const SYSTEM: &str = "headstart-system";
const REPO: &str = "acme/small";
const WARM: &str = "headstart.dev/warm-acme--small";

/// Where replicas of the daemon listen, on the control plane's machine.
const PORTS: [u16; 2] = [9443, 9444];

/// How many pods are led, in each way that is counted.
const PODS: usize = 120;

/// Further arguments of the replica that leads, in all cases but those of a lost leader.
const LEADER: [&str; 3] = ["--leads", "--gate-deadline=5", "--expected-start=400"];

/// Namespaces, and how pods of each are steered if it says so.
const NAMESPACES: [(&str, &str); 7] = [
    (SYSTEM, ""),
    ("by-policy", ""),
    ("by-webhook", ""),
    ("gated", "gate"),
    ("preferring", "prefer"),
    ("unsteered", "none"),
    ("kinds", ""),
];

#[path = "admission/given.rs"]
mod given;
#[path = "admission/kinds.rs"]
mod kinds;
#[path = "admission/led.rs"]
mod led;
#[path = "admission/lost.rs"]
mod lost;
#[path = "admission/nodes.rs"]
mod nodes;
#[path = "admission/webhook.rs"]
mod webhook;

#[test]
fn pods_are_given_their_models_and_led_to_the_node_that_has_them() -> Result<()> {
    let world = World::up()?;
    world.policy_and_webhook_give_the_same()?;
    world.no_pod_is_missed_while_certificates_change()?;
    world.a_webhook_that_is_down_or_hangs_holds_nothing_up()?;
    let patient = world.a_pod_is_nominated_that_fits_nowhere()?;
    world.gated_pods_go_to_the_warm_node_whatever_the_scheduler_would_rather_do()?;
    world.preferring_pods_go_to_the_warm_node_as_far_as_the_scheduler_s_weights_go()?;
    world.pods_of_every_kind_of_owner_are_given_their_model()?;
    world.a_nomination_that_led_nowhere_is_withdrawn(&patient)?;
    world.gates_of_others_are_left_alone()?;
    world.a_gate_is_opened_without_a_leader()?;
    world.a_gate_is_opened_once_an_api_server_that_hangs_answers()?;
    world.a_gate_put_on_by_replicas_that_were_killed_is_opened_by_the_next()?;
    world.the_last_replica_opens_all_gates_as_it_ends()
}

struct World {
    cluster: Arc<Cluster>,
    objects: Vec<Value>,
    kubeconfig: PathBuf,
    over: Arc<AtomicBool>,
    started: Mutex<Vec<Process>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl World {
    fn up() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let cluster = Cluster::up(&Options {
            directory: root.join("target/cluster/admission"),
            programs: named("HEADSTART_KUBERNETES")?,
            program: env!("CARGO_BIN_EXE_cluster").into(),
            nodes: Vec::new(),
        })?;
        let api = cluster.api();
        for crd in headstart_api::crd::all() {
            let crd = serde_json::to_value(crd)?;
            api.create(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                &crd,
            )?;
        }
        for (name, steering) in NAMESPACES {
            let notes = match steering {
                "" => json!({}),
                steering => json!({"headstart.dev/steering": steering}),
            };
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "annotations": notes}});
            api.create("/api/v1/namespaces", &namespace)?;
        }
        for (name, _) in NAMESPACES {
            let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
            api.until(&account, WAIT, |_| true)?;
        }
        cluster.add_kuberay(&named("HEADSTART_KUBERAY")?)?;
        let objects = rendered(&root.join("charts/headstart"))?;
        let kubeconfig = as_shipped(&cluster, &objects)?;
        let world = Self {
            objects,
            cluster: Arc::new(cluster),
            kubeconfig,
            over: Arc::default(),
            started: Mutex::default(),
        };
        nodes::keep_alive(&world.cluster, &world.over);
        nodes::make(world.api())?;
        Ok(world)
    }

    fn api(&self) -> &Api {
        self.cluster.api()
    }

    /// Starts a replica.
    fn daemon(&self, replica: usize, further: &[&str]) -> Result<Process> {
        let port = PORTS[replica];
        let mut arguments = vec![
            "admission".to_owned(),
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--webhook-address=10.99.0.1:{port}"),
            "--webhook-names=10.99.0.1".to_owned(),
            format!("--agent-nodes={}", nodes::AGENT_TERMS),
            "--agent-pods=app=agent".to_owned(),
        ];
        arguments.extend(further.iter().map(|one| (*one).to_owned()));
        let name = format!("daemon{replica}");
        let daemon = named("HEADSTART_DAEMON")?.canonicalize()?;
        let daemon = self.cluster.control().start(&name, &daemon, &arguments)?;
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.push(daemon.clone());
        Ok(daemon)
    }

    /// Replicas that were started, dead or alive.
    fn daemons(&self) -> Vec<Process> {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.clone()
    }

    /// The chart's object of a kind.
    fn object(&self, kind: &str) -> Result<Value> {
        let found = self.objects.iter().find(|object| object["kind"] == kind);
        found
            .cloned()
            .with_context(|| format!("the chart makes no {kind}"))
    }

    /// Makes the API server call the webhook of a replica, and waits until it does.
    fn call(&self, replica: usize) -> Result<()> {
        const WEBHOOKS: &str =
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
        let api = self.api();
        let path = format!("{WEBHOOKS}/headstart");
        if api.find(&path)?.is_some() {
            api.delete(&path)?;
        }
        let mut webhook = self.object("MutatingWebhookConfiguration")?;
        let url = format!("https://10.99.0.1:{}/mutate/pods", PORTS[replica]);
        // There is no Service's address on this machine; the rest is as it is shipped.
        webhook["webhooks"][0]["clientConfig"] = json!({"url": url});
        api.create(WEBHOOKS, &webhook)?;
        self.until_changed("by-webhook")
    }

    /// Waits until a pod that would be made in a namespace is changed.
    fn until_changed(&self, namespace: &str) -> Result<()> {
        let deadline = Instant::now() + WAIT;
        let pod = pod("try", &json!({"headstart.dev/models": REPO}));
        let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
        loop {
            let made = self.api().create(&path, &pod)?;
            if !made["metadata"]["annotations"]["headstart.dev/injected"].is_null() {
                return Ok(());
            }
            let log = || std::fs::read_to_string(self.cluster.control().log("daemon0"));
            ensure!(Instant::now() < deadline, "no pod is changed: {:?}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn named(variable: &str) -> Result<PathBuf> {
    let value = std::env::var_os(variable);
    Ok(value
        .with_context(|| format!("{variable}: run by `cargo xtask e2e`"))?
        .into())
}

/// The chart's admission objects, as helm renders them for an API server that has policies.
fn rendered(chart: &Path) -> Result<Vec<Value>> {
    let terms = format!(
        "agent.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms={}",
        nodes::AGENT_TERMS
    );
    let output = Command::new(named("HEADSTART_HELM")?.join("helm"))
        .args(["template", "headstart"])
        .arg(chart)
        .args(["--namespace", SYSTEM, "--set-json", &terms])
        .args([
            "--api-versions",
            "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy",
        ])
        .args(["--show-only", "templates/admission-policy.yaml"])
        .args(["--show-only", "templates/webhook.yaml"])
        .args(["--show-only", "templates/daemon-rbac.yaml"])
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "helm: {errors}");
    let text = String::from_utf8(output.stdout)?;
    let documents = text.split("\n---\n").filter(|one| one.contains("kind:"));
    documents
        .map(|one| Ok(serde_saphyr::from_str::<Value>(one)?))
        .collect()
}

/// Gives the chart's account its rights; a kubeconfig for it, as programs in the control plane's network
/// reach the API server.
fn as_shipped(cluster: &Cluster, objects: &[Value]) -> Result<PathBuf> {
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    let api = cluster.api();
    let mut account = None;
    for object in objects {
        let path = match object["kind"].as_str() {
            Some("ClusterRole") => "clusterroles".to_owned(),
            Some("ClusterRoleBinding") => "clusterrolebindings".to_owned(),
            Some("Role") => format!("namespaces/{SYSTEM}/roles"),
            Some("RoleBinding") => format!("namespaces/{SYSTEM}/rolebindings"),
            _ => continue,
        };
        api.create(&format!("{RBAC}/{path}"), object)?;
        let subject = object["subjects"][0]["name"].as_str();
        account = subject.map(str::to_owned).or(account);
    }
    let account = account.context("the chart binds no account")?;
    let accounts = format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts");
    let object =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
    api.create(&accounts, &object)?;
    let asked =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = api.create(&format!("{accounts}/{account}/token"), &asked)?;
    let path = cluster.kubeconfig_inside("shipped")?;
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    config["users"][0]["user"] = json!({"token": token["status"]["token"]});
    std::fs::write(&path, config.to_string())?;
    Ok(path.canonicalize()?)
}

/// A pod of one GPU.
fn pod(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations, "labels": {"app": "model"}},
        "spec": {"containers": [{
            "name": "engine", "image": "vllm/vllm-openai:v0",
            "resources": {"limits": {"nvidia.com/gpu": "1", "cpu": "10m", "memory": "1Mi"}},
        }]},
    })
}
