//! The cluster, what stands around it, and the installed release.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headstart_testbed::cloud::{Boot, Cloud, Machines, Offer};
use headstart_testbed::cluster::{
    Api, CONTAINERD, Cluster, Node, NodeOptions, Options, Process, REGISTRY,
};
use headstart_testbed::helm::{Helm, chart};
use headstart_testbed::hub::{Hub, Options as HubOptions};
use headstart_testbed::image::Image;
use headstart_testbed::link::{Link, Shape};
use headstart_testbed::model::{Model, Recipe};
use headstart_testbed::serve::{Door, Site};
use serde_json::{Value, json};

use self::engine::engine;

#[path = "engine.rs"]
mod engine;
#[path = "ray.rs"]
mod ray;

pub(crate) const CLAIMS: &str = "/apis/headstart.dev/v1alpha1/nodeclaims";
pub(crate) const CACHES: &str = "/apis/headstart.dev/v1alpha1/nodecaches";
const POOLS: &str = "/apis/headstart.dev/v1alpha1/nodepools";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const SPACE: &str = "headstart-system";
const ADDRESS: &str = "10.99.0.1";

/// How long anything may take on a busy machine.
pub(crate) const WAIT: Duration = Duration::from_secs(180);

/// What engines serve unless a case says otherwise, and how large that is.
const MODEL: &str = "live";
pub(crate) const WEIGHTS: u64 = 24_000_000;
const IMAGE: u64 = 16_000_000;

/// What is set up.
pub(crate) struct Setup {
    /// Name of its directory.
    pub(crate) name: &'static str,
    pub(crate) offers: Vec<Offer>,
    pub(crate) boot: Boot,
    /// Models with the bytes of their weights, and the bytes of the image of that name.
    pub(crate) models: Vec<(&'static str, u64, u64)>,
    /// Pools, whose nodes are labelled `pool`.
    pub(crate) pools: Vec<&'static str>,
    /// Values of the chart.
    pub(crate) values: Vec<&'static str>,
}

impl Default for Setup {
    fn default() -> Self {
        let rate = "100mbit";
        Self {
            name: "live",
            offers: vec![
                offer("g6.xlarge", 1, 0.4, rate),
                offer("g6.12xlarge", 2, 0.6, rate),
            ],
            boot: boot(&[]),
            models: vec![(MODEL, WEIGHTS, IMAGE)],
            pools: vec!["gpu"],
            values: Vec::new(),
        }
    }
}

pub(crate) struct World {
    hub: Hub,
    /// What the Hub's answers come over, and what its large files do.
    pub(crate) answers: Link,
    pub(crate) files: Link,
    cloud: Cloud,
    helm: Helm,
    cluster: Arc<Cluster>,
    /// The Hub's; goes last.
    _network: tokio::runtime::Runtime,
}

/// A pod that serves the model.
pub(crate) struct Deploy {
    pub(crate) name: String,
    pub(crate) annotations: Value,
    /// Of its model and of its engine's image.
    pub(crate) model: &'static str,
    /// Where it is to run, if that matters.
    pub(crate) pool: Option<&'static str>,
    /// A directory of the node that is its cache.
    pub(crate) cache: Option<&'static str>,
}

/// Bytes of weights that have left the Hub.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) to_agents: u64,
    pub(crate) to_pods: u64,
}

impl Deploy {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            annotations: json!({}),
            model: MODEL,
            pool: None,
            cache: None,
        }
    }

    /// With the annotation that asks for its model.
    pub(crate) fn annotated(mut self) -> Self {
        self.annotations["headstart.dev/models"] = json!(format!("hf://acme/{}", self.model));
        self
    }

    /// As a person would write it: nothing in it speaks of Headstart.
    fn pod(&self) -> Value {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "annotations": self.annotations},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                "name": "engine", "image": image(self.model),
                "command": ["vllm", "serve", format!("acme/{}", self.model)],
                "env": [{"name": "HF_ENDPOINT", "value": format!("http://{ADDRESS}:8080")}],
                "resources": {"limits": {"nvidia.com/gpu": 1}},
                "readinessProbe": {
                    "httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1,
                },
            }]},
        });
        if let Some(pool) = self.pool {
            pod["spec"]["nodeSelector"] = json!({"pool": pool});
        }
        if let Some(path) = self.cache {
            pod["spec"]["volumes"] = json!([{
                "name": "cache", "hostPath": {"path": path, "type": "DirectoryOrCreate"},
            }]);
            let engine = &mut pod["spec"]["containers"][0];
            engine["volumeMounts"] = json!([{"name": "cache", "mountPath": "/cache"}]);
            let variable = json!({"name": "HF_HUB_CACHE", "value": "/cache"});
            engine["env"].as_array_mut().unwrap().push(variable);
        }
        pod
    }

    fn path(&self) -> String {
        format!("{PODS}/{}", self.name)
    }
}

