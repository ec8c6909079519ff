//! The cases, in the order in which they build on each other.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{PODS, REPO, WAIT, World, nodes, pod};

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

impl World {
    pub(crate) fn policy_and_webhook_give_the_same(&self) -> Result<()> {
        let api = self.api();
        let (policy, binding) = (
            self.object("MutatingAdmissionPolicy")?,
            self.object("MutatingAdmissionPolicyBinding")?,
        );
        let policies = format!("{ADMISSION}/mutatingadmissionpolicies");
        let bindings = format!("{ADMISSION}/mutatingadmissionpolicybindings");
        api.create(&policies, &policy)?;
        api.create(&bindings, &binding)?;
        self.until_changed("by-policy")?;
        let by_policy = self.given("by-policy")?;
        api.delete(&format!("{bindings}/headstart"))?;
        api.delete(&format!("{policies}/headstart"))?;
        self.daemon(0, &["--leads", "--gate-deadline=5"])?;
        self.call(0)?;
        // The policy's end is seen a moment after its last word.
        let plain = pod("try", &json!({"headstart.dev/models": REPO}));
        let deadline = Instant::now() + WAIT;
        let mut by_webhook = self.given("by-webhook")?;
        while by_webhook != by_policy && Instant::now() < deadline {
            by_webhook = self.given("by-webhook")?;
        }
        let changed = by_policy
            .iter()
            .filter(|(_, pod)| !pod["metadata"]["annotations"]["headstart.dev/injected"].is_null());
        ensure!(
            changed.count() >= 9,
            "too few pods are changed: {by_policy:#?}"
        );
        for ((name, policy), (_, webhook)) in by_policy.iter().zip(&by_webhook) {
            ensure!(
                policy == webhook,
                "{name}: {policy:#}\n\nby webhook: {webhook:#}"
            );
        }
        // And what only the webhook can.
        let mut recognised = plain;
        recognised["metadata"]["annotations"] = json!({});
        recognised["spec"]["containers"][0]["args"] = json!(["serve", REPO]);
        let made = self.dry(&recognised, "by-webhook")?;
        let said = made["metadata"]["annotations"]["headstart.dev/injected"].as_str();
        ensure!(said == Some("recognised: hf://acme/small"), "{made:#}");
        Ok(())
    }

