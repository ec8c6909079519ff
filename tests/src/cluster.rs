//! A real Kubernetes cluster on this machine: a control plane and nodes, each in namespaces of its
//! own.
//!
//! ```text
//! control    10.99.0.1        etcd, API server :6443, controllers, scheduler, registry :5000,
//!                             names :53
//! n1 n2 …    10.99.0.11 .12 … containerd, kubelet, kube-proxy, fake GPUs; pods 10.244.N.0/24
//! ```
//!
//! All of it hangs on a switch inside the control plane's network; no interface, mount or address
//! is added to this machine's own. Two ports of its loopback lead to the API server and to the
//! registry. What is made is written to `cluster.json` first, and [`Cluster::up`] ends what an
//! earlier one left in the same directory.
//!
//! Deliberately absent: load balancers, delay and loss on links (the kernels this
//! runs on lack them). Needs root on Debian 12.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

pub use self::api::Api;
pub use self::control::REGISTRY;
use self::control::{API, Programs};
pub use self::dns::serve as serve_names;
pub use self::gpu::{Gpus, serve as serve_gpus};
pub use self::images::shell_layer;
use self::keys::Keys;
pub use self::machine::Machine;
pub use self::network::relay;
pub use self::node::{CONTAINERD, Early, Node, NodeOptions};
pub use self::process::Process;
use self::record::Record;
use crate::image::Image;
use crate::{containerd, debian};

mod api;
mod cgroups;
mod control;
mod dns;
mod gpu;
mod images;
mod keys;
mod kuberay;
mod machine;
mod network;
mod node;
mod process;
mod record;

/// How long the API server may take to be ready on a busy machine.
const API_WAIT: Duration = Duration::from_secs(120);

/// How long nodes may take to be ready.
const NODES_WAIT: Duration = Duration::from_secs(120);

/// Most nodes a cluster ever has; each has its token from the start.
const MOST_NODES: u8 = 64;

/// What every pod runs as unless it says otherwise; controllers make it.
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

/// What cluster to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// What it keeps, below `target`; it is made, and removed with the cluster.
    pub directory: PathBuf,
    /// A directory with Kubernetes' programs, and etcd unless Debian's is to be fetched.
    pub programs: PathBuf,
    /// The program that plays the parts of the cluster that are ours: `src/bin/cluster.rs`.
    pub program: PathBuf,
    /// Its first nodes: `n1`, `n2`, ….
    pub nodes: Vec<NodeOptions>,
}

/// A running cluster. Goes when dropped, unless it was [left](Self::leave).
#[derive(Debug)]
pub struct Cluster {
    directory: PathBuf,
    programs: Programs,
    program: PathBuf,
    keys: Keys,
    control: Machine,
    api: Api,
    record: Mutex<Record>,
    /// Numbers of nodes that are being started.
    starting: Mutex<BTreeSet<u8>>,
    left: bool,
    /// Held for as long as this cluster is worked on from here.
    _lock: File,
}

impl Cluster {
    /// Makes a cluster and waits until its nodes are ready.
    ///
    /// # Errors
    /// If something is missing or does not come up in time; nothing is left then.
    pub fn up(options: &Options) -> Result<Self> {
        let lock = lock(&options.directory)?;
        end(&options.directory)?;
        let directory = options.directory.canonicalize()?;
        let programs = Programs {
            kubernetes: kubernetes(&options.programs)?,
            etcd: etcd(&options.programs)?,
            containerd: containerd::provision(containerd::Version::V2)?.canonicalize()?,
        };
        let made = Self::begin(&directory, programs, &options.program, lock);
        let cluster = match made {
            Ok(cluster) => cluster,
            Err(error) => {
                end(&directory)?;
                return Err(error);
            }
        };
        cluster.fill(options)?;
        Ok(cluster)
    }

