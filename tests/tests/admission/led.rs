//! Where pods go: one warm node and five cold ones, and everything that the scheduler would rather do.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use headstart_testbed::cluster::Api;
use serde_json::{Value, json};

use crate::nodes::{self, ALL, Against};
use crate::{PODS, REPO, WAIT, World, pod};

/// How many pods are made at a time where nobody looks at how soon each has its node.
const AT_ONCE: usize = 4;

impl World {
    pub(crate) fn gated_pods_go_to_the_warm_node_whatever_the_scheduler_would_rather_do(
        &self,
    ) -> Result<()> {
        use Against::{Image, Own, Spread, Taint};
        nodes::until_labelled(self.api())?;
        let reviews = self.reviews()?;
        let plain = self.one_by_one("unsteered", 30, &[Taint])?;
        println!("not steered, against it [Taint]: {plain}");
        ensure!(plain.warm == 0, "{plain}");
        let scenarios: [&[Against]; 6] = [&[], &[Image], &[Spread], &[Own], &[Taint], &ALL];
        let mut all = Vec::new();
        for against in scenarios {
            let led = self.one_by_one("gated", PODS, against)?;
            println!("gate, against it {against:?}: {led}");
            ensure!(led.warm >= PODS - 1, "against it {against:?}: {led}");
            all.extend(led.took);
        }
        let all = Led {
            warm: all.len(),
            took: all,
        };
        println!("gate, all of them, by a daemon built for debugging: {all}");
        ensure!(all.at(95) < Duration::from_millis(150), "{all}");
        self.reviews()?.since(&reviews).were_quick()
    }

    /// What the scheduler's weights allow is known: taints count 3 times, affinities and spread twice,
    /// images and room once. A preference for the node and one for a pod on it make 400 points; a taint
    /// is 300 for all others, and each of the other reasons makes up to 200 or 100.
    pub(crate) fn preferring_pods_go_to_the_warm_node_as_far_as_the_scheduler_s_weights_go(
        &self,
    ) -> Result<()> {
        use Against::{Filled, Image, Own, Spread, Taint};
        let enough: [&[Against]; 5] = [&[], &[Spread], &[Filled, Image, Spread], &[Own], &[Taint]];
        for against in enough {
            let led = self.all_at_once("preferring", against)?;
            println!("preference, against it {against:?}: {led} of {PODS}");
            ensure!(led >= PODS - 1, "against it {against:?}: {led} of {PODS}");
        }
        // Here other nodes have as many points or more. How many pods come to the warm node is chance or
        // few, by the scheduler's own rules; that all find a node is what holds.
        for against in [&[Taint, Image], &ALL[..]] {
            let led = self.all_at_once("preferring", against)?;
            println!("preference, outweighed by {against:?}: {led} of {PODS}");
        }
        nodes::set(self.api(), &[])
    }

    /// Makes pods one after the other, waits until each has its node, and removes them.
    fn one_by_one(&self, namespace: &str, count: usize, against: &[Against]) -> Result<Led> {
        let api = self.api();
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        self.until_heeded(namespace, against)?;
        let (mut took, mut warm) = (Vec::new(), 0);
        for number in 0..count {
            let made = told(&format!("p{number}"), against);
            let asked = Instant::now();
            api.create(&path, &made)?;
            let node = until_bound(api, &format!("{path}/p{number}"))?;
            took.push(asked.elapsed());
            warm += usize::from(node == "warm");
        }
        api.delete(&path)?;
        Ok(Led { warm, took })
    }

    /// Makes [`PODS`] pods, waits until all have a node, and removes them; how many are on the warm one.
    fn all_at_once(&self, namespace: &str, against: &[Against]) -> Result<usize> {
        let api = self.api();
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        self.until_heeded(namespace, against)?;
        std::thread::scope(|scope| {
            let makers = (0..AT_ONCE).map(|first| {
                let path = &path;
                scope.spawn(move || {
                    (first..PODS).step_by(AT_ONCE).try_for_each(|number| {
                        let made = told(&format!("p{number}"), against);
                        api.create(path, &made).map(drop)
                    })
                })
            });
            let makers: Vec<_> = makers.collect();
            makers.into_iter().try_for_each(|maker| {
                let made = maker.join();
                made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        let nodes = |list: &Value| -> Vec<String> {
            let pods = list["items"].as_array().into_iter().flatten();
            let nodes = pods.filter_map(|pod| pod["spec"]["nodeName"].as_str());
            nodes.map(str::to_owned).collect()
        };
        let list = api.until(&path, WAIT, |list| nodes(list).len() == PODS)?;
        api.delete(&path)?;
        Ok(nodes(&list).iter().filter(|node| *node == "warm").count())
    }

    /// Makes the nodes what is wanted. Once a pod that was made afterwards has its node, the scheduler
    /// has heard.
    fn until_heeded(&self, namespace: &str, against: &[Against]) -> Result<()> {
        let api = self.api();
        nodes::set(api, against)?;
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        api.create(&path, &told("first", against))?;
        until_bound(api, &format!("{path}/first"))?;
        api.delete(&format!("{path}/first")).map(drop)
    }
}

fn told(name: &str, against: &[Against]) -> Value {
    let mut pod = pod(name, &json!({"headstart.dev/models": REPO}));
    for against in against {
        against.told(&mut pod);
    }
    pod
}

/// The node that a pod comes to.
fn until_bound(api: &Api, path: &str) -> Result<String> {
    let deadline = Instant::now() + WAIT;
    loop {
        let found = api.find(path)?.context("the pod")?;
        if let Some(node) = found["spec"]["nodeName"].as_str() {
            return Ok(node.to_owned());
        }
        ensure!(Instant::now() < deadline, "no node: {found:#}");
        std::thread::sleep(Duration::from_millis(16));
    }
}

/// Where pods went, and how soon.
struct Led {
    warm: usize,
    took: Vec<Duration>,
}

impl Led {
    /// What this many in a hundred took at most.
    fn at(&self, percent: usize) -> Duration {
        let mut took = self.took.clone();
        took.sort();
        took[took.len() * percent / 100]
    }
}

impl std::fmt::Display for Led {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (warm, count) = (self.warm, self.took.len());
        let (p50, p95) = (self.at(50), self.at(95));
        write!(
            f,
            "{warm} of {count} on the warm node, create to bound p50 {p50:.1?}, p95 {p95:.1?}"
        )
    }
}
