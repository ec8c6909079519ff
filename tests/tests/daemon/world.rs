//! A cluster without nodes, a cloud that sells Node objects, and replicas of the daemon in the
//! control plane's network.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headstart_testbed::cloud::{Boot, Cloud, Machines, Offer};
use headstart_testbed::cluster::{Api, Cluster, Options, Process};
use serde_json::{Value, json};

pub(crate) const CLAIMS: &str = "/apis/headstart.dev/v1alpha1/nodeclaims";
pub(crate) const CACHES: &str = "/apis/headstart.dev/v1alpha1/nodecaches";
pub(crate) const POOLS: &str = "/apis/headstart.dev/v1alpha1/nodepools";
pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/headstart/leases";

pub(crate) struct World {
    cloud: Option<Cloud>,
    pub(crate) cluster: Arc<Cluster>,
    program: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    daemons: Vec<Process>,
    started: usize,
}

impl World {
    /// A cluster of that name, with our definitions.
    pub(crate) fn new(name: &str) -> Self {
        let programs = std::env::var_os("HEADSTART_KUBERNETES");
        let program = std::env::var_os("HEADSTART_DAEMON");
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster");
        let directory = directory.join(name);
        let cluster = Cluster::up(&Options {
            directory,
            programs: programs.expect("run by `cargo xtask e2e`").into(),
            program: env!("CARGO_BIN_EXE_cluster").into(),
            nodes: Vec::new(),
        })
        .expect("as the cluster was left");
        let kubeconfig = inside(&cluster.kubeconfig());
        let world = Self {
            cloud: None,
            cluster: Arc::new(cluster),
            program: program.expect("run by `cargo xtask e2e`").into(),
            kubeconfig,
            daemons: Vec::new(),
            started: 0,
        };
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/headstart/files/crds");
        for file in std::fs::read_dir(files).expect("as the cluster was left") {
            let text = std::fs::read_to_string(file.expect("as the cluster was left").path())
                .expect("as the cluster was left");
            let name = text
                .lines()
                .find_map(|line| line.strip_prefix("  name: "))
                .expect("as the cluster was left");
            world
                .api()
                .create_yaml(CRDS, text.clone())
                .expect("as the cluster was left");
            world.until(&format!("{CRDS}/{name}"), |crd| {
                condition(crd, "Established") == Some("True")
            });
        }
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
                               "metadata": {"name": "headstart"}});
        world.create("/api/v1/namespaces", &namespace);
        let mut world = world;
        world.open();
        world
    }

    /// A cloud that has sold nothing.
    fn open(&mut self) {
        let offer = |name: &str, usd_per_hour| Offer {
            instance_type: name.to_owned(),
            zone: 'a',
            capacity_type: "spot",
            usd_per_hour,
            gpus: 1,
            rate: None,
            stock: 9,
        };
        let offers = vec![offer("g6.xlarge", 0.4), offer("g5.xlarge", 0.5)];
        self.cloud = None;
        let boot = Boot {
            kubelet: Duration::from_secs(1),
            gpus: Duration::from_secs(2),
            ..Boot::default()
        };
        let cloud = Cloud::open(Arc::clone(&self.cluster), Machines::Objects, offers, boot);
        self.cloud = Some(cloud.expect("as the cluster was left"));
    }

    pub(crate) fn cloud(&self) -> &Cloud {
        self.cloud.as_ref().expect("it is open")
    }

    pub(crate) fn api(&self) -> &Api {
        self.cluster.api()
    }

    /// Starts a replica with what else it is told; it buys from the cloud unless it is told otherwise.
    pub(crate) fn start(&mut self, identity: &str, told: &[&str]) -> Process {
        self.started += 1;
        let port = 7100 + self.started;
        let mut arguments = vec![
            format!("KUBECONFIG={}", self.kubeconfig.display()),
            "RUST_LOG=info,headstart=debug".to_owned(),
            self.program.display().to_string(),
            "run".to_owned(),
            format!("--identity={identity}"),
            format!("--http=10.99.0.1:{port}"),
            "--lease-seconds=3".to_owned(),
            "--round-interval-ms=500".to_owned(),
            "--orphan-seconds=1".to_owned(),
        ];
        if !told.iter().any(|one| one.starts_with("--provider=")) {
            arguments.push(format!("--provider=external={}", self.cloud().url()));
        }
        arguments.extend(told.iter().map(|one| (*one).to_owned()));
        let name = format!("headstart-{identity}");
        let program = Path::new("/usr/bin/env");
        let process = self
            .cluster
            .control()
            .start(&name, program, &arguments)
            .expect("as the cluster was left");
        self.daemons.push(process.clone());
        process
    }

    /// Ends the replicas, and removes what a case left.
    pub(crate) fn tidy(&mut self) {
        for name in self.names(PODS) {
            self.delete(&format!("{PODS}/{name}"));
        }
        for name in self.names(CLAIMS) {
            self.delete(&format!("{CLAIMS}/{name}"));
        }
        self.wait("claims are given back", |world| world.count(CLAIMS) == 0);
        for daemon in std::mem::take(&mut self.daemons) {
            daemon.terminate();
            daemon
                .until_gone(Duration::from_secs(10))
                .expect("it stops when it is asked to");
        }
        for collection in [POOLS, NODES, CACHES] {
            for name in self.names(collection) {
                self.delete(&format!("{collection}/{name}"));
            }
        }
        let memory = "/api/v1/namespaces/headstart/configmaps/headstart-memory";
        if self
            .api()
            .find(memory)
            .expect("as the cluster was left")
            .is_some()
        {
            self.delete(memory);
        }
        self.open();
    }

    pub(crate) fn names(&self, collection: &str) -> Vec<String> {
        let list = self.get(collection);
        let items = list["items"].as_array().expect("a list").iter();
        items
            .map(|item| {
                item["metadata"]["name"]
                    .as_str()
                    .expect("as the cluster was left")
                    .to_owned()
            })
            .collect()
    }

    pub(crate) fn pool(&self, name: &str, spec: Value) {
        let pool = json!({"apiVersion": "headstart.dev/v1alpha1", "kind": "NodePool",
                          "metadata": {"name": name}, "spec": spec});
        self.create(POOLS, &pool);
    }

    pub(crate) fn create_pod(&self, pod: &Value) {
        self.create(PODS, pod);
    }

    /// The first claim that is made.
    pub(crate) fn claim(&self) -> Value {
        self.until_some(CLAIMS, |_| true)
    }

    pub(crate) fn count(&self, collection: &str) -> usize {
        self.names(collection).len()
    }

    /// What a replica has logged.
    pub(crate) fn log(&self, identity: &str) -> String {
        let log = self.cluster.control().log(&format!("headstart-{identity}"));
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// Who holds the lease.
    pub(crate) fn holder(&self) -> String {
        let lease = self
            .api()
            .find(&format!("{LEASES}/headstart"))
            .expect("as the cluster was left");
        let lease = lease.unwrap_or_default();
        lease["spec"]["holderIdentity"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.api()
            .find(path)
            .expect("as the cluster was left")
            .unwrap_or_default()
    }

    pub(crate) fn create(&self, path: &str, object: &Value) {
        self.api()
            .create(path, object)
            .expect("as the cluster was left");
    }

    pub(crate) fn patch(&self, path: &str, patch: &Value) {
        self.api()
            .patch(path, patch)
            .expect("as the cluster was left");
    }

    /// Removes an object, unless something else was faster.
    pub(crate) fn delete(&self, path: &str) {
        if let Err(error) = self.api().delete(path) {
            let found = self.api().find(path).expect("as the cluster was left");
            assert!(found.is_none(), "{error:#}");
        }
    }

    pub(crate) fn until(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.api()
            .until(path, super::WAIT, is)
            .expect("as the cluster was left")
    }

    /// Waits for an object of a collection.
    pub(crate) fn until_some(&self, collection: &str, is: impl Fn(&Value) -> bool) -> Value {
        let of = |list: &Value| {
            let items = list["items"].as_array().cloned().unwrap_or_default();
            items.into_iter().find(&is)
        };
        let list = self.until(collection, |list| of(list).is_some());
        of(&list).expect("as the cluster was left")
    }

    pub(crate) fn until_gone(&self, path: &str) {
        self.wait(path, |world| {
            world
                .api()
                .find(path)
                .expect("as the cluster was left")
                .is_none()
        });
    }

    pub(crate) fn wait(&self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + super::WAIT;
        while !is(self) {
            assert!(
                Instant::now() < deadline,
                "{what}: not after {:?}",
                super::WAIT
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The kubeconfig for programs in the control plane's network.
fn inside(outside: &Path) -> PathBuf {
    let text = std::fs::read_to_string(outside).expect("as the cluster was left");
    let mut config: Value = serde_json::from_str(&text).expect("as the cluster was left");
    config["clusters"][0]["cluster"]["server"] = "https://10.99.0.1:6443".into();
    let path = outside.with_file_name("inside.kubeconfig");
    std::fs::write(&path, config.to_string()).expect("as the cluster was left");
    path
}

/// A digest that no image has.
pub(crate) fn digest(number: u8) -> String {
    format!("sha256:{}", format!("{number:02x}").repeat(32))
}

/// A pod that waits for a GPU, with an image by digest.
pub(crate) fn gpu_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": format!("registry.invalid/acme/engine@{}", digest(1)),
            "resources": {"limits": {"nvidia.com/gpu": 1}},
        }]},
    })
}

pub(crate) fn pod_at(name: &str) -> String {
    format!("{PODS}/{name}")
}

/// What pods of this name were told: reason and note.
pub(crate) fn events(world: &World, pod: &str) -> Vec<(String, String)> {
    let list = world.get("/apis/events.k8s.io/v1/namespaces/default/events");
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let about = items
        .iter()
        .filter(|event| event["regarding"]["name"] == pod);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    about
        .map(|event| (text(&event["reason"]), text(&event["note"])))
        .collect()
}

/// The status of a condition.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|one| one["type"] == kind)?;
    found["status"].as_str()
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for program in ["headstart-a", "headstart-b", "kwok"] {
            let log = self.cluster.control().log(program);
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let late = lines.len().saturating_sub(60);
            eprintln!("-- {program}\n{}", lines[late..].join("\n"));
        }
    }
}
