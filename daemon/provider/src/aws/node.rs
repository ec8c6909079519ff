//! What a node is told at its first boot: user data of nodeadm (Amazon Linux 2023) and Bottlerocket.
//!
//! - EC2 takes 16 KiB. The intent is in it, compressed, if there is room for all of it; else it is left
//!   out whole, and the agent reads it from the API server a minute later. What does not fit without
//!   the intent is refused.
//! - The same order makes the same bytes, or its token would be refused.
//! - Bottlerocket has no place for a program before the kubelet: its intent comes from the API server.

use std::fmt::Write as _;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, GzBuilder};
use headstart_clouds::aws::eks::Cluster;
use headstart_core::offer::InstanceType;
use serde_json::json;

use super::settings::{Family, Settings};
use crate::{Refusal, Wanted};

/// Most bytes, before they are encoded.
pub(super) const MOST: usize = 16_384;

/// Between parts. Nothing that is written between is it: JSON, base64 and our own lines.
const BOUNDARY: &str = "headstart-user-data";

/// Labels that the kubelet or the cloud's own controller sets: asking for them again is no harm, and
/// the kubelet refuses to start with some.
const OWN_LABELS: [&str; 8] = [
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.k8s.aws/zone-id",
    "beta.kubernetes.io/instance-type",
];

/// User data for `wanted`.
pub(super) fn user_data(
    wanted: &Wanted,
    kind: &InstanceType,
    settings: &Settings,
    cluster: &Cluster,
) -> Result<Vec<u8>, Refusal> {
    let labels = labels(wanted)?;
    let text = match settings.family() {
        Family::Bottlerocket => bottlerocket(wanted, &labels, kind, settings, cluster),
        Family::Al2023 => {
            let whole = |intent| nodeadm(wanted, &labels, settings, cluster, intent);
            let with_intent = packed(&wanted.intent).map(|intent| whole(Some(intent)));
            let fits = |text: &String| text.len() <= MOST;
            with_intent.filter(fits).unwrap_or_else(|| whole(None))
        }
    };
    match text.len() {
        0..=MOST => Ok(text.into_bytes()),
        length => Err(Refusal::Misconfigured {
            field: "spec.labels".to_owned(),
            said: format!(
                "user data would be {length} bytes and EC2 takes {MOST}: use fewer or shorter labels \
                 and taints"
            ),
        }),
    }
}

/// Labels that the kubelet may set on its own node.
fn labels(wanted: &Wanted) -> Result<Vec<(&str, &str)>, Refusal> {
    let mut labels = Vec::new();
    for (key, value) in &wanted.labels {
        if OWN_LABELS.contains(&&**key) {
            continue;
        }
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let of = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
        let may = of("node.kubernetes.io") || of("kubelet.kubernetes.io");
        if !may && (of("kubernetes.io") || of("k8s.io")) {
            return Err(Refusal::Misconfigured {
                field: format!("spec.labels.{key}"),
                said:
                    "a kubelet does not start with a label of kubernetes.io or k8s.io that is not \
                       its own: use another prefix"
                        .to_owned(),
            });
        }
        let odd = |text: &str| text.contains([',', '=', '\n']);
        if odd(key) || odd(value) {
            return Err(Refusal::Misconfigured {
                field: format!("spec.labels.{key}"),
                said: "it is no label: use letters, digits, -, _ and .".to_owned(),
            });
        }
        labels.push((&**key, &**value));
    }
    Ok(labels)
}

/// gzip in base64, in lines; nothing for no intent.
fn packed(intent: &str) -> Option<String> {
    if intent.is_empty() {
        return None;
    }
    // No name and no time in it: the same bytes each time.
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(intent.as_bytes()).ok()?;
    let encoded = STANDARD.encode(gzip.finish().ok()?);
    let mut lines = String::new();
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(76));
        lines.push_str(line);
        lines.push('\n');
        rest = after;
    }
    Some(lines)
}

/// MIME: a `NodeConfig` for nodeadm, and a script that cloud-init runs before nodeadm starts the
/// kubelet.
fn nodeadm(
    wanted: &Wanted,
    labels: &[(&str, &str)],
    settings: &Settings,
    cluster: &Cluster,
    intent: Option<String>,
) -> String {
    let taints: Vec<_> = wanted
        .first_taints()
        .map(|taint| json!({"key": taint.key, "value": taint.value, "effect": taint.effect}))
        .collect();
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let network = &cluster.kubernetes_network_config;
    let cidr = match &*network.service_ipv4_cidr {
        "" => &network.service_ipv6_cidr,
        cidr => cidr,
    };
    let mut spec = json!({
        "cluster": {
            "name": cluster.name,
            "apiServerEndpoint": cluster.endpoint,
            "certificateAuthority": cluster.certificate_authority.data,
            "cidr": cidr,
        },
        "kubelet": {
            "config": {"registerWithTaints": taints},
            "flags": [format!("--node-labels={}", labels.join(","))],
        },
    });
    if settings.stripes() {
        spec["instance"] = json!({"localStorage": {"strategy": "RAID0"}});
    }
    let config = json!({
        "apiVersion": "node.eks.aws/v1alpha1", "kind": "NodeConfig", "spec": spec,
    });
    // YAML's parsers read JSON.
    let config = format!("{config}\n");
    let parts = [
        ("application/node.eks.aws", config),
        (
            "text/x-shellscript; charset=\"us-ascii\"",
            script(settings, intent),
        ),
    ];
    let mut text =
        format!("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\n\n");
    for (kind, content) in parts {
        // Writing to a String cannot fail.
        let _ = write!(text, "--{BOUNDARY}\nContent-Type: {kind}\n\n{content}\n");
    }
    let _ = writeln!(text, "--{BOUNDARY}--");
    text
}

