//! Pods as they are created: what they are given, and how they come to the node that has their models.
//!
//! Nothing here can keep a pod from being created or from starting: what is not understood is let
//! through as it is, and every gate of ours is opened by whoever is there.

pub(crate) mod inject;
