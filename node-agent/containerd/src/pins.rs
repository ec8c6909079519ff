//! Image records: written, pinned for a time, unpinned.

use prost_types::FieldMask;
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{MAX_ANSWER_BYTES, Runtime};
use crate::error::Error;
use crate::fields;
use crate::proto::images::images_client::ImagesClient;
use crate::proto::images::{CreateImageRequest, Image, ListImagesRequest, UpdateImageRequest};
use crate::proto::types;
use crate::spec::{Descriptor, Labels};

impl Runtime {
    /// Writes a record, or turns the one that has the name.
    pub(crate) async fn put_record(
        &self,
        lease: &str,
        name: &str,
        target: &Descriptor,
        labels: Labels,
    ) -> Result<(), Error> {
        let image = Image {
            name: name.to_owned(),
            labels,
            target: Some(types::Descriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.prefixed(),
                size: i64::try_from(target.size).unwrap_or(i64::MAX),
                annotations: Labels::new(),
            }),
        };
        let message = CreateImageRequest {
            image: Some(image.clone()),
        };
        let created = self
            .rpc(
                "create image record",
                name,
                Some(lease),
                message,
                |channel, request| async move { client(channel).create(request).await },
            )
            .await;
        match created {
            Err(Error::Call {
                code: Code::AlreadyExists,
                ..
            }) => {
                let labels = image.labels.keys().map(|key| format!("labels.{key}"));
                let paths = std::iter::once("target".to_owned()).chain(labels).collect();
                self.update_record(Some(lease), image, paths).await
            }
            other => other.map(|_| ()),
        }
    }

    /// All image records.
    pub(crate) async fn records(&self) -> Result<Vec<Image>, Error> {
        let message = ListImagesRequest::default();
        let answer = self
            .rpc(
                "list",
                "image records",
                None,
                message,
                |channel, request| async move { client(channel).list(request).await },
            )
            .await?;
        Ok(answer.images)
    }

    /// Pins a record until a time, or unpins it.
    pub(crate) async fn set_pin(&self, record: &Image, until: Option<&str>) -> Result<(), Error> {
        let mut labels = Labels::new();
        if let Some(until) = until {
            labels.insert(fields::PINNED.into(), "pinned".into());
            labels.insert(fields::PINNED_UNTIL.into(), until.to_owned());
        }
        // The target is not in the mask, yet containerd 1.7 dies of an update without one.
        let image = Image {
            labels,
            ..record.clone()
        };
        // A label that the mask names and the message lacks is removed.
        let paths = [fields::PINNED, fields::PINNED_UNTIL].map(|key| format!("labels.{key}"));
        self.update_record(None, image, paths.into()).await
    }

    async fn update_record(
        &self,
        lease: Option<&str>,
        image: Image,
        paths: Vec<String>,
    ) -> Result<(), Error> {
        let name = image.name.clone();
        let message = UpdateImageRequest {
            image: Some(image),
            update_mask: Some(FieldMask { paths }),
        };
        self.rpc(
            "update image record",
            &name,
            lease,
            message,
            |channel, request| async move { client(channel).update(request).await },
        )
        .await?;
        Ok(())
    }
}

fn client(channel: Channel) -> ImagesClient<Channel> {
    ImagesClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}
