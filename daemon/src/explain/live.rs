//! One pod or node of a running cluster: what the ledger has of it, what was bought for it, and what
//! the daemon's plan says now.
//!
//! Read with the caller's own rights: objects by watches, the plan through the API server's proxy to
//! the daemon's Service. Without a daemon that answers, the rest is still said.

use std::fmt::Write as _;
use std::sync::Arc;

use headstart_core::pod::ObjectKey;
use headstart_core::quantity::Bytes;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::{Client, ResourceExt as _};

use super::{Answer, Served, Subject};
use crate::columns::{Align, Columns};
use crate::kubectl::{ClusterArgs, said};
use crate::ledger::clerk::Source as _;
use crate::ledger::{Cached, Deploy, Known, Moment, Objects, of_pod, words};
use crate::top;

mod plan;

/// Asks the cluster.
pub(super) fn answer(what: Subject, cluster: &ClusterArgs) -> Result<Answer, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let cluster = cluster.connect().await?;
        let what = what.within(&cluster.namespace);
        let objects = top::listed(cluster.client.clone()).await?.objects();
        let mut objects = objects.unwrap_or_default();
        match &what {
            Subject::Pod(key) => {
                find(&cluster.client, key, &mut objects).await?;
                let plan = plan::published(&cluster.client).await;
                Ok(pod(key, &objects, plan.as_ref(), Moment::now()))
            }
            Subject::Node(name) => {
                let plan = plan::published(&cluster.client).await;
                node(name, &objects, plan.as_ref(), Moment::now())
            }
        }
    })
}

/// Sees to it that the pod is among the objects, whether it counts as a deploy or not.
async fn find(client: &Client, key: &ObjectKey, objects: &mut Objects) -> Result<(), String> {
    let named = |pod: &Arc<Pod>| {
        pod.name_any() == key.name && pod.namespace().as_deref() == Some(&key.namespace)
    };
    if objects.pods.iter().any(named) {
        return Ok(());
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    match pods.get_opt(&key.name).await {
        Ok(Some(pod)) => objects.pods.push(Arc::new(pod)),
        Ok(None) => {
            return Err(format!(
                "no pod {key} in the cluster; `kubectl get pods -n {}` lists those there are",
                key.namespace
            ));
        }
        Err(error) => return Err(format!("pod {key} cannot be read: {}", said(&error))),
    }
    Ok(())
}

/// What is said of a pod that is among the objects.
fn pod(
    key: &ObjectKey,
    objects: &Objects,
    plan: Result<&plan::Published, &String>,
    now: Moment,
) -> Answer {
    let mut text = format!("pod {key}\n");
    let deploy = of_pod(objects, key, now);
    let raw = objects.pods.iter().find(|pod| {
        pod.name_any() == key.name && pod.namespace().as_deref() == Some(&key.namespace)
    });
    if let Some(deploy) = &deploy {
        state(deploy, &mut text);
    }
    if let Some(raw) = raw {
        held(raw, &mut text);
    }
    if let Some(deploy) = &deploy {
        place(deploy, objects, &mut text);
        waited(deploy, &mut text);
        bytes(deploy, &mut text);
        for remark in &deploy.remarks {
            let _ = writeln!(text, "  note: {}", words::remark(remark));
        }
    }
    let served = deploy
        .as_ref()
        .is_some_and(|deploy| deploy.served.is_some());
    let bound = raw.is_some_and(|raw| {
        let node = raw.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        node.is_some()
    });
    let planned = match plan {
        Ok(plan) if !bound => plan.pod(&key.to_string(), &mut text),
        Ok(_) => None,
        Err(problem) => {
            let _ = writeln!(text, "  note: the plan is not known: {problem}");
            None
        }
    };
    Answer {
        text,
        served: match served || bound || planned == Some(Served::Yes) {
            true => Served::Yes,
            false => Served::No,
        },
    }
}

fn state(deploy: &Deploy, text: &mut String) {
    let line = match (deploy.served, deploy.waits_for()) {
        (Some(served), _) => format!(
            "serves since {}, after {}",
            words::span(deploy.seen.since(served)),
            words::span(deploy.wall())
        ),
        (None, Some(stage)) => format!(
            "does not serve yet: it waits for {}, {} so far",
            stage.word(),
            words::span(deploy.wall())
        ),
        (None, None) => "does not serve yet".to_owned(),
    };
    let _ = writeln!(text, "  {line}");
}

/// What the cluster itself says holds it.
fn held(pod: &Pod, text: &mut String) {
    let gates = pod
        .spec
        .iter()
        .flat_map(|spec| spec.scheduling_gates.iter().flatten());
    for gate in gates {
        let _ = writeln!(text, "  held back by the scheduling gate {}", gate.name);
    }
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let unscheduled = conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False");
    for condition in unscheduled {
        if let Some(message) = condition.message.as_deref().filter(|said| !said.is_empty()) {
            let _ = writeln!(text, "  the scheduler says: {}", cut(message));
        }
    }
    let waiting = pod.status.iter().flat_map(|status| {
        let main = status.container_statuses.iter().flatten();
        main.chain(status.init_container_statuses.iter().flatten())
    });
    for container in waiting {
        let state = container
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref());
        if let Some(waiting) = state {
            let reason = waiting.reason.as_deref().unwrap_or("it is not said why");
            let message = waiting
                .message
                .as_deref()
                .map_or(String::new(), |m| format!(": {}", cut(m)));
            let _ = writeln!(
                text,
                "  container {} waits: {reason}{message}",
                container.name
            );
        }
    }
}

