//! Layers as blobs in containerd's content store: for images that need a secret, where snapshots
//! cannot be made.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use headstart_containerd::{BlobWriter, Depth, Error, Runtime, Session};
use tokio::runtime::Handle;

use super::layer::Layers;
use crate::items::{Again, ItemError};
use crate::runtime::{place, spec};

/// Blobs written at the same time; containerd hashes each in one thread.
const AT_ONCE: usize = 4;

/// Stores every layer that is not stored, and holds them.
pub(super) async fn store(
    layers: &Layers<'_>,
    runtime: &Runtime,
    hold: Duration,
) -> Result<String, ItemError> {
    let spec = Arc::new(spec(layers.resolved, None));
    let session = runtime.begin(spec, Depth::Content, hold).await?;
    // The same layer may be there twice; its blob is one.
    let mut seen = std::collections::BTreeSet::new();
    let all = layers.resolved.layers.iter();
    let distinct = all.filter(|layer| seen.insert(layer.descriptor.digest));
    let distinct: Vec<usize> = distinct.map(|layer| layer.index).collect();
    let stored = stream::iter(distinct)
        .map(|layer| store_one(layers, &session, layer))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>();
    if let Err(error) = stored.await {
        if let Err(error) = session.abandon().await {
            crate::runtime::tell_only(&error);
        }
        return Err(error);
    }
    Ok(place(&session.finish().await?))
}

async fn store_one(layers: &Layers<'_>, session: &Session, layer: usize) -> Result<(), ItemError> {
    let Some(writer) = session.blob(layer).await? else {
        return Ok(());
    };
    let blob = layers.blob(&layers.resolved.layers[layer]);
    let writer = InOrder {
        writer,
        runtime: Handle::current(),
    };
    let fetched = layers
        .job
        .objects
        .engine
        .stream(&blob, writer, layers.ticket.tally.transfer());
    let fetched = fetched.await.map_err(|error| ItemError {
        said: crate::report::chain(&error),
        again: Again::of(error.is_transient(), error.asked_wait()),
    });
    Ok(fetched?.writer.commit().await?)
}

/// Writes to containerd from a thread that may block.
struct InOrder {
    writer: BlobWriter,
    runtime: Handle,
}

impl Write for InOrder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.runtime.block_on(self.writer.write(bytes));
        written.map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<Error> for ItemError {
    fn from(error: Error) -> Self {
        let again = Again::of(error.is_transient(), None);
        Self::new(&error, again)
    }
}