    /// Ends the cluster that was left in `directory`.
    ///
    /// # Errors
    /// If something of it does not end.
    pub fn down(directory: &Path) -> Result<()> {
        let _lock = lock(directory)?;
        end(directory)?;
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))
    }

    /// Leaves it running: [`Cluster::down`] ends it.
    pub fn leave(mut self) {
        self.left = true;
    }

    /// Calls to the API server.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// For `kubectl` and other programs of this machine: the administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig(&self.directory)
    }

    /// For programs in the control plane's network: the administrator's, as `NAME.kubeconfig`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn kubeconfig_inside(&self, name: &str) -> Result<PathBuf> {
        self.keys
            .kubeconfig(name, &format!("https://{API}"), keys::ADMIN)
    }

    /// Where this machine reaches the registry that nodes call [`REGISTRY`].
    ///
    /// # Errors
    /// Never once the cluster is up.
    pub fn registry(&self) -> Result<SocketAddr> {
        let record = self.record();
        let door = record.doors.get(1).copied();
        door.context("the cluster has no door to its registry")
    }

    /// Pushes an image: nodes call it `10.99.0.1:5000/REPO:TAG`.
    ///
    /// # Errors
    /// If the registry does not take it.
    pub fn push(&self, image: Image, repo: &str, tag: &str) -> Result<()> {
        let network = self.network()?;
        let (repo, tag) = (repo.to_owned(), tag.to_owned());
        let pushed = network.spawn(async move { image.push(REGISTRY, &repo, &tag).await });
        network.block_on(pushed)?.context("push an image")
    }

    /// A runtime whose tasks live in the control plane's network: servers that nodes and pods are
    /// to reach listen at `10.99.0.1` there. Spawn them; `block_on` itself stays outside.
    ///
    /// # Errors
    /// If the cluster is gone.
    pub fn network(&self) -> Result<tokio::runtime::Runtime> {
        network::runtime(&self.control.init)
    }

    /// The control plane's machine.
    pub fn control(&self) -> &Machine {
        &self.control
    }

    /// A node as it was last written down.
    pub fn node(&self, name: &str) -> Option<Node> {
        let record = self.record();
        record
            .nodes
            .iter()
            .find(|node| node.name() == name)
            .cloned()
    }

    /// Every process of the cluster that was started by name, pods' not among them.
    pub fn processes(&self) -> Vec<Process> {
        self.record().all().cloned().collect()
    }

    /// Control groups it has made.
    pub fn cgroups(&self) -> Vec<String> {
        self.record().cgroups.clone()
    }

    /// Starts a node; it registers by itself. Returns before it is ready.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn add_node(&self, options: &NodeOptions) -> Result<Node> {
        let number = {
            // Others may start one at the same time.
            let mut starting = self.starting();
            let record = self.record();
            let used = |number: &u8| {
                starting.contains(number) || record.nodes.iter().any(|node| node.number == *number)
            };
            let free = (1..=MOST_NODES).find(|number| !used(number));
            let free = free.with_context(|| format!("there are {MOST_NODES} nodes already"))?;
            starting.insert(free);
            free
        };
        let started = self.start_node(number, options);
        self.starting().remove(&number);
        started
    }

    /// Ends a node as a power cut would. Its object stays, as it does when a cloud takes a machine
    /// away.
    ///
    /// # Errors
    /// If there is none of that name or it goes on.
    pub fn remove_node(&self, name: &str) -> Result<()> {
        let node = self.node(name);
        let node = node.with_context(|| format!("there is no node {name}"))?;
        node.machine.power_off()?;
        cgroups::remove(&node.cgroup)?;
        self.write(|record| {
            record.nodes.retain(|node| node.name() != name);
            record.cgroups.retain(|cgroup| *cgroup != node.cgroup);
            record.roots.retain(|root| *root != node.machine.init);
        })
    }

    /// Changes what a node can receive (`200mbit`); nothing is no limit.
    ///
    /// # Errors
    /// If there is no such node or `tc` does not know the rate.
    pub fn shape(&self, name: &str, rate: Option<&str>) -> Result<()> {
        let node = self.node(name);
        let node = node.with_context(|| format!("there is no node {name}"))?;
        node.shape(&self.control, rate)
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// If it is not in time, with what the node says of itself.
    pub fn until_ready(&self, name: &str) -> Result<()> {
        let path = format!("/api/v1/nodes/{name}");
        let deadline = Instant::now() + NODES_WAIT;
        while !self.api.find(&path)?.is_some_and(|node| is_ready(&node)) {
            let node = self.node(name);
            let node = node.with_context(|| format!("there is no node {name}"))?;
            let ended = node.processes.iter().find(|process| !process.is_alive());
            let (what, why) = match ended {
                Some(ended) => (ended.name.as_str(), "has ended"),
                None => ("kubelet", "does not make the node ready"),
            };
            let log = || process::tail(&node.machine.log(what));
            let waiting = ended.is_none() && Instant::now() < deadline;
            ensure!(waiting, "{what} of {name} {why}: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Starts everything but the nodes, up to the API server's answer.
    fn begin(directory: &Path, programs: Programs, program: &Path, lock: File) -> Result<Self> {
        let keys = Keys::make(directory.join("keys"), &control::SERVER_NAMES)?;
        let names: Vec<String> = (1..=MOST_NODES)
            .map(|number| format!("n{number}"))
            .collect();
        keys.tokens(&names)?;
        let mut record = Record::default();
        let at = node::directory(directory, "control");
        let control = Machine::boot("control", &at, control::SET_UP, |machine| {
            record.control = Some(machine.clone());
            record.roots.push(machine.init.clone());
            record.write(directory)
        })?;
        control::start(&control, &keys, &programs, |process| {
            record.processes.push(process);
            record.write(directory)
        })?;
        let (relay, doors) = start_relay(program, &control, |process| {
            record.roots.push(process.clone());
            record.write(directory)
        })?;
        ensure!(relay.is_alive(), "the relay has ended");
        record.doors = doors;
        record.write(directory)?;
        let door = record.doors.first().context("the relay has no door")?;
        let admin = keys.kubeconfig("admin", &format!("https://{door}"), keys::ADMIN)?;
        fs::rename(admin, kubeconfig(directory))?;
        let network = network::runtime(&control.init)?;
        let api = Api::new(network, API.to_owned(), &keys.path("ca.crt"), keys::ADMIN)?;
        let cluster = Self {
            directory: directory.to_owned(),
            programs,
            program: program.to_owned(),
            keys,
            control,
            api,
            record: Mutex::new(record),
            starting: Mutex::default(),
            left: false,
            _lock: lock,
        };
        cluster.until_api_is_ready()?;
        Ok(cluster)
    }

    /// Controllers, images, nodes.
    fn fill(&self, options: &Options) -> Result<()> {
        control::start_controllers(&self.control, &self.keys, &self.programs, |process| {
            self.write(|record| record.processes.push(process))
        })?;
        let authority = self.keys.path("ca.crt").display().to_string();
        let names = ["dns".to_owned(), authority];
        let names = self.control.start("dns", &self.program, &names)?;
        self.write(|record| record.processes.push(names))?;
        self.push(images::pause()?, "headstart/pause", "1")?;
        self.push(images::shell()?, "headstart/shell", "1")?;
        ensure!(
            options.nodes.len() <= usize::from(MOST_NODES),
            "{} nodes are asked for, {MOST_NODES} can be had",
            options.nodes.len()
        );
        let started = std::thread::scope(|scope| {
            let starting: Vec<_> = (1..)
                .zip(&options.nodes)
                .map(|(number, options)| scope.spawn(move || self.start_node(number, options)))
                .collect();
            let joined = starting.into_iter().map(|thread| match thread.join() {
                Ok(started) => started,
                Err(_) => bail!("starting a node panicked"),
            });
            joined.collect::<Result<Vec<_>>>()
        })?;
        for node in &started {
            self.until_ready(node.name())?;
        }
        self.api.until(ACCOUNT, NODES_WAIT, |_| true)?;
        Ok(())
    }

    fn start_node(&self, number: u8, options: &NodeOptions) -> Result<Node> {
        let name = format!("n{number}");
        let at = node::directory(&self.directory, &name);
        // What was there is another machine's.
        if at.exists() {
            fs::remove_dir_all(&at).with_context(|| format!("remove {}", at.display()))?;
        }
        let cgroup = format!("headstart-{}-{name}", self.control.init.pid);
        self.write(|record| record.cgroups.push(cgroup.clone()))?;
        cgroups::make(&cgroup)?;
        let machine = Machine::boot(&name, &at, node::SET_UP, |machine| {
            let node = Node {
                machine: machine.clone(),
                number,
                cgroup: cgroup.clone(),
                processes: Vec::new(),
            };
            self.write(|record| {
                record.roots.push(machine.init.clone());
                record.nodes.push(node);
            })
        })?;
        let node = Node {
            machine,
            number,
            cgroup,
            processes: Vec::new(),
        };
        node.connect(&self.control)?;
        node.shape(&self.control, options.rate.as_deref())?;
        let program = &self.program;
        node.start(&self.keys, &self.programs, options, program, |process| {
            self.write(|record| {
                let mut nodes = record.nodes.iter_mut();
                if let Some(node) = nodes.find(|node| node.number == number) {
                    node.processes.push(process);
                }
            })
        })?;
        self.node(&name).context("a node that has just started")
    }

    fn until_api_is_ready(&self) -> Result<()> {
        let deadline = Instant::now() + API_WAIT;
        loop {
            let error = match self.api.text("/readyz") {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let ended = self.processes().into_iter().find(|one| !one.is_alive());
            if let Some(ended) = ended {
                let log = process::tail(&self.control.log(&ended.name));
                bail!("{} has ended: {log}", ended.name);
            }
            if Instant::now() > deadline {
                let log = process::tail(&self.control.log("kube-apiserver"));
                return Err(error.context(format!("the API server is not ready: {log}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn starting(&self) -> MutexGuard<'_, BTreeSet<u8>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = self.record();
        change(&mut record);
        record.write(&self.directory)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let ended = end(&self.directory).and_then(|()| Ok(fs::remove_dir_all(&self.directory)?));
        if let Err(error) = ended {
            eprintln!("the cluster is not gone: {error:#}");
        }
    }
}

/// The administrator's kubeconfig of the cluster in `directory`.
pub fn kubeconfig(directory: &Path) -> PathBuf {
    directory.join("kubeconfig")
}

/// Starts what carries connections between this machine's loopback and the control plane.
fn start_relay(
    program: &Path,
    control: &Machine,
    record: impl FnOnce(&Process) -> Result<()>,
) -> Result<(Process, Vec<SocketAddr>)> {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::CommandExt as _;
    let log = File::create(control.log("relay"))?;
    let mut child = Command::new(program)
        .args(["relay", &control.init.pid.to_string(), API, REGISTRY])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    let process = Process::now("relay", child.id())?;
    record(&process)?;
    let said = child.stdout.take().context("the relay has no output")?;
    std::thread::spawn(move || child.wait());
    let mut doors = Vec::new();
    for line in BufReader::new(said).lines().take(2) {
        doors.push(line?.parse().context("an address from the relay")?);
    }
    ensure!(
        doors.len() == 2,
        "the relay does not listen: {}",
        process::tail(&control.log("relay"))
    );
    Ok((process, doors))
}

/// Ends what is written down in `directory`, and empties it.
fn end(directory: &Path) -> Result<()> {
    if let Some(record) = Record::read(directory)? {
        record.end()?;
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        } else if !path.ends_with("lock") {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Two makers of one cluster take turns.
fn lock(directory: &Path) -> Result<File> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let path = directory.join("lock");
    let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    lock.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(lock)
}

fn kubernetes(programs: &Path) -> Result<PathBuf> {
    for name in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
    ] {
        let program = programs.join(name);
        ensure!(program.exists(), "there is no {}", program.display());
    }
    Ok(programs.canonicalize()?)
}

/// The etcd beside Kubernetes' programs, or Debian sid's.
fn etcd(programs: &Path) -> Result<PathBuf> {
    let beside = programs.join("etcd");
    if beside.exists() {
        return Ok(beside.canonicalize()?);
    }
    let unpacked = debian::place("etcd-server", "sid");
    let etcd = unpacked.join("usr/bin/etcd");
    if !etcd.exists() {
        debian::unpack("sid", "etcd-server", &unpacked)?;
    }
    Ok(etcd.canonicalize()?)
}

fn is_ready(node: &serde_json::Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        let mut conditions = conditions.iter();
        conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
    })
}