    /// What pods of many kinds are given in a namespace.
    fn given(&self, namespace: &str) -> Result<Vec<(&'static str, Value)>> {
        let of = |change: &dyn Fn(&mut Value)| {
            let mut made = pod("p", &json!({"headstart.dev/models": REPO}));
            change(&mut made);
            made
        };
        let first = |pod: &mut Value, field: &str, value: Value| {
            pod["spec"]["containers"][0][field] = value;
        };
        let note = |pod: &mut Value, name: &str, value: &str| {
            pod["metadata"]["annotations"][name] = json!(value);
        };
        let secret = |name: &str, key: &str, optional: bool| {
            json!([{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef":
                {"name": name, "key": key, "optional": optional}}}])
        };
        let long = format!("org/{}", "x".repeat(46));
        let cases: Vec<(&'static str, Value)> = vec![
            ("plain", of(&|_| {})),
            (
                "several",
                of(&|pod| note(pod, "headstart.dev/models", " hf://a/b@main,\nc/d_@v1 , e")),
            ),
            ("long", of(&|pod| note(pod, "headstart.dev/models", &long))),
            (
                "longer",
                of(&|pod| {
                    let name = format!("{}/{}", "y".repeat(40), "x".repeat(40));
                    note(pod, "headstart.dev/models", &name);
                }),
            ),
            (
                "a commit",
                of(&|pod| {
                    let model = format!("a/b@{}", "0123456789".repeat(4));
                    note(pod, "headstart.dev/models", &model);
                }),
            ),
            (
                "a secret",
                of(&|pod| first(pod, "env", secret("hf", "token", false))),
            ),
            (
                "another key",
                of(&|pod| first(pod, "env", secret("hf", "other", false))),
            ),
            (
                "a secret that may be missing",
                of(&|pod| first(pod, "env", secret("hf", "token", true))),
            ),
            (
                "a named secret",
                of(&|pod| note(pod, "headstart.dev/token-secret", "mine")),
            ),
            (
                "no accelerator",
                of(&|pod| first(pod, "resources", json!({}))),
            ),
            (
                "no accelerator, placed",
                of(&|pod| {
                    first(pod, "resources", json!({}));
                    pod["spec"]["nodeSelector"] = json!({"headstart.dev/agent": "true"});
                }),
            ),
            ("an affinity of its own", of(&|pod| nodes::against(pod))),
            (
                "no steering",
                of(&|pod| note(pod, "headstart.dev/steering", "none")),
            ),
            (
                "two containers",
                of(&|pod| {
                    let containers = pod["spec"]["containers"].as_array_mut().expect("a list");
                    containers.insert(0, json!({"name": "side", "image": "side"}));
                }),
            ),
            (
                "a cache of its own",
                of(&|pod| {
                    first(pod, "env", json!([{"name": "HF_HUB_CACHE", "value": "/x"}]));
                }),
            ),
            (
                "a directory of its own",
                of(&|pod| first(pod, "args", json!(["--download-dir=/x"]))),
            ),
            (
                "ignored",
                of(&|pod| note(pod, "headstart.dev/ignore", "true")),
            ),
            (
                "wrong",
                of(&|pod| note(pod, "headstart.dev/models", "a--b/c")),
            ),
        ];
        let made = cases.into_iter().map(|(name, pod)| {
            let mut made = self.dry(&pod, namespace)?;
            // What differs between any two pods.
            made["metadata"] = json!({"annotations": made["metadata"]["annotations"]});
            let text = made.to_string();
            let volumes = made["spec"]["volumes"].as_array();
            let token = volumes.into_iter().flatten().find_map(|volume| {
                let name = volume["name"].as_str()?;
                name.starts_with("kube-api-access-")
                    .then(|| name.to_owned())
            });
            let text = token.map_or(text.clone(), |token| {
                text.replace(&token, "kube-api-access")
            });
            Ok((name, serde_json::from_str(&text)?))
        });
        made.collect()
    }

    fn dry(&self, pod: &Value, namespace: &str) -> Result<Value> {
        let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
        self.api().create(&path, pod)
    }

    pub(crate) fn a_webhook_that_is_down_or_hangs_holds_nothing_up(&self) -> Result<()> {
        let plain = pod("try", &json!({"headstart.dev/models": REPO}));
        let pid = self.daemons().last().context("a daemon")?.pid;
        let signal = |signal: &str| -> Result<()> {
            let status = Command::new("kill")
                .args([signal, &pid.to_string()])
                .status()?;
            ensure!(status.success(), "kill {signal} {pid}");
            Ok(())
        };
        let untouched = |what: &str| -> Result<()> {
            let asked = Instant::now();
            let made = self.dry(&plain, "by-webhook")?;
            let took = asked.elapsed();
            println!("a pod beside a webhook that {what}: {took:.2?}");
            ensure!(took < Duration::from_secs(4), "{what}: {took:?}");
            ensure!(
                made["spec"]["volumes"]
                    .to_string()
                    .find("headstart-models")
                    .is_none()
            );
            Ok(())
        };
        signal("-STOP")?;
        untouched("hangs")?;
        signal("-CONT")?;
        self.until_changed("by-webhook")?;
        signal("-KILL")?;
        untouched("is down")?;
        // The same certificates serve on.
        self.daemon(0, &["--leads", "--gate-deadline=5"])?;
        self.until_changed("by-webhook")
    }

    pub(crate) fn gated_pods_go_to_the_warm_node_whatever_the_scheduler_would_rather_do(
        &self,
    ) -> Result<()> {
        nodes::until_labelled(self.api())?;
        nodes::discourage(self.api())?;
        let plain = self.led("ignored", 30, &|_| {})?;
        println!("not steered: {plain}");
        let led = self.led("gated", PODS, &nodes::against)?;
        println!("gate, all against it: {led}");
        nodes::encourage(self.api())?;
        ensure!(led.warm >= 119, "{led}");
        ensure!(led.p95 < Duration::from_millis(150), "{led}");
        Ok(())
    }

    pub(crate) fn preferring_pods_go_to_the_warm_node(&self) -> Result<()> {
        let led = self.led("preferring", PODS, &|_| {})?;
        println!("preference, all equal: {led}");
        ensure!(led.warm == PODS, "{led}");
        let led = self.led("preferring", PODS, &|pod| {
            pod["spec"]["topologySpreadConstraints"] = nodes::spread();
        })?;
        println!("preference, spread: {led}");
        ensure!(led.warm >= 119, "{led}");
        nodes::discourage(self.api())?;
        let led = self.led("preferring", PODS, &|_| {})?;
        println!("preference, taint: {led}");
        ensure!(led.warm >= 119, "{led}");
        let led = self.led("preferring", PODS, &nodes::against)?;
        println!("preference, all against it: {led}");
        nodes::encourage(self.api())
    }

    /// Makes pods one after the other, waits until each has its node, and removes them.
    fn led(&self, namespace: &str, count: usize, change: &dyn Fn(&mut Value)) -> Result<Led> {
        let api = self.api();
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let (mut took, mut warm) = (Vec::new(), 0);
        for number in 0..count {
            let mut made = pod(
                &format!("p{number}"),
                &json!({"headstart.dev/models": REPO}),
            );
            change(&mut made);
            let asked = Instant::now();
            api.create(&path, &made)?;
            let one = format!("{path}/p{number}");
            let node = loop {
                let found = api.find(&one)?.context("the pod")?;
                if let Some(node) = found["spec"]["nodeName"].as_str() {
                    break node.to_owned();
                }
                ensure!(asked.elapsed() < WAIT, "{found:#}");
                std::thread::sleep(Duration::from_millis(4));
            };
            took.push(asked.elapsed());
            warm += usize::from(node == "warm");
        }
        for number in 0..count {
            api.delete(&format!("{path}/p{number}"))?;
        }
        took.sort();
        Ok(Led {
            warm,
            count,
            p50: took[count / 2],
            p95: took[count * 95 / 100],
        })
    }

    pub(crate) fn gates_are_opened_without_a_leader_and_at_the_end(&self) -> Result<()> {
        let api = self.api();
        let path = "/api/v1/namespaces/gated/pods";
        for daemon in self.daemons() {
            daemon.kill();
        }
        // The other replica does not lead: nobody chooses a node.
        let other = self.daemon(1, &["--gate-deadline=2"])?;
        self.call(1)?;
        let asked = Instant::now();
        let made = api.create(path, &pod("lost", &json!({"headstart.dev/models": REPO})))?;
        ensure!(made["spec"]["schedulingGates"].is_array(), "{made:#}");
        api.until(&format!("{path}/lost"), WAIT, |pod| {
            pod["spec"]["nodeName"].is_string()
        })?;
        let took = asked.elapsed();
        println!("a gate without a leader, deadline 2 s: bound after {took:.2?}");
        ensure!(
            took > Duration::from_millis(500) && took < Duration::from_secs(4),
            "{took:?}"
        );
        other.terminate();
        other.until_gone(WAIT)?;
        // One whose deadline is far away opens all gates when it ends.
        let last = self.daemon(1, &["--gate-deadline=600"])?;
        self.until_changed("by-webhook")?;
        let made = api.create(path, &pod("last", &json!({"headstart.dev/models": REPO})))?;
        ensure!(made["spec"]["schedulingGates"].is_array(), "{made:#}");
        last.terminate();
        let asked = Instant::now();
        api.until(&format!("{path}/last"), WAIT, |pod| {
            pod["spec"]["nodeName"].is_string()
        })?;
        println!(
            "a gate at the end of the last replica: bound after {:.2?}",
            asked.elapsed()
        );
        last.until_gone(WAIT)?;
        // Nobody is there: no gate.
        let made = api.create(path, &pod("none", &json!({"headstart.dev/models": REPO})))?;
        ensure!(made["spec"]["schedulingGates"].is_null(), "{made:#}");
        Ok(())
    }
}

/// Where pods went, and how soon.
struct Led {
    warm: usize,
    count: usize,
    p50: Duration,
    p95: Duration,
}

impl std::fmt::Display for Led {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            warm,
            count,
            p50,
            p95,
        } = self;
        write!(
            f,
            "{warm} of {count} on the warm node, create to bound p50 {p50:.1?}, p95 {p95:.1?}"
        )
    }
}
