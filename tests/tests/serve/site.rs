//! An API server with our objects and the agent's account, a Hub, and agents that reach the first
//! through a door that can be closed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headstart_testbed::cluster::{Api, Cluster, Options};
use headstart_testbed::hub::{self, Hub};
use headstart_testbed::link::{Link, Shape};
use headstart_testbed::model::{Model, Recipe};
use headstart_testbed::serve::Door;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

pub(crate) const WAIT: Duration = Duration::from_secs(90);

pub(crate) const CACHES: &str = "/apis/headstart.dev/v1alpha1/nodecaches";

const NAMESPACE: &str = "headstart-system";

const ACCOUNT: &str = "headstart-agent";

pub(crate) struct Site {
    cluster: Cluster,
    _runtime: tokio::runtime::Runtime,
    hub: Hub,
    pub(crate) link: Link,
    pub(crate) door: ApiDoor,
    directory: tempfile::TempDir,
}

/// An agent that runs.
pub(crate) struct Agent {
    child: Child,
    log: PathBuf,
}

/// Carries connections to the API server while it is open.
pub(crate) struct ApiDoor {
    port: u16,
    is_open: Arc<AtomicBool>,
}

impl Site {
    pub(crate) fn up() -> Self {
        let programs = std::env::var_os("HEADSTART_KUBERNETES");
        let cluster = Cluster::up(&Options {
            directory: Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster/serve"),
            programs: programs.expect("run by `cargo xtask e2e`").into(),
            program: env!("CARGO_BIN_EXE_cluster").into(),
            nodes: Vec::new(),
        });
        let cluster = cluster.unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let link = Link::new(Shape::default());
        let cdn = Door {
            link: link.clone(),
            ..Door::default()
        };
        let hub = Hub::start(hub::Options {
            cdn,
            ..hub::Options::default()
        });
        let hub = runtime.block_on(hub).unwrap();
        let door = ApiDoor::to(&server_of(&cluster.kubeconfig()));
        let site = Self {
            cluster,
            _runtime: runtime,
            hub,
            link,
            door,
            directory: tempfile::tempdir().unwrap(),
        };
        site.install();
        site
    }

    pub(crate) fn api(&self) -> &Api {
        self.cluster.api()
    }

    fn install(&self) {
        let api = self.api();
        for crd in headstart_api::crd::all() {
            let crd = serde_json::to_value(crd).unwrap();
            api.create(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                &crd,
            )
            .unwrap();
        }
        let named = |name: &str| json!({"metadata": {"name": name}});
        api.create("/api/v1/namespaces", &named(NAMESPACE)).unwrap();
        let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        api.create(&accounts, &named(ACCOUNT)).unwrap();
        for file in ["agent-rbac.yaml", "agent-policy.yaml"] {
            for object in rendered(file) {
                api.create(collection_of(&object), &object).unwrap();
            }
        }
        self.until("the definitions are served", || {
            api.find(CACHES).is_ok_and(|list| list.is_some())
        });
        // A policy is in force some time after it was made.
        self.node("probe", &[]);
        self.cache("probe", json!({}), 1, &[]);
        let (token, tried) = (self.token(), json!({"status": {"problem": "tried"}}));
        self.until("the policy is in force", || {
            let path = format!("{CACHES}/probe/status");
            api.try_as(&token, "PATCH", &path, &tried).unwrap().0 == 422
        });
        api.delete(&format!("{CACHES}/probe")).unwrap();
    }

    pub(crate) fn node(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: serde_json::Map<String, Value> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let node = json!({"metadata": {"name": name, "labels": labels}});
        self.api().create("/api/v1/nodes", &node).unwrap();
    }

    pub(crate) fn node_uid(&self, name: &str) -> String {
        let node = self
            .api()
            .find(&format!("/api/v1/nodes/{name}"))
            .unwrap()
            .unwrap();
        node["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Makes or changes a NodeCache.
    pub(crate) fn cache(&self, name: &str, labels: Value, generation: u64, models: &[&str]) {
        self.put(name, json!({"labels": labels}), generation, models);
    }

    pub(crate) fn owned_cache(&self, name: &str, owner: &str, generation: u64, models: &[&str]) {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": owner});
        self.put(
            name,
            json!({"ownerReferences": [owner]}),
            generation,
            models,
        );
    }

    fn put(&self, name: &str, mut metadata: Value, generation: u64, models: &[&str]) {
        let items: Vec<Value> = models.iter().map(|model| json!({"model": model})).collect();
        metadata["name"] = json!(name);
        let object = json!({
            "apiVersion": "headstart.dev/v1alpha1", "kind": "NodeCache", "metadata": metadata,
            "spec": {"generation": generation, "items": items},
        });
        let path = format!("{CACHES}/{name}");
        match self.api().find(&path).unwrap() {
            Some(_) => self.api().patch(&path, &object).unwrap(),
            None => self.api().create(CACHES, &object).unwrap(),
        };
    }

    /// A token of the agents' account that is bound to nothing.
    pub(crate) fn token(&self) -> String {
        self.token_for(json!({}))
    }

    /// A token as the kubelet of that node gets it for a pod there.
    pub(crate) fn token_on(&self, node: &str) -> String {
        let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let pod = self.api().create(
            &pods,
            &json!({
                "metadata": {"generateName": "agent-"},
                "spec": {
                    "nodeName": node, "serviceAccountName": ACCOUNT,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "agent", "image": "agent"}],
                },
            }),
        );
        let pod = pod.unwrap();
        let (name, uid) = (&pod["metadata"]["name"], &pod["metadata"]["uid"]);
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        self.token_for(json!({"boundObjectRef": bound}))
    }

