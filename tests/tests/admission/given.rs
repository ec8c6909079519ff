//! What pods are given: the same by the policy and by the webhook.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::nodes::Against;
use crate::{LEADER, REPO, WAIT, World, pod};

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
        self.daemon(0, &LEADER)?;
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
            ("an affinity of its own", of(&|pod| Against::Own.told(pod))),
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

    /// A pod as it would be made.
    pub(crate) fn dry(&self, pod: &Value, namespace: &str) -> Result<Value> {
        let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
        self.api().create(&path, pod)
    }
}
