//! Whose claims are: a pool owns what it bought, so that what it bought goes when it is deleted, pods
//! moved first. Whoever wants to keep it says so: `kubectl delete --cascade=orphan`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;

use super::picture::SeenPool;
use super::round::Rounds;
use super::write::Write;

impl SeenPool {
    /// It, as the owner of what it buys.
    pub(super) fn as_owner(&self) -> Option<OwnerReference> {
        let deleting = self.metadata.deletion_timestamp.is_some();
        Some(OwnerReference {
            api_version: "headstart.dev/v1alpha1".to_owned(),
            kind: "NodePool".to_owned(),
            name: self.metadata.name.clone()?,
            uid: self.metadata.uid.clone().filter(|_| !deleting)?,
            ..OwnerReference::default()
        })
    }
}

impl Rounds {
    /// Claims whose pool does not own them: made before pools did, or kept when a pool of this name was
    /// deleted.
    pub(super) fn adopt(&self, writes: &mut Vec<Write>) {
        for (name, claim) in &self.picture.claims {
            let metadata = &claim.metadata;
            let owned = metadata.owner_references.as_ref();
            if owned.is_some_and(|all| !all.is_empty()) || metadata.deletion_timestamp.is_some() {
                continue;
            }
            let pool = self.picture.pools.get(&claim.spec.node_pool);
            if let Some(owner) = pool.and_then(SeenPool::as_owner) {
                writes.push(Write::Own {
                    name: name.clone(),
                    uid: claim.uid(),
                    owner,
                });
            }
        }
    }
}
