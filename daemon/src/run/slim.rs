//! What is dropped of objects before they are kept anywhere: what nobody here reads, and what only
//! the API server needs.

use headstart_api::NodeCache;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Who wrote which field, and what somebody last applied: often more than the object itself.
pub(super) fn metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// What is not read of a node cache, and room for what does not come.
pub(super) fn cache(cache: &mut NodeCache) {
    metadata(&mut cache.metadata);
    cache.spec.items.shrink_to_fit();
    if let Some(status) = &mut cache.status {
        status.items.shrink_to_fit();
        status.fetching.shrink_to_fit();
    }
}

/// Whether a pod may have to be read again, or spoken about.
pub(super) fn is_kept(pod: &core::Pod) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let waits = spec.node_name.as_ref().is_none_or(String::is_empty);
    let mut volumes = spec.volumes.iter().flatten();
    waits || volumes.any(|it| it.persistent_volume_claim.is_some() || it.ephemeral.is_some())
}

/// What is not read of a pod.
pub(super) fn pod(pod: &mut core::Pod) {
    if let Some(status) = &mut pod.status {
        status.pod_ips = None;
        status.host_ips = None;
        status.init_container_statuses = None;
    }
}

/// What is not read of a node.
pub(super) fn node(node: &mut core::Node) {
    if let Some(status) = &mut node.status {
        status.images = None;
        status.node_info = None;
        status.addresses = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
        status.features = None;
        status.runtime_handlers = None;
        for condition in status.conditions.iter_mut().flatten() {
            condition.message = None;
            condition.reason = None;
            condition.last_heartbeat_time = None;
        }
        if let Some(all) = &mut status.conditions {
            all.retain(|condition| condition.type_ == "Ready");
        }
        if status.allocatable.is_some() {
            status.capacity = None;
        }
    }
}
