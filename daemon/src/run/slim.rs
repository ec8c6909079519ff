//! What is kept of the pods and nodes that are watched: nobody reads the rest of them here.

use k8s_openapi::api::core::v1 as core;

/// Whether a pod may have to be read again, or spoken about.
pub(super) fn is_kept(pod: &core::Pod) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let waits = spec.node_name.as_ref().is_none_or(String::is_empty);
    let mut volumes = spec.volumes.iter().flatten();
    waits || volumes.any(|it| it.persistent_volume_claim.is_some() || it.ephemeral.is_some())
}

/// Drops what nobody reads of a pod.
pub(super) fn slim_pod(pod: &mut core::Pod) {
    if let Some(status) = &mut pod.status {
        status.pod_ips = None;
        status.host_ips = None;
        status.init_container_statuses = None;
    }
}

/// Drops what nobody reads of a node.
pub(super) fn slim_node(node: &mut core::Node) {
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
