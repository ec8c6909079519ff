//! What can be asked of the agent on the command line, and the exit codes it answers with.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | everything asked for is done |
//! | 1 | some of it failed and would fail again: see the lines that say so |
//! | 2 | the command line is wrong |
//! | 3 | the store cannot be used |
//! | 4 | some of it failed, but the same command may succeed later |

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use headstart_containerd::Depth;
use headstart_core::quantity::{Bytes, Rate};
use tracing_subscriber::EnvFilter;

use crate::csi::CsiArgs;
use crate::items::Share;
use crate::notice::NoticeArgs;
use crate::store::{Lock, Quota, RootRule, Store, StoreError, local_disk};

/// Most seconds that anything is kept or waited for; longer means for ever.
const CENTURY: u64 = 100 * 365 * 24 * 3600;

/// Brings container images and model weights onto this host ahead of the pods that need them.
#[derive(Debug, Parser)]
#[command(name = "headstart-agent", version)]
pub struct Cli {
    /// What to log, for example `info` or `headstart_transfer=debug`.
    #[arg(long, global = true, env = "HEADSTART_LOG", default_value = "warn")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch images and models, all of them at once
    Warm(Box<WarmArgs>),
    /// Keep this node as its NodeCache asks for; started by the DaemonSet
    Serve(Box<ServeArgs>),
    /// Fetch what a file asks for before the kubelet is there, and hand over to `serve`
    Boot(Box<BootArgs>),
    /// Make a small writable cache of links into a warmed model, for one consumer
    View(ViewArgs),
    /// Show what the store holds
    Inspect(InspectArgs),
    /// Hash the store's models and images again, and remove what is not what it should be
    Verify(InspectArgs),
    /// Make room: remove what was used least recently, or what is named
    Evict(EvictArgs),
    /// Remove what nobody can use: unfinished files, objects without a model
    Gc(InspectArgs),
    /// Unpack one image layer from standard input; started by the agent itself
    #[command(hide = true)]
    UnpackLayer,
    /// Fetch one file through Xet storage; started by the agent itself
    #[cfg(feature = "xet")]
    #[command(hide = true)]
    XetFetch,
}

/// Where the store is and how much of the disk it may use.
#[derive(Clone, Debug, Args)]
pub struct StoreArgs {
    /// Directory of the store; on the largest local NVMe disk when absent, else
    /// /var/lib/headstart
    #[arg(long, env = "HEADSTART_ROOT")]
    root: Option<PathBuf>,
    /// Refuse to write unless a disk is mounted there, at the root or above it
    #[arg(long, value_name = "DIR")]
    require_mount: Option<PathBuf>,
    /// Most bytes the store may hold, for example 200GiB
    #[arg(long, value_name = "BYTES")]
    quota: Option<Bytes>,
    /// Percent of the disk that stays free
    #[arg(long, value_name = "PERCENT", default_value_t = Quota::default().keep_free_percent,
          value_parser = clap::value_parser!(u8).range(0..=99))]
    keep_free: u8,
}

/// What to warm.
#[derive(Clone, Debug, Args)]
pub struct WarmArgs {
    /// Image to fetch; may be given several times
    #[arg(long = "image", value_name = "[HOST/]NAME[:TAG|@DIGEST]", num_args = 1.., required_unless_present = "models")]
    pub(crate) images: Vec<String>,
    /// Model to fetch; may be given several times
    #[arg(long = "model", value_name = "[hf://]ORG/NAME[@REVISION][?include=GLOB&exclude=GLOB]", num_args = 1..)]
    pub(crate) models: Vec<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Keep what is fetched at least this many seconds, whatever else needs room
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=CENTURY))]
    pub(crate) pin: Option<u64>,
    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where bytes come from, where they go, and how much of the machine that may take.
