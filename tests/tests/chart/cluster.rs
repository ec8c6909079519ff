//! The chart in a real cluster: installed, upgraded, uninstalled.

use std::fs;
use std::path::Path;
use std::time::Duration;

use headstart_testbed::cluster::{Api, Cluster, NodeOptions, Options, REGISTRY, shell_layer};
use headstart_testbed::helm::{Helm, chart};
use headstart_testbed::image::{Compression, Format, Image, Layer, Recipe, this_architecture};
use serde_json::{Value, json};

use super::{EVERYTHING, documents, root};

const WAIT: Duration = Duration::from_secs(90);
const SPACE: &str = "headstart-system";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// What the daemon's stand-in is started as: it answers probes until it is asked to end.
const RUN: &str = r#"#!/bin/busybox sh
for argument; do case "$argument" in --http=*) port=${argument##*:} ;; esac; done
mkdir -p /tmp/www
for page in healthz readyz; do echo ok >/tmp/www/$page; done
trap 'exit 0' TERM
httpd -f -p "$port" -h /tmp/www &
while :; do wait; done
"#;

/// The agent's: when it is asked to end it still has something to do, as one that fetches has.
const SERVE: &str = r#"#!/bin/busybox sh
for argument; do case "$argument" in --metrics-address=*) port=${argument##*:} ;;
--root=*) root=${argument#*=} ;; esac; done
mkdir -p /tmp/www
for page in healthz readyz; do echo ok >/tmp/www/$page; done
trap 'sleep 3; echo finished >>"$root/ended"; exit 0' TERM
httpd -f -p "$port" -h /tmp/www &
while :; do wait; done
"#;

#[test]
fn installed_upgraded_from_the_version_before_and_uninstalled_with_nothing_left_but_definitions() {
    let cluster = Cluster::up(&options()).unwrap();
    let helm = Helm::find().at(cluster.kubeconfig());
    let api = cluster.api();
    for tag in ["v1", "v2"] {
        let daemon = stand_in("run", RUN, tag);
        cluster.push(daemon, "tests/headstart", tag).unwrap();
        let agent = stand_in("serve", SERVE, tag);
        cluster.push(agent, "tests/headstart-agent", tag).unwrap();
    }
    programs_run_from_their_images(&cluster);
    let directory = tempfile::tempdir().unwrap();
    let before = version_before(directory.path());

    let notes = install(&helm, &before);
    assert!(notes.contains("The next command to type"), "{notes}");
    runs(&cluster, "v1");
    api_server_takes_everything(&helm, api);
    daemon_is_admitted_where_pods_are_restricted(&helm, api);
    upgrade(&helm, &cluster);
    uninstall(&helm, api);
}

/// The real images hold all that the real programs need, and say who runs them.
fn programs_run_from_their_images(cluster: &Cluster) {
    let images = std::env::var_os("HEADSTART_IMAGES").expect("run by `cargo xtask e2e`");
    let pods = "/api/v1/namespaces/default/pods";
    for (name, user) in [("headstart", 65532), ("headstart-agent", 0)] {
        let image = Image::open(&Path::new(&images).join(name)).unwrap();
        let digest = image.digest().prefixed();
        cluster
            .push(image, &format!("images/{name}"), "built")
            .unwrap();
        let container = json!({
            "name": "main", "image": format!("{REGISTRY}/images/{name}:built"), "args": ["--version"],
            "securityContext": {"readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        });
        cluster.api().create(pods, &pod).unwrap();
        let path = format!("{pods}/{name}");
        let ended = |pod: &Value| pod["status"]["phase"] == "Succeeded";
        let pod = cluster.api().until(&path, WAIT, ended).unwrap();
        let said = cluster.api().text(&format!("{path}/log")).unwrap();
        assert_eq!(said, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
        let status = &pod["status"]["containerStatuses"][0];
        assert!(
            status["imageID"].as_str().unwrap().ends_with(&digest),
            "{status}"
        );
        assert_eq!(status["user"]["linux"]["uid"], user);
    }
}

fn install(helm: &Helm, chart: &Path) -> String {
    let chart = chart.display().to_string();
    let arguments = [
        "install",
        "headstart",
        &chart,
        "-n",
        SPACE,
        "--create-namespace",
        "--wait",
    ];
    helm.run(&arguments, &values("v1")).unwrap()
}

/// Two daemons on two nodes, an agent on the one node that is said to be its own.
fn runs(cluster: &Cluster, tag: &str) {
    let api = cluster.api();
    let daemons = pods(api, "daemon");
    let mut nodes: Vec<&str> = daemons.iter().filter_map(node).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2"]);
    let agents = pods(api, "agent");
    assert_eq!(agents.iter().filter_map(node).collect::<Vec<_>>(), ["n1"]);
    for pod in daemons.iter().chain(&agents) {
        let image = pod["spec"]["containers"][0]["image"].as_str().unwrap();
        assert!(image.ends_with(&format!(":{tag}")), "{image}");
    }
    // As a scraper would.
    let page = cluster.control().run(&format!(
        "/bin/busybox wget -q -O- http://{}:9090/readyz",
        daemons[0]["status"]["podIP"].as_str().unwrap()
    ));
    assert_eq!(page.unwrap(), "ok\n");
}

/// Each object of the chart with everything on is one that the API server would take, down to the
/// last field.
fn api_server_takes_everything(helm: &Helm, api: &Api) {
    monitoring(api);
    let chart = chart();
    let arguments = [
        "template",
        "other",
        &chart,
        "-n",
        SPACE,
        "--validate",
        "--is-upgrade",
    ];
    let rendered = documents(&helm.run(&arguments, EVERYTHING).unwrap());
    assert!(rendered.len() > 12, "{}", rendered.len());
    let mut kinds = Vec::new();
    for object in rendered {
        let at = collection(api, &object);
        let name = object["metadata"]["name"].as_str().unwrap();
        let query = "dryRun=All&fieldValidation=Strict&fieldManager=test&force=true";
        let path = format!("{at}/{name}?{query}");
        api.apply(&path, &object).unwrap();
        kinds.push(object["kind"].as_str().unwrap().to_owned());
    }
    for kind in [
        "ServiceMonitor",
        "PodMonitor",
        "NetworkPolicy",
        "PodDisruptionBudget",
    ] {
        assert!(
            kinds.iter().any(|found| found == kind),
            "{kind} is not in {kinds:?}"
        );
    }
}

fn daemon_is_admitted_where_pods_are_restricted(helm: &Helm, api: &Api) {
    let level = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let space = json!({"metadata": {"name": "restricted", "labels": level}});
    api.create("/api/v1/namespaces", &space).unwrap();
    let rendered = documents(&helm.template(EVERYTHING).unwrap());
    let try_pod = |kind: &str| {
        let mut spec = super::pod(&rendered, kind);
        // Its account is in another namespace.
        spec.as_object_mut().unwrap().remove("serviceAccountName");
        let pod = json!({"metadata": {"name": "pod"}, "spec": spec});
        api.create("/api/v1/namespaces/restricted/pods?dryRun=All", &pod)
    };
    let account = "/api/v1/namespaces/restricted/serviceaccounts/default";
    api.until(account, WAIT, |_| true).unwrap();
    try_pod("Deployment").unwrap();
    // The check works: it is not the agent's place.
    let refused = format!("{:#}", try_pod("DaemonSet").unwrap_err());
    assert!(refused.contains("violates PodSecurity"), "{refused}");
}

/// The definitions change along, pods are replaced one by one, and an agent is given the time it
/// needs.
fn upgrade(helm: &Helm, cluster: &Cluster) {
    let api = cluster.api();
    let definition = format!("{DEFINITIONS}/nodecaches.headstart.dev");
    let old = api.find(&definition).unwrap().unwrap();
    assert_eq!(columns(&old), 0);
    let chart = chart();
    let arguments = ["upgrade", "headstart", &chart, "-n", SPACE, "--wait"];
    helm.run(&arguments, &values("v2")).unwrap();
    let new = api.find(&definition).unwrap().unwrap();
    assert!(columns(&new) > 0);
    // Helm waits until new pods are ready; old ones may still be on their way out.
    let path = format!("/apis/apps/v1/namespaces/{SPACE}/daemonsets/headstart-agent");
    api.until(&path, WAIT, |set| {
        set["status"]["updatedNumberScheduled"] == 1
    })
    .unwrap();
    for component in ["daemon", "agent"] {
        let gone = until(|| pods(api, component).iter().all(|pod| tag(pod) == "v2"));
        assert!(gone, "{:#?}", pods(api, component));
    }
    runs(cluster, "v2");
    let ended = cluster
        .node("n1")
        .unwrap()
        .machine
        .path("/var/lib/headstart/ended");
    assert_eq!(fs::read_to_string(ended).unwrap(), "finished\n");
}

/// Nothing but the definitions is left, and what people wrote under them.
fn uninstall(helm: &Helm, api: &Api) {
    let prefetches = "/apis/headstart.dev/v1alpha1/namespaces/default/prefetches";
    let spec = json!({"models": ["hf://acme/small"]});
    let prefetch = json!({
        "apiVersion": "headstart.dev/v1alpha1", "kind": "Prefetch",
        "metadata": {"name": "kept"}, "spec": spec,
    });
    api.create(prefetches, &prefetch).unwrap();
    let arguments = [
        "uninstall",
        "headstart",
        "-n",
        SPACE,
        "--wait",
        "--timeout=90s",
    ];
    let said = helm.run(&arguments, &[]).unwrap();
    assert!(
        said.contains("resource policy") && said.contains("uninstalled"),
        "{said}"
    );
    let left = || everything(api, "app.kubernetes.io%2Fpart-of%3Dheadstart");
    let kept = [
        "CustomResourceDefinition nodecaches.headstart.dev",
        "CustomResourceDefinition nodeclaims.headstart.dev",
        "CustomResourceDefinition nodepools.headstart.dev",
        "CustomResourceDefinition prefetches.headstart.dev",
    ];
    let only_those = || left().is_ok_and(|left| left == kept);
    assert!(until(only_those), "{:#?}", left());
    assert!(api.find(&format!("{prefetches}/kept")).unwrap().is_some());
}

/// Kind and name of every object in the cluster that has a label, of every kind there is. Kinds whose
/// definition has just come may not be listed yet.
fn everything(api: &Api, label: &str) -> anyhow::Result<Vec<String>> {
    let groups = api.find("/apis")?.unwrap();
    let mut versions = vec!["/api/v1".to_owned()];
    for group in groups["groups"].as_array().unwrap() {
        let version = group["preferredVersion"]["groupVersion"].as_str();
        versions.push(format!("/apis/{}", version.unwrap()));
    }
    let mut found = Vec::new();
    for version in versions {
        let Some(resources) = api.find(&version)? else {
            continue;
        };
        for resource in resources["resources"].as_array().unwrap() {
            let lists = resource["verbs"]
                .as_array()
                .unwrap()
                .contains(&json!("list"));
            let name = resource["name"].as_str().unwrap();
            // Endpoints are the same as slices, and events pass.
            if !lists || name.contains('/') || ["events", "endpoints"].contains(&name) {
                continue;
            }
            let path = format!("{version}/{name}?labelSelector={label}");
            let listed = api.find(&path)?.unwrap_or_default();
            for object in listed["items"].as_array().into_iter().flatten() {
                let kind = resource["kind"].as_str().unwrap();
                let name = object["metadata"]["name"].as_str().unwrap();
                found.push(format!("{kind} {name}"));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The path of the collection that an object belongs in.
fn collection(api: &Api, object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap();
    let base = match version {
        "v1" => "/api/v1".to_owned(),
        other => format!("/apis/{other}"),
    };
    let resources = api.find(&base).unwrap();
    let resources = resources.unwrap_or_else(|| panic!("nobody serves {version}"));
    let mut all = resources["resources"].as_array().unwrap().iter();
    let resource = all
        .find(|one| one["kind"] == object["kind"] && !one["name"].as_str().unwrap().contains('/'))
        .unwrap_or_else(|| panic!("nobody serves {}", object["kind"]));
    let name = resource["name"].as_str().unwrap();
    match resource["namespaced"] == true {
        true => {
            let space = object["metadata"]["namespace"].as_str();
            format!("{base}/namespaces/{}/{name}", space.unwrap_or(SPACE))
        }
        false => format!("{base}/{name}"),
    }
}

/// Definitions of the Prometheus operator's kinds, without what it would say of their fields.
fn monitoring(api: &Api) {
    for (kind, plural) in [
        ("ServiceMonitor", "servicemonitors"),
        ("PodMonitor", "podmonitors"),
        ("PrometheusRule", "prometheusrules"),
    ] {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let name = format!("{plural}.monitoring.coreos.com");
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": name},
            "spec": {
                "group": "monitoring.coreos.com", "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural},
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": schema},
                }],
            },
        });
        api.create(DEFINITIONS, &definition).unwrap();
        let served = |definition: &Value| {
            let conditions = definition["status"]["conditions"].as_array();
            conditions.is_some_and(|all| {
                let mut all = all.iter();
                all.any(|one| one["type"] == "Established" && one["status"] == "True")
            })
        };
        api.until(&format!("{DEFINITIONS}/{name}"), WAIT, served)
            .unwrap();
    }
    let served = || api.find("/apis/monitoring.coreos.com/v1").unwrap();
    assert!(until(|| served().is_some_and(|list| {
        list["resources"]
            .as_array()
            .is_some_and(|all| all.len() >= 3)
    })));
}

/// The chart as an earlier release of it was, packaged: another version, definitions with less in
/// them.
fn version_before(directory: &Path) -> std::path::PathBuf {
    let copy = directory.join("headstart");
    copy_tree(&root().join("charts/headstart"), &copy);
    let path = copy.join("Chart.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let version = format!("\nversion: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&version));
    fs::write(&path, text.replace(&version, "\nversion: 0.0.1\n")).unwrap();
    let path = copy.join("files/crds/nodecaches.headstart.dev.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let from = text.find("  - additionalPrinterColumns:").unwrap();
    let to = text.find("    name: v1alpha1\n").unwrap();
    let (head, tail) = (&text[..from], &text[to..]);
    fs::write(&path, format!("{head}  - {}", tail.trim_start())).unwrap();
    let at = directory.display().to_string();
    let copy = copy.display().to_string();
    Helm::find()
        .run(&["package", &copy, "-d", &at], &[])
        .unwrap();
    directory.join("headstart-0.0.1.tgz")
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// The values of the cluster's release.
fn values(tag: &str) -> Vec<&'static str> {
    let mut values = vec![
        "daemon.image.repository=10.99.0.1:5000/tests/headstart",
        "agent.image.repository=10.99.0.1:5000/tests/headstart-agent",
        "daemon.log=debug",
    ];
    values.extend(match tag {
        "v1" => ["daemon.image.tag=v1", "agent.image.tag=v1"],
        _ => ["daemon.image.tag=v2", "agent.image.tag=v2"],
    });
    assert!(values[0].contains(REGISTRY));
    values
}

/// An image in which the first argument is a program.
fn stand_in(name: &str, script: &str, tag: &str) -> Image {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in [
        (format!("usr/bin/{name}"), script),
        ("version".to_owned(), tag),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    let own = Layer::Tar(tar.into_inner().unwrap().into());
    let recipe = Recipe {
        layers: vec![shell_layer().unwrap(), own],
        compression: Compression::Gzip(1),
        format: Format::Oci,
        architecture: this_architecture().to_owned(),
    };
    Image::make(&recipe).unwrap()
}

fn pods(api: &Api, component: &str) -> Vec<Value> {
    let label = format!("app.kubernetes.io%2Fcomponent%3D{component}");
    let path = format!("/api/v1/namespaces/{SPACE}/pods?labelSelector={label}");
    let listed = api.find(&path).unwrap().unwrap_or_default();
    listed["items"].as_array().cloned().unwrap_or_default()
}

fn node(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str()
}

fn tag(pod: &Value) -> &str {
    let image = pod["spec"]["containers"][0]["image"].as_str().unwrap();
    image.rsplit_once(':').unwrap().1
}

fn columns(definition: &Value) -> usize {
    let version = &definition["spec"]["versions"][0];
    // Without columns of ours the API server shows one of its own.
    let columns = version["additionalPrinterColumns"].as_array();
    columns.map_or(0, |all| {
        all.iter().filter(|one| one["name"] != "Age").count()
    })
}

fn options() -> Options {
    let programs = std::env::var_os("HEADSTART_KUBERNETES");
    let own = NodeOptions {
        labels: vec![("headstart.dev/agent".to_owned(), "true".to_owned())],
        ..NodeOptions::default()
    };
    Options {
        directory: root().join("target/cluster/chart"),
        programs: programs.expect("run by `cargo xtask e2e`").into(),
        program: env!("CARGO_BIN_EXE_cluster").into(),
        nodes: vec![own, NodeOptions::default()],
    }
}

fn until(is: impl Fn() -> bool) -> bool {
    let deadline = std::time::Instant::now() + WAIT;
    while std::time::Instant::now() < deadline {
        if is() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}
