//! Calls to the snapshotter.

use tonic::Code;
use tonic::transport::Channel;

use crate::client::{MAX_ANSWER_BYTES, Runtime};
use crate::error::Error;
use crate::fields;
use crate::proto::snapshots::snapshots_client::SnapshotsClient;
use crate::proto::snapshots::{
    CommitSnapshotRequest, Info, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest,
};
use crate::proto::types::Mount;
use crate::spec::Labels;

/// A snapshotter, on behalf of a lease.
pub(crate) struct Snapshots<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) snapshotter: &'a str,
    pub(crate) lease: &'a str,
}

/// What became of a call that makes something.
#[derive(Debug)]
pub(crate) enum Made<T> {
    /// It is made.
    Done(T),
    /// Somebody, perhaps an earlier try of this call, had made it.
    Exists,
    /// What it should be made of is gone.
    Gone,
}

impl Snapshots<'_> {
    pub(crate) async fn prepare(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Made<Vec<Mount>>, Error> {
        let message = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.unwrap_or_default().to_owned(),
            labels,
        };
        let answer = self
            .runtime
            .rpc(
                "prepare snapshot",
                key,
                Some(self.lease),
                message,
                |channel, request| async move { client(channel).prepare(request).await },
            )
            .await;
        made(answer.map(|answer| answer.mounts))
    }

    pub(crate) async fn mounts(&self, key: &str) -> Result<Option<Vec<Mount>>, Error> {
        let message = MountsRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let answer = self
            .runtime
            .rpc(
                "ask for mounts of snapshot",
                key,
                None,
                message,
                |channel, request| async move { client(channel).mounts(request).await },
            )
            .await;
        found(answer.map(|answer| answer.mounts))
    }

    pub(crate) async fn commit(
        &self,
        key: &str,
        name: &str,
        labels: Labels,
    ) -> Result<Made<()>, Error> {
        let message = CommitSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels,
        };
        let answer = self
            .runtime
            .rpc(
                "commit snapshot",
                name,
                Some(self.lease),
                message,
                |channel, request| async move { client(channel).commit(request).await },
            )
            .await;
        made(answer)
    }

    /// Removes a snapshot, if it is there.
    pub(crate) async fn remove(&self, key: &str) -> Result<(), Error> {
        let message = RemoveSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let answer = self
            .runtime
            .rpc(
                "remove snapshot",
                key,
                None,
                message,
                |channel, request| async move { client(channel).remove(request).await },
            )
            .await;
        found(answer).map(|_| ())
    }

    pub(crate) async fn exists(&self, name: &str) -> Result<bool, Error> {
        let message = StatSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: name.to_owned(),
        };
        let answer = self
            .runtime
            .rpc(
                "look for snapshot",
                name,
                None,
                message,
                |channel, request| async move { client(channel).stat(request).await },
            )
            .await;
        Ok(found(answer)?.is_some())
    }

    /// The snapshots that carry a session's label: those in preparation.
    pub(crate) async fn ours(&self) -> Result<Vec<Info>, Error> {
        let message = ListSnapshotsRequest {
            snapshotter: self.snapshotter.to_owned(),
            filters: vec![format!("labels.\"{}\"", fields::SESSION)],
        };
        let mut stream = self
            .runtime
            .rpc(
                "list",
                "snapshots",
                None,
                message,
                |channel, request| async move { client(channel).list(request).await },
            )
            .await?;
        let mut ours = Vec::new();
        while let Some(batch) = stream
            .message()
            .await
            .map_err(|status| Error::call("list", "snapshots", &status))?
        {
            ours.extend(batch.info);
        }
        ours.retain(|info| info.labels.contains_key(fields::SESSION));
        Ok(ours)
    }
}

fn client(channel: Channel) -> SnapshotsClient<Channel> {
    SnapshotsClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

fn made<T>(answer: Result<T, Error>) -> Result<Made<T>, Error> {
    match answer {
        Ok(value) => Ok(Made::Done(value)),
        Err(Error::Call {
            code: Code::AlreadyExists,
            ..
        }) => Ok(Made::Exists),
        Err(error) if error.is_not_found() => Ok(Made::Gone),
        Err(error) => Err(error),
    }
}

fn found<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
