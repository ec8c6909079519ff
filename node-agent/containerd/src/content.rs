//! Blobs in the runtime's content store, which hashes what it is given and refuses what differs.

use futures_util::stream;
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use crate::client::{MAX_ANSWER_BYTES, Runtime};
use crate::error::Error;
use crate::proto::content::content_client::ContentClient;
use crate::proto::content::{
    Info, InfoRequest, UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use crate::spec::{Blob, Descriptor, Labels};

/// How often a blob is put that is collected meanwhile.
const ATTEMPTS: usize = 5;

/// One message of a write; far below the 16 MiB that containerd accepts.
const CHUNK_BYTES: usize = 1 << 20;

/// A blob on its way into the content store.
#[derive(Debug)]
pub struct BlobWriter {
    descriptor: Descriptor,
    labels: Labels,
    reference: String,
    offset: u64,
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
}

impl BlobWriter {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`Error::Call`]; the blob cannot be continued then.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            let request = self.message(WriteAction::Write, chunk);
            let answer = self.exchange(request).await?;
            self.offset += chunk.len() as u64;
            if answer.offset.unsigned_abs() != self.offset {
                let status = Status::data_loss("the runtime counts other bytes than were sent");
                return Err(self.failed(&status));
            }
        }
        Ok(())
    }

    /// Makes the blob visible, if its size and digest are as promised.
    ///
    /// # Errors
    /// [`Error::Call`] with [`Code::FailedPrecondition`] if they are not.
    pub async fn commit(mut self) -> Result<(), Error> {
        let mut request = self.message(WriteAction::Commit, &[]);
        request.labels = self.labels.clone();
        match self.exchange(request).await {
            Err(Error::Call {
                code: Code::AlreadyExists,
                ..
            }) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn message(&self, action: WriteAction, data: &[u8]) -> WriteContentRequest {
        WriteContentRequest {
            action: action.into(),
            r#ref: self.reference.clone(),
            total: signed(self.descriptor.size),
            expected: self.descriptor.digest.prefixed(),
            offset: signed(self.offset),
            data: data.to_vec(),
            labels: Labels::new(),
        }
    }

    async fn exchange(
        &mut self,
        request: WriteContentRequest,
    ) -> Result<WriteContentResponse, Error> {
        // A closed stream has its reason among the answers.
        let _ = self.requests.send(request).await;
        match self.answers.message().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.failed(&Status::unavailable("the runtime closed the stream"))),
            Err(status) => Err(self.failed(&status)),
        }
    }

    fn failed(&self, status: &Status) -> Error {
        Error::call("write blob", &self.descriptor.digest.prefixed(), status)
    }
}

impl Runtime {
    /// Starts a blob under `lease`, or finds it there already. A half-written one goes with the
    /// lease; it is never aborted, since another client may have taken it over.
    pub(crate) async fn start_blob(
        &self,
        lease: &str,
        descriptor: &Descriptor,
        reference: String,
        labels: Labels,
    ) -> Result<Option<BlobWriter>, Error> {
        let digest = descriptor.digest.prefixed();
        if self.has_blob(&digest).await? {
            self.label_blob(lease, &digest, labels).await?;
            return Ok(None);
        }
        let (requests, receiver) = mpsc::channel(1);
        // The server's first answer, on which the call returns, needs a first message. Truncating
        // at 0 drops what an earlier writer left.
        let first = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: reference.clone(),
            total: signed(descriptor.size),
            expected: digest.clone(),
            ..Default::default()
        };
        requests.send(first).await.expect("the receiver is here");
        let messages = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|message| (message, receiver))
        });
        let mut client = ContentClient::new(self.inner.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        let opened = client.write(self.request(Some(lease), messages)).await;
        let opened = match opened {
            Ok(answers) => {
                let mut answers = answers.into_inner();
                answers.message().await.map(|_| answers)
            }
            Err(status) => Err(status),
        };
        let answers = match opened {
            Ok(answers) => answers,
            Err(status) if status.code() == Code::AlreadyExists => {
                self.label_blob(lease, &digest, labels).await?;
                return Ok(None);
            }
            Err(status) if status.message().contains("locked") => {
                return Err(Error::Busy { digest });
            }
            Err(status) => return Err(Error::call("write blob", &digest, &status)),
        };
        Ok(Some(BlobWriter {
            descriptor: descriptor.clone(),
            labels,
            reference,
            offset: 0,
            requests,
            answers,
        }))
    }

    /// Writes a small blob with its labels, or puts the labels on the one that is there. One that
    /// was there a moment ago may be collected before the lease has it: it is written then.
    pub(crate) async fn put_blob(
        &self,
        lease: &str,
        blob: &Blob,
        labels: Labels,
    ) -> Result<(), Error> {
        let digest = blob.descriptor.digest.prefixed();
        self.add_resource(lease, "content", &digest).await?;
        for _ in 1..ATTEMPTS {
            match self.try_put_blob(lease, blob, labels.clone()).await {
                Err(error) if error.is_not_found() => {}
                ended => return ended,
            }
        }
        self.try_put_blob(lease, blob, labels).await
    }

    async fn try_put_blob(&self, lease: &str, blob: &Blob, labels: Labels) -> Result<(), Error> {
        let reference = format!("headstart-{}", crate::client::unique());
        let started = self
            .start_blob(lease, &blob.descriptor, reference, labels.clone())
            .await?;
        if let Some(mut writer) = started {
            writer.write(&blob.bytes).await?;
            writer.commit().await?;
            // If another client committed it first, ours left no labels.
            let digest = blob.descriptor.digest.prefixed();
            self.label_blob(lease, &digest, labels).await?;
        }
        Ok(())
    }

    pub(crate) async fn has_blob(&self, digest: &str) -> Result<bool, Error> {
        let message = InfoRequest {
            digest: digest.to_owned(),
        };
        let info = self
            .rpc(
                "look for blob",
                digest,
                None,
                message,
                |channel, request| async move { ContentClient::new(channel).info(request).await },
            )
            .await;
        match info {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Adds labels to a blob, and the blob to the lease: finding one does not.
    async fn label_blob(&self, lease: &str, digest: &str, labels: Labels) -> Result<(), Error> {
        self.add_resource(lease, "content", digest).await?;
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let message = UpdateRequest {
            info: Some(Info {
                digest: digest.to_owned(),
                labels,
                ..Default::default()
            }),
            update_mask: Some(FieldMask { paths }),
        };
        self.rpc(
            "label blob",
            digest,
            Some(lease),
            message,
            |channel, request| async move { ContentClient::new(channel).update(request).await },
        )
        .await?;
        Ok(())
    }
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
