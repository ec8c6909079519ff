//! Google Cloud: tokens, and the few calls of GKE (`container` v1) and Compute Engine (`compute` v1)
//! that buying nodes needs.

pub mod advice;
pub mod api;
pub mod compute;
pub mod container;
pub mod token;
