//! Which replica leads: a `coordination.k8s.io` Lease, decided by a pure function.
//!
//! Clocks of replicas are never compared: a lease is stale when it has not *changed* for its duration
//! as this replica saw it. A leader that cannot renew stops leading after two thirds of the duration,
//! counted from before its last renewal was sent, so before any other can take the lease. Every write
//! asks [`Lead::is_held`] first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use headstart_agent::report::chain;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// What is known of the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    /// Who holds it; empty when nobody does.
    pub(super) holder: String,
    /// Changes with every write.
    pub(super) version: String,
    /// When this version was first seen, by our clock.
    pub(super) since: Instant,
    /// For how long it holds without a change.
    pub(super) lasts: Duration,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Make it.
    Create,
    /// Take it: nobody holds it any more.
    Take,
    /// It is ours: renew it.
    Renew,
    /// Another one's: look again then.
    Wait(Duration),
}

/// What to do about the lease, as `identity`, at `now`.
pub(super) fn decide(observed: Option<&Observed>, identity: &str, now: Instant) -> Decision {
    let Some(observed) = observed else {
        return Decision::Create;
    };
    if observed.holder == identity {
        return Decision::Renew;
    }
    if observed.holder.is_empty() {
        return Decision::Take;
    }
    match (observed.since + observed.lasts).checked_duration_since(now) {
        Some(left) if !left.is_zero() => Decision::Wait(left),
        _ => Decision::Take,
    }
}

/// Until when this replica leads, shared with everything that writes.
#[derive(Clone, Debug)]
pub(crate) struct Lead {
    until: Arc<Mutex<Option<Instant>>>,
    changed: watch::Receiver<bool>,
}

impl Lead {
    /// Whether this replica may write now.
    pub(crate) fn is_held(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Waits until leading began or ended.
    pub(crate) async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The elector: runs until it is cancelled, and lets the lease go then.
pub(super) struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    lasts: Duration,
    until: Arc<Mutex<Option<Instant>>>,
    changed: watch::Sender<bool>,
    observed: Option<Observed>,
    lease: Option<Lease>,
}

impl Elector {
    /// One for the lease `name`.
    pub(super) fn new(
        client: kube::Client,
        namespace: &str,
        name: &str,
        identity: &str,
        lasts: Duration,
    ) -> (Self, Lead) {
        let until = Arc::default();
        let (changed, receiver) = watch::channel(false);
        let lead = Lead {
            until: Arc::clone(&until),
            changed: receiver,
        };
        let elector = Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lasts,
            until,
            changed,
            observed: None,
            lease: None,
        };
        (elector, lead)
    }