#[derive(Clone, Debug, Args)]
pub struct ReachArgs {
    /// containerd's socket; without it images are kept as plain directories in the store
    #[arg(long, value_name = "SOCKET")]
    pub(crate) containerd: Option<PathBuf>,
    /// Hugging Face cache whose files are taken over, verified, instead of fetched; may be given
    /// several times
    #[arg(long, value_name = "DIR")]
    pub(crate) adopt: Vec<PathBuf>,
    /// File with a Hugging Face token, for gated and private models
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The Hub
    #[arg(
        long,
        value_name = "URL",
        env = "HF_ENDPOINT",
        default_value = "https://huggingface.co"
    )]
    pub(crate) endpoint: String,
    /// Docker config or pull secret with registry credentials; may be given several times
    #[arg(long = "registry-config", value_name = "FILE")]
    pub(crate) registry_configs: Vec<PathBuf>,
    /// Token service that may be shown the login of a registry on another site; may be given
    /// several times
    #[arg(long = "trust-realm", value_name = "HOST[:PORT]")]
    pub(crate) trust_realm: Vec<String>,
    /// Directory of containerd registry host configuration (hosts.toml)
    #[arg(long, value_name = "DIR")]
    pub(crate) hosts_dir: Option<PathBuf>,
    /// How deep images are brought: `present` lets every pod of the node use them, `layers` and
    /// `content` still ask for the image's secret; by default an image that needs a secret stops
    /// at `layers`
    #[arg(long, value_name = "DEPTH", value_enum, requires = "containerd")]
    depth: Option<DepthArg>,
    /// Image platform, for example linux/arm64; this machine's by default
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// Which files come through Xet storage, verified afterwards, with plain HTTP when that fails
    #[arg(long, value_name = "WHEN", value_enum, default_value = "large")]
    pub(crate) xet: XetWhen,
    /// Most bytes per second, for example 500MB/s or 5Gbit/s
    #[arg(long, value_name = "RATE")]
    pub(crate) max_bandwidth: Option<Rate>,
    /// Most connections at once
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) max_connections: u16,
    /// Give up on a file after being in trouble for this many seconds; the Hub's answers are
    /// waited for less than a minute in any case
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(..=CENTURY))]
    pub(crate) patience: u64,
    /// Host that may have a private address; may be given several times
    #[arg(long = "allow-private", value_name = "HOST[:PORT]")]
    pub(crate) allow_private: Vec<String>,
    /// Host that is spoken to in plain HTTP and may be private; may be given several times
    #[arg(long = "plain-http", value_name = "HOST[:PORT]")]
    pub(crate) plain_http: Vec<String>,
    /// File of certificate authorities to trust besides the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}

/// What the agent of a node works with.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    #[command(flatten)]
    pub(crate) csi: CsiArgs,
    #[command(flatten)]
    pub(crate) notice: NoticeArgs,
    /// Name of the Node this is
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(crate) node_name: String,
    /// How to reach the API server; without it, as a pod of the cluster
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where metrics and health are served; nowhere when absent
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics_address: Option<std::net::SocketAddr>,
}

/// What the agent before the kubelet works with.
#[derive(Clone, Debug, Args)]
pub struct BootArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    #[command(flatten)]
    pub(crate) notice: NoticeArgs,
    /// The node's NodeCache as JSON; read again whenever it is replaced
    #[arg(long, value_name = "FILE")]
    pub(crate) intent: PathBuf,
}

/// Which model to show to whom.
#[derive(Clone, Debug, Args)]
pub struct ViewArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// The model, as it was warmed
    #[arg(
        long,
        value_name = "[hf://]ORG/NAME[@REVISION][?include=GLOB&exclude=GLOB]"
    )]
    pub(crate) model: String,
    /// Directory to make, which the consumer may write to
    #[arg(long, value_name = "DIR")]
    pub(crate) at: PathBuf,
    /// Where the consumer sees the model's tree, if it is mounted somewhere else for it
    #[arg(long, value_name = "DIR")]
    pub(crate) tree_inside: Option<PathBuf>,
    /// Who may write in it; anybody who reaches it when absent
    #[arg(long, value_name = "UID:GID", value_parser = owner)]
    pub(crate) owner: Option<(u32, u32)>,
}

/// What to look at.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to remove.
#[derive(Clone, Debug, Args)]
pub struct EvictArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Free at least so much, for example 50GB
    #[arg(long, value_name = "BYTES", required_unless_present_any = ["models", "images"])]
    pub(crate) bytes: Option<Bytes>,
    /// Remove this model, pinned or not; may be given several times
    #[arg(long = "model", value_name = "ORG/NAME[@COMMIT]")]
    pub(crate) models: Vec<String>,
    /// Remove this image of those that are kept as plain directories; may be given several times
    #[arg(long = "image", value_name = "HOST/NAME:TAG|NAME@DIGEST")]
    pub(crate) images: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A store as the command line describes it.
pub(crate) struct StorePlace {
    pub(crate) root: PathBuf,
    pub(crate) rule: RootRule,
    pub(crate) quota: Quota,
}

