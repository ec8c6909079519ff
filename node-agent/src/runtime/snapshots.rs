//! Layers become snapshots of containerd, by its fast way.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use headstart_containerd::{Depth, Held, ImageSpec, Runtime, Session, StagedLayer};
use headstart_unpack::{Style, Unpacked, fix_implicit_parents};

use super::{Landing, LandingError, tell_only};

/// A session of containerd.
pub(crate) struct SnapshotLanding(Session);

impl SnapshotLanding {
    pub(crate) async fn begin(
        runtime: &Runtime,
        spec: ImageSpec,
        depth: Depth,
        hold: Duration,
    ) -> Result<Self, LandingError> {
        let session = runtime.begin(Arc::new(spec), depth, hold).await;
        Ok(Self(session.map_err(LandingError::Containerd)?))
    }
}

impl Landing for SnapshotLanding {
    fn style(&self, layer: usize) -> Style {
        match layer {
            0 => Style::Base,
            _ => Style::Overlay,
        }
    }

    fn missing(&self) -> Vec<usize> {
        self.0.missing()
    }

    fn stage(&self, layer: usize) -> Result<PathBuf, LandingError> {
        self.0.staging(layer).map_err(LandingError::Containerd)
    }

    fn land(
        &mut self,
        layer: usize,
        unpacked: Unpacked,
    ) -> BoxFuture<'_, Result<(), LandingError>> {
        Box::pin(async move {
            let diff_id = unpacked.diff_id;
            let fixup = move |staged: &StagedLayer| {
                let implicit = &unpacked.implicit;
                headstart_unpack::copy_root(&staged.staging, &staged.upperdir)
                    .and_then(|()| {
                        fix_implicit_parents(&staged.staging, implicit, &staged.lowerdirs)
                    })
                    .map_err(std::io::Error::other)
            };
            let committed = self.0.commit(layer, diff_id, fixup);
            committed.await.map(drop).map_err(LandingError::Containerd)
        })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<String, LandingError>> {
        Box::pin(async move {
            let held = self.0.finish().await.map_err(LandingError::Containerd)?;
            Ok(place(&held))
        })
    }

    fn leave(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Err(error) = self.0.abandon().await {
                tell_only(&error);
            }
        })
    }
}

/// Where an image is, for a person.
pub(crate) fn place(held: &Held) -> String {
    let until = |what: &str| match &held.until {
        Some(until) => format!(", {what} until {until}"),
        None => String::new(),
    };
    match held.depth {
        Depth::Present => format!("present in containerd{}", until("pinned")),
        Depth::Layers => {
            format!(
                "layers in containerd, a pull with its secret moves no layer{}",
                until("held")
            )
        }
        Depth::Content => {
            format!(
                "blobs in containerd, a pull with its secret fetches none{}",
                until("held")
            )
        }
    }
}