/// Stripes local disks early, so that the store is on them, and starts the agent beside the boot.
/// `setup-local-disks` is EKS's own, and does nothing the second time, when nodeadm calls it.
fn script(settings: &Settings, intent: Option<String>) -> String {
    let mut text =
        String::from("#!/bin/bash\ninstall -d -m 0755 /etc/headstart /var/lib/headstart\n");
    if settings.stripes() {
        text.push_str(
            "if setup-local-disks raid0 && mountpoint -q /mnt/k8s-disks/0; then\n\
             install -d -m 0755 /mnt/k8s-disks/0/headstart\n\
             echo '/mnt/k8s-disks/0/headstart /var/lib/headstart none \
             bind,nofail,x-systemd.requires-mounts-for=/mnt/k8s-disks/0 0 0' >> /etc/fstab\n\
             mount /var/lib/headstart\n\
             fi\n",
        );
    }
    let Some(intent) = intent else {
        return text;
    };
    let _ = write!(
        text,
        "base64 -d <<'EOF' | gzip -d > /etc/headstart/intent.json\n{intent}EOF\n"
    );
    text.push_str("cat > /etc/headstart/boot.sh <<'EOF'\n#!/bin/bash\n");
    match &settings.agent {
        Some(agent) => {
            let _ = write!(
                text,
                "agent=/var/lib/headstart-agent\n\
                 curl --fail --silent --show-error --location --proto '=https' --retry 5 \
                 --output \"$agent\" '{}' || exit 1\n\
                 echo '{}  '\"$agent\" | sha256sum --check --status || {{ rm -f \"$agent\"; exit 1; }}\n\
                 chmod 0755 \"$agent\"\n",
                agent.url, agent.sha256
            );
        }
        None => text.push_str("agent=/usr/bin/headstart-agent\n[ -x \"$agent\" ] || exit 0\n"),
    }
    text.push_str(
        "exec \"$agent\" boot --intent /etc/headstart/intent.json --root /var/lib/headstart \
         --containerd /run/containerd/containerd.sock\n\
         EOF\n\
         systemd-run --no-block --unit=headstart-boot --property=Restart=on-failure \
         --property=RestartSec=5 /bin/bash /etc/headstart/boot.sh\n",
    );
    text
}

/// TOML. Strings are written as JSON writes them, which TOML reads.
fn bottlerocket(
    wanted: &Wanted,
    labels: &[(&str, &str)],
    kind: &InstanceType,
    settings: &Settings,
    cluster: &Cluster,
) -> String {
    let quoted = |text: &str| json!(text).to_string();
    let mut text = String::new();
    let _ = write!(
        text,
        "[settings.kubernetes]\ncluster-name = {}\napi-server = {}\ncluster-certificate = {}\n",
        quoted(&cluster.name),
        quoted(&cluster.endpoint),
        quoted(&cluster.certificate_authority.data),
    );
    text.push_str("\n[settings.kubernetes.node-labels]\n");
    for (key, value) in labels {
        let _ = writeln!(text, "{} = {}", quoted(key), quoted(value));
    }
    text.push_str("\n[settings.kubernetes.node-taints]\n");
    let mut taints: std::collections::BTreeMap<&str, Vec<String>> = Default::default();
    for taint in wanted.first_taints() {
        let value = format!("{}:{}", taint.value, taint.effect);
        taints.entry(&taint.key).or_default().push(value);
    }
    for (key, values) in taints {
        let _ = writeln!(text, "{} = {}", quoted(key), json!(values));
    }
    if settings.stripes() && kind.local_nvme > 0 {
        text.push_str(
            "\n[settings.bootstrap-commands.local-nvme]\n\
             commands = [[\"apiclient\", \"ephemeral-storage\", \"init\"], \
             [\"apiclient\", \"ephemeral-storage\", \"bind\", \"--dirs\", \
             \"/var/lib/containerd\", \"/var/lib/kubelet\", \"/var/log/pods\"]]\n\
             essential = true\n\
             mode = \"always\"\n",
        );
    }
    text
}
