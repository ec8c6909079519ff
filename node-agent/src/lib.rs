//! The node agent: brings images and weights onto a host's disk ahead of the pods that need them.

pub mod store;
