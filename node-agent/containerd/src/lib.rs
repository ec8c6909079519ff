//! Makes images present in a container runtime.
