//! A cluster of one node with the Hub beside it and the agent on it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headstart_core::digest::Sha256;
use headstart_testbed::cluster::{Cluster, Node, NodeOptions, Options, Process};
use headstart_testbed::hub::{Access, Hub, Options as HubOptions, RepoFile};
use headstart_testbed::link::Link;
use headstart_testbed::model::{Model, Recipe};
use headstart_testbed::serve::{Door, Site};
use serde_json::{Value, json};

pub(crate) const OPEN: &str = "acme/open";
pub(crate) const GATED: &str = "acme/gated";
pub(crate) const SLOW: &str = "acme/slow";
pub(crate) const LATER: &str = "acme/later";
pub(crate) const WAIT: Duration = Duration::from_secs(60);

const ADDRESS: &str = "10.99.0.1";
const DRIVER: &str = "csi.headstart.dev";

pub(crate) struct World {
    pub(crate) hub: Hub,
    /// What large files come over.
    pub(crate) link: Link,
    pub(crate) agent: Process,
    models: Vec<(&'static str, Vec<RepoFile>)>,
    node: Node,
    kubeconfig: String,
    cluster: Cluster,
    /// The Hub's; goes last.
    _network: tokio::runtime::Runtime,
}

impl World {
    pub(crate) fn up() -> Self {
        let programs = std::env::var_os("HEADSTART_KUBERNETES");
        let cluster = Cluster::up(&Options {
            directory: directory(),
            programs: programs.expect("run by `cargo xtask e2e`").into(),
            program: env!("CARGO_BIN_EXE_cluster").into(),
            nodes: vec![NodeOptions::default()],
        })
        .unwrap();
        let network = cluster.network().unwrap();
        let link = Link::default();
        let door = |port: u16| Door {
            listen: format!("{ADDRESS}:{port}").parse().unwrap(),
            ..Door::default()
        };
        let options = HubOptions {
            hub: door(8080),
            cdn: Door {
                link: link.clone(),
                ..door(8081)
            },
            ..HubOptions::default()
        };
        let started = network.spawn(Hub::start(options));
        let hub = network.block_on(started).unwrap().unwrap();
        let mut models = Vec::new();
        for (seed, (repo, bytes)) in [
            (OPEN, 24_000_000),
            (GATED, 200_000),
            (SLOW, 20_000_000),
            (LATER, 2_000_000),
        ]
        .into_iter()
        .enumerate()
        {
            let made = Model::make(Recipe {
                seed: seed as u64 + 1,
                bytes,
                shards: 2,
                pickles: false,
            });
            let files = made.unwrap().files;
            hub.commit(repo, "main", files.clone());
            models.push((repo, files));
        }
        hub.set_access(GATED, Access::Gated).unwrap();
        hub.add_token("hf_right", "a");
        hub.add_token("hf_wrong", "b");
        hub.grant("hf_right", GATED).unwrap();
        let node = cluster.node("n1").unwrap();
        let kubeconfig = directory().join("keys/n1.kubeconfig");
        let kubeconfig = kubeconfig.canonicalize().unwrap().display().to_string();
        let agent = start(&node, &kubeconfig, &[]);
        let world = Self {
            hub,
            link,
            agent,
            models,
            node,
            kubeconfig,
            cluster,
            _network: network,
        };
        world.prepare();
        world
    }

