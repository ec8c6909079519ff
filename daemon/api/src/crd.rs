//! The CustomResourceDefinitions of the objects.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

use crate::{NodeCache, NodeClaim, NodePool, Prefetch};

/// All of them, in the order of their names.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        NodeCache::crd(),
        NodeClaim::crd(),
        NodePool::crd(),
        Prefetch::crd(),
    ]
}
