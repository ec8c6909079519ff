//! A real containerd, where the demo was given one: asked whether it would show an image to the
//! kubelet, and rid of the demo's images at the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headstart_containerd::{Config, Error, Runtime};

/// How long tidying up may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a container could not be created from an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    #[error("cannot ask containerd at {socket} for {image}: {source}")]
    Ask {
        socket: PathBuf,
        image: String,
        source: Error,
    },
    #[error("containerd at {socket} does not show {image} to the kubelet")]
    Absent { socket: PathBuf, image: String },
}

/// Requires that the kubelet would find `image` present.
pub(crate) async fn require(socket: &Path, image: &str) -> Result<(), RuntimeError> {
    let asked = async {
        Runtime::connect(Config::new(socket))
            .await?
            .status(image)
            .await
    };
    match asked.await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(RuntimeError::Absent {
            socket: socket.to_owned(),
            image: image.to_owned(),
        }),
        Err(source) => Err(RuntimeError::Ask {
            socket: socket.to_owned(),
            image: image.to_owned(),
            source,
        }),
    }
}

/// Removes what the demo brought.
pub(crate) async fn remove(socket: &Path, images: &[String]) {
    let removing = async {
        let runtime = Runtime::connect(Config::new(socket)).await?;
        for image in images {
            runtime.remove(image).await?;
        }
        Ok::<(), Error>(())
    };
    match tokio::time::timeout(PATIENCE, removing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("warning: images of the demo are left in containerd: {error}"),
        Err(_) => eprintln!("warning: images of the demo are left in containerd: no answer"),
    }
}