    /// What the chart makes, and two namespaces under the strictest Pod Security.
    fn prepare(&self) {
        let api = self.cluster.api();
        let driver = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
            "metadata": {"name": DRIVER, "labels": {
                "security.kubernetes.io/csi-ephemeral-volume-profile": "restricted",
            }},
            "spec": {
                "volumeLifecycleModes": ["Ephemeral"], "podInfoOnMount": true,
                "attachRequired": false, "fsGroupPolicy": "None", "requiresRepublish": false,
                "tokenRequests": [{"audience": DRIVER}],
            },
        });
        let drivers = "/apis/storage.k8s.io/v1/csidrivers";
        api.create(drivers, &driver).unwrap();
        for namespace in ["tenant-a", "tenant-b"] {
            let made = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": namespace, "labels": {
                    "pod-security.kubernetes.io/enforce": "restricted",
                }},
            });
            api.create("/api/v1/namespaces", &made).unwrap();
            let secrets = format!("/api/v1/namespaces/{namespace}/secrets");
            for (name, token) in [("right", "hf_right"), ("wrong", "hf_wrong")] {
                let secret = json!({
                    "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
                    "stringData": {"token": token},
                });
                api.create(&secrets, &secret).unwrap();
            }
            let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
            api.until(&account, WAIT, |_| true).unwrap();
        }
        api.until("/apis/storage.k8s.io/v1/csinodes/n1", WAIT, |node| {
            node.to_string().contains(DRIVER)
        })
        .unwrap();
    }

    /// Starts an agent in place of one that has ended.
    pub(crate) fn start_agent(&mut self, arguments: &[&str]) {
        self.agent = start(&self.node, &self.kubeconfig, arguments);
    }

    pub(crate) fn agent_log(&self) -> String {
        std::fs::read_to_string(self.node.machine.log("agent")).unwrap()
    }

    /// Makes a pod that mounts a model at `HF_HUB_CACHE` and runs a script.
    pub(crate) fn create(
        &self,
        namespace: &str,
        name: &str,
        model: &str,
        secret: Option<&str>,
        security: Value,
        script: &str,
    ) {
        let mut pod_security = json!({
            "runAsNonRoot": true, "runAsUser": 65534, "runAsGroup": 65534, "fsGroup": 4711,
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        let changes = security.as_object().unwrap().clone();
        pod_security.as_object_mut().unwrap().extend(changes);
        let mut volume = json!({
            "driver": DRIVER, "volumeAttributes": {"headstart.dev/model": format!("hf://{model}")},
        });
        if let Some(secret) = secret {
            volume["nodePublishSecretRef"] = json!({"name": secret});
        }
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 0, "securityContext": pod_security,
                "volumes": [{"name": "models", "csi": volume}],
                "containers": [{
                    "name": "main", "image": "10.99.0.1:5000/headstart/shell:1",
                    "command": ["/bin/sh", "-c", script],
                    "env": [{"name": "HF_HUB_CACHE", "value": "/models/cache"}],
                    "volumeMounts": [{"name": "models", "mountPath": "/models/cache"}],
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        });
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        self.cluster.api().create(&pods, &pod).unwrap();
    }

    pub(crate) fn delete(&self, namespace: &str, name: &str) {
        let pod = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        self.cluster.api().delete(&pod).unwrap();
    }

    pub(crate) fn log(&self, namespace: &str, name: &str) -> String {
        let log = format!("/api/v1/namespaces/{namespace}/pods/{name}/log");
        self.cluster.api().text(&log).unwrap_or_default()
    }

    /// A pod's log once it has a line.
    pub(crate) fn until_logged(&self, namespace: &str, name: &str, line: &str) -> String {
        let deadline = Instant::now() + WAIT;
        loop {
            let log = self.log(namespace, name);
            if log.lines().any(|found| found == line) {
                return log;
            }
            let waiting = Instant::now() < deadline;
            let events = || self.events(namespace, name);
            let agent = || self.agent_log();
            assert!(
                waiting,
                "{name} wrote {log:?}; {:#?}; {}",
                events(),
                agent()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What a pod's Events say, once one of them contains `text`.
    pub(crate) fn until_event(&self, namespace: &str, name: &str, text: &str) -> String {
        let mut found = None;
        until(&format!("{name} hears of {text}"), || {
            let events = self.events(namespace, name);
            found = events.into_iter().find(|said| said.contains(text));
            found.is_some()
        });
        found.unwrap()
    }

    fn events(&self, namespace: &str, name: &str) -> Vec<String> {
        let path = format!(
            "/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.name={name}"
        );
        let events = self.cluster.api().find(&path).unwrap().unwrap();
        let items = events["items"].as_array().unwrap().iter();
        items
            .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Names and digests of a model's files.
    pub(crate) fn files(&self, repo: &str) -> Vec<(String, Sha256)> {
        let (_, files) = self.models.iter().find(|(name, _)| *name == repo).unwrap();
        let wanted = files.iter().filter(|file| !file.path.contains('/'));
        wanted
            .filter(|file| file.path.ends_with(".json") || file.path.ends_with(".safetensors"))
            .map(|file| (file.path.clone(), file.content.sha256().unwrap()))
            .collect()
    }

    /// Bytes of a model's weights.
    pub(crate) fn size(&self, repo: &str) -> u64 {
        let (_, files) = self.models.iter().find(|(name, _)| *name == repo).unwrap();
        let weights = files
            .iter()
            .filter(|file| file.path.ends_with(".safetensors"));
        weights.map(|file| file.content.len()).sum()
    }

    /// Bytes of weights that have left the Hub.
    pub(crate) fn bytes_of_weights(&self) -> u64 {
        let served = self.hub.log().matching(|entry| entry.site == Site::Cdn);
        served.iter().map(|entry| entry.bytes).sum()
    }

    /// Records of a pod's volumes on the node.
    pub(crate) fn records(&self, namespace: &str, name: &str) -> Vec<String> {
        self.lines(&format!(
            "grep -l '\"name\": \"{name}\"' /var/lib/headstart/views/*/record.json | \
             xargs -r grep -l '\"namespace\": \"{namespace}\"' || true"
        ))
    }

    /// Everything of any volume on the node.
    pub(crate) fn left(&self) -> Vec<String> {
        self.lines(
            "grep -o '/var/lib/kubelet/pods/[^ ]*csi[^ ]*' /proc/self/mountinfo || true; \
             ls -d /var/lib/headstart/views/csi-* 2>/dev/null || true; \
             ls -d /var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/* 2>/dev/null || true",
        )
    }

    fn lines(&self, script: &str) -> Vec<String> {
        let text = self.node.machine.run(script).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster/csi")
}

fn start(node: &Node, kubeconfig: &str, arguments: &[&str]) -> Process {
    let agent = std::env::var_os("HEADSTART_AGENT").expect("run by `cargo xtask e2e`");
    let endpoint = format!("http://{ADDRESS}:8080");
    let socket = format!("/var/lib/kubelet/plugins/{DRIVER}/csi.sock");
    let base = [
        "--log=info",
        "serve",
        "--node-name=n1",
        "--kubeconfig",
        kubeconfig,
        "--root=/var/lib/headstart",
        "--keep-free=0",
        "--endpoint",
        &endpoint,
        "--plain-http",
        ADDRESS,
        "--csi-socket",
        &socket,
    ];
    let all = base.iter().chain(arguments);
    let all: Vec<String> = all.map(|argument| (*argument).to_owned()).collect();
    let started = node.machine.start("agent", Path::new(&agent), &all);
    started.unwrap()
}

/// Waits until it is so.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !is() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
