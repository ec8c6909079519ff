//! A node: a machine with a link of its own to the switch, containerd, kubelet and kube-proxy.
//!
//! `/var/lib`, `/var/log` and `/run` are its own, so that a path of the host that a pod mounts is
//! the node's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::control::{ADDRESS, API, Programs, REGISTRY};
use super::dns;
use super::gpu::Gpus;
use super::keys::Keys;
use super::machine::Machine;
use super::process::{Process, tail};

/// Where containerd listens on the node.
pub const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Where its network plugins' configuration is.
const CNI: &str = "/var/lib/cni/net.d";

/// Where it learns how registries are reached.
const CERTS: &str = "/var/lib/containerd-certs.d";

/// How long containerd may take to run on a busy machine.
const CONTAINERD_WAIT: Duration = Duration::from_secs(60);

/// What the machine does first. Mounts below what pods share must reach the host's side.
pub(super) const SET_UP: &str = r#"
mkdir -p "$1/lib/cni/net.d" "$1/lib/kubelet" "$1/lib/containerd" "$1/log"
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /run/containerd
mount --make-rshared /
echo 1 >/proc/sys/net/ipv4/ip_forward
"#;

/// What a node is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeOptions {
    /// What it can receive, as `tc` writes it (`200mbit`); without, as fast as memory.
    pub rate: Option<String>,
    /// Its GPUs.
    pub gpus: Option<Gpus>,
    /// Labels it registers with.
    pub labels: Vec<(String, String)>,
    /// Taints it registers with, as the kubelet writes them: `key=value:NoSchedule`.
    pub taints: Vec<String>,
    /// What its `spec.providerID` is to be.
    pub provider_id: Option<String>,
    /// What happens between its network and its kubelet.
    pub early: Option<Early>,
}

/// A boot as a cloud's: a program of ours starts with the network, the kubelet some time later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Early {
    /// Files it finds: a path below `/var/lib`, and what is in it.
    pub files: Vec<(String, String)>,
    /// The program with its arguments; `{node}` in them is the node's name. None is no program.
    pub command: Vec<String>,
    /// How long after the network containerd and the kubelet start.
    pub kubelet_after: Duration,
}

