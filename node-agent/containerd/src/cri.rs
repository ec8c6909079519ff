//! The Container Runtime Interface: the runtime's own pull, which works everywhere.

use std::fmt;
use std::time::Duration;

use tonic::{Code, Request};

use crate::client::{MAX_ANSWER_BYTES, Runtime, patiently};
use crate::error::Error;
use crate::proto::cri;
use crate::proto::cri::image_service_client::ImageServiceClient;
use crate::proto::cri::runtime_service_client::RuntimeServiceClient;

/// Credentials for a registry. Shows nothing of itself.
#[derive(Clone)]
pub enum Auth {
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token that the registry changes into others.
    IdentityToken(String),
    /// A token that is shown to the registry as it is.
    RegistryToken(String),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth(…)")
    }
}

/// An image as the runtime lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeImage {
    /// The digest of its config.
    pub id: String,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// Bytes, by its descriptors.
    pub size: u64,
    /// Whether the kubelet leaves it alone.
    pub pinned: bool,
}

/// What images take on a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsUsage {
    /// The snapshotter's directory.
    pub path: String,
    /// Bytes used by images and containers.
    pub used_bytes: u64,
    /// Inodes used by images and containers.
    pub used_inodes: u64,
}

impl Runtime {
    /// Has the runtime pull `reference` and returns the image's id. Dropping the future stops the
    /// pull.
    ///
    /// # Errors
    /// [`Error::Call`]; see [`Error::is_unauthorized`] and [`Error::is_not_found`].
    pub async fn pull(&self, reference: &str, auth: Option<Auth>) -> Result<String, Error> {
        let message = cri::PullImageRequest {
            image: Some(named(reference)),
            auth: auth.map(Auth::into_message),
        };
        let answer = self
            .cri("pull", reference, message, |channel, request| async move {
                images(channel).pull_image(request).await
            })
            .await?;
        Ok(answer.image_ref)
    }

    /// The image that `reference` or an image id names, if the runtime has it.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn status(&self, reference: &str) -> Result<Option<RuntimeImage>, Error> {
        let message = cri::ImageStatusRequest {
            image: Some(named(reference)),
            verbose: false,
        };
        let answer = self
            .cri(
                "ask for image",
                reference,
                message,
                |channel, request| async move { images(channel).image_status(request).await },
            )
            .await?;
        Ok(answer.image.map(RuntimeImage::from))
    }

    /// All images that the runtime shows to the kubelet.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn list(&self) -> Result<Vec<RuntimeImage>, Error> {
        let message = cri::ListImagesRequest::default();
        let answer = self
            .cri("list", "images", message, |channel, request| async move {
                images(channel).list_images(request).await
            })
            .await?;
        Ok(answer.images.into_iter().map(RuntimeImage::from).collect())
    }

    /// Removes an image with all its names. An image that is not there is removed already.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn remove(&self, reference: &str) -> Result<(), Error> {
        let message = cri::RemoveImageRequest {
            image: Some(named(reference)),
        };
        let removed = self
            .cri(
                "remove image",
                reference,
                message,
                |channel, request| async move { images(channel).remove_image(request).await },
            )
            .await;
        match removed {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// What images take, per file system. Held layers count although no image is listed.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn usage(&self) -> Result<Vec<FsUsage>, Error> {
        let message = cri::ImageFsInfoRequest {};
        let answer = self
            .cri(
                "ask for the",
                "images' file systems",
                message,
                |channel, request| async move { images(channel).image_fs_info(request).await },
            )
            .await?;
        let usage = answer.image_filesystems.into_iter().map(|fs| FsUsage {
            path: fs.fs_id.unwrap_or_default().mountpoint,
            used_bytes: fs.used_bytes.unwrap_or_default().value,
            used_inodes: fs.inodes_used.unwrap_or_default().value,
        });
        Ok(usage.collect())
    }

    /// The runtime's name and version by the CRI, or none if it serves none.
    pub(crate) async fn cri_version(&self) -> Result<Option<(String, String)>, Error> {
        let message = cri::VersionRequest::default();
        let asked = self
            .cri(
                "ask for the",
                "CRI version",
                message,
                |channel, request| async move {
                    RuntimeServiceClient::new(channel).version(request).await
                },
            )
            .await;
        match asked {
            Ok(answer) => Ok(Some((answer.runtime_name, answer.runtime_version))),
            Err(Error::Call {
                code: Code::Unimplemented,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The CRI plugin's configuration, as JSON, where the runtime tells it.
    pub(crate) async fn cri_config(&self) -> Result<Option<serde_json::Value>, Error> {
        let message = cri::StatusRequest { verbose: true };
        let answer = self
            .cri(
                "ask for the",
                "CRI configuration",
                message,
                |channel, request| async move {
                    RuntimeServiceClient::new(channel).status(request).await
                },
            )
            .await?;
        let config = answer.info.get("config");
        Ok(config.and_then(|config| serde_json::from_str(config).ok()))
    }

    /// Waits until the runtime lists the image with this id: it reads records by events.
    pub(crate) async fn until_listed(&self, image: &str, id: &str) -> Result<(), Error> {
        const WAIT: Duration = Duration::from_secs(20);
        const LOOK_EVERY: Duration = Duration::from_millis(20);
        let seen = async {
            loop {
                if self
                    .status(image)
                    .await?
                    .is_some_and(|listed| listed.id == id)
                {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let invisible = |_| Error::Invisible {
            image: image.to_owned(),
            waited: WAIT,
        };
        tokio::time::timeout(WAIT, seen).await.map_err(invisible)?
    }

    async fn cri<M, R, S, F>(
        &self,
        operation: &'static str,
        object: &str,
        message: M,
        send: S,
    ) -> Result<R, Error>
    where
        M: Clone,
        S: Fn(tonic::transport::Channel, Request<M>) -> F,
        F: Future<Output = Result<tonic::Response<R>, tonic::Status>>,
    {
        let make = || Request::new(message.clone());
        patiently(operation, object, &self.inner.cri, make, send).await
    }
}

impl Auth {
    fn into_message(self) -> cri::AuthConfig {
        let mut message = cri::AuthConfig::default();
        match self {
            Self::Basic { username, password } => {
                message.username = username;
                message.password = password;
            }
            Self::IdentityToken(token) => message.identity_token = token,
            Self::RegistryToken(token) => message.registry_token = token,
        }
        message
    }
}

impl From<cri::Image> for RuntimeImage {
    fn from(image: cri::Image) -> Self {
        Self {
            id: image.id,
            tags: image.repo_tags,
            digests: image.repo_digests,
            size: image.size,
            pinned: image.pinned,
        }
    }
}

fn images(channel: tonic::transport::Channel) -> ImageServiceClient<tonic::transport::Channel> {
    ImageServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

fn named(reference: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: reference.to_owned(),
        ..Default::default()
    }
}
