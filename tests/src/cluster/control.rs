//! The control plane's machine: a switch that all nodes hang on, etcd, the API server, its
//! controllers and scheduler, and an image registry.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::keys::Keys;
use super::machine::Machine;
use super::process::Process;

/// The machine's address on the switch.
pub(super) const ADDRESS: &str = "10.99.0.1";

/// Where nodes and pods find the API server.
pub(super) const API: &str = "10.99.0.1:6443";

/// Where nodes find images: images are named `10.99.0.1:5000/NAME`.
pub const REGISTRY: &str = "10.99.0.1:5000";

/// Names and addresses that the API server is called by; the last but one from outside.
pub(super) const SERVER_NAMES: [&str; 8] = [
    ADDRESS,
    "10.96.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "127.0.0.1",
    "localhost",
];

/// Nodes on the switch hear each other through this machine; hints of a shorter way are noise. What
/// runs here knows the cluster's names.
pub(super) const SET_UP: &str = r#"
ip link add switch type bridge
ip addr add 10.99.0.1/24 dev switch
ip link set switch up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 0 >/proc/sys/net/ipv4/conf/all/send_redirects
echo 0 >/proc/sys/net/ipv4/conf/switch/send_redirects
echo "nameserver 10.99.0.1" >"$1/resolv.conf"
if [ -e /etc/resolv.conf ]; then mount --bind "$1/resolv.conf" /etc/resolv.conf; fi
"#;

/// Where programs are.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// Kubernetes.
    pub(super) kubernetes: PathBuf,
    pub(super) etcd: PathBuf,
    /// A directory with containerd.
    pub(super) containerd: PathBuf,
}

/// Starts the registry and what the API server needs and is.
pub(super) fn start(
    machine: &Machine,
    keys: &Keys,
    programs: &Programs,
    mut record: impl FnMut(Process) -> Result<()>,
) -> Result<()> {
    let directory = &machine.directory;
    let registry = registry_config(directory)?;
    let arguments = ["serve".to_owned(), registry.display().to_string()];
    record(machine.start("registry", Path::new("docker-registry"), &arguments)?)?;
    let arguments = etcd(directory);
    record(machine.start("etcd", &programs.etcd, &arguments)?)?;
    let server = programs.kubernetes.join("kube-apiserver");
    record(machine.start("kube-apiserver", &server, &api_server(keys))?)
}

/// Starts what waits for the API server to be there.
pub(super) fn start_controllers(
    machine: &Machine,
    keys: &Keys,
    programs: &Programs,
    mut record: impl FnMut(Process) -> Result<()>,
) -> Result<()> {
    let url = format!("https://{API}");
    let controllers = keys.kubeconfig("controllers", &url, "controllers")?;
    let scheduler = keys.kubeconfig("scheduler", &url, "scheduler")?;
    let at = |file: &str| keys.path(file).display().to_string();
    let controllers = [
        format!("--kubeconfig={}", controllers.display()),
        format!("--service-account-private-key-file={}", at("accounts.key")),
        format!("--root-ca-file={}", at("ca.crt")),
        format!("--cluster-signing-cert-file={}", at("ca.crt")),
        format!("--cluster-signing-key-file={}", at("ca.key")),
        "--use-service-account-credentials=true".to_owned(),
        "--leader-elect=false".to_owned(),
        "--allocate-node-cidrs=false".to_owned(),
        "--node-monitor-grace-period=20s".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
    ];
    let scheduler = [
        format!("--kubeconfig={}", scheduler.display()),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
    ];
    let program = |name: &str| programs.kubernetes.join(name);
    let name = "kube-controller-manager";
    record(machine.start(name, &program(name), &controllers)?)?;
    let name = "kube-scheduler";
    record(machine.start(name, &program(name), &scheduler)?)
}

fn etcd(directory: &Path) -> Vec<String> {
    let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
    vec![
        format!("--data-dir={}", directory.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // A cluster of tests does not outlive its machine.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn api_server(keys: &Keys) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", keys.path(name).display());
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--bind-address={ADDRESS}"),
        format!("--advertise-address={ADDRESS}"),
        "--secure-port=6443".to_owned(),
        file("tls-cert-file", "server.crt"),
        file("tls-private-key-file", "server.key"),
        file("client-ca-file", "ca.crt"),
        file("token-auth-file", "tokens.csv"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        file("service-account-key-file", "accounts.pub"),
        file("service-account-signing-key-file", "accounts.key"),
        file("kubelet-client-certificate", "kubelet-client.crt"),
        file("kubelet-client-key", "kubelet-client.key"),
        file("kubelet-certificate-authority", "ca.crt"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--allow-privileged=true".to_owned(),
        // This machine knows the way to pods but not to service addresses.
        "--enable-aggregator-routing=true".to_owned(),
    ]
}

fn registry_config(directory: &Path) -> Result<PathBuf> {
    let config = directory.join("registry.yml");
    let at = directory.join("registry");
    let text = format!(
        "version: 0.1\nlog:\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    \
         rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {REGISTRY}\n",
        at.display()
    );
    fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
    Ok(config)
}