impl World {
    pub(crate) fn up(setup: Setup) -> Self {
        let programs = std::env::var_os("HEADSTART_KUBERNETES");
        let cluster = Cluster::up(&Options {
            directory: directory(setup.name),
            programs: programs.expect("run by `cargo xtask e2e`").into(),
            program: env!("CARGO_BIN_EXE_cluster").into(),
            nodes: vec![NodeOptions::default()],
        });
        let cluster = Arc::new(cluster.unwrap());
        let network = cluster.network().unwrap();
        let door = |port: u16| Door {
            listen: format!("{ADDRESS}:{port}").parse().unwrap(),
            ..Door::default()
        };
        let (answers, files) = (Link::default(), Link::default());
        let options = HubOptions {
            hub: Door {
                link: answers.clone(),
                ..door(8080)
            },
            cdn: Door {
                link: files.clone(),
                ..door(8081)
            },
            ..HubOptions::default()
        };
        let started = network.spawn(Hub::start(options));
        let hub = network.block_on(started).unwrap().unwrap();
        for (seed, (name, weights, image)) in (1..).zip(setup.models) {
            let model = Model::make(Recipe {
                seed,
                bytes: weights,
                shards: 2,
                pickles: true,
            });
            hub.commit(&format!("acme/{name}"), "main", model.unwrap().files);
            let repository = format!("acme/{name}");
            cluster.push(engine(seed, image), &repository, "1").unwrap();
        }
        let images = std::env::var_os("HEADSTART_IMAGES").expect("run by `cargo xtask e2e`");
        for name in ["headstart", "headstart-agent"] {
            let image = Image::open(&Path::new(&images).join(name)).unwrap();
            cluster
                .push(image, &format!("headstart/{name}"), "e2e")
                .unwrap();
        }
        let cloud = Cloud::open(
            Arc::clone(&cluster),
            Machines::Real,
            setup.offers,
            setup.boot,
        );
        let world = Self {
            hub,
            answers,
            files,
            cloud: cloud.unwrap(),
            helm: Helm::find().at(cluster.kubeconfig()),
            cluster,
            _network: network,
        };
        world.install(&setup.values);
        for name in setup.pools {
            let pool = json!({"apiVersion": "headstart.dev/v1alpha1", "kind": "NodePool",
                              "metadata": {"name": name}, "spec": {"labels": {"pool": name}}});
            world.api().create(POOLS, &pool).unwrap();
        }
        world
    }

