//! The chart, by the real helm: what it says of values, and what it does in a real cluster.
//!
//! In the cluster the programs are stand-ins, which answer probes and end gracefully: what is tested
//! here is the chart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

use std::path::{Path, PathBuf};

use headstart_testbed::helm::{Helm, chart};
use serde_json::Value;

#[path = "chart/cluster.rs"]
mod cluster;

/// Values with everything on that is off by default.
const EVERYTHING: &[&str] = &[
    "provider.name=external",
    "provider.external.url=https://provider.example:8443",
    "provider.external.tokenSecret.name=provider",
    "sources.hub.tokenSecret.name=hub",
    "sources.registries.loginSecret=logins",
    "sources.registries.trustedRealms={auth.example}",
    "sources.privateHosts={mirror.example}",
    "sources.plainHttpHosts={10.99.0.1:5000}",
    "sources.authorities.configMap=authorities",
    "global.imageRegistry=mirror.example:5000",
    "global.imagePullSecrets[0].name=login",
    "commonLabels.team=ml",
    "commonAnnotations.owner=ml",
    "daemon.podAnnotations.a=b",
    "agent.store.maxSize=500Gi",
    "agent.maxBandwidth=1Gbit/s",
    "metrics.serviceMonitor.enabled=true",
    "metrics.serviceMonitor.interval=15s",
    "metrics.podMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "metrics.dashboards.enabled=true",
    "tracing.endpoint=http://collector.example:4318",
    "networkPolicy.enabled=true",
    "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.a=b",
    "resourceQuota.enabled=true",
    "agent.notice.source=aws",
    "agent.notice.endpoint=http://127.0.0.1:8080",
];

#[test]
fn helm_has_nothing_to_say_against_the_chart_with_or_without_everything() {
    for values in [&[], EVERYTHING] {
        let said = Helm::find().run(&["lint", "--strict", &chart()], values);
        assert!(said.is_ok(), "{said:?}");
    }
}

#[test]
fn a_value_that_makes_no_sense_is_refused_by_its_name() {
    let refusals = [
        ("daemon.replica=3", "daemon", "replica"),
        ("daemon.replicas=0", "daemon.replicas", "minimum"),
        (
            "daemon.image.digest=sha256:12",
            "daemon.image.digest",
            "pattern",
        ),
        ("provider.name=ibm", "provider.name", "one of"),
        ("provider.name=external", "provider.external.url", ""),
        (
            "agent.store.keepFreePercent=100",
            "agent.store.keepFreePercent",
            "maximum",
        ),
        ("agent.store.path=cache", "agent.store.path", "pattern"),
        ("agent.notice.source=ibm", "agent.notice.source", "one of"),
        (
            "agent.notice.endpoint=http://metadata.google.internal",
            "agent.notice.endpoint",
            "pattern",
        ),
        (
            "agent.updateStrategy.rollingUpdate.maxUnavailable=0",
            "maxUnavailable",
            "",
        ),
        ("injection.mode=On", "injection.mode", "one of"),
        (
            "injection.timeoutSeconds=30",
            "injection.timeoutSeconds",
            "maximum",
        ),
        ("metrics.port=0", "metrics.port", "minimum"),
        (
            "sources.plainHttpHosts={http://mirror}",
            "sources.plainHttpHosts",
            "pattern",
        ),
        ("unknown=1", "unknown", "not allowed"),
    ];
    for (value, place, why) in refusals {
        let refused = Helm::find().template(&[value]).unwrap_err();
        let pointer = place.replace('.', "/");
        let named = refused.contains(place) || refused.contains(&pointer);
        let said = refused.to_lowercase();
        assert!(named, "{value}: {refused}");
        let reason = said.contains(why)
            || (why == "pattern" && said.contains("match"))
            || (why == "one of" && said.contains("must be"));
        assert!(reason, "{value}: {refused}");
    }
}

