//! `headstart doctor`: what stands between a provider and buying, before it is trusted with money.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use headstart_api::{NodePool, PoolTaint, names};
use headstart_core::offer::{InvalidCapacityType, OfferingKey};
use headstart_provider::Wanted;
use headstart_provider::doctor::{Finding, State};
use headstart_provider::trial::{NOBODY, Parties, trial};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Map, Value, json};

use crate::kubectl::{ClusterArgs, said};
use crate::provider::{ProviderArgs, ProviderKind};
use crate::{manifest, out};

/// Between two looks at a machine that was bought to see.
const LOOK: Duration = Duration::from_secs(5);

/// What the agent of a machine that was bought to see is to fetch.
const EMPTY: &str = r#"{"apiVersion":"headstart.dev/v1alpha1","kind":"NodeCache","metadata":{"name":"trial"},"spec":{"generation":1,"items":[]}}"#;

/// Examine the provider: credentials, permissions, quota, networks, images, clock and prices
///
/// Takes the provider's flags as `headstart run` does, and the node pools of the cluster, or of files.
/// Buys nothing and changes nothing, unless --buy is given. Exit codes: 0 nodes can be bought; 1 something keeps them from
/// being bought; 2 nothing could be examined.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    provider: ProviderArgs,
    /// Node pools from files instead of a cluster
    #[arg(long, value_name = "FILE")]
    node_pool: Vec<PathBuf>,
    /// Buy one machine for a few minutes and give it back, to see that the key buys once, that the
    /// machine is found, and that no other cluster can end it. It costs what the machine costs
    #[arg(long, value_name = "TYPE/ZONE/CAPACITY")]
    buy: Option<Offered>,
    /// How findings are printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What is bought: `g6.xlarge/us-east-1a/spot`.
#[derive(Debug, Clone)]
struct Offered(OfferingKey);

impl FromStr for Offered {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [instance_type, zone, capacity_type] = text.split('/').collect::<Vec<_>>()[..] else {
            return Err(format!(
                "{text:?} is not TYPE/ZONE/CAPACITY, such as g6.xlarge/us-east-1a/spot"
            ));
        };
        let capacity_type = capacity_type.parse();
        Ok(Self(OfferingKey {
            instance_type: instance_type.to_owned(),
            zone: zone.to_owned(),
            capacity_type: capacity_type.map_err(|error: InvalidCapacityType| error.to_string())?,
        }))
    }
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
    for (pool, settings) in &pools {
        let findings = provider.examine(settings).await;
        let pool = pool.clone();
        examined.push(Examined { pool, findings });
    }
    let wrong = |finding: &Finding| matches!(finding.state, State::Wrong { .. });
    if let Some(Offered(offering)) = &args.buy
        && let Some(((pool, settings), of)) = pools.into_iter().zip(&mut examined).next()
        && !of.findings.iter().any(wrong)
    {
        let findings = buy(args, connected.as_ref(), &pool, settings, offering).await?;
        of.findings.extend(findings);
    }
    Ok(examined)
}

/// Buys one as the first pool says, and gives it back.
async fn buy(
    args: &DoctorArgs,
    client: Option<&Client>,
    pool: &str,
    settings: Map<String, Value>,
    offering: &OfferingKey,
) -> Result<Vec<Finding>, String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let claim = format!("headstart-trial-{:x}", now.unwrap_or_default().as_secs());
    eprintln!("buying one {offering} as {claim}; it is given back, whatever is found");
    let wanted = Wanted {
        // A node without its claim is nobody's: nothing may be scheduled to it.
        startup_taints: Vec::new(),
        taints: vec![PoolTaint {
            key: names::LEAVING_TAINT.to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        }],
        labels: [(names::NODE_POOL.to_owned(), pool.to_owned())].into(),
        claim,
        offering: offering.clone(),
        settings,
        intent: EMPTY.to_owned(),
    };
    let open = |cluster: &str| {
        let mut of = args.provider.clone();
        of.cluster_name = cluster.to_owned();
        let opened = of.open(client, |name: &str| std::env::var(name).ok());
        opened
            .map_err(|error| format!("{error:#}"))?
            .ok_or("--provider is none".to_owned())
    };
    let cluster = args.provider.cluster_name.as_str();
    let (one, two, stranger) = (open(cluster)?, open(cluster)?, open(NOBODY)?);
    let parties = Parties {
        one: &*one,
        two: &*two,
        stranger: &*stranger,
    };
    Ok(trial(parties, &wanted, LOOK).await)
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