fn place(deploy: &Deploy, objects: &Objects, text: &mut String) {
    let facts = [
        deploy.instance_type.clone(),
        deploy.capacity.map(|capacity| capacity.to_string()),
        deploy.price.map(|price| price.to_string()),
        deploy.pool.as_ref().map(|pool| format!("pool {pool}")),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    if let Some(node) = &deploy.node {
        let facts = match facts.is_empty() {
            true => String::new(),
            false => format!(" ({})", facts.join(", ")),
        };
        let _ = writeln!(text, "  node {node}{facts}");
    }
    let claim = objects
        .claims
        .iter()
        .find(|claim| Some(claim.name_any()) == deploy.claim);
    if let Some(claim) = claim {
        let mine = claim.spec.pods.contains(&deploy.pod.to_string());
        let _ = writeln!(
            text,
            "  {} claim {}{}",
            if mine {
                "bought for it by"
            } else {
                "bought by"
            },
            claim.name_any(),
            match claim.spec.reason.as_str() {
                "" => String::new(),
                reason => format!(": {}", cut(reason)),
            }
        );
        let conditions = claim.status.iter().flat_map(|status| &status.conditions);
        for failed in conditions.filter(|c| c.type_ == "Failed" && c.status == "True") {
            let _ = writeln!(
                text,
                "  the claim failed, {}: {}",
                failed.reason,
                cut(&failed.message)
            );
        }
    }
}

/// The ledger of the pod.
fn waited(deploy: &Deploy, text: &mut String) {
    text.push_str("\n  what it waited for, of which the sum is the whole:\n");
    let mut columns = Columns::new(&[
        ("stage", Align::Left),
        ("waited", Align::Right),
        ("", Align::Left),
    ]);
    for one in &deploy.intervals {
        let how = match one.known {
            Known::Stamp | Known::Nothing => "",
            Known::AtMost => "at most",
            Known::Missing => "not stamped",
            Known::Open => "under way",
        };
        columns.row([
            one.stage.word().to_owned(),
            words::span(one.took()),
            how.to_owned(),
        ]);
    }
    columns.row(["sum".to_owned(), words::span(deploy.wall()), String::new()]);
    text.push_str(&columns.render(4));
    let most = if deploy.exposed_at_most() {
        "at most "
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "  exposed byte time {most}{}; bytes moved for {} while it waited for something else",
        words::span(deploy.exposed()),
        words::span(deploy.hidden())
    );
}

fn bytes(deploy: &Deploy, text: &mut String) {
    for item in &deploy.items {
        let size = item
            .bytes
            .map_or("size unknown".to_owned(), |n| Bytes(n).to_string());
        let sources: Vec<String> = item
            .sources
            .iter()
            .map(|(kind, n)| format!("{} from {kind}", Bytes(*n)))
            .collect();
        let sources = match sources.is_empty() {
            true => String::new(),
            false => format!(", {}", sources.join(", ")),
        };
        let _ = writeln!(
            text,
            "  starts with {} {}: {size}, {}, waited for {}{sources}",
            item.kind.word(),
            item.name,
            match item.cached {
                Cached::Cold => "not there when the pod was created",
                Cached::Partial => "partly there when the pod was created",
                Cached::Warm => "there when the pod was created",
                Cached::Unknown => "nobody knows what was there",
            },
            words::span(item.exposed)
        );
    }
}

/// What is said of a node.
fn node(
    name: &str,
    objects: &Objects,
    plan: Result<&plan::Published, &String>,
    now: Moment,
) -> Result<Answer, String> {
    let there = objects.nodes.iter().any(|node| node.name_any() == name);
    let claim = objects.claims.iter().find(|claim| {
        let status = claim.status.as_ref();
        claim.name_any() == name || status.is_some_and(|s| s.node_name.as_deref() == Some(name))
    });
    if !there && claim.is_none() {
        let known = objects.nodes.iter().map(|node| node.name_any());
        let said = super::unknown("node", name, known);
        return Err(said
            .replace("in the files; they have", "in the cluster; it has")
            .replace("in the files", "in the cluster"));
    }
    let named = |other: &str| other == name || claim.is_some_and(|claim| claim.name_any() == other);
    let only = Objects {
        pods: Vec::new(),
        nodes: Vec::new(),
        claims: claim.into_iter().cloned().collect(),
        caches: objects
            .caches
            .iter()
            .filter(|cache| named(&cache.name_any()))
            .cloned()
            .collect(),
    };
    let mut text = format!("node {name}\n");
    if let Some(claim) = claim.filter(|claim| !claim.spec.reason.is_empty()) {
        let _ = writeln!(
            text,
            "  bought by claim {}: {}",
            claim.name_any(),
            cut(&claim.spec.reason)
        );
    }
    text.push('\n');
    text += &top::table::nodes(&only, now);
    let on_it = crate::ledger::deploys(objects, now);
    let on_it: Vec<Deploy> = on_it
        .into_iter()
        .filter(|deploy| deploy.node.as_deref().is_some_and(named))
        .collect();
    text.push('\n');
    text += &top::table::of_deploys(&on_it);
    match plan {
        Ok(plan) => plan.node(name, &mut text),
        Err(problem) => {
            let _ = writeln!(text, "  note: the plan is not known: {problem}");
        }
    }
    Ok(Answer {
        text,
        served: Served::Yes,
    })
}

fn cut(text: &str) -> String {
    const MOST: usize = 400;
    let text = text.replace(['\n', '\r', '\u{1b}'], " ");
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