    /// Holds the lease whenever it can, until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = tokio::select! {
                pause = self.step() => pause,
                () = stop.cancelled() => break,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
        }
        self.let_go().await;
    }

    /// One look and one write at most; returns how long to wait.
    async fn step(&mut self) -> Duration {
        let often = self.lasts / 7;
        let began = Instant::now();
        if let Err(error) = bounded(often * 2, self.look()).await {
            warn!(lease = self.name, error = %chain(&error), "cannot read the lease");
            self.publish();
            return often;
        }
        let decision = decide(self.observed.as_ref(), &self.identity, Instant::now());
        let wait = match decision {
            Decision::Wait(left) => left.min(often),
            Decision::Create | Decision::Take | Decision::Renew => {
                match bounded(often * 2, self.write(decision)).await {
                    Ok(()) => self.set(Some(began + self.lasts * 2 / 3)),
                    Err(error) => {
                        debug!(lease = self.name, error = %chain(&error), "cannot write the lease");
                    }
                }
                often
            }
        };
        if matches!(decision, Decision::Wait(_)) {
            self.set(None);
        }
        self.publish();
        wait
    }

    async fn look(&mut self) -> Result<(), kube::Error> {
        let found = self.api.get_opt(&self.name).await?;
        let now = Instant::now();
        self.observed = found.as_ref().map(|lease| {
            let spec = lease.spec.clone().unwrap_or_default();
            let seconds = spec.lease_duration_seconds.unwrap_or(0);
            let seconds = u64::try_from(seconds).unwrap_or(0).clamp(1, 3600);
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let before = self.observed.take();
            Observed {
                since: match before {
                    Some(before) if before.version == version => before.since,
                    _ => now,
                },
                holder: spec.holder_identity.unwrap_or_default(),
                version,
                lasts: Duration::from_secs(seconds),
            }
        });
        self.lease = found;
        Ok(())
    }

    async fn write(&mut self, decision: Decision) -> Result<(), kube::Error> {
        let now = MicroTime(Timestamp::now());
        let before = self.lease.clone().unwrap_or_default();
        let old = before.spec.unwrap_or_default();
        let transitions = old.lease_transitions.unwrap_or(0);
        let took = decision != Decision::Renew;
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.lasts.as_secs()).ok(),
            acquire_time: if took {
                Some(now.clone())
            } else {
                old.acquire_time
            },
            renew_time: Some(now),
            lease_transitions: Some(transitions.saturating_add(i32::from(took))),
            ..LeaseSpec::default()
        };
        // The version that was seen goes with it: of two that take it at once, one is refused.
        let lease = Lease {
            metadata: match decision {
                Decision::Create => ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                _ => before.metadata,
            },
            spec: Some(spec),
        };
        let params = PostParams {
            field_manager: Some(headstart_api::names::FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match decision {
            Decision::Create => self.api.create(&params, &lease).await?,
            _ => self.api.replace(&self.name, &params, &lease).await?,
        };
        Ok(())
    }

    /// Lets another take it at once.
    async fn let_go(&mut self) {
        let held = self.until().is_some();
        self.set(None);
        self.publish();
        if !held || self.look().await.is_err() {
            return;
        }
        if let Some(mut lease) = self.lease.take()
            && let Some(spec) = &mut lease.spec
            && spec.holder_identity.as_deref() == Some(&self.identity)
        {
            spec.holder_identity = Some(String::new());
            let params = PostParams::default();
            let written = self.api.replace(&self.name, &params, &lease);
            // What cannot be said now is known when the lease runs out.
            let _ = bounded(Duration::from_secs(2), written).await;
        }
    }

    fn until(&self) -> Option<Instant> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn publish(&self) {
        let leads = self.until().is_some_and(|until| Instant::now() < until);
        let changed = self
            .changed
            .send_if_modified(|before| std::mem::replace(before, leads) != leads);
        if changed {
            info!(
                lease = self.name,
                identity = self.identity,
                leads,
                "leading changed"
            );
        }
    }
}

/// A call that takes too long has failed.
async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Late> {
    match tokio::time::timeout(limit, call).await {
        Ok(done) => done.map_err(Late::Said),
        Err(_) => Err(Late::Silent(limit)),
    }
}

#[derive(Debug, thiserror::Error)]
enum Late {
    #[error("the API server refused")]
    Said(#[source] kube::Error),
    #[error("no answer in {0:?}")]
    Silent(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: &str, since: Instant) -> Observed {
        Observed {
            holder: holder.to_owned(),
            version: "1".to_owned(),
            since,
            lasts: Duration::from_secs(15),
        }
    }

    #[test]
    fn a_lease_is_taken_when_nobody_has_it_or_it_did_not_change_for_its_duration() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(decide(None, "a", start), Decision::Create);
        assert_eq!(decide(Some(&seen("", start)), "a", start), Decision::Take);
        assert_eq!(
            decide(Some(&seen("a", start)), "a", at(99)),
            Decision::Renew
        );
        let other = seen("b", start);
        let left = Duration::from_secs(11);
        assert_eq!(decide(Some(&other), "a", at(4)), Decision::Wait(left));
        assert_eq!(decide(Some(&other), "a", at(15)), Decision::Take);
    }

    #[test]
    fn a_leader_stops_before_another_may_take_its_lease() {
        // The leader counts from before it sent the renewal, the other from after it saw it.
        let sent = Instant::now();
        for delay in [0, 1, 5, 14] {
            let other = seen("b", sent + Duration::from_secs(delay));
            let stops = sent + Duration::from_secs(15) * 2 / 3;
            assert!(matches!(
                decide(Some(&other), "a", stops),
                Decision::Wait(_)
            ));
        }
    }
}
