//! A certificate that somebody else keeps in files, read again whenever they change.
//!
//! The directory is watched, not the files: a mounted Secret changes by a link beside them. A file that
//! cannot be read leaves what is served as it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{CertificateError, Serving, certified};

/// After how long files are read again though nobody says that they changed.
const AT_LEAST: Duration = Duration::from_secs(60);

/// After how long files that could not be read are read again.
const AGAIN: Duration = Duration::from_secs(1);

/// Serves what is in `tls.crt` and `tls.key` of a directory, until `stop`.
pub(crate) async fn follow(directory: PathBuf, serving: Arc<Serving>, stop: CancellationToken) {
    let (changed, mut changes) = mpsc::channel(1);
    let heard = move |_: notify::Result<notify::Event>| {
        // One that is on its way already says the same.
        let _ = changed.try_send(());
    };
    let watching = notify::recommended_watcher(heard).and_then(|mut watcher| {
        watcher.watch(&directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    let _watcher = watching
        .map_err(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(directory = %directory.display(), error, "certificates are not watched, only read again");
        })
        .ok();
    let mut served = None;
    loop {
        let mut wait = AT_LEAST;
        match read(&directory).await {
            Ok(texts) if served.as_ref() == Some(&texts) => {}
            Ok(texts) => match certified(&directory.display().to_string(), &texts.0, &texts.1) {
                Ok(certified) => {
                    serving.set(certified);
                    served = Some(texts);
                    tracing::info!(directory = %directory.display(), "a certificate is served");
                }
                Err(error) => {
                    wait = AGAIN;
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a certificate is not served"
                    );
                }
            },
            Err(error) => {
                wait = AGAIN;
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a certificate is not served"
                );
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.recv(), if !changes.is_closed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Certificate and key.
async fn read(directory: &Path) -> Result<(Vec<u8>, Vec<u8>), CertificateError> {
    let one = async |name: &str| {
        let path = directory.join(name);
        let read = tokio::fs::read(&path).await;
        read.map_err(|source| CertificateError::Unusable {
            place: path.display().to_string(),
            source: source.into(),
        })
    };
    Ok((one("tls.crt").await?, one("tls.key").await?))
}
