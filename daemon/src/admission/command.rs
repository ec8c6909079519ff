//! `headstart admission`: the webhook, steering and the watch over gates alone, as one replica of the
//! control plane runs them beside its rounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::certificate::{Serving, secret};
use super::inject::{AgentNodes, InjectConfig, Markers, Steering};
use super::steering::{SteeringConfig, WarmNodes};
use super::{Admitted, CertificateSource, Counts, Leading, Opened, Turn, WebhookConfig, knowledge};

/// Change pods as they are created and lead them to their nodes
#[derive(Debug, Args)]
pub(crate) struct AdmissionArgs {
    /// The kubeconfig to reach the cluster with
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Where the webhook listens
    #[arg(long, value_name = "ADDRESS")]
    webhook_address: SocketAddr,
    /// Namespace of the control plane, the agents and the certificates' Secret
    #[arg(long, default_value = "headstart-system")]
    namespace: String,
    /// Steers and labels: this replica leads
    #[arg(long)]
    leads: bool,
    #[command(flatten)]
    parts: PartArgs,
}

/// How pods are changed and led.
#[derive(Debug, Clone, Args)]
pub(crate) struct PartArgs {
    /// A directory with tls.crt and tls.key that somebody else renews
    #[arg(long, env = "HEADSTART_WEBHOOK_CERT_DIR", value_name = "DIRECTORY")]
    webhook_cert_dir: Option<PathBuf>,
    /// Names by which the API server calls the webhook
    #[arg(
        long,
        env = "HEADSTART_WEBHOOK_NAMES",
        value_name = "NAME",
        value_delimiter = ','
    )]
    webhook_names: Vec<String>,
    /// The webhook's configuration
    #[arg(
        long,
        env = "HEADSTART_WEBHOOK",
        value_name = "NAME",
        default_value = "headstart"
    )]
    webhook: String,
    /// Selects the agent's pods
    #[arg(
        long,
        env = "HEADSTART_AGENT_PODS",
        value_name = "SELECTOR",
        default_value = "app.kubernetes.io/component=agent"
    )]
    agent_pods: String,
    /// Which nodes have an agent, as the nodeSelectorTerms of a node affinity in JSON; all of them by default
    #[arg(
        long,
        env = "HEADSTART_AGENT_NODES",
        value_name = "JSON",
        default_value = "[]"
    )]
    agent_nodes: String,
    /// How pods are led to a node that has their models, where nothing else says
    #[arg(long, env = "HEADSTART_STEERING", value_enum, default_value = "prefer")]
    steering: Steering,
    /// Seconds after which a gate of ours is opened in any case
    #[arg(
        long,
        env = "HEADSTART_GATE_DEADLINE",
        value_name = "SECONDS",
        default_value_t = 5.0
    )]
    gate_deadline: f64,
    /// How long a worker of a Ray cluster is expected to take, in seconds
    #[arg(long, env = "HEADSTART_EXPECTED_START", value_name = "SECONDS")]
    expected_start: Option<f64>,
}

/// Runs until it is asked to end.
pub(crate) fn command(args: &AdmissionArgs) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().context("start the runtime");
    match runtime.and_then(|runtime| runtime.block_on(run(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headstart admission: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &AdmissionArgs) -> anyhow::Result<()> {
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .try_init();
    let client = client(&args.kubeconfig).await?;
    let turn = if args.leads { Turn::Ours } else { Turn::Theirs };
    let stop = CancellationToken::new();
    let ended = tokio::spawn(until_asked(stop.clone()));
    let served = parts(
        client,
        &args.parts,
        (args.webhook_address, &args.namespace),
        Arc::new(move || turn),
        Arc::new(Logged),
        stop.clone(),
    );
    let served = served.await;
    stop.cancel();
    let _ = ended.await;
    served
}

/// All three parts, until `stop`: the webhook at its address, for a control plane in `namespace`.
///
/// # Errors
/// When what they are told cannot be read, or the webhook cannot listen.
pub(crate) async fn parts(
    client: Client,
    args: &PartArgs,
    (listen, namespace): (SocketAddr, &str),
    leading: Leading,
    counts: Arc<dyn Counts>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let terms: Vec<_> = serde_json::from_str(&args.agent_nodes).context("read --agent-nodes")?;
    let agents = match terms.is_empty() {
        true => AgentNodes::Every,
        false => AgentNodes::Selected(terms),
    };
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).context("a span of time");
    let expected_start = args.expected_start.map(seconds).transpose()?;
    let deadline = seconds(args.gate_deadline)?;
    let watch = super::watch_gates(client.clone(), deadline, Arc::clone(&counts), stop.clone());
    let watch = tokio::spawn(watch);
    let (known, watching) = knowledge::watch(&client, expected_start, stop.clone());
    let watching = tokio::spawn(watching);
    tokio::select! {
        () = known.ready() => {}
        () = stop.cancelled() => return Ok(()),
    }
    let certificate = match &args.webhook_cert_dir {
        Some(directory) => CertificateSource::Files(directory.clone()),
        None => CertificateSource::Own(secret::Place {
            namespace: namespace.to_owned(),
            secret: format!("{}-webhook", args.webhook),
            names: args.webhook_names.clone(),
            webhook: Some(args.webhook.clone()),
        }),
    };
    let config = WebhookConfig {
        listen,
        certificate,
        inject: InjectConfig {
            agents,
            steering: args.steering,
            markers: Markers::AgentPods(namespace.to_owned()),
        },
    };
    let warm = WarmNodes::new(leading);
    let follow = {
        let (warm, client, stop) = (warm.clone(), client.clone(), stop.clone());
        let steering = SteeringConfig {
            agents: (namespace.to_owned(), args.agent_pods.clone()),
        };
        tokio::spawn(async move { warm.follow(client, steering, stop).await })
    };
    let targets = Arc::new(warm);
    let steer = super::steer(client.clone(), targets, Arc::clone(&counts), stop.clone());
    let steer = tokio::spawn(steer);
    let serving = Arc::new(Serving::default());
    let knowledge = Arc::new(known);
    let served = super::serve(config, client, knowledge, counts, serving, stop.clone()).await;
    stop.cancel();
    let _ = tokio::join!(watching, watch, follow, steer);
    Ok(served?)
}

async fn client(kubeconfig: &std::path::Path) -> anyhow::Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig).context("read the kubeconfig")?;
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    // A call that fails is seen, and made again by whoever made it.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

async fn until_asked(stop: CancellationToken) {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt)] = kinds else {
        return stop.cancelled().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stop.cancelled() => {}
    }
    stop.cancel();
}

/// Where nobody counts.
struct Logged;

impl Counts for Logged {
    fn admitted(&self, outcome: Admitted, took: Duration) {
        tracing::info!(?outcome, ?took, "a pod was reviewed");
    }

    fn gate_opened(&self, reason: Opened) {
        tracing::info!(?reason, "a gate was opened");
    }
}
