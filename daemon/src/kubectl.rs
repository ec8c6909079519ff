//! Which cluster a command asks, with the flags that users of kubectl expect.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use headstart_agent::report::chain;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use crate::plan::BAD_INPUT;

/// How the cluster is reached.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ClusterArgs {
    /// Kubeconfig to use instead of $KUBECONFIG and ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use instead of its current one
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Namespace to look at
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}

/// A cluster that can be asked.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The namespace that is meant when none is named.
    pub(crate) namespace: String,
}

impl ClusterArgs {
    /// A client for the cluster. Nothing has been asked yet.
    ///
    /// # Errors
    /// In one line, if the kubeconfig cannot be used.
    pub(crate) async fn connect(&self) -> Result<Cluster, String> {
        // Both ends of a second installation would be the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let found = match &self.kubeconfig {
            Some(path) => match Kubeconfig::read_from(path) {
                Ok(read) => Config::from_custom_kubeconfig(read, &options).await,
                Err(error) => Err(error),
            },
            None if self.context.is_some() => Config::from_kubeconfig(&options).await,
            None => match Config::infer().await {
                Ok(config) => Ok(config),
                Err(error) => return Err(no_cluster(&chain(&error))),
            },
        };
        let mut config = found.map_err(|error| no_cluster(&chain(&error)))?;
        // Somebody waits at a prompt: what cannot be had now is said now.
        config.default_retry = false;
        let namespace = self.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| no_cluster(&chain(&error)))?;
        Ok(Cluster { client, namespace })
    }
}

fn no_cluster(why: &str) -> String {
    format!("no cluster to ask: {why}; give --kubeconfig and --context, or set KUBECONFIG")
}

/// What the API server said, or why it could not be asked, in one line.
pub(crate) fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => chain(other),
    }
}

/// Runs a command to its end; what went wrong is one line.
pub(crate) fn run(command: impl Future<Output = Result<(), String>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(format!("cannot start: {error}")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(BAD_INPUT)
        }
    }
}