/// A running node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Its machine; its name is the node's.
    pub machine: Machine,
    /// Its number, from 1; its addresses follow from it.
    pub number: u8,
    /// Its control group.
    pub cgroup: String,
    /// Its programs.
    pub processes: Vec<Process>,
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.machine.name
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("10.99.0.{}", 10 + u16::from(self.number))
    }

    /// The first process started by that name: `kubelet`, `containerd`, `kube-proxy`, `gpu`.
    pub fn process(&self, name: &str) -> Option<&Process> {
        self.processes.iter().find(|process| process.name == name)
    }

    /// Runs `ctr` in the kubelet's namespace of its containerd.
    ///
    /// # Errors
    /// If it fails.
    pub fn ctr(&self, arguments: &str) -> Result<String> {
        let script = format!("ctr --address {CONTAINERD} --namespace k8s.io {arguments}");
        self.machine.run(&script)
    }

    /// Changes what it can receive; nothing is no limit.
    ///
    /// # Errors
    /// If `tc` does not know the rate.
    pub(super) fn shape(&self, control: &Machine, rate: Option<&str>) -> Result<()> {
        let name = self.name();
        control.run(&match rate {
            Some(rate) => {
                format!("tc qdisc replace dev {name} root tbf rate {rate} burst 64kb latency 50ms")
            }
            None => format!("tc qdisc del dev {name} root 2>/dev/null || true"),
        })?;
        Ok(())
    }

    /// Hangs it on the switch. The link goes when the machine does.
    pub(super) fn connect(&self, control: &Machine) -> Result<()> {
        let (name, address) = (self.name(), self.address());
        let pods = self.pods();
        super::network::put_link(control, &self.machine, name)?;
        self.machine.run(&format!(
            "ip addr add {address}/24 dev eth0; ip link set eth0 up; \
             ip route add default via 10.99.0.1"
        ))?;
        // One that had this number before may have left its route.
        control.run(&format!(
            "ip link set {name} master switch up; ip route replace {pods} via {address}"
        ))?;
        Ok(())
    }

    /// Starts its programs.
    pub(super) fn start(
        &self,
        keys: &Keys,
        programs: &Programs,
        options: &NodeOptions,
        program: &Path,
        mut record: impl FnMut(Process) -> Result<()>,
    ) -> Result<()> {
        let (name, machine) = (self.name().to_owned(), &self.machine);
        let lib = machine.directory.join("lib");
        if let Some(early) = &options.early {
            self.boot(early, &lib, &mut record)?;
        }
        let hosts = lib.join("containerd-certs.d").join(REGISTRY);
        fs::create_dir_all(&hosts)?;
        let host =
            format!("[host.\"http://{REGISTRY}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        fs::write(hosts.join("hosts.toml"), host)?;
        fs::write(lib.join("cni/net.d/10-pods.conflist"), self.cni())?;
        fs::write(lib.join("containerd.toml"), containerd())?;
        let path = std::env::join_paths(
            [
                programs.containerd.as_path(),
                Path::new("/usr/sbin"),
                Path::new("/usr/bin"),
            ]
            .into_iter()
            .chain([Path::new("/sbin"), Path::new("/bin")]),
        )?;
        let path = format!("PATH={}", path.to_string_lossy());
        let arguments = ["containerd", "--config", "/var/lib/containerd.toml"];
        let mut with_path = vec![path];
        with_path.extend(arguments.map(str::to_owned));
        let containerd = machine.start("containerd", Path::new("/usr/bin/env"), &with_path)?;
        record(containerd.clone())?;
        // A kubelet that does not find it ends.
        until_booted(&containerd, &machine.log("containerd"))?;

        let url = format!("https://{API}");
        let serving = format!("{name}-serving");
        keys.certificate(&serving, &[&self.address()], &name, None)?;
        let own = keys.kubeconfig(&name, &url, &format!("node-{name}"))?;
        let config = machine.directory.join("kubelet.json");
        fs::write(&config, self.kubelet(keys, &serving)?)?;
        let mut arguments = vec![
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", own.display()),
            format!("--hostname-override={name}"),
            format!("--node-ip={}", self.address()),
            "--root-dir=/var/lib/kubelet".to_owned(),
            "--cert-dir=/var/lib/kubelet/pki".to_owned(),
        ];
        if !options.labels.is_empty() {
            let labels: Vec<String> = options
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            arguments.push(format!("--node-labels={}", labels.join(",")));
        }
        if !options.taints.is_empty() {
            arguments.push(format!(
                "--register-with-taints={}",
                options.taints.join(",")
            ));
        }
        if let Some(id) = &options.provider_id {
            arguments.push(format!("--provider-id={id}"));
        }
        let kubelet = programs.kubernetes.join("kubelet");
        record(machine.start("kubelet", &kubelet, &arguments)?)?;

        let proxy = keys.kubeconfig(&format!("{name}-proxy"), &url, "proxy")?;
        let config = machine.directory.join("proxy.json");
        fs::write(&config, self.proxy(&proxy)?)?;
        let arguments = [format!("--config={}", config.display())];
        let kube_proxy = programs.kubernetes.join("kube-proxy");
        record(machine.start("kube-proxy", &kube_proxy, &arguments)?)?;

        if let Some(gpus) = options.gpus {
            let arguments = [
                "gpus".to_owned(),
                gpus.count.to_string(),
                gpus.after.as_millis().to_string(),
            ];
            record(machine.start("gpu", program, &arguments)?)?;
        }
        Ok(())
    }

    /// What comes before containerd and the kubelet.
    fn boot(
        &self,
        early: &Early,
        lib: &Path,
        record: &mut impl FnMut(Process) -> Result<()>,
    ) -> Result<()> {
        let network = Instant::now();
        for (path, text) in &early.files {
            let path = lib.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        if let Some((program, arguments)) = early.command.split_first() {
            let named = |argument: &String| argument.replace("{node}", self.name());
            let arguments: Vec<String> = arguments.iter().map(named).collect();
            record(
                self.machine
                    .start("agent", Path::new(program), &arguments)?,
            )?;
        }
        std::thread::sleep(early.kubelet_after.saturating_sub(network.elapsed()));
        Ok(())
    }

    /// The addresses of its pods.
    fn pods(&self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    fn cni(&self) -> String {
        let ipam = json!({
            "type": "host-local", "dataDir": "/run/cni",
            "ranges": [[{"subnet": self.pods()}]], "routes": [{"dst": "0.0.0.0/0"}],
        });
        let bridge = json!({
            "type": "bridge", "bridge": "pods", "isGateway": true, "ipMasq": false,
            "hairpinMode": true, "ipam": ipam,
        });
        let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}).to_string()
    }

    fn kubelet(&self, keys: &Keys, serving: &str) -> Result<Vec<u8>> {
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.cgroup),
            "cgroupsPerQOS": true,
            "enforceNodeAllocatable": ["pods"],
            "failSwapOn": false,
            "failCgroupV1": false,
            "serializeImagePulls": false,
            "registryPullQPS": 0,
            "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
            "podCIDR": self.pods(),
            "clusterDNS": [ADDRESS],
            "clusterDomain": dns::DOMAIN,
            "address": self.address(),
            "tlsCertFile": keys.path(&format!("{serving}.crt")),
            "tlsPrivateKeyFile": keys.path(&format!("{serving}.key")),
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": keys.path("ca.crt")},
            },
            "nodeStatusUpdateFrequency": "4s",
            "resolvConf": "",
            // Of the disk all nodes and the machine share; a full one is a test's own doing.
            "evictionHard": {
                "memory.available": "100Mi", "nodefs.available": "500Mi",
                "imagefs.available": "500Mi",
            },
            "imageGCHighThresholdPercent": 100,
        });
        serde_json::to_vec_pretty(&config).context("no configuration for the kubelet")
    }

    fn proxy(&self, kubeconfig: &Path) -> Result<Vec<u8>> {
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "hostnameOverride": self.name(),
            "clusterCIDR": "10.244.0.0/16",
            "clientConnection": {"kubeconfig": kubeconfig},
            // Limits that only the machine's own network may set.
            "conntrack": {
                "maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
            },
        });
        serde_json::to_vec_pretty(&config).context("no configuration for kube-proxy")
    }
}

/// containerd 2's configuration. The machine may not raise its own limits, hence the scores.
fn containerd() -> String {
    let (images, runtime) = (
        "io.containerd.cri.v1.images",
        "io.containerd.cri.v1.runtime",
    );
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."{images}".pinned_images]
sandbox = "{REGISTRY}/headstart/pause:1"
[plugins."{images}".registry]
config_path = "{CERTS}"
[plugins."{runtime}"]
restrict_oom_score_adj = true
[plugins."{runtime}".cni]
bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
conf_dir = "{CNI}"
[plugins."{runtime}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."{runtime}".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}

/// Waits until containerd says that all of it runs.
fn until_booted(containerd: &Process, log: &Path) -> Result<()> {
    let deadline = Instant::now() + CONTAINERD_WAIT;
    while !fs::read_to_string(log)?.contains("containerd successfully booted") {
        let waiting = containerd.is_alive() && Instant::now() < deadline;
        ensure!(waiting, "containerd does not start: {}", tail(log));
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The directory that a node of that name keeps everything in.
pub(super) fn directory(cluster: &Path, name: &str) -> PathBuf {
    cluster.join("machines").join(name)
}