    /// As the README says, with what is particular to this cluster.
    pub(crate) fn install(&self, more: &[&str]) {
        let chart = chart();
        let arguments = [
            "upgrade",
            "--install",
            "headstart",
            &chart,
            "-n",
            SPACE,
            "--create-namespace",
            "--wait",
        ];
        let daemon = format!("daemon.image.repository={REGISTRY}/headstart/headstart");
        let agent = format!("agent.image.repository={REGISTRY}/headstart/headstart-agent");
        let url = format!("provider.external.url={}", self.cloud.url());
        let hub = format!("sources.hub.endpoint=http://{ADDRESS}:8080");
        let plain = format!("sources.plainHttpHosts={{{ADDRESS}}}");
        let mut values = vec![
            &*daemon,
            &agent,
            &url,
            &hub,
            &plain,
            "daemon.image.tag=e2e",
            "agent.image.tag=e2e",
            "daemon.log=debug",
            "agent.log=info",
            "provider.name=external",
            "sources.registries.hostsDirectory=/var/lib/containerd-certs.d",
            "agent.store.keepFreePercent=1",
        ];
        values.extend(more);
        self.helm.run(&arguments, &values).unwrap();
        // The API server goes on without the webhook after two seconds, and a machine that runs three
        // clusters may need them.
        let webhook = format!("{WEBHOOKS}/headstart");
        if self.api().find(&webhook).unwrap().is_some() {
            let patient =
                json!([{"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 10}]);
            self.api().patch_json(&webhook, &patient).unwrap();
        }
    }

    pub(crate) fn api(&self) -> &Api {
        self.cluster.api()
    }

    pub(crate) fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    /// Creates the pod, and returns it as the API server has it.
    pub(crate) fn create(&self, deploy: &Deploy) -> Value {
        self.api().create(PODS, &deploy.pod()).unwrap()
    }

    pub(crate) fn delete(&self, deploy: &Deploy) {
        self.api().delete(&deploy.path()).unwrap();
    }

    /// The node of the newest claim.
    pub(crate) fn node(&self) -> Node {
        let mut node = None;
        self.until("a node has started", || {
            let mut machines = self.cloud.machines();
            machines.sort_by_key(|machine| machine.created);
            let name = machines.pop().and_then(|machine| machine.node);
            // It is known by its name once all of it has started.
            node = name.and_then(|name| self.cluster.node(&name));
            node.is_some()
        });
        node.unwrap()
    }

    /// How many daemons there are to be.
    pub(crate) fn daemons(&self, count: usize) {
        let deployment = format!("/apis/apps/v1/namespaces/{SPACE}/deployments/headstart");
        let spec = json!({"spec": {"replicas": count}});
        self.api().patch(&deployment, &spec).unwrap();
        let label = "labelSelector=app.kubernetes.io%2Fcomponent%3Ddaemon";
        let pods = format!("/api/v1/namespaces/{SPACE}/pods?{label}");
        self.until("the daemons are as many as they are to be", || {
            let pods = self.list(&pods);
            pods.len() == count && pods.iter().all(is_ready)
        });
    }

    /// A process of the control plane.
    pub(crate) fn process(&self, name: &str) -> Process {
        let all = self.cluster.processes();
        let found = all.into_iter().find(|process| process.name == name);
        found.unwrap_or_else(|| panic!("no {name}"))
    }

    /// What `headstart` prints to somebody who asks it about this cluster.
    pub(crate) fn headstart(&self, arguments: &[&str]) -> String {
        let program = std::env::var_os("HEADSTART_DAEMON").expect("run by `cargo xtask e2e`");
        let mut command = std::process::Command::new(program);
        command.args(arguments).arg("--kubeconfig");
        let output = command.arg(self.cluster.kubeconfig()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The pod once it serves.
    pub(crate) fn until_ready(&self, deploy: &Deploy) -> Value {
        let pod = self.api().until(&deploy.path(), WAIT, is_ready);
        pod.unwrap_or_else(|error| panic!("{error:#}\n{}", self.said(deploy)))
    }

    /// What the pod printed.
    pub(crate) fn log(&self, deploy: &Deploy) -> String {
        let log = self.api().text(&format!("{}/log", deploy.path()));
        log.unwrap_or_default()
    }

    /// What was said of the pod: reason and words.
    pub(crate) fn events(&self, deploy: &Deploy) -> Vec<(String, String)> {
        self.events_of(&json!(deploy.name))
    }

    /// The same by its name.
    pub(crate) fn events_of(&self, name: &Value) -> Vec<(String, String)> {
        let events = self.list("/api/v1/namespaces/default/events");
        let of_pod = events
            .iter()
            .filter(|event| event["involvedObject"]["name"] == *name);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        of_pod
            .map(|event| (text(&event["reason"]), text(&event["message"])))
            .collect()
    }

    /// Bytes of weights that have left the Hub so far.
    pub(crate) fn sent(&self) -> Sent {
        let (mut to_agents, mut to_pods) = (0, 0);
        for entry in self.hub.log().matching(|entry| entry.site == Site::Cdn) {
            let client = entry.user_agent.as_deref().unwrap_or_default();
            match client.starts_with("headstart/") {
                true => to_agents += entry.bytes,
                false => to_pods += entry.bytes,
            }
        }
        Sent { to_agents, to_pods }
    }

    /// Waits until agents have got so many bytes more than there were `before`.
    pub(crate) fn until_sent(&self, before: Sent, bytes: u64) {
        self.until("weights are on their way", || {
            self.sent().to_agents - before.to_agents >= bytes
        });
    }

    pub(crate) fn list(&self, collection: &str) -> Vec<Value> {
        let list = self.api().find(collection).unwrap().unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The NodeCache of the node that a pod is on.
    fn cache_of(&self, pod: &Value) -> Value {
        let caches = self.list(CACHES);
        let node = &pod["spec"]["nodeName"];
        let of_node = |cache: &&Value| cache["metadata"]["labels"]["headstart.dev/node"] == *node;
        let found = caches.iter().find(of_node);
        found
            .unwrap_or_else(|| panic!("none is of {node}: {caches:#?}"))
            .clone()
    }

    pub(crate) fn began_before_it_was_scheduled(&self, pod: &Value) {
        let cache = self.cache_of(pod);
        let first = time(&cache["status"]["firstRequest"]);
        let scheduled = condition(pod, "PodScheduled").unwrap();
        let scheduled = time(&scheduled["lastTransitionTime"]);
        assert!(
            first < scheduled,
            "{first} is not before {scheduled}: {cache:#}"
        );
    }

    /// What the cloud handed the machine named everything, and the agent lost no time.
    pub(crate) fn began_with_its_network(&self, pod: &Value) {
        let cache = self.cache_of(pod);
        let network = time(&cache["status"]["agentStarted"]);
        let first = time(&cache["status"]["firstRequest"]);
        let waited = first.duration_since(network).as_secs_f64();
        assert!(waited <= 2.0, "{waited} s: {cache:#}");
    }

    /// Everything that helps to see why it does not serve.
    pub(crate) fn said(&self, deploy: &Deploy) -> String {
        let mut said = format!("{}\n{:#?}\n", self.log(deploy), self.events(deploy));
        for mut object in [self.list(CLAIMS), self.list(CACHES)].concat() {
            object["metadata"]["managedFields"].take();
            said += &format!("{object:#}\n");
        }
        for machine in self.cloud.machines() {
            let node = machine.node.and_then(|name| self.cluster.node(&name));
            if let Some(node) = node {
                said += &tail(&node.machine.log("agent"));
            }
        }
        for pod in self.list(&format!("/api/v1/namespaces/{SPACE}/pods")) {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("/api/v1/namespaces/{SPACE}/pods/{name}/log?tailLines=40");
            let log = self.api().text(&path);
            said += &format!(
                "-- {name}: {}\n",
                log.unwrap_or_else(|error| format!("{error:#}"))
            );
        }
        said
    }

    /// Takes away what a case has made, nodes too.
    pub(crate) fn tidy(&self) {
        for link in [&self.answers, &self.files] {
            link.set(Shape::default());
        }
        for collection in [PODS, CLAIMS] {
            for object in self.list(collection) {
                let name = object["metadata"]["name"].as_str().unwrap();
                // Some go by themselves meanwhile.
                let _ = self.api().delete(&format!("{collection}/{name}"));
            }
        }
        self.until("nodes are given back", || {
            self.list(CLAIMS).is_empty() && self.cloud.machines().is_empty()
        });
    }

    pub(crate) fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let deadline = Instant::now() + WAIT;
        while !is() {
            assert!(Instant::now() < deadline, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A kind of node.
pub(crate) fn offer(name: &str, gpus: usize, usd_per_hour: f64, rate: &str) -> Offer {
    Offer {
        instance_type: name.to_owned(),
        zone: 'a',
        capacity_type: "spot",
        usd_per_hour,
        gpus,
        rate: Some(rate.to_owned()),
        stock: 9,
    }
}

/// A boot in which the agent is there before the kubelet, and GPUs come last.
pub(crate) fn boot(more: &[&str]) -> Boot {
    let agent = std::env::var_os("HEADSTART_AGENT").expect("run by `cargo xtask e2e`");
    let agent = agent.into_string().unwrap();
    let arguments = [
        "--log=info",
        "boot",
        "--intent={intent}",
        "--root=/var/lib/headstart",
        "--keep-free=1",
    ];
    let mut agent = vec![agent];
    agent.extend(arguments.map(str::to_owned));
    agent.push(format!("--containerd={CONTAINERD}"));
    agent.push(format!("--endpoint=http://{ADDRESS}:8080"));
    agent.push(format!("--plain-http={ADDRESS}"));
    agent.extend(more.iter().map(|argument| (*argument).to_owned()));
    Boot {
        network: Duration::from_secs(1),
        kubelet: Duration::from_secs(4),
        gpus: Duration::from_secs(15),
        listed: Duration::ZERO,
        agent,
    }
}

/// The image of the engine that goes with a model.
pub(crate) fn image(model: &str) -> String {
    format!("{REGISTRY}/acme/{model}:1")
}

fn directory(name: &str) -> PathBuf {
    let clusters = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster");
    clusters.join(name)
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|one| one["type"] == kind)
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|one| one["status"] == "True")
}

fn time(value: &Value) -> jiff::Timestamp {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no time"));
    text.parse().unwrap()
}

/// The end of a file.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(60)..].join("\n");
    format!("-- {}\n{last}\n", path.display())
}
