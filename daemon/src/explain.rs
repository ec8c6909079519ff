//! `headstart explain`: everything that is known about one pod or one node.
//!
//! It plans the same files that `headstart plan` does. What else a pod could have had is found by
//! planning it alone, again and again, each time without what was chosen before.

use std::process::ExitCode;

use clap::Args;
use headstart_core::plan::Plan;
use headstart_core::pod::ObjectKey;
use headstart_core::prefetch;
use headstart_core::snapshot::Snapshot;
use headstart_core::solve;

use crate::kubectl::ClusterArgs;
use crate::out;
use crate::plan::input::{Assembled, Inputs, assemble};
use crate::plan::{BAD_INPUT, NOT_SERVED, now, refused};

mod live;
mod node;
mod pod;

/// Say everything known about one pod or node: where it goes, why, and what else there is
///
/// Asks the cluster and the daemon in it: what the pod waits for and waited for, what was bought for
/// it, what the plan says. With --pods and --node-pool it plans these files instead and asks no
/// cluster. Exit codes: 0 the pod is served, or the node was found; 1 the pod is not served; 2 an
/// input is wrong.
#[derive(Debug, Args)]
#[command(mut_arg("pods", |pods| pods.required(false).requires("node_pool")))]
#[command(mut_arg("node_pool", |pools| pools.required(false).requires("pods")))]
pub(crate) struct ExplainArgs {
    /// pod/NAMESPACE/NAME, pod/NAME or node/NAME
    #[arg(value_parser = parse)]
    what: Subject,
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    /// A pod; without a namespace where none was named.
    Pod(ObjectKey),
    Node(String),
}

impl Subject {
    /// The same with a namespace where none was named.
    fn within(self, namespace: &str) -> Self {
        match self {
            Self::Pod(key) if key.namespace.is_empty() => {
                Self::Pod(ObjectKey::new(namespace, key.name))
            }
            named => named,
        }
    }
}

fn parse(text: &str) -> Result<Subject, String> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        ["pod", namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            Ok(Subject::Pod(ObjectKey::new(*namespace, *name)))
        }
        ["pod", name] if !name.is_empty() => Ok(Subject::Pod(ObjectKey::new("", *name))),
        ["node", name] if !name.is_empty() => Ok(Subject::Node((*name).to_owned())),
        _ => Err("write pod/NAMESPACE/NAME, pod/NAME or node/NAME".to_owned()),
    }
}

/// What was found.
struct Answer {
    text: String,
    /// Whether the pod is served, for one.
    served: Served,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    Yes,
    No,
}

/// Does it.
pub(crate) fn command(args: &ExplainArgs) -> ExitCode {
    let what = args.what.clone();
    let answer = if args.inputs.pods.is_empty() {
        live::answer(what, &args.cluster)
    } else {
        let namespace = args.cluster.namespace.as_deref();
        match assemble(&args.inputs, now()) {
            Ok(assembled) => answer(&what.within(namespace.unwrap_or("default")), &assembled),
            Err(problems) => return refused(&problems),
        }
    };
    match answer {
        Ok(answer) => {
            out::print(&answer.text);
            match answer.served {
                Served::Yes => ExitCode::SUCCESS,
                Served::No => ExitCode::from(NOT_SERVED),
            }
        }
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn answer(what: &Subject, assembled: &Assembled) -> Result<Answer, String> {
    let Assembled {
        snapshot, policy, ..
    } = assembled;
    let plan = solve::plan(snapshot, policy);
    let fetches = prefetch::prefetch(snapshot, policy, &plan);
    match what {
        Subject::Pod(key) => pod::explain(key, &plan, &fetches, assembled),
        Subject::Node(name) => {
            let removals = headstart_core::retire::retire(snapshot, policy, &plan);
            node::explain(name, &plan, &fetches, &removals, snapshot)
        }
    }
}

/// `NAME` is not there, but these are.
fn unknown(kind: &str, name: &str, known: impl Iterator<Item = String>) -> String {
    const MOST: usize = 8;
    let mut known: Vec<String> = known.collect();
    known.sort_unstable();
    let more = known.len().saturating_sub(MOST);
    known.truncate(MOST);
    match (known.is_empty(), more) {
        (true, _) => format!("no {kind} {name} in the files; they have none at all"),
        (false, 0) => format!(
            "no {kind} {name} in the files; there are {}",
            known.join(", ")
        ),
        (false, more) => {
            format!(
                "no {kind} {name} in the files; there are {} and {more} more",
                known.join(", ")
            )
        }
    }
}

/// Pods that a plan puts onto a node that exists.
fn placed_on<'a>(plan: &'a Plan, node: &'a str) -> impl Iterator<Item = &'a ObjectKey> {
    let placements = plan.placements.iter();
    placements
        .filter(move |p| p.target == headstart_core::plan::Target::Node(node.to_owned()))
        .map(|p| &p.pod)
}

/// The pods that run on a node.
fn bound_to<'a>(
    snapshot: &'a Snapshot,
    name: &'a str,
) -> impl Iterator<Item = &'a headstart_core::pod::Pod> {
    snapshot.pods.iter().filter(move |pod| {
        matches!(&pod.phase, headstart_core::pod::Phase::Bound { node, .. } if node == name)
    })
}

#[cfg(test)]
mod tests;
