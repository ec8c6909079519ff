//! Leases: what keeps the garbage collector off until an image's records, or a hold, do.
//!
//! Leases cannot be changed, so a session that outlives one makes a second with the same
//! resources. The older is left to expire: what was made under it a moment ago is in no list yet.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headstart_core::digest::Sha256;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::client::Runtime;
use crate::error::Error;
use crate::fields;
use crate::proto::leases::leases_client::LeasesClient;
use crate::proto::leases::{
    AddResourceRequest, CreateRequest, DeleteRequest, Lease, ListRequest, ListResourcesRequest,
    Resource,
};
use crate::spec::Labels;

/// A lease for one of two purposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// While a session works.
    Session,
    /// While layers or blobs wait for the pull that needs them.
    Hold,
    /// While the fast way is tried.
    Probe,
}

impl Kind {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Hold => "hold",
            Self::Probe => "probe",
        }
    }
}

impl Runtime {
    pub(crate) async fn create_lease(
        &self,
        kind: Kind,
        session: &str,
        target: &Sha256,
        life: Duration,
    ) -> Result<String, Error> {
        let id = format!("headstart-{}-{}", kind.label(), crate::client::unique());
        let labels = Labels::from([
            (fields::EXPIRE.to_owned(), fields::after(life)),
            (fields::KIND.to_owned(), kind.label().to_owned()),
            (fields::SESSION.to_owned(), session.to_owned()),
            (fields::TARGET.to_owned(), target.prefixed()),
        ]);
        let message = CreateRequest {
            id: id.clone(),
            labels,
        };
        let created = self
            .rpc(
                "create lease",
                &id,
                None,
                message,
                |channel, request| async move { LeasesClient::new(channel).create(request).await },
            )
            .await;
        match created {
            Err(Error::Call {
                code: Code::AlreadyExists,
                ..
            })
            | Ok(_) => Ok(id),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn add_resource(
        &self,
        lease: &str,
        kind: &str,
        object: &str,
    ) -> Result<(), Error> {
        let message = AddResourceRequest {
            id: lease.to_owned(),
            resource: Some(Resource {
                id: object.to_owned(),
                r#type: kind.to_owned(),
            }),
        };
        let added = self
            .rpc("add to a lease", object, None, message, |channel, request| async move {
                LeasesClient::new(channel).add_resource(request).await
            })
            .await;
        match added {
            Err(Error::Call {
                code: Code::AlreadyExists,
                ..
            }) => Ok(()),
            other => other,
        }
    }

    pub(crate) async fn resources(&self, lease: &str) -> Result<Vec<Resource>, Error> {
        let message = ListResourcesRequest {
            id: lease.to_owned(),
        };
        let listed = self
            .rpc(
                "list resources of lease",
                lease,
                None,
                message,
                |channel, request| async move {
                    LeasesClient::new(channel).list_resources(request).await
                },
            )
            .await;
        match listed {
            Ok(answer) => Ok(answer.resources),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Deletes a lease. `Collect::Now` waits for a garbage collection.
    pub(crate) async fn delete_lease(&self, lease: &str, collect: Collect) -> Result<(), Error> {
        let message = DeleteRequest {
            id: lease.to_owned(),
            sync: collect == Collect::Now,
        };
        let deleted = self
            .rpc(
                "delete lease",
                lease,
                None,
                message,
                |channel, request| async move { LeasesClient::new(channel).delete(request).await },
            )
            .await;
        match deleted {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// The leases that we made and nobody deleted, expired ones included.
    pub(crate) async fn our_leases(&self) -> Result<Vec<Lease>, Error> {
        let message = ListRequest::default();
        let listed = self
            .rpc(
                "list",
                "leases",
                None,
                message,
                |channel, request| async move {
                    LeasesClient::new(channel)
                        .max_decoding_message_size(crate::client::MAX_ANSWER_BYTES)
                        .list(request)
                        .await
                },
            )
            .await?;
        let mut leases = listed.leases;
        leases.retain(|lease| lease.labels.contains_key(fields::KIND));
        Ok(leases)
    }
}

/// Whether a deleted lease's things are collected before the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collect {
    /// In containerd's own time.
    Later,
    /// Before the call returns.
    Now,
}

impl Lease {
    pub(crate) fn is_for(&self, kind: Kind, target: &Sha256) -> bool {
        self.is_a(kind) && self.labels.get(fields::TARGET) == Some(&target.prefixed())
    }

    pub(crate) fn is_a(&self, kind: Kind) -> bool {
        self.labels
            .get(fields::KIND)
            .is_some_and(|label| label == kind.label())
    }

    pub(crate) fn session(&self) -> Option<&str> {
        self.labels.get(fields::SESSION).map(String::as_str)
    }

    pub(crate) fn is_expired(&self) -> bool {
        let expires = self.labels.get(fields::EXPIRE);
        expires.is_none_or(|expires| fields::is_past(expires))
    }
}

/// Keeps a session's things from the garbage collector while it lives.
pub(crate) struct Keeper {
    leases: Arc<Mutex<Vec<String>>>,
    renewal: JoinHandle<()>,
}

impl Keeper {
    pub(crate) async fn start(
        runtime: &Runtime,
        session: &str,
        target: Sha256,
    ) -> Result<Self, Error> {
        let life = runtime.inner.config.session_lease;
        let first = runtime
            .create_lease(Kind::Session, session, &target, life)
            .await?;
        let leases = Arc::new(Mutex::new(vec![first]));
        let (runtime, session, shared) = (runtime.clone(), session.to_owned(), leases.clone());
        let renewal = tokio::spawn(async move {
            loop {
                tokio::time::sleep(life / 3).await;
                if let Err(error) = renew(&runtime, &session, &target, life, &shared).await {
                    tracing::warn!(%error, "lease not renewed");
                }
            }
        });
        Ok(Self { leases, renewal })
    }

    /// The lease that new things are made under.
    pub(crate) fn current(&self) -> String {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases
            .last()
            .cloned()
            .expect("a keeper starts with a lease")
    }

    /// Lets go of everything.
    pub(crate) async fn end(self, runtime: &Runtime, collect: Collect) -> Result<(), Error> {
        self.renewal.abort();
        let leases = self
            .leases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (last, older) = leases.split_last().expect("a keeper starts with a lease");
        for lease in older {
            runtime.delete_lease(lease, Collect::Later).await?;
        }
        runtime.delete_lease(last, collect).await
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Adds a lease with the resources of all before, and deletes all but the last of those.
async fn renew(
    runtime: &Runtime,
    session: &str,
    target: &Sha256,
    life: Duration,
    leases: &Mutex<Vec<String>>,
) -> Result<(), Error> {
    let before = leases
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let next = runtime
        .create_lease(Kind::Session, session, target, life)
        .await?;
    leases
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(next.clone());
    for lease in &before {
        for resource in runtime.resources(lease).await? {
            runtime
                .add_resource(&next, &resource.r#type, &resource.id)
                .await?;
        }
    }
    let (_, outlived) = before.split_last().expect("a keeper starts with a lease");
    for lease in outlived {
        runtime.delete_lease(lease, Collect::Later).await?;
    }
    let mut now = leases.lock().unwrap_or_else(PoisonError::into_inner);
    now.retain(|lease| !outlived.contains(lease));
    Ok(())
}
