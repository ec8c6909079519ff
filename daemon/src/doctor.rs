//! `headstart doctor`: what stands between a provider and buying, before it is trusted with money.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use headstart_api::NodePool;
use headstart_provider::doctor::{Finding, State};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use serde_json::{Map, Value, json};

use crate::kubectl::{ClusterArgs, said};
use crate::provider::{ProviderArgs, ProviderKind};
use crate::{manifest, out};

/// Examine the provider: credentials, permissions, quota, networks, images, clock and prices
///
/// Takes the provider's flags as `headstart run` does, and the node pools of the cluster, or of files.
/// Buys nothing and changes nothing. Exit codes: 0 nodes can be bought; 1 something keeps them from
/// being bought; 2 nothing could be examined.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    provider: ProviderArgs,
    /// Node pools from files instead of a cluster
    #[arg(long, value_name = "FILE")]
    node_pool: Vec<PathBuf>,
    /// How findings are printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A line each.
    #[default]
    Text,
    /// A list of objects.
    Json,
}

/// What is printed of one pool.
struct Examined {
    pool: String,
    findings: Vec<Finding>,
}

/// Does it.
pub(crate) fn command(args: &DoctorArgs) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string());
    let examined = runtime.and_then(|runtime| runtime.block_on(examine(args)));
    let examined = match examined {
        Ok(examined) => examined,
        Err(problem) => {
            eprintln!("error: {problem}");
            return ExitCode::from(2);
        }
    };
    out::print(&match args.output {
        Form::Text => text(&examined),
        Form::Json => json(&examined),
    });
    let findings = || examined.iter().flat_map(|of| &of.findings);
    let any = |is: fn(&State) -> bool| findings().any(|finding| is(&finding.state));
    match () {
        () if any(|state| matches!(state, State::Wrong { .. })) => ExitCode::FAILURE,
        () if any(|state| matches!(state, State::Sound(_))) => ExitCode::SUCCESS,
        () => ExitCode::from(2),
    }
}

async fn examine(args: &DoctorArgs) -> Result<Vec<Examined>, String> {
    if args.provider.provider == ProviderKind::None {
        return Err(
            "--provider is none: somebody else buys nodes, and there is nothing to examine; \
                    give the provider that `headstart run` is given"
                .to_owned(),
        );
    }
    let connected = match args.node_pool.is_empty() || args.provider.provider == ProviderKind::Kwok
    {
        true => Some(args.cluster.connect().await?.client),
        false => None,
    };
    let environment = |name: &str| std::env::var(name).ok();
    let provider = args.provider.open(connected.as_ref(), environment);
    let provider = provider.map_err(|error| format!("{error:#}"))?;
    let provider = provider.ok_or("--provider is none")?;
    let pools = match (&connected, args.node_pool.as_slice()) {
        (Some(client), []) => listed(&Api::all(client.clone())).await?,
        (_, files) => read(files)?,
    };
    if pools.is_empty() {
        return Err("there is no NodePool: apply one, or give --node-pool FILE".to_owned());
    }
    let mut examined = Vec::new();
    for (pool, settings) in pools {
        let findings = provider.examine(&settings).await;
        examined.push(Examined { pool, findings });
    }
    Ok(examined)
}

/// Pools with what each says to its provider.
type Pools = Vec<(String, Map<String, Value>)>;

async fn listed(pools: &Api<NodePool>) -> Result<Pools, String> {
    let listed = pools.list(&ListParams::default()).await;
    let listed =
        listed.map_err(|error| format!("node pools cannot be listed: {}", said(&error)))?;
    let pools = listed.items.into_iter();
    Ok(pools
        .map(|pool| (pool.name_any(), pool.spec.provider.clone()))
        .collect())
}

fn read(files: &[PathBuf]) -> Result<Pools, String> {
    let mut sources = Vec::new();
    for path in files {
        let bytes = std::fs::read(path);
        let bytes = bytes.map_err(|error| format!("{}: {error}", path.display()))?;
        sources.push((path.display().to_string(), bytes));
    }
    manifest::pools(&sources).map_err(|problems| problems.join("\nerror: "))
}

fn text(examined: &[Examined]) -> String {
    let mut text = String::new();
    for Examined { pool, findings } in examined {
        text.push_str(&format!("node pool {pool}\n"));
        for finding in findings {
            text.push_str(&format!("  {finding}\n"));
        }
    }
    text
}

fn json(examined: &[Examined]) -> String {
    let told = |finding: &Finding| {
        let (state, found, fix) = match &finding.state {
            State::Sound(seen) => ("ok", seen, None),
            State::Doubtful { found, fix } => ("warning", found, Some(fix)),
            State::Wrong { found, fix } => ("wrong", found, Some(fix)),
            State::Unknown(why) => ("unknown", why, None),
        };
        json!({"subject": finding.subject, "state": state, "found": found, "fix": fix})
    };
    let pools = examined.iter().map(|Examined { pool, findings }| {
        json!({"nodePool": pool, "findings": findings.iter().map(told).collect::<Vec<_>>()})
    });
    let pools: Vec<_> = pools.collect();
    format!("{:#}\n", Value::from(pools))
}