    fn token_for(&self, spec: Value) -> String {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token");
        let mut spec = spec;
        spec["audiences"] = json!([]);
        let made = self.api().create(&path, &json!({"spec": spec})).unwrap();
        made["status"]["token"].as_str().unwrap().to_owned()
    }

    /// A model of one large file; `org/name@commit`.
    pub(crate) fn commit(&self, repo: &str, seed: u64, bytes: u64) -> String {
        let model = Model::make(Recipe {
            seed,
            bytes,
            shards: 1,
            pickles: false,
        });
        let commit = self.hub.commit(repo, "main", model.unwrap().files);
        format!("{repo}@{commit}")
    }

    /// Status writes that the API server has counted.
    pub(crate) fn writes(&self) -> u64 {
        let text = self.api().text("/metrics").unwrap();
        let of_status = |line: &&str| {
            line.starts_with("apiserver_request_total{")
                && line.contains("resource=\"nodecaches\"")
                && line.contains("subresource=\"status\"")
                && line.contains("verb=\"APPLY\"")
        };
        let counts = text.lines().filter(of_status);
        let counts = counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap());
        counts.sum::<f64>() as u64
    }

    /// Starts the agent of a node, on the site's one store.
    pub(crate) fn agent(&self, node: &str, token: &str) -> Agent {
        self.agent_told(node, token, &[])
    }

    /// The same with more on its command line.
    pub(crate) fn agent_told(&self, node: &str, token: &str, told: &[&str]) -> Agent {
        let text = std::fs::read_to_string(self.cluster.kubeconfig()).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        let door = format!("https://127.0.0.1:{}", self.door.port);
        config["clusters"][0]["cluster"]["server"] = json!(door);
        config["users"][0]["user"] = json!({"token": token});
        let kubeconfig = self.directory.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let log = self.directory.path().join(format!("{node}.log"));
        let program = std::env::var_os("HEADSTART_AGENT").expect("`cargo xtask e2e` sets it");
        let cdn = self.hub.cdn_endpoint();
        let mut agent = Command::new(program);
        agent.arg("serve").arg("--root").arg(self.store());
        agent.args(["--keep-free", "0", "--node-name", node, "--endpoint"]);
        agent
            .arg(self.hub.endpoint())
            .args(["--plain-http", cdn.trim_start_matches("http://")]);
        agent.arg("--kubeconfig").arg(kubeconfig).args(told);
        agent
            .env("HEADSTART_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        agent.stderr(std::fs::File::create(&log).unwrap());
        Agent {
            child: agent.spawn().unwrap(),
            log,
        }
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// What the agent says of itself over its socket.
    pub(crate) fn status(&self) -> Option<Value> {
        let mut stream = UnixStream::connect(self.store().join("agent/agent.sock")).ok()?;
        stream.write_all(b"\"status\"\n").ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        Some(json!({"status": serde_json::from_str::<Value>(&answer).ok()?}))
    }

    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + WAIT;
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "waited too long until {what}: {:#?}",
                self.status()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Agent {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Asks it to end, which it does within seconds.
    pub(crate) fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        let asked = Instant::now();
        kill_process(pid, Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "{:?}",
            asked.elapsed()
        );
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Kilobytes of memory it has in use.
    pub(crate) fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ApiDoor {
    fn to(address: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_open = Arc::new(AtomicBool::new(true));
        let (address, open) = (address.to_owned(), is_open.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if !open.load(Ordering::Relaxed) {
                    continue;
                }
                let far = std::net::TcpStream::connect(&address).unwrap();
                let watched = [near.try_clone().unwrap(), far.try_clone().unwrap()];
                for (mut from, mut to) in [
                    (near.try_clone().unwrap(), far.try_clone().unwrap()),
                    (far, near),
                ] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
                let open = open.clone();
                std::thread::spawn(move || {
                    while open.load(Ordering::Relaxed) && watched[0].peer_addr().is_ok() {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    for stream in &watched {
                        let _ = stream.shutdown(std::net::Shutdown::Both);
                    }
                });
            }
        });
        Self { port, is_open }
    }

    /// Cuts every connection and takes no other.
    pub(crate) fn close(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }

    pub(crate) fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }
}

/// The API server's address in a kubeconfig.
fn server_of(kubeconfig: &Path) -> String {
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    server.trim_start_matches("https://").to_owned()
}

/// The objects of one of the chart's templates, as the agent's account is called here.
fn rendered(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/headstart/templates")
        .join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let text = text
        .replace("{{ include \"headstart.agent.account\" . }}", ACCOUNT)
        .replace("{{ .Release.Namespace }}", NAMESPACE);
    // What is left decides and decorates.
    let mut plain = String::new();
    let mut rest = &*text;
    while let Some((before, after)) = rest.split_once("{{") {
        plain.push_str(before);
        rest = after.split_once("}}").unwrap().1;
    }
    plain.push_str(rest);
    let documents = plain.split("\n---\n");
    documents
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

fn collection_of(object: &Value) -> &'static str {
    match object["kind"].as_str().unwrap() {
        "ClusterRole" => "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "ClusterRoleBinding" => "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        "ValidatingAdmissionPolicy" => {
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
        }
        "ValidatingAdmissionPolicyBinding" => {
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
        }
        other => panic!("{other} has no place here"),
    }
}

/// One model in the status of a NodeCache.
pub(crate) fn item<'a>(cache: &'a Value, model: &str) -> Option<&'a Value> {
    let items = cache["status"]["items"].as_array()?;
    items.iter().find(|item| item["model"] == model)
}

pub(crate) fn state<'a>(cache: &'a Value, model: &str) -> Option<&'a str> {
    item(cache, model)?["state"].as_str()
}