#[test]
fn the_schema_knows_every_value_that_the_chart_has_and_no_other() {
    let read = |name: &str| std::fs::read_to_string(Path::new(&chart()).join(name)).unwrap();
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut wrong = Vec::new();
    compare("", &values, &schema, &mut wrong);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every key of the values has a schema, and every property of the schema a default.
fn compare(at: &str, values: &Value, schema: &Value, wrong: &mut Vec<String>) {
    let (Some(values), Some(known)) = (values.as_object(), schema["properties"].as_object()) else {
        return;
    };
    for (name, value) in values {
        match known.get(name) {
            Some(schema) => compare(&format!("{at}.{name}"), value, schema, wrong),
            None => wrong.push(format!("{at}.{name} has no schema")),
        }
    }
    let leaf = |name: &&str| !["requests", "limits", "claims", "kind", "group"].contains(name);
    let missing = known.keys().map(String::as_str).filter(leaf);
    // What only takes part in something that is empty by default has no default of its own.
    let missing = missing.filter(|name| !values.is_empty() && !values.contains_key(*name));
    wrong.extend(missing.map(|name| format!("{at}.{name} has no default")));
}

#[test]
fn the_daemon_is_restricted_and_the_agent_is_privileged_only_where_it_says_why() {
    let rendered = documents(&Helm::find().template(&[]).unwrap());
    let daemon = pod(&rendered, "Deployment");
    let container = &daemon["containers"][0]["securityContext"];
    assert_eq!(daemon["securityContext"]["runAsNonRoot"], true);
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["capabilities"]["drop"][0], "ALL");
    let agent = pod(&rendered, "DaemonSet");
    assert_eq!(
        agent["containers"][0]["securityContext"]["privileged"],
        true
    );
    let paths: Vec<&str> = agent["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|volume| volume["hostPath"]["path"].as_str())
        .collect();
    let expected = [
        "/var/lib/headstart",
        "/run/containerd",
        "/var/lib/containerd",
        "/etc/containerd/certs.d",
        "/var/lib/kubelet/plugins/csi.headstart.dev",
        "/var/lib/kubelet/plugins_registry",
        "/var/lib/kubelet/pods",
    ];
    assert_eq!(paths, expected);
    assert!(agent["hostPID"].is_null() && agent["hostIPC"].is_null());
    for object in rendered
        .iter()
        .filter(|object| object["kind"] == "ClusterRole")
    {
        for rule in object["rules"].as_array().unwrap() {
            let text = rule.to_string();
            assert!(!text.contains("\"*\""), "{text}");
            assert!(!text.contains("\"secrets\""), "{text}");
        }
    }
}

#[test]
fn a_mirror_replaces_the_registry_of_every_image_and_a_digest_wins_over_a_tag() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let given = format!("agent.image.digest={digest}");
    let mirror = "global.imageRegistry=mirror.example:5000/proxy";
    let rendered = documents(&Helm::find().template(&[mirror, &given]).unwrap());
    let image = |kind| pod(&rendered, kind)["containers"][0]["image"].clone();
    let version = env!("CARGO_PKG_VERSION");
    let daemon = format!("mirror.example:5000/proxy/headstart/headstart:{version}");
    assert_eq!(image("Deployment"), daemon);
    let agent = format!("mirror.example:5000/proxy/headstart/headstart-agent@{digest}");
    assert_eq!(image("DaemonSet"), agent);
}

#[test]
fn the_programs_know_every_argument_that_the_chart_gives_them() {
    let values = [EVERYTHING, &["agent.log=debug"]].concat();
    let rendered = documents(&Helm::find().template(&values).unwrap());
    for (kind, variable) in [
        ("Deployment", "HEADSTART_DAEMON"),
        ("DaemonSet", "HEADSTART_AGENT"),
    ] {
        let program = std::env::var_os(variable).expect("run by `cargo xtask e2e`");
        let arguments = pod(&rendered, kind)["containers"][0]["args"].clone();
        let arguments: Vec<String> = serde_json::from_value(arguments).unwrap();
        assert!(arguments.len() > 10, "{arguments:?}");
        let known = |arguments: &[String]| {
            // Everything before it is read first.
            let mut help = std::process::Command::new(&program);
            let output = help.args(arguments).arg("--help").output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            output.status.success().then_some(()).ok_or(said)
        };
        assert_eq!(known(&arguments), Ok(()));
        let mut wrong = arguments;
        wrong.push("--no-such-argument".to_owned());
        assert!(known(&wrong).is_err());
    }
}

/// The pod that the only object of a kind makes.
fn pod(rendered: &[Value], kind: &str) -> Value {
    let mut found = rendered.iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "two of {kind}");
    object["spec"]["template"]["spec"].clone()
}

/// The objects of a stream of YAML documents.
fn documents(text: &str) -> Vec<Value> {
    let each = text.split("\n---").map(|document| {
        let parsed: Value = serde_saphyr::from_str(document).expect("YAML");
        parsed
    });
    each.filter(|document| !document.is_null()).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
