//! Plays the kubelet of nodes that are only objects: a pod that was bound runs, and one that was asked
//! to leave is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use headstart_testbed::cluster::{Api, Cluster};
use serde_json::{Value, json};

use crate::world::PODS;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);

/// A thread that does it until this is dropped.
pub(crate) struct Kubelet {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelet {
    pub(crate) fn start(cluster: &Arc<Cluster>) -> Self {
        let (cluster, stop) = (Arc::clone(cluster), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let pods = cluster.api().find(PODS).ok().flatten().unwrap_or_default();
                for pod in pods["items"].as_array().into_iter().flatten() {
                    keep(cluster.api(), pod);
                }
                std::thread::sleep(LOOK);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

fn keep(api: &Api, pod: &Value) {
    let Some(name) = pod["metadata"]["name"].as_str() else {
        return;
    };
    // Somebody else may be faster: then there is nothing to do.
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        let _ = api.delete(&format!("{PODS}/{name}"));
    } else if pod["spec"]["nodeName"].is_string() && pod["status"]["phase"] == "Pending" {
        let now = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        let is = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
        let all = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
        let status = json!({"status": {
            "phase": "Running", "startTime": now, "conditions": all.map(is),
        }});
        let _ = api.patch(&format!("{PODS}/{name}/status"), &status);
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
