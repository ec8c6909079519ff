//! The connection to the runtime's socket, and how calls are made on it.
//!
//! A call whose connection broke is sent again until the runtime is back or patience ends, so
//! every caller is written to find its own first attempt already done.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::detect::Detected;
use crate::error::Error;
use crate::proto::version::version_client::VersionClient;

/// The largest answer accepted, as large as containerd sends.
pub(crate) const MAX_ANSWER_BYTES: usize = 16 << 20;

/// How long a call waits for a runtime that is being restarted.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How the runtime is reached and treated.
#[derive(Clone, Debug)]
pub struct Config {
    /// containerd's socket, which also serves the CRI.
    pub socket: PathBuf,
    /// Another socket for the CRI, where the runtime has one.
    pub cri_socket: Option<PathBuf>,
    /// The namespace of the kubelet's images.
    pub namespace: String,
    /// Where the runtime's file system is seen from here. One mount must hold both snapshots and
    /// staging: `rename` does not cross mounts.
    pub host_root: PathBuf,
    /// Whether layers reach the disk before they are committed.
    pub durability: Durability,
    /// How long a session's lease lives; it is renewed at each third. A dead session's layers stay
    /// as long for its successor.
    pub session_lease: Duration,
    /// Whether layer blobs are stored too, for those who export or push images from the node.
    pub keep_blobs: bool,
}

/// Whether a layer reaches the disk before it is committed. A committed snapshot is never verified
/// again: what a power cut takes from it stays lost, even through delete and pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// `syncfs` before each commit.
    Always,
    /// No sync: for nodes that are replaced after a power cut, not repaired.
    Never,
}

impl Config {
    /// The usual treatment of the runtime at `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            cri_socket: None,
            namespace: "k8s.io".into(),
            host_root: "/".into(),
            durability: Durability::Always,
            session_lease: Duration::from_secs(30 * 60),
            keep_blobs: false,
        }
    }
}

/// A container runtime on this host. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) channel: Channel,
    pub(crate) cri: Channel,
    pub(crate) detected: OnceCell<Detected>,
    namespace: MetadataValue<tonic::metadata::Ascii>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl Runtime {
    /// Connects to the runtime at `config.socket`.
    ///
    /// # Errors
    /// [`Error::Connect`] if nobody listens there or we may not.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let channel = connect(&config.socket).await?;
        let cri = match &config.cri_socket {
            Some(socket) => connect(socket).await?,
            None => channel.clone(),
        };
        let namespace = config.namespace.parse().map_err(|_| Error::Connect {
            socket: config.socket.clone(),
            reason: format!("{:?} is no namespace", config.namespace),
        })?;
        let inner = Inner {
            config,
            channel,
            cri,
            detected: OnceCell::new(),
            namespace,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// containerd's version, or none if the socket is another runtime's.
    pub(crate) async fn version(&self) -> Result<Option<String>, Error> {
        let asked = self
            .rpc("ask for its", "version", None, (), |channel, request| async move {
                VersionClient::new(channel).version(request).await
            })
            .await;
        match asked {
            Ok(answer) => Ok(Some(answer.version)),
            Err(Error::Call {
                code: Code::Unimplemented,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A call to containerd, on behalf of a lease or of none.
    pub(crate) async fn rpc<M, R, S, F>(
        &self,
        operation: &'static str,
        object: &str,
        lease: Option<&str>,
        message: M,
        send: S,
    ) -> Result<R, Error>
    where
        M: Clone,
        S: Fn(Channel, Request<M>) -> F,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let make = || self.request(lease, message.clone());
        patiently(operation, object, &self.inner.channel, make, send).await
    }

    /// A request to containerd with the namespace, and the lease that takes what it makes.
    pub(crate) fn request<M>(&self, lease: Option<&str>, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.inner.namespace.clone());
        if let Some(lease) = lease {
            let lease = lease.parse().expect("our lease ids are ASCII");
            metadata.insert("containerd-lease", lease);
        }
        request
    }

    pub(crate) fn seen_from_here(&self, path: &Path) -> PathBuf {
        let relative = path.strip_prefix("/").unwrap_or(path);
        self.inner.config.host_root.join(relative)
    }
}

/// Sends until the answer is the runtime's own.
pub(crate) async fn patiently<M, R, S, F>(
    operation: &'static str,
    object: &str,
    channel: &Channel,
    request: impl Fn() -> Request<M>,
    send: S,
) -> Result<R, Error>
where
    S: Fn(Channel, Request<M>) -> F,
    F: Future<Output = Result<Response<R>, Status>>,
{
    let started = Instant::now();
    loop {
        let status = match send(channel.clone(), request()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        if !is_transport(&status) || started.elapsed() >= PATIENCE {
            return Err(Error::call(operation, object, &status));
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Whether the connection broke, so that nobody knows what became of the call. Only errors that
/// this side made have a source.
fn is_transport(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

async fn connect(socket: &Path) -> Result<Channel, Error> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| Error::Connect {
        socket: socket.to_owned(),
        reason: root_cause(&error),
    })
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A name nobody else has, on this host, now or earlier.
pub(crate) fn unique() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{:x}-{count:x}", since.as_nanos(), std::process::id())
}
