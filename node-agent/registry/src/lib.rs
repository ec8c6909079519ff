//! OCI registries: references, manifests, authentication, mirrors.
