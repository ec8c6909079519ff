//! How the demo starts the engine's stand-in and waits until it serves.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::agent::last_words;
use super::report::Opened;
use super::stand_in::{StandInArgs, Told};

/// How often `/health` is asked.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Why the stand-in does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("cannot start the engine's stand-in: {0}")]
    Start(#[source] std::io::Error),
    #[error("the engine's stand-in could not open what was fetched: {0}")]
    Failed(String),
    #[error("the engine's stand-in ended too early: {0}")]
    Ended(String),
}

/// A stand-in that was started.
pub(crate) struct Engine {
    _child: Child,
    told: Lines<BufReader<ChildStdout>>,
    orders: ChildStdin,
    port: u16,
    log: PathBuf,
}

impl Engine {
    /// Starts one; it begins to read the image at once.
    pub(crate) async fn start(
        args: &StandInArgs,
        program: &Path,
        log: PathBuf,
    ) -> Result<Self, EngineError> {
        let file = std::fs::File::create(&log).map_err(EngineError::Start)?;
        let mut command = Command::new(program);
        command.arg("stand-in").arg("--model").arg(&args.model);
        if let Some(root) = &args.image_root {
            command.arg("--image-root").arg(root);
        }
        command.arg("--start-ms").arg(args.start_ms.to_string());
        command.arg("--load-ms").arg(args.load_ms.to_string());
        command.arg("--init-ms").arg(args.init_ms.to_string());
        let child = command
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(EngineError::Start)?;
        let stdout = child.stdout.take().expect("its output is piped");
        let orders = child.stdin.take().expect("its input is piped");
        let mut engine = Self {
            _child: child,
            told: BufReader::new(stdout).lines(),
            orders,
            port: 0,
            log,
        };
        match engine.hear().await? {
            Told::Listening { port } => engine.port = port,
            other => return Err(EngineError::Ended(format!("it said {other:?} first"))),
        }
        Ok(engine)
    }

    /// Waits until the container runs and imports are done.
    pub(crate) async fn started(&mut self) -> Result<(), EngineError> {
        match self.hear().await? {
            Told::Started { .. } => Ok(()),
            other => Err(EngineError::Ended(format!("it said {other:?}"))),
        }
    }

    /// Has it load the weights from the cache at `hub_cache`, and waits until it serves.
    pub(crate) async fn serve(&mut self, hub_cache: &str) -> Result<Opened, EngineError> {
        let order = format!("{hub_cache}\n");
        let ordered = self.orders.write_all(order.as_bytes()).await;
        ordered.map_err(EngineError::Start)?;
        let opened = match self.hear().await? {
            Told::Loaded { opened } => opened,
            other => return Err(EngineError::Ended(format!("it said {other:?}"))),
        };
        let port = self.port;
        tokio::select! {
            () = healthy(port) => Ok(opened),
            // Nothing more is expected of it: whatever comes is its end.
            told = self.hear() => Err(EngineError::Ended(format!("it said {:?}", told?))),
        }
    }

    async fn hear(&mut self) -> Result<Told, EngineError> {
        let line = self.told.next_line().await.map_err(EngineError::Start)?;
        let told = line.and_then(|line| serde_json::from_str(&line).ok());
        match told {
            Some(Told::Failed { error }) => Err(EngineError::Failed(error)),
            Some(told) => Ok(told),
            None => Err(EngineError::Ended(last_words(&self.log))),
        }
    }
}

/// Asks until `/health` answers 200.
async fn healthy(port: u16) {
    while !is_healthy(port).await {
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn is_healthy(port: u16) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    asked
        .await
        .is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200 "))
}
