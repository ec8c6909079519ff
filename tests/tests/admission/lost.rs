//! Gates and nominations when somebody is lost: a leader, all replicas, the API server.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::webhook::Stopped;
use crate::{REPO, WAIT, World, pod};

const GATED: &str = "/api/v1/namespaces/gated/pods";

/// How long the API server stands still: longer than the daemon waits for one answer.
const SILENCE: Duration = Duration::from_secs(6);

impl World {
    /// A pod that the warm node has room for and that nevertheless fits nowhere; its path. It preempts
    /// nobody: of others the scheduler itself takes a nomination that did not do.
    pub(crate) fn a_pod_is_nominated_that_fits_nowhere(&self) -> Result<String> {
        let api = self.api();
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": "patient"}, "value": 0, "preemptionPolicy": "Never"});
        api.create("/apis/scheduling.k8s.io/v1/priorityclasses", &class)?;
        crate::nodes::until_labelled(api)?;
        let mut patient = pod(
            "patient",
            &json!({"headstart.dev/models": REPO, "headstart.dev/steering": "gate"}),
        );
        patient["spec"]["priorityClassName"] = json!("patient");
        patient["spec"]["affinity"] = json!({"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{
                "labelSelector": {"matchLabels": {"app": "nobody"}},
                "topologyKey": "kubernetes.io/hostname"}]}});
        patient["metadata"]["labels"] = json!({"app": "patient"});
        api.create("/api/v1/namespaces/by-webhook/pods", &patient)?;
        let path = "/api/v1/namespaces/by-webhook/pods/patient".to_owned();
        let nominated = api.until(&path, WAIT, |pod| {
            pod["status"]["nominatedNodeName"] == "warm" && !is_gated(pod)
        })?;
        let note = &nominated["metadata"]["annotations"]["headstart.dev/nominated"];
        ensure!(note == "warm", "{nominated:#}");
        Ok(path)
    }

    pub(crate) fn a_nomination_that_led_nowhere_is_withdrawn(&self, path: &str) -> Result<()> {
        let pod = self.api().until(path, WAIT, |pod| {
            pod["status"]["nominatedNodeName"].is_null()
                && pod["metadata"]["annotations"]["headstart.dev/nominated"].is_null()
        })?;
        ensure!(pod["spec"]["nodeName"].is_null(), "{pod:#}");
        Ok(())
    }

    /// Nobody else's gate is opened, and who is held back by one gets none of ours.
    pub(crate) fn gates_of_others_are_left_alone(&self) -> Result<()> {
        let other = json!({"name": "example.com/other"});
        let ours = json!({"name": "headstart.dev/steering"});
        let mut held = model("held");
        held["spec"]["schedulingGates"] = json!([other]);
        let made = self.api().create(GATED, &held)?;
        ensure!(
            made["spec"]["schedulingGates"] == json!([other]),
            "{made:#}"
        );
        // Another's webhook may put its gate on later than ours.
        let mut both = model("both");
        both["spec"]["schedulingGates"] = json!([other, ours]);
        self.api().create(GATED, &both)?;
        let opened = self.api().until(&format!("{GATED}/both"), WAIT, |pod| {
            pod["spec"]["schedulingGates"] == json!([other])
        })?;
        let nominated = &opened["status"]["nominatedNodeName"];
        ensure!(nominated.is_null(), "{opened:#}");
        self.api().delete(GATED).map(drop)
    }

    pub(crate) fn a_gate_is_opened_without_a_leader(&self) -> Result<()> {
        for daemon in self.daemons() {
            daemon.kill();
        }
        // The other replica does not lead: nobody chooses a node.
        self.daemon(1, &["--gate-deadline=2"])?;
        self.call(1)?;
        let asked = Instant::now();
        self.gated("lost")?;
        self.until_bound("lost")?;
        let took = asked.elapsed();
        println!("a gate without a leader, deadline 2 s: bound after {took:.2?}");
        ensure!(took > Duration::from_millis(500), "{took:?}");
        // Times of creation are whole seconds.
        ensure!(took < Duration::from_secs(4), "{took:?}");
        Ok(())
    }

    pub(crate) fn a_gate_is_opened_once_an_api_server_that_hangs_answers(&self) -> Result<()> {
        let mut processes = self.cluster.processes().into_iter();
        let server = processes.find(|process| process.name == "kube-apiserver");
        let server = server.context("the API server's process")?;
        self.gated("slow")?;
        let stopped = Stopped::now(&server)?;
        std::thread::sleep(SILENCE);
        drop(stopped);
        let asked = Instant::now();
        self.until_bound("slow")?;
        let took = asked.elapsed();
        println!("a gate whose API server hung for {SILENCE:?}: bound {took:.2?} after it answers");
        ensure!(took < Duration::from_secs(4), "{took:?}");
        Ok(())
    }

    pub(crate) fn a_gate_put_on_by_replicas_that_were_killed_is_opened_by_the_next(
        &self,
    ) -> Result<()> {
        self.replaced(&["--gate-deadline=600"])?;
        self.gated("left")?;
        for daemon in self.daemons() {
            daemon.kill();
            daemon.until_gone(WAIT)?;
        }
        // Nobody is there: no gate, and no wait.
        let asked = Instant::now();
        let made = self.api().create(GATED, &model("alone"))?;
        ensure!(!is_gated(&made), "{made:#}");
        self.until_bound("alone")?;
        let took = asked.elapsed();
        println!("a pod beside no replica: bound after {took:.2?}");
        ensure!(took < Duration::from_secs(2), "{took:?}");
        let left = self
            .api()
            .find(&format!("{GATED}/left"))?
            .context("the pod")?;
        ensure!(is_gated(&left), "{left:#}");
        let asked = Instant::now();
        self.daemon(1, &["--gate-deadline=1"])?;
        self.until_bound("left")?;
        let took = asked.elapsed();
        println!("a gate that nobody was there to open: bound {took:.2?} after a replica starts");
        ensure!(took < Duration::from_secs(5), "{took:?}");
        Ok(())
    }

    pub(crate) fn the_last_replica_opens_all_gates_as_it_ends(&self) -> Result<()> {
        let last = self.replaced(&["--gate-deadline=600"])?;
        self.gated("last")?;
        let asked = Instant::now();
        last.terminate();
        self.until_bound("last")?;
        let took = asked.elapsed();
        println!("a gate at the end of the last replica: bound after {took:.2?}");
        ensure!(took < Duration::from_secs(4), "{took:?}");
        last.until_gone(WAIT)?;
        let made = self.api().create(GATED, &model("none"))?;
        ensure!(!is_gated(&made), "{made:#}");
        Ok(())
    }

    /// Ends all replicas and starts one that does not lead.
    fn replaced(&self, further: &[&str]) -> Result<headstart_testbed::cluster::Process> {
        for daemon in self.daemons() {
            daemon.terminate();
            daemon.until_gone(WAIT)?;
        }
        let daemon = self.daemon(1, further)?;
        self.until_changed("by-webhook")?;
        Ok(daemon)
    }

    /// Makes a pod that has our gate.
    fn gated(&self, name: &str) -> Result<()> {
        let made = self.api().create(GATED, &model(name))?;
        ensure!(is_gated(&made), "{made:#}");
        Ok(())
    }

    fn until_bound(&self, name: &str) -> Result<()> {
        let path = format!("{GATED}/{name}");
        self.api()
            .until(&path, WAIT, |pod| pod["spec"]["nodeName"].is_string())?;
        Ok(())
    }
}

fn model(name: &str) -> Value {
    pod(name, &json!({"headstart.dev/models": REPO}))
}

fn is_gated(pod: &Value) -> bool {
    let gates = pod["spec"]["schedulingGates"].as_array();
    let mut gates = gates.into_iter().flatten();
    gates.any(|gate| gate["name"] == "headstart.dev/steering")
}
