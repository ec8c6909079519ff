//! Nodes of the `kwok` provider, beside KWOK's real controller.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::given_back::is_initialised;
use crate::world::{CACHES, CLAIMS, NODES, World, gpu_pod};
use crate::{SETS, buyer, claim_of, running, set, soon};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Starts the controller, for nodes that say that they are its.
pub(crate) fn start(world: &World) {
    let home = std::env::var_os("HEADSTART_KWOK").expect("run by `cargo xtask e2e`");
    let home = PathBuf::from(home);
    let home = home.canonicalize().expect("it was provisioned");
    let mut arguments = vec![
        // It reads its configuration below the home directory, if there is one.
        "HOME=/nonexistent".to_owned(),
        home.join("kwok").display().to_string(),
        format!("--kubeconfig={}", world.kubeconfig.display()),
        "--manage-nodes-with-label-selector=kwok.x-k8s.io/node=fake".to_owned(),
        "--node-lease-duration-seconds=40".to_owned(),
    ];
    for file in std::fs::read_dir(home.join("files")).expect("it was provisioned") {
        let path = file.expect("it was provisioned").path();
        let written = std::fs::read_to_string(&path).expect("it was provisioned");
        if written.lines().any(|line| line == "kind: Stage") {
            arguments.push(format!("--config={}", path.display()));
        }
    }
    let control = world.cluster.control();
    let started = control.start("kwok", Path::new("/usr/bin/env"), &arguments);
    started.expect("it starts");
}

pub(crate) fn whole_life(world: &mut World) {
    buyer(
        world,
        "a",
        &["--provider=kwok", "--cloud=aws", "--region=us-east-1"],
    );
    let mut pool = soon();
    pool["gpuSkus"] = json!(["L4"]);
    pool["capacityTypes"] = json!(["spot"]);
    pool["provider"] = json!({"readyAfter": "1s", "gpusAfter": "2s", "notice": "10m"});
    world.pool("gpu", pool);
    world.create(SETS, &set("serve", &gpu_pod("serve")));
    let (pod, node) = running(world, "serve");
    let pod = world.get(&crate::world::pod_at(&pod));
    assert!(pod["status"]["podIP"].is_string(), "KWOK runs it: {pod:#}");
    assert_eq!(
        claim_of(world, &node),
        node,
        "a node is named after its claim"
    );
    let claim = world.until(&format!("{CLAIMS}/{node}"), is_initialised);
    assert_eq!(
        claim["status"]["instance"]["providerId"],
        format!("kwok://{node}")
    );
    let lease = world.until(&format!("{LEASES}/{node}"), |lease| {
        lease["spec"]["renewTime"].is_string()
    });
    let holder = &lease["spec"]["holderIdentity"];
    assert_ne!(holder, node.as_str(), "KWOK keeps it: {lease:#}");

    let interrupt = json!({"metadata": {"annotations": {"headstart.dev/interrupt": "now"}}});
    world.patch(&format!("{NODES}/{node}"), &interrupt);
    world.until_gone(&format!("{CLAIMS}/{node}"));
    world.until_gone(&format!("{NODES}/{node}"));
    let (_, next) = running(world, "serve");
    assert_ne!(next, node);

    world.delete(&format!("{SETS}/serve"));
    world.until_gone(&format!("{NODES}/{next}"));
    world.until_gone(&format!("{CACHES}/{next}"));
    assert_eq!(world.count(NODES), 0);
}