impl StoreArgs {
    /// Where the store is, after a look at this machine's disks if the command line says nothing.
    pub(crate) fn place(&self) -> StorePlace {
        let disk = match (&self.root, &self.require_mount) {
            (None, None) => local_disk(),
            _ => None,
        };
        let mount = self.require_mount.clone().or(disk.map(|disk| disk.mount));
        let root = match (&self.root, &mount) {
            (Some(root), _) => root.clone(),
            (None, Some(mount)) => mount.join("headstart"),
            (None, None) => PathBuf::from("/var/lib/headstart"),
        };
        StorePlace {
            // Processes of other directories are handed paths in it.
            root: std::path::absolute(&root).unwrap_or(root),
            rule: mount.map_or(RootRule::Directory, RootRule::Mounted),
            quota: Quota {
                max_bytes: self.quota,
                keep_free_percent: self.keep_free,
            },
        }
    }
}

impl StorePlace {
    /// Opens the store there, which must exist.
    pub(crate) fn open(&self) -> Result<Store, StoreError> {
        Store::open(&self.root, &self.rule, self.quota)
    }

    /// Opens or makes the store there, to be written.
    pub(crate) fn open_or_make(&self) -> Result<(Store, Lock), StoreError> {
        Store::open_or_make(&self.root, &self.rule, self.quota)
    }
}

/// Which files come through Xet storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum XetWhen {
    /// None
    Never,
    /// Those over 50 GB, which the Hub does not serve in plain HTTP
    Large,
    /// All that are there
    Always,
}

/// [`Depth`] on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DepthArg {
    /// Layers and image record
    Present,
    /// Layers without image record
    Layers,
    /// Compressed blobs
    Content,
}

impl ReachArgs {
    pub(crate) fn depth(&self) -> Option<Depth> {
        Some(match self.depth? {
            DepthArg::Present => Depth::Present,
            DepthArg::Layers => Depth::Layers,
            DepthArg::Content => Depth::Content,
        })
    }

    pub(crate) fn share(&self) -> Share {
        Share {
            connections: self.max_connections.into(),
            bandwidth: self.max_bandwidth,
            patience: Duration::from_secs(self.patience),
        }
    }
}

impl WarmArgs {
    pub(crate) fn pin(&self) -> Option<Duration> {
        self.pin.map(Duration::from_secs)
    }
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let ids = text
        .split_once(':')
        .map(|(uid, gid)| (uid.parse(), gid.parse()));
    match ids {
        Some((Ok(uid), Ok(gid))) => Ok((uid, gid)),
        _ => Err("expected two numbers, as in 1000:1000".to_owned()),
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything is done.
    Done,
    /// Some of it failed for good.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The store cannot be used.
    Store,
    /// Some of it failed, and may succeed later.
    Later,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Store => 3,
            Exit::Later => 4,
        })
    }
}

/// How this program starts itself again, for work that is done in a process of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    /// Arguments before the agent's command, where the agent is part of another program.
    pub prefix: &'static [&'static str],
}

/// Does what was asked for.
pub fn run(cli: Cli, own: Own) -> ExitCode {
    if let Command::UnpackLayer = cli.command {
        // Before anything else: the process is confined while it has one thread and no files.
        return headstart_unpack::child_main();
    }
    #[cfg(feature = "xet")]
    if let Command::XetFetch = cli.command {
        return headstart_hub::xet::child_main();
    }
    let filter = match EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("error: --log {:?}: {error}", cli.log);
            return Exit::Usage.into();
        }
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter);
    let subscriber = subscriber.with_ansi(std::io::stderr().is_terminal());
    subscriber.with_writer(std::io::stderr).init();
    match cli.command {
        Command::Warm(args) => crate::warm::command(&args, own).into(),
        Command::Serve(args) => crate::serve::command(&args, own).into(),
        Command::Boot(args) => crate::boot::command(&args, own).into(),
        Command::View(args) => crate::view::command(&args).into(),
        Command::Inspect(args) => crate::housekeeping::inspect(&args).into(),
        Command::Verify(args) => crate::housekeeping::verify(&args).into(),
        Command::Evict(args) => crate::housekeeping::evict(&args).into(),
        Command::Gc(args) => crate::housekeeping::gc(&args).into(),
        Command::UnpackLayer => unreachable!("answered above"),
        #[cfg(feature = "xet")]
        Command::XetFetch => unreachable!("answered above"),
    }
}
