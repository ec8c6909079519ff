//! A server with the surface of an OCI registry.
